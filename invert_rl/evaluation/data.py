"""The rows to evaluate on: the project's own files, or QVHighlights' annotation as it is published."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from data_prep.errors import DataError
from data_prep.files import read_jsonl
from data_prep.rows import Row, parse_row, read_rows


def read_evaluation_rows(path: str | os.PathLike[str]) -> list[Row]:
    """Rows of a JSONL or parquet file, or of QVHighlights' ``highlight_val_release.jsonl`` (plain or gzip).

    Rows of the latter have the qid as their id and clips and saliency in ``meta``. Raises `DataError` as `read_rows`.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        return read_rows(path)
    records = read_jsonl(path)
    if "qid" not in records[0][1] or "id" in records[0][1]:
        return read_rows(path)
    rows: dict[str, Row] = {}
    for number, record in records:
        where = f"{path}:{number}"
        missing = [name for name in ("qid", "vid", "duration", "query", "relevant_windows") if name not in record]
        if missing:
            raise DataError(f"{where}: field {missing[0]!r} is missing; is it a QVHighlights file with ground truth?")
        fields = ("qid", "relevant_clip_ids", "saliency_scores")
        row = parse_row(
            {
                "id": str(record["qid"]),
                "video": f"{record['vid']}.mp4",
                "dataset": "qvhighlights",
                "windows": record["relevant_windows"],
                "duration": record["duration"],
                "query": record["query"],
                "meta": {name: record[name] for name in fields if name in record},
            },
            where,
        )
        if row.id in rows:
            raise DataError(f"{where}: qid {row.id} is there twice")
        rows[row.id] = row
    return list(rows.values())


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Hash of a file's content, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()[:16]
