"""From a mixture's YAML to its rows: the same list from the same files and seed, whatever the machine."""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.errors import DataError
from data_prep.rows import Row, as_record, check_video_name, read_rows, split_windows
from invert_rl.evaluation.data import file_sha256, read_evaluation_rows
from invert_rl.mixture.config import Mixture, Source, source_name
from invert_rl.mixture.contamination import TestVideos, located_videos, video_id
from invert_rl.tasks import DEFAULT_TASK, TASKS, normalise_query
from invert_rl.tasks.presets import reworded

IN_TEST_SET = "in a test set"


@dataclass
class Resolved:
    """The rows, the rows left out with why, and what happened to each source."""

    rows: list[Row] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    """``source``, ``id``, ``video``, ``kind``, ``reason`` and the row."""
    sources: list[dict[str, Any]] = field(default_factory=list)
    test_sets: list[dict[str, Any]] = field(default_factory=list)
    contaminated: int = 0


def resolve(mixture: Mixture) -> Resolved:
    """The rows of a mixture; raises `DataError` for files that cannot be read and ids that occur twice.

    Of each source: rows of its split, without those whose video is in a test set or that an earlier source has, too
    (same video, query and windows), one per window or whole, at most ``cap``, each taken ``weight`` times.
    """
    root = None if mixture.video_root is None else mixture.located(mixture.video_root)
    if root is not None and not root.is_dir():
        raise DataError(f"{mixture.path}: video_root {root} is no folder")
    resolved, tested = Resolved(), TestVideos()
    for test_set in mixture.test_sets:
        path = mixture.located(test_set.data)
        rows = read_evaluation_rows(path)
        videos = {_in_folder(row.video, test_set.folder, str(path)) for row in rows}
        tested.add(path.name, located_videos(sorted(videos), root))
        told = {"data": test_set.data, "sha256": file_sha256(path), "rows": len(rows), "videos": len(videos)}
        resolved.test_sets.append({**told, "files_hashed": tested.hashed[path.name]})
    claimed: dict[Any, str] = {}
    ids: dict[str, str] = {}
    for source in mixture.sources:
        _add_source(mixture, source, root, tested, claimed, ids, resolved)
    if not resolved.rows and not resolved.contaminated:
        raise DataError(f"{mixture.path}: no row is left")
    return resolved


def _add_source(
    mixture: Mixture,
    source: Source,
    root: Path | None,
    tested: TestVideos,
    claimed: dict[Any, str],
    ids: dict[str, str],
    resolved: Resolved,
) -> None:
    name, path = source_name(source), mixture.located(source.data)
    rows = read_rows(path)
    total = len(rows)
    reasons: Counter[str] = Counter()

    def reject(row: Row, kind: str, reason: str) -> None:
        reasons[kind] += 1
        record = {
            "source": name,
            "id": row.id,
            "video": row.video,
            "kind": kind,
            "reason": reason,
            "row": as_record(row),
        }
        resolved.rejected.append(record)

    if source.prompt is not None:
        reworded(TASKS[DEFAULT_TASK], source.prompt)  # raises for one that no row can name
    prompts = {} if source.prompt is None else {"source_prompt": source.prompt}
    verdicts: dict[str, str | None] = {}
    kept, mine = [], {}
    for row in rows:
        if source.split is not None and row.split != source.split:
            reject(row, "another split", f"split {row.split!r}, not {source.split!r}")
            continue
        row = replace(row, video=_in_folder(row.video, source.folder, f"{path}: row {row.id!r}"))
        if row.video not in verdicts:
            verdicts[row.video] = tested.found(row.video, None if root is None else root / row.video)
        reason = verdicts[row.video]
        if reason is not None:
            resolved.contaminated += 1
            reject(row, IN_TEST_SET, reason)
            continue
        identity = (video_id(row.video), row.clip, normalise_query(row.query), row.windows)
        if identity in claimed:
            reject(row, "in an earlier source", f"{claimed[identity]} has the same video, query and windows")
            continue
        mine[identity] = name
        kept.append(replace(row, meta={**row.meta, "source_name": name, **prompts}))
    claimed |= mine
    if source.windows == "split":
        kept = split_windows(kept)
    usable = len(kept)
    kept = _drawn(kept, source.cap, mixture.seed, f"{name} cap")
    taken = _weighted(kept, source.weight, mixture.seed, name)
    for row in taken:
        if row.id in ids:
            raise DataError(
                f"{path}: id {row.id!r} is in source {ids[row.id]!r}, too; convert one of them under another name"
            )
        ids[row.id] = name
    resolved.rows += taken
    root_files = {row.video for row in kept if root is not None and (root / row.video).is_file()}
    resolved.sources.append(
        {
            "name": name,
            "data": source.data,
            "sha256": file_sha256(path),
            "entries": total,
            "rejected": dict(reasons),
            "usable": usable,
            "taken": len(taken),
            "videos": len({row.video for row in taken}),
            "videos_found": len(root_files),
            "windows": source.windows,
            "weight": source.weight,
            "cap": source.cap,
            "prompt": source.prompt,
        }
    )


def _in_folder(video: str, folder: str, where: str) -> str:
    name = f"{folder.rstrip('/')}/{video}" if folder else video
    check_video_name(name, where)
    return name


def _drawn(rows: list[Row], count: int | None, seed: int, what: str) -> list[Row]:
    """``count`` of the rows, by seed, in their order."""
    if count is None or count >= len(rows):
        return rows
    rng = np.random.default_rng([seed, zlib.crc32(what.encode())])
    return [rows[place] for place in sorted(rng.permutation(len(rows))[:count])]


def _weighted(rows: list[Row], weight: float, seed: int, name: str) -> list[Row]:
    """Each row ``floor(weight)`` times, and a part of them once more; copies have ids that end in ``@2``, ``@3``, …"""
    whole = math.floor(weight)
    times: Sequence[list[Row]] = [rows] * whole
    more = _drawn(rows, round((weight - whole) * len(rows)), seed, f"{name} weight")
    taken = []
    for copy, part in enumerate([*times, more], start=1):
        taken += part if copy == 1 else [replace(row, id=f"{row.id}@{copy}") for row in part]
    return taken
