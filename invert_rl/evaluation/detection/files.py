"""Files of temporal action localization: ActivityNet's JSON layouts and those of the EPIC-KITCHENS-100 challenge."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.errors import DataError
from data_prep.files import read_json, read_text
from invert_rl.evaluation.detection.precision import Segments

EPIC_LABELS = ("verb", "noun", "action")
CLOCK = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")

Records = list[tuple[str, str, Any, Any]]
"""``(video, place in the file, entry, subset)`` of every segment."""


def read_predictions(path: Path, label: str = "label") -> Segments:
    """Predicted segments of ``{"results": {video: [{"segment", "label", "score"}]}}``, or of the bare mapping.

    ``label`` ``verb``, ``noun`` or ``action`` reads a submission of EPIC's challenge, whose labels become
    ``"VERB"``, ``"NOUN"`` and ``"VERB,NOUN"`` in ids. Times in seconds. Raises `DataError` for another layout, a
    segment that is not two finite numbers and a score that is not a finite number.
    """
    return predictions_of(read_json(path), str(path), label)


def predictions_of(content: Any, where: str, label: str = "label") -> Segments:
    """As `read_predictions`, of what a file held; ``where`` names it in errors."""
    results = content.get("results", content) if isinstance(content, dict) else None
    if not isinstance(results, dict):
        raise DataError(f'{where}: expected {{"results": {{video: [...]}}}}, found {type(content).__name__}')
    entries = list(_entries(results, where))
    return _segments(entries, [_label(entry, label, place) for _, place, entry, _ in entries], with_scores=True)


def has_plain_labels(content: Any) -> bool:
    """Whether predictions carry ``label``; those of EPIC's challenge carry ``verb``, ``noun`` and ``action``."""
    results = content.get("results", content) if isinstance(content, dict) else {}
    if not isinstance(results, dict):
        return True  # no predictions at all: `predictions_of` says so
    first: Any = next((entries[0] for entries in results.values() if isinstance(entries, list) and entries), {})
    return not (isinstance(first, dict) and "label" not in first and "verb" in first)


def read_truth(path: Path, subset: str | None, label: str = "label", default_subset: str | None = None) -> Segments:
    """Annotated segments of ActivityNet's ``{"database": …}``, or of EPIC's csv or list of its rows.

    ``subset`` is told apart without regard to case; None is the file's only annotated subset, or
    ``default_subset`` where there are several. Raises `DataError` for another layout, a subset that is not there,
    several subsets without a choice, and no annotation.
    """
    if path.name.removesuffix(".gz").endswith(".csv"):
        content: Any = list(csv.DictReader(io.StringIO(read_text(path))))
    else:
        content = read_json(path)
    return truth_of(content, str(path), subset, label, default_subset)


def truth_of(
    content: Any, where: str, subset: str | None = None, label: str = "label", default_subset: str | None = None
) -> Segments:
    """As `read_truth`, of what a file held; ``where`` names it in errors."""
    if isinstance(content, list):
        entries = [
            (str(row.get("video_id")), f"{where}: row {number}", _with_times(row, f"{where}: row {number}"), None)
            for number, row in enumerate(content, start=1)
        ]
        if label == "label":
            raise DataError(f"{where}: EPIC rows have no label; the predictions must have verb, noun and action")
    else:
        database = content.get("database", content) if isinstance(content, dict) else None
        if not isinstance(database, dict):
            raise DataError(f'{where}: expected {{"database": {{video: …}}}}, found {type(content).__name__}')
        entries = _select(list(_annotations(database, where)), database, subset, default_subset, where)
    if not entries:
        raise DataError(f"{where}: no annotation" + (f" in subset {subset!r}" if subset else ""))
    return _segments(entries, [_label(entry, label, place) for _, place, entry, _ in entries], with_scores=False)


def scored_annotations(record: Mapping[str, Any]) -> Any:
    """The annotations of a video that published numbers count.

    ``invert-rl convert`` clips or drops segments that leave their video, for training, and keeps them all as annotated
    under ``published`` where there are such.
    """
    return record.get("published", record.get("annotations"))


def _annotations(database: Mapping[str, Any], where: str) -> Iterable[tuple[str, str, Any, Any]]:
    for video, record in database.items():
        if not isinstance(record, dict) or not isinstance(scored_annotations(record), list):
            raise DataError(f"{where}: video {video!r}: expected an object with a list of annotations")
        for number, entry in enumerate(scored_annotations(record), start=1):
            yield video, f"{where}: video {video!r}, annotation {number}", entry, record.get("subset")


def _select(
    entries: Records, database: Mapping[str, Any], wanted: str | None, default: str | None, where: str
) -> Records:
    """The entries of the subset that is asked for, or of the only one."""
    there = sorted({str(record.get("subset")) for record in database.values() if scored_annotations(record)})
    names = ", ".join(there) or "none"
    if wanted is None and len(there) > 1:
        if default is None or default.casefold() not in map(str.casefold, there):
            raise DataError(f"{where}: annotated subsets: {names}; choose one with --subset")
        wanted = default
    if wanted is None:
        return entries
    chosen = [entry for entry in entries if str(entry[3]).casefold() == wanted.casefold()]
    if not chosen:
        raise DataError(f"{where}: subset {wanted!r} has no annotation; annotated subsets: {names}")
    return chosen


def _entries(results: Mapping[str, Any], where: str) -> Iterable[tuple[str, str, Any, Any]]:
    for video, entries in results.items():
        if not isinstance(entries, list):
            raise DataError(f"{where}: video {video!r}: expected a list of predictions, found {type(entries).__name__}")
        for number, entry in enumerate(entries, start=1):
            yield video, f"{where}: video {video!r}, prediction {number}", entry, None


def _label(entry: Any, label: str, place: str) -> str:
    try:
        if label == "label":
            return str(entry["label"])
        if label == "action":
            if "action" in entry and "verb_class" not in entry:
                verb, noun = str(entry["action"]).split(",")
            else:
                verb, noun = (
                    entry[f"{name}_class"] if f"{name}_class" in entry else entry[name] for name in EPIC_LABELS[:2]
                )
            return f"{int(verb)},{int(noun)}"
        return str(int(entry[f"{label}_class"] if f"{label}_class" in entry else entry[label]))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{place}: no usable {label!r} ({type(error).__name__}: {error})") from error


def _with_times(row: Mapping[str, Any], place: str) -> dict[str, Any]:
    """An EPIC row with its ``segment`` in seconds."""
    times = []
    for name in ("start_timestamp", "stop_timestamp"):
        clock = CLOCK.fullmatch(str(row.get(name, "")).strip())
        if clock is None:
            raise DataError(f"{place}: {name} {row.get(name)!r} is not HH:MM:SS.ss")
        hours, minutes, seconds = clock.groups()
        times.append(float(hours) * 3600 + float(minutes) * 60 + float(seconds))
    return {**row, "segment": times}


def _segments(entries: Records, labels: list[str], with_scores: bool) -> Segments:
    try:
        times = np.array([entry["segment"] for _, _, entry, _ in entries], dtype=float).reshape(len(entries), 2)
        scores = np.array([entry["score"] if with_scores else 0.0 for _, _, entry, _ in entries], dtype=float)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(_culprit(entries, with_scores)) from error
    bad = ~(np.isfinite(times).all(axis=1) & np.isfinite(scores))
    if bad.any():
        raise DataError(_culprit([entries[int(np.flatnonzero(bad)[0])]], with_scores))
    videos = [entry[0] for entry in entries]
    return Segments(np.array(videos, dtype=object), np.array(labels, dtype=object), times, scores)


def _culprit(entries: Records, with_scores: bool) -> str:
    """What is wrong with the first bad entry."""
    for _, place, entry, _ in entries:
        try:
            segment = np.array(entry["segment"], dtype=float)
            score = float(entry["score"]) if with_scores else 0.0
            if segment.shape == (2,) and np.isfinite(segment).all() and np.isfinite(score):
                continue
        except KeyError as error:
            return f"{place}: field {error} is missing"
        except (TypeError, ValueError):
            pass
        if not isinstance(entry, dict):
            return f"{place}: expected an object, found {type(entry).__name__}"
        told = {name: entry.get(name) for name in ("segment", "score")[: 1 + with_scores]}
        return f"{place}: segment must be two finite numbers in seconds and score a finite number, found {told}"
    raise AssertionError("every entry is fine")
