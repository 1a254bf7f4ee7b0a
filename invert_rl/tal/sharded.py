"""Detections of many videos, shared out over ranks and written one by one, so that a killed command goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState

from data_prep.files import read_json, read_jsonl
from data_prep.progress import progress
from invert_rl.evaluation.parts import begin, cut_last_line, part_of, parts_of
from invert_rl.tal.outcome import write_results

Entries = list[dict[str, Any]]
"""``{"segment", "label", "score"}`` of one video, in seconds."""


@dataclass(frozen=True)
class DetectionJob:
    """What is to be detected."""

    videos: Sequence[str]
    """In the order of the output."""
    detect: Callable[[str], Entries]
    settings: Mapping[str, Any]
    """What the output belongs to: it is not gone on with under others."""
    features: Mapping[str, Any]
    """What was found of the features (see `FeatureReport.summary`)."""


def detect_sharded(job: DetectionJob, output: Path, state: PartialState) -> None:
    """Write the results file ``output`` of a job; every rank calls this, and takes every so-many-th video.

    Raises `DataError` where ``output`` was begun with other settings.
    """
    if state.is_main_process:
        begin(output, output.with_name(f"{output.name}.settings.json"), job.settings)
    state.wait_for_everyone()
    part = part_of(output, state.process_index)
    cut_last_line(part)
    state.wait_for_everyone()
    done = done_videos(output)
    todo = [video for video in job.videos if video not in done]
    state.wait_for_everyone()
    for video in progress(todo[state.process_index :: state.num_processes], "detect"):
        entries = job.detect(video)
        with part.open("a", encoding="utf-8") as out:
            out.write(json.dumps({"video": video, "detections": entries}) + "\n")
    state.wait_for_everyone()
    if state.is_main_process:
        if not output.exists():
            found = done_videos(output)
            write_results(output, {video: found[video] for video in job.videos})
        for path in parts_of(output):
            path.unlink()
    state.wait_for_everyone()


def done_videos(output: Path) -> dict[str, Entries]:
    """Detections of the videos that are done, of the output or else of all ranks' parts."""
    if output.exists():
        return dict(read_json(output)["results"])
    records = [record for part in parts_of(output) for _, record in read_jsonl(part)]
    return {record["video"]: record["detections"] for record in records}
