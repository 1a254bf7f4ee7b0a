"""How much language matters: LAP, mLA, hallucination rates, and behaviour on ambiguous clips (ActionVLM, 4.3, A.1)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_prep.errors import DataError
from data_prep.files import read_json
from invert_rl.actionvlm.advantage import frame_classes
from invert_rl.tal.data import Video

GROUPS = Path(__file__).parent / "groups"
"""Groups of classes that are shipped, one JSON file per data set."""
REPEATS = 3
"""An answer that has one proposal at least so often lists it without end [C]."""
LENGTHS = (0.3, 0.5, 0.7)
"""Thresholds of acc@mLen (table 5)."""
PROPOSAL = re.compile(r"([^,:;\n]+):\s*(\d+)\s*-\s*(\d+)")


def lap(aligned: float, conflict: float) -> float:
    """Language advantage on performance: the share of average mAP lost to exchanged descriptions (section 4.3).

    0 where ``aligned`` is 0.
    """
    return (aligned - conflict) / aligned if aligned else 0.0


def mean_weights(videos: Sequence[Video], values: Sequence[Tensor], num_classes: int) -> Tensor:
    """Mean of a value per frame over the frames of each class, and last of background, ``(C + 1,)``; else nan.

    With λ, the language weight, this is mLA (table 3, whose text reads it as such a weight [I]). Takes values ``(T,)``
    of each video; a frame belongs to the shortest segment over it.
    """
    total, count = torch.zeros(2, num_classes + 1)
    for video, of_rows in zip(videos, values, strict=True):
        (ids,) = frame_classes([video.segments], [video.labels], len(of_rows))
        ids = torch.where(ids < 0, num_classes, ids)
        total.index_add_(0, ids, of_rows.float())
        count.index_add_(0, ids, torch.ones_like(of_rows, dtype=torch.float32))
    return total / count


def read_groups(path: Path | str, classes: Sequence[str]) -> dict[str, list[str]]:
    """Groups of classes from a JSON object of lists, of each the ``classes`` that the data have.

    Raises `DataError` for another form, and for a group none of whose classes the data have.
    """
    content = read_json(Path(path))
    if not isinstance(content, dict) or not all(isinstance(names, list) for names in content.values()):
        raise DataError(f"{path}: expected a JSON object that gives each group a list of classes")
    for group, names in content.items():
        if not set(names) & set(classes):
            raise DataError(f"{path}: group {group!r} has none of the {len(classes)} classes: {names}")
    return {group: [name for name in names if name in classes] for group, names in content.items()}


def read_proposals(text: str) -> list[tuple[str, int, int]]:
    """Proposals ``(action, start, end)`` in an answer of the taught form ``Action: start-end, …``."""
    return [(name.strip(), int(start), int(end)) for name, start, end in PROPOSAL.findall(text)]


def hallucination_rates(texts: Mapping[str, str]) -> dict[str, float]:
    """Shares of answers with fixed boundaries and with endless lists, by video (table 2).

    The paper gives no rule [C]: an answer is ``fixed`` where its boundaries, at least one pair, are exactly those of
    another video's answer; it is ``infinite`` where it lists one proposal `REPEATS` times or more. Detectors write
    nothing and have 0. Raises `ValueError` without answers.
    """
    if not texts:
        raise ValueError("no answers to rate")
    proposals = {video: read_proposals(text) for video, text in texts.items()}
    borders = {video: tuple((start, end) for _, start, end in found) for video, found in proposals.items()}
    same = Counter(pairs for pairs in borders.values() if pairs)
    fixed = sum(same[pairs] > 1 for pairs in borders.values() if pairs)
    infinite = sum(max(Counter(found).values(), default=0) >= REPEATS for found in proposals.values())
    return {"fixed": fixed / len(texts), "infinite": infinite / len(texts)}


@dataclass(frozen=True)
class AmbiguousClip:
    """A stretch of a video, in seconds, that looks like an action and is none, or not a whole one."""

    video: str
    start: float
    end: float


def read_ambiguous_clips(path: Path | str) -> list[AmbiguousClip]:
    """Clips from a JSON list of ``{"video", "segment": [start, end]}``; raises `DataError` for another form."""
    content = read_json(Path(path))
    if not isinstance(content, list) or not content:
        raise DataError(f'{path}: expected a list of {{"video": …, "segment": [start, end]}}')
    clips = []
    for number, entry in enumerate(content, 1):
        try:
            start, end = (float(time) for time in entry["segment"])
            clips.append(AmbiguousClip(str(entry["video"]), start, end))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f'{path}: entry {number}: needs "video" and "segment": [start, end] ({error})') from error
        if not start < end:
            raise DataError(f"{path}: entry {number}: the segment {start:g} to {end:g} s is empty")
    return clips


def ambiguity(
    results: Mapping[str, Sequence[Mapping[str, Any]]],
    clips: Sequence[AmbiguousClip],
    lengths: Sequence[float] = LENGTHS,
) -> dict[str, float]:
    """mConf, mLen and acc@mLen on ambiguous clips (appendix A.1, table 5); lower confidence and shorter is better.

    Whole videos are detected; of the detections that overlap a clip the most confident counts, cut to the clip and
    with its length as a share of the clip's. A clip without one has confidence and length 0 [C]. acc@t is the share of
    clips whose length is below t. Raises `ValueError` without clips.
    """
    if not clips:
        raise ValueError("no ambiguous clips")
    confidences, spans = [], []
    for clip in clips:
        best = (0.0, 0.0)
        for entry in results.get(clip.video, ()):
            start, end = max(entry["segment"][0], clip.start), min(entry["segment"][1], clip.end)
            if end > start and entry["score"] > best[0]:
                best = (float(entry["score"]), (end - start) / (clip.end - clip.start))
        confidences.append(best[0])
        spans.append(best[1])
    accuracies = {f"acc@{length:g}": sum(span < length for span in spans) / len(spans) for length in lengths}
    return {"mConf": sum(confidences) / len(clips), "mLen": sum(spans) / len(spans), **accuracies}
