"""What a toy clip holds, as the language model is shown it by the fixed vision tower."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from transformers import ProcessorMixin

from data_prep.rows import Row
from invert_rl.positions import grid_positions
from invert_rl.toy.scene import DURATION, GRID
from invert_rl.toy.tower import NAMES, frame_labels
from invert_rl.video.clip import Clip
from invert_rl.video.ref import VideoRef
from invert_rl.video.store import FrameStore

MARKS = round(DURATION / GRID) + 1
"""How many times events can begin and end at."""
IGNORED = -100
"""Label of a token, or mark of a time, that nothing is told of."""


@dataclass(frozen=True)
class Seen:
    """A clip or a segment as the language model is shown it."""

    features: torch.Tensor
    """``(tokens, width)``, from the tower."""
    grid: torch.Tensor
    """Positions of the tokens, ``(3, tokens)``, as if it came first."""


@dataclass(frozen=True)
class Shown(Seen):
    """A clip as the language model is shown it, and what it holds."""

    told: torch.Tensor
    """`marks` of each token's group of frames, ``(tokens, 3)``."""
    shows: torch.Tensor
    """Which tokens show each of the clip's events, ``(events, tokens)`` of 0 and 1."""
    verbs: torch.Tensor
    """Place in `NAMES` of each event's verb, ``(events,)``."""


def look_at(tower: nn.Module, processor: ProcessorMixin, row: Row, store: FrameStore) -> Shown:
    """The clip of a row as the fixed vision tower sees it, and what its events are."""
    clip, frames = store.clip(VideoRef(row.video)), processor.video_processor.temporal_patch_size
    seen = see(tower, processor, clip)
    seconds = clip.second_per_grid(frames)
    begins = torch.from_numpy(np.asarray(clip.timestamps[::frames]))
    shows = torch.stack([(begins < end) & (begins + seconds > start) for _, start, end in row.meta["events"]])
    told = marks(row, clip.timestamps[frames - 1 :: frames])
    each = len(seen.features) // len(begins)
    verbs = torch.tensor([NAMES.index(verb) for verb, _, _ in row.meta["events"]])
    told, shows = told.repeat_interleave(each, 0), shows.float().repeat_interleave(each, 1)
    return Shown(seen.features, seen.grid, told, shows, verbs)


def see(tower: nn.Module, processor: ProcessorMixin, clip: Clip) -> Seen:
    """A clip or a segment as the fixed vision tower sees it."""
    inputs = processor.video_processor(
        videos=[clip.frames], do_sample_frames=False, do_resize=False, return_tensors="pt"
    )
    grid = inputs["video_grid_thw"]
    with torch.no_grad():
        features = tower(inputs["pixel_values_videos"], grid).pooler_output
    seconds, sizes = clip.second_per_grid(processor.video_processor.temporal_patch_size), tower.config
    positions = grid_positions(0, grid[0], sizes.spatial_merge_size, seconds, sizes.tokens_per_second)
    return Seen(features, positions)


def marks(row: Row, times: np.ndarray) -> torch.Tensor:
    """For each time (seconds) of the row's clip what it holds, ``(times, 3)``: the place of its verb in `NAMES`, when
    that event began and when the last one ended, in steps of `GRID`, `IGNORED` where there is none."""
    told = []
    for time, name in zip(times, frame_labels(row, times), strict=True):
        began = [start for _, start, end in row.meta["events"] if start <= time < end]
        ended = [end for _, _, end in row.meta["events"] if end <= time]
        steps = [round(of[-1] / GRID) if of else IGNORED for of in (began, ended)]
        told.append([name, *steps])
    return torch.tensor(told)


def by_clip(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows of each clip, in order."""
    clips: dict[str, list[Row]] = {}
    for row in rows:
        clips.setdefault(row.video, []).append(row)
    return clips
