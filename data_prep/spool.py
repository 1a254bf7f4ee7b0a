"""Collections that grow on disk once they are large, so that a conversion of any size needs the same memory."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import tempfile
from collections.abc import Iterator
from typing import IO, Any

from data_prep.rows import Row, as_record

IN_MEMORY = 50_000
"""Entries that are kept in memory; more go to temporary files, which vanish with the process."""


class Spool:
    """JSON objects in the order in which they were appended."""

    def __init__(self, in_memory: int = IN_MEMORY) -> None:
        self._in_memory = in_memory
        self._recent: list[Any] = []
        self._file: IO[str] | None = None
        self._count = 0

    def append(self, record: Any) -> None:
        """Keep one JSON value."""
        self._recent.append(record)
        self._count += 1
        if len(self._recent) >= self._in_memory:
            if self._file is None:
                self._file = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - open as long as the spool
            self._file.writelines(json.dumps(kept) + "\n" for kept in self._recent)
            self._recent.clear()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        if self._file is not None:
            self._file.flush()
            self._file.seek(0)
            for line in self._file:
                yield json.loads(line)
        yield from self._recent


class RowSpool:
    """Rows in the order in which they were appended."""

    def __init__(self, in_memory: int = IN_MEMORY) -> None:
        self._records = Spool(in_memory)

    def append(self, row: Row) -> None:
        """Keep one row."""
        self._records.append(as_record(row))

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Row]:
        for record in self._records:
            record = dict(record)
            windows = tuple((start, end) for start, end in record.pop("windows"))
            clip = record.pop("clip", None)
            yield Row(**record, windows=windows, clip=None if clip is None else (clip[0], clip[1]))


class Seen:
    """Where each key was met first; keys on disk are told apart by 128 bits of a hash."""

    def __init__(self, in_memory: int = IN_MEMORY) -> None:
        self._in_memory = in_memory
        self._recent: dict[str, str] = {}
        self._disk: sqlite3.Connection | None = None
        self._on_disk = 0

    def __len__(self) -> int:
        return len(self._recent) + self._on_disk

    def find(self, key: str) -> str | None:
        """Where ``key`` was met first; None if it was not."""
        if key in self._recent or self._disk is None:
            return self._recent.get(key)
        found = self._disk.execute("SELECT place FROM seen WHERE key = ?", (_digest(key),)).fetchone()
        return None if found is None else str(found[0])

    def add(self, key: str, place: str = "") -> bool:
        """Note that ``key`` was met at ``place``, unless it was met before; returns whether it is new."""
        if self.find(key) is not None:
            return False
        self._recent[key] = place
        if len(self._recent) >= self._in_memory:
            self._spill()
        return True

    def _spill(self) -> None:
        if self._disk is None:
            self._disk = sqlite3.connect("", isolation_level=None)  # a temporary file of sqlite's own
            self._disk.execute("PRAGMA journal_mode = OFF")
            self._disk.execute("PRAGMA cache_size = -32000")  # KiB
            self._disk.execute("CREATE TABLE seen (key BLOB PRIMARY KEY, place TEXT) WITHOUT ROWID")
        hashed = sorted((_digest(key), place) for key, place in self._recent.items())
        self._disk.execute("BEGIN")
        self._disk.executemany("INSERT INTO seen VALUES (?, ?)", hashed)
        self._disk.execute("COMMIT")
        self._on_disk += len(hashed)
        self._recent.clear()


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()
