"""Scores of whole videos from another classifier, which give class-agnostic detections their classes (ActivityNet)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.errors import DataError
from data_prep.files import read_json

PREDICTIONS, CLASSES = 200, 2
"""Segments and classes of a video that are combined [R actionformer_release postprocess_results]."""


def read_video_scores(path: Path, classes: Sequence[str]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Scores ``(C,)`` of each video, and the classes that they stand for.

    Reads ``{"results": {video: [..]}, "class": [..]}``, or the bare mapping, whose scores are in the order of
    ``classes``. Raises `DataError` for another layout and for another number of scores.
    """
    content = read_json(path)
    results = content.get("results", content) if isinstance(content, dict) else None
    if not isinstance(results, dict):
        raise DataError(f'{path}: expected {{"results": {{video: [a score per class]}}}}')
    names = tuple(content["class"]) if isinstance(content.get("class"), list) else tuple(classes)
    scores = {}
    for video, values in results.items():
        try:
            scores[video] = np.array(values, dtype=float)
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}: video {video!r}: scores must be numbers ({error})") from error
        if scores[video].shape != (len(names),) or not np.isfinite(scores[video]).all():
            raise DataError(f"{path}: video {video!r}: expected {len(names)} finite scores, one per class")
    return scores, names


def with_video_classes(
    detections: Sequence[Mapping[str, Any]],
    scores: np.ndarray,
    classes: Sequence[str],
    predictions: int = PREDICTIONS,
    best: int = CLASSES,
) -> list[dict[str, Any]]:
    """The best ``predictions`` detections once for each of the ``best`` classes of their video.

    Their score is the root of theirs times that of the class. First all of the best class, then all of the next.
    """
    order = np.argsort([-entry["score"] for entry in detections], kind="stable")[:predictions]
    found = []
    for index in np.argsort(-scores, kind="stable")[:best]:
        for place in order:
            entry = detections[int(place)]
            value = float(np.sqrt(max(0.0, float(scores[index])) * entry["score"]))
            found.append({"segment": entry["segment"], "label": classes[int(index)], "score": value})
    return found
