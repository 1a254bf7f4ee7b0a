"""Detections of whole videos by a detector: windows, decoding, merging, suppression; and their mAP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from data_prep.progress import progress
from invert_rl.evaluation.detection.scoring import score_results
from invert_rl.tal.data import Video, pad, results_of, window_of
from invert_rl.tal.detector import Detector
from invert_rl.tal.nms import suppress
from invert_rl.tal.windows import merge_windows, window_starts


@torch.no_grad()
def detect(model: Detector, video: Video, size: int, overlap: float | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Segments ``(N, 2)`` in rows of the video, scores ``(N,)`` and class ids ``(N,)``, suppressed, best first.

    ``overlap`` cuts the video into windows of ``size`` rows that overlap by so much; None takes it whole, padded to
    ``size`` rows or more. The model is left in evaluation mode.
    """
    model.eval()
    device = model.scales.device
    rows = len(video.features)
    starts = [0] if overlap is None else window_starts(rows, size, overlap)
    parts = []
    for start in starts:
        window = video if overlap is None else window_of(video, start, size)
        batch = pad([window], size, model.pyramid.multiple)
        parts += model.decode(model(batch.features.to(device), batch.mask.to(device)))
    segments, scores, labels = merge_windows(parts, starts)
    return suppress(segments, scores, labels, model.config.suppression)


def detect_all(
    model: Detector, videos: Sequence[Video], classes: Sequence[str], size: int, overlap: float | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Results of all ``videos`` in seconds, as ``invert-rl evaluate-detection`` reads them."""
    found = ((video, *detect(model, video, size, overlap)) for video in progress(videos, "detect"))
    return results_of(found, classes)


def mean_ap(
    database: dict[str, Any],
    subset: str,
    results: dict[str, Any],
    protocol: str = "actionformer",
    thresholds: Sequence[float] | None = None,
) -> tuple[list[float], float]:
    """mAP at each threshold, and their mean, as fractions (as ``invert-rl evaluate-detection`` prints them).

    Raises `DataError` where the subset has no ground truth.
    """
    scored = score_results(database, results, subset, protocol, thresholds)
    return scored.result.mean_ap, scored.result.average_map
