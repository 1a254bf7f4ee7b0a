"""Records of any common file or folder, one at a time: JSON lines, JSON, csv, parquet, Hugging Face data sets."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.errors import DataError
from data_prep.files import iter_records, read_json, read_text, unreadable

KEY = "@key"
"""Where the key of a record stands when the file is one object of records."""
BATCH = 1000
"""Rows of parquet or arrow files that are decoded at a time."""
READABLE = (".parquet", ".jsonl", ".json", ".csv")
"""Files looked for in a folder; the first kind that is there is read."""

Record = tuple[int, str, dict[str, Any]]
"""Number from 1 in its file, where it is for errors, and the record."""


def records_of(path: Path, split: str) -> Iterator[Record]:
    """The records of a file, or of the files of a folder that belong to ``split``.

    A folder is one of ``datasets.save_to_disk`` (a split of a `DatasetDict`, or a `Dataset`), or holds parquet, JSONL,
    JSON or csv files, of which those are read whose name begins with ``split`` (all where none does). A JSON object of
    objects is read as records with their key under ``@key``. Raises `DataError` for what cannot be read.
    """
    if path.is_dir():
        yield from _folder(path, split)
        return
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    kind = suffixes[-1] if suffixes else ""
    if kind == ".parquet":
        yield from _parquet(path)
    elif kind == ".arrow":
        yield from _arrow(path)
    elif kind in (".csv", ".tsv"):
        yield from _csv(path, "\t" if kind == ".tsv" else ",")
    elif kind == ".json" and _begins_with_brace(path) and not _is_lines(path):
        yield from _object(path)
    else:
        yield from iter_records(path)


def _folder(path: Path, split: str) -> Iterator[Record]:
    if (path / "dataset_dict.json").is_file():
        splits = read_json(path / "dataset_dict.json").get("splits", [])
        if split not in splits:
            raise DataError(f"{path}: has no split {split!r}; it has {', '.join(map(str, splits)) or 'none'}")
        path = path / split
    if (path / "state.json").is_file():
        state = read_json(path / "state.json")
        if (path / "indices.arrow").is_file() or state.get("_indices_data_files"):
            raise DataError(f"{path}: was saved with an order of its own; flatten_indices() it, save it again")
        files = [path / Path(str(part["filename"])).name for part in state.get("_data_files", [])]
    else:
        found = [sorted(path.rglob(f"*{kind}")) + sorted(path.rglob(f"*{kind}.gz")) for kind in READABLE]
        kinds = [files for files in found if files]
        if not kinds:
            raise DataError(f"{path}: holds none of {', '.join(READABLE)}, and was not saved by `datasets`")
        own = [file for file in kinds[0] if file.name.startswith(split) or split in file.relative_to(path).parts[:-1]]
        files = own or kinds[0]
    number = 0
    for file in files:
        for _, where, record in records_of(file, split):
            number += 1
            yield number, where, record


def _parquet(path: Path) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield from _numbered(path, file.iter_batches(batch_size=BATCH))
    except OSError as error:
        raise unreadable(path, error, "a parquet file") from error
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: not a parquet file ({error})") from error


def _arrow(path: Path) -> Iterator[Record]:
    import pyarrow
    import pyarrow.ipc

    try:
        with pyarrow.memory_map(str(path)) as source:
            yield from _numbered(path, pyarrow.ipc.open_stream(source))
    except OSError as error:
        raise unreadable(path, error, "an arrow file of `datasets`") from error
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: not an arrow file of `datasets` ({error})") from error


def _numbered(path: Path, batches: Any) -> Iterator[Record]:
    number = 0
    for batch in batches:
        for record in batch.to_pylist():
            number += 1
            yield number, f"{path}: row {number}", record


def _csv(path: Path, delimiter: str) -> Iterator[Record]:
    opened: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter=delimiter, strict=True)
            for record in reader:
                where = f"{path}:{reader.line_num}"
                if None in record or None in record.values():
                    raise DataError(
                        f"{where}: another number of fields than the header, {len(reader.fieldnames or ())}"
                    )
                yield reader.line_num, where, {name: _cell(text) for name, text in record.items()}
    except OSError as error:
        raise unreadable(path, error, "a csv file") from error
    except csv.Error as error:
        raise DataError(f"{path}: malformed csv ({error})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason}); save the file as UTF-8") from error


def _cell(text: str) -> Any:
    """A cell that holds a JSON list or object as what it is; any other as the text it is."""
    if text[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def _begins_with_brace(path: Path) -> bool:
    return read_text(path).lstrip().startswith("{")


def _is_lines(path: Path) -> bool:
    """Whether the first line of a text is a JSON value of its own, and not the only one."""
    lines = [line for line in read_text(path).split("\n") if line.strip()]
    try:
        json.loads(lines[0])
    except ValueError:
        return False
    return len(lines) > 1


def _object(path: Path) -> Iterator[Record]:
    content = read_json(path)
    if len(content) == 1 and isinstance(next(iter(content.values())), list):  # {"data": [...]}
        (name, listed), *_ = content.items()
        content = {f"{name}[{place}]": record for place, record in enumerate(listed)}
    for number, (key, record) in enumerate(content.items(), start=1):
        where = f"{path}: {key!r}"
        if isinstance(record, list):
            record = {"@value": record}
        if not isinstance(record, dict):
            raise DataError(f"{where}: expected an object of objects, found {type(record).__name__}")
        yield number, where, {**record, KEY: key}
