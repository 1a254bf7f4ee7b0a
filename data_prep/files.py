"""Reading annotation files of any origin with errors that help, and writing files all or not at all."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from data_prep.errors import DataError

GZIP_MAGIC = b"\x1f\x8b"


def read_text(path: str | os.PathLike[str]) -> str:
    """The whole text of a UTF-8 file, plain or gzip (told by its first bytes, not by its name).

    A byte-order mark is dropped and line ends become ``\\n``. Raises `DataError` for a missing or empty file,
    a folder, a damaged gzip stream or another encoding.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error, "an annotation file") from error
    if data.startswith(GZIP_MAGIC):
        try:
            data = gzip.decompress(data)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"{path}: damaged gzip file ({error}); fetch it again") from error
    if not data.strip():
        raise DataError(f"{path}: the file is empty")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}:{line}: not UTF-8 text ({error.reason} at byte {error.start}); save the file as UTF-8"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: str | os.PathLike[str]) -> list[tuple[int, str]]:
    """The non-blank lines of a text file as ``(line number from 1, line)``; raises as `read_text`."""
    lines = enumerate(read_text(path).split("\n"), start=1)
    return [(number, line) for number, line in lines if line.strip()]


def read_json(path: str | os.PathLike[str]) -> Any:
    """One JSON document; raises `DataError` where it is malformed, cut off, or holds one key twice."""
    return decode_json(read_text(path), str(path), first_line=1)


def read_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    """One JSON object; raises `DataError` as `read_json` does, and for anything but an object."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def read_jsonl(path: str | os.PathLike[str]) -> list[tuple[int, dict[str, Any]]]:
    """All of `iter_jsonl`."""
    return list(iter_jsonl(path))


def iter_jsonl(path: str | os.PathLike[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """JSON objects, one per line, as ``(line number from 1, object)``, a line at a time.

    Raises `DataError` naming the line when it is reached, and as `read_text` does.
    """
    for number, line in _lines_of(Path(path)):
        record = decode_json(line, str(path), first_line=number)
        if not isinstance(record, dict):
            raise DataError(f"{path}:{number}: expected a JSON object, found {type(record).__name__}")
        yield number, record


def iter_records(path: str | os.PathLike[str]) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """The objects of a JSON list, or of JSON lines, as ``(line or place in the list from 1, where, object)``.

    Lines are read one at a time, a list as a whole. Raises `DataError` as `read_json` and `iter_jsonl` do, and for
    anything but objects.
    """
    _, first = next(_lines_of(Path(path)))
    if not first.lstrip().startswith("["):
        for number, record in iter_jsonl(path):
            yield number, f"{path}:{number}", record
        return
    for number, record in enumerate(read_json(path), start=1):
        if not isinstance(record, dict):
            raise DataError(f"{path}: entry {number}: expected a JSON object, found {type(record).__name__}")
        yield number, f"{path}: entry {number}", record


def _lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """The non-blank lines of a text file, plain or gzip, one at a time; errors and line ends as of `read_text`."""
    number, place, any_line = 0, 0, False
    try:
        with path.open("rb") as file:
            packed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        with gzip.open(path) if packed else path.open("rb") as lines:
            for number, data in enumerate(lines, start=1):
                try:
                    line = data.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{path}:{number}: not UTF-8 text ({error.reason} at byte {place + error.start}); save the "
                        "file as UTF-8"
                    ) from error
                place += len(data)
                if line.strip():
                    any_line = True
                    yield number, line.rstrip("\r\n")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip file ({error}); fetch it again") from error
    except OSError as error:
        raise unreadable(path, error, "an annotation file") from error
    if not any_line:
        raise DataError(f"{path}: the file is empty")


def read_csv(path: str | os.PathLike[str], columns: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """Rows of a CSV with a header as ``(last line of the row, {column: text})``.

    Raises `DataError` if one of ``columns`` is not in the header or a row has more or fewer fields than it.
    """
    reader = csv.reader(io.StringIO(read_text(path)), strict=True)
    rows: list[tuple[int, dict[str, str]]] = []
    try:
        header = next(reader)
        missing = [name for name in columns if name not in header]
        if missing:
            raise DataError(
                f"{path}:1: column{'s' * (len(missing) > 1)} {', '.join(missing)} not found; "
                f"the header is {', '.join(header)}"
            )
        for fields in reader:
            if not fields:
                continue
            if len(fields) != len(header):
                raise DataError(f"{path}:{reader.line_num}: {len(fields)} fields, the header has {len(header)}")
            rows.append((reader.line_num, dict(zip(header, fields, strict=True))))
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: malformed CSV ({error})") from error
    return rows


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[str]]:
    """A UTF-8 text file that appears under ``path`` only when the block ends without an exception.

    Raises `DataError` for a folder, and where the folder of ``path`` cannot be made or written to.
    """
    with _atomic(Path(path)) as handle, os.fdopen(handle, "w", encoding="utf-8") as out:
        yield out


def atomic_write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write ``content`` as the whole of a file, or nothing; raises as `atomic_write`."""
    with _atomic(Path(path)) as handle, os.fdopen(handle, "wb") as out:
        out.write(content)


@contextmanager
def _atomic(path: Path) -> Iterator[int]:
    """The handle of a file beside ``path``, to be closed within the block, which takes its place at the end."""
    try:
        if path.is_dir():
            raise IsADirectoryError
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({_words(error)})") from error
    try:
        yield handle
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def unreadable(path: Path, error: OSError, expected: str) -> DataError:
    """The error for a file that cannot be opened: missing, a folder, not permitted."""
    if isinstance(error, FileNotFoundError):
        return DataError(f"{path}: no such file")
    if isinstance(error, IsADirectoryError):
        return DataError(f"{path}: is a folder, expected {expected}")
    return DataError(f"{path}: cannot be read ({_words(error)})")


def _words(error: OSError) -> str:
    """The system's words for an error; an error made without a number has none."""
    return "it is a folder" if isinstance(error, IsADirectoryError) else error.strerror or type(error).__name__


def decode_json(text: str, path: str, first_line: int) -> Any:
    """The value of a JSON text that begins in ``first_line`` of ``path``.

    Raises `DataError` where it is malformed, cut off, nested too deeply, holds one key twice in an object or a
    number of thousands of digits.
    """

    def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        if len(record) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            place = f"{path}:{first_line}" if "\n" not in text.strip() and first_line > 1 else path
            raise DataError(f"{place}: key {twice!r} occurs twice in one JSON object; keep one of the two entries")
        return record

    try:
        return json.loads(text, object_pairs_hook=unique_keys)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        at_end = error.pos >= len(text.rstrip()) - 1 or error.msg.startswith("Unterminated string")
        cut = "; the file seems cut off, fetch it again" if at_end else ""
        raise DataError(f"{path}:{line}: not valid JSON ({error.msg}, column {error.colno}){cut}") from error
    except DataError:
        raise
    except RecursionError as error:
        raise DataError(f"{path}:{first_line}: JSON nested too deeply") from error
    except ValueError as error:
        raise DataError(f"{path}:{first_line}: JSON with a value that cannot be read ({error})") from error


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON lines, whole or not at all."""
    with atomic_write(path) as out:
        for record in records:
            out.write(json.dumps(record, ensure_ascii=False) + "\n")
