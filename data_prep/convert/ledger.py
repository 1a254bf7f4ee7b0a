"""The books of one conversion: every entry read is accepted or rejected, every change to it is counted."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.errors import DataError
from data_prep.files import atomic_write
from data_prep.spool import RowSpool, Spool

EXAMPLES_KEPT = 3


@dataclass(frozen=True)
class Entry:
    """One annotation of the source file.

    ``line`` is its line number; in a file that is one JSON object, its position in the file from 1. ``where``
    is what an error says (file and line or id) and ``source`` the annotation as read.
    """

    line: int
    where: str
    source: Any


@dataclass
class Tally:
    """How often something happened, and where first."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, where: str) -> None:
        """Count one occurrence at ``where``."""
        self.count += 1
        if len(self.first) < EXAMPLES_KEPT:
            self.first.append(where)


class Ledger:
    """Collects what happened to each `Entry`: accepted, rejected with a reason, repaired, noted."""

    def __init__(self, unlabelled: bool = False) -> None:
        self.unlabelled = unlabelled
        """Whether a query without windows is kept, to be answered and not scored."""
        self.accepted = 0
        self.rows = RowSpool()
        """The rows of a grounding set, in the order of the file."""
        self.rejected = Spool()
        self.reasons: dict[str, Tally] = {}
        self.repairs: dict[str, Tally] = {}
        self.notes: dict[str, Tally] = {}

    def accept(self, entry: Entry) -> None:
        """The entry is in the output."""
        self.accepted += 1

    def reject(self, entry: Entry, reason: str, detail: str = "") -> None:
        """The entry is not in the output; ``reason`` is one of a few sentences, ``detail`` has the values."""
        self.reasons.setdefault(reason, Tally()).add(entry.where)
        self.rejected.append(
            {
                "line": entry.line,
                "where": entry.where,
                "reason": reason,
                "detail": detail,
                "source": entry.source,
            }
        )

    def repair(self, entry: Entry, kind: str) -> None:
        """The entry was changed before it was accepted."""
        self.repairs.setdefault(kind, Tally()).add(entry.where)

    def note(self, entry: Entry, kind: str) -> None:
        """The entry was accepted unchanged but is unusual."""
        self.notes.setdefault(kind, Tally()).add(entry.where)

    @property
    def read(self) -> int:
        """How many entries the source had."""
        return self.accepted + len(self.rejected)

    def require_clean(self) -> None:
        """Raise `DataError` if anything was repaired or rejected (``--strict``)."""
        found = [
            f"{tally.count} x {what} (first: {tally.first[0]})"
            for what, tally in [*self.reasons.items(), *self.repairs.items()]
        ]
        if found:
            raise DataError("--strict: nothing was written, the annotations need: " + "; ".join(found))

    def summary(self) -> dict[str, Any]:
        """Counts for ``*.summary.json``: entries, accepted, rejected, repaired and notes with examples."""
        return {
            "entries": self.read,
            "accepted": self.accepted,
            "rejected": {reason: tally.count for reason, tally in self.reasons.items()},
            "repaired": {kind: vars(tally) for kind, tally in self.repairs.items()},
            "notes": {kind: vars(tally) for kind, tally in self.notes.items()},
        }

    def write_rejected(self, path: Path) -> None:
        """Write the rejected entries as JSONL; an empty file says that there were none.

        It is ASCII, so that whatever was in the source can be written.
        """
        with atomic_write(path) as out:
            for record in self.rejected:
                out.write(json.dumps(record) + "\n")
