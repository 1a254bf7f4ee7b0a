"""The rows to evaluate on: the project's own files, or QVHighlights' annotation as it is published."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from data_prep.errors import DataError
from data_prep.files import GZIP_MAGIC, iter_jsonl
from data_prep.rows import Row, parse_row, read_rows


def read_evaluation_rows(path: str | os.PathLike[str]) -> list[Row]:
    """Rows of a JSONL or parquet file, or of QVHighlights' ``highlight_val_release.jsonl`` (plain or gzip).

    Rows of the latter have the qid as their id and clips and saliency in ``meta``. Rows without windows, such as those
    of test sets, are there too: they can be answered, not scored. Raises `DataError` as `read_rows`.
    """
    path = Path(path)
    if path.suffix == ".parquet" or not _is_qvhighlights(path):
        return read_rows(path, unlabelled=True)
    rows: dict[str, Row] = {}
    for number, record in iter_jsonl(path):
        where = f"{path}:{number}"
        missing = [name for name in ("qid", "vid", "duration", "query") if name not in record]
        if missing:
            raise DataError(f"{where}: field {missing[0]!r} is missing; is it a QVHighlights file?")
        fields = ("qid", "relevant_clip_ids", "saliency_scores")
        row = parse_row(
            {
                "id": str(record["qid"]),
                "video": f"{record['vid']}.mp4",
                "dataset": "qvhighlights",
                "windows": record.get("relevant_windows") or [],
                "duration": record["duration"],
                "query": record["query"],
                "meta": {name: record[name] for name in fields if name in record},
            },
            where,
            unlabelled=True,
        )
        if row.id in rows:
            raise DataError(f"{where}: qid {row.id} is there twice")
        rows[row.id] = row
    return list(rows.values())


def _is_qvhighlights(path: Path) -> bool:
    """Whether the first line has a qid and no id; only QVHighlights' files may be compressed."""
    try:
        with path.open("rb") as file:
            first = file.readline()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if first.startswith(GZIP_MAGIC):
        return True
    try:
        record = json.loads(first)
    except ValueError:
        return False  # `read_rows` says what is wrong
    return isinstance(record, dict) and "qid" in record and "id" not in record


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Hash of a file's content, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()[:16]
