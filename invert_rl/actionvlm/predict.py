"""Whole videos through ActionVLM: detections, language weights, and what the language model would write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from data_prep.errors import VideoError
from data_prep.progress import progress
from invert_rl.actionvlm.data import ActionData
from invert_rl.actionvlm.model import ActionVLM
from invert_rl.tal.data import Video, results_of, window_of
from invert_rl.tal.nms import suppress
from invert_rl.tal.windows import merge_windows, window_starts


@dataclass(frozen=True)
class Detections:
    """Of one video."""

    segments: Tensor
    """``(N, 2)`` rows, best first, suppressed."""
    scores: Tensor
    labels: Tensor
    weight: Tensor
    """λ ``(T,)`` of each row, the mean over the windows that show it."""
    advantage: Tensor
    """Â ``(T,)``, likewise; 0 for vision alone."""
    seen: bool = True
    """Whether the video could be decoded; else nothing is detected."""


@torch.no_grad()
def detect_video(model: ActionVLM, data: ActionData, video: Video, size: int, overlap: float | None) -> Detections:
    """Detections of a video in windows of ``size`` rows; ``overlap`` None takes it whole. Leaves evaluation mode on."""
    model.eval()
    device = model.projection.weight.device
    rows = len(video.features)
    weight, advantage, times = torch.zeros(3, rows)
    parts = []
    starts = [0] if overlap is None else window_starts(rows, size, overlap)
    for start in starts:
        window = video if overlap is None else window_of(video, start, size)
        features, mask = (part.to(device) for part in data.batch([window], size, model.detector.pyramid.multiple))
        found = model.features(features, mask)
        parts += model.detector.decode(model.detect(found, mask))
        length = len(window.features)
        weight[start : start + length] += found.weight[0, :length].float().cpu()
        if found.advantage is not None:
            advantage[start : start + length] += found.advantage[0, :length].float().cpu()
        times[start : start + length] += 1
    segments, scores, labels = (part.cpu() for part in merge_windows(parts, starts))
    kept = suppress(segments.float(), scores.float(), labels, model.config.detector.suppression)
    return Detections(*kept, weight / times, advantage / times)


def detect_videos(model: ActionVLM, data: ActionData, size: int, overlap: float | None) -> list[Detections]:
    """Detections of all test videos, in their order; none of a video that cannot be decoded, which is noted."""
    found = []
    for video in progress(data.test, "detect"):
        try:
            found.append(detect_video(model, data, video, size, overlap))
        except VideoError:  # noted by `ActionData.read`: its ground truth counts as missed
            nothing, rows = torch.zeros(0), torch.zeros(len(video.features))
            found.append(Detections(torch.zeros(0, 2), nothing, nothing.long(), rows, rows, seen=False))
    return found


def results(data: ActionData, detections: Sequence[Detections]) -> dict[str, list[dict[str, Any]]]:
    """The detections as ``invert-rl evaluate-detection`` reads them."""
    pairs = zip(data.test, detections, strict=True)
    return results_of(((video, found.segments, found.scores, found.labels) for video, found in pairs), data.classes)


@torch.no_grad()
def write_texts(
    model: ActionVLM, data: ActionData, tokenizer: PreTrainedTokenizerBase, size: int, tokens: int
) -> dict[str, str]:
    """What the language model writes about the first window of each test video, in at most ``tokens`` tokens.

    Raises `ValueError` for a model without one.
    """
    if model.language is None:
        raise ValueError("a model of vision alone writes nothing")
    model.eval()
    device = model.projection.weight.device
    texts = {}
    for video in progress(data.test, "write"):
        window = window_of(video, 0, size)
        try:
            batch, mask = (part.to(device) for part in data.batch([window], size))
        except VideoError:
            texts[video.video] = ""
            continue
        (ids,) = model.language.generate(model.read(batch, mask), mask, tokens)
        texts[video.video] = str(tokenizer.decode(ids, skip_special_tokens=True))
    return texts
