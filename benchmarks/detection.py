"""Time of mAP at ActivityNet's scale against the official algorithm, one prediction after the other.

``python benchmarks/detection.py [--json]``. 4,728 videos with 100 predictions each, 200 classes, ten thresholds, made
here with a seed. Both ways get the same arrays in one process on one thread; times are processor time, which a busy
machine distorts less. The loop looks its ground truth up in a dictionary (the published one asks a pandas table for
every prediction and takes many times longer).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import defaultdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
# This folder holds a file that bears the name of a package.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np  # noqa: E402

from invert_rl.evaluation.detection.precision import Segments, evaluate_detection  # noqa: E402
from invert_rl.evaluation.detection.protocols import ACTIVITYNET  # noqa: E402

CLASSES = 200
AT_LEAST = 10.0


def planted(videos: int, per_video: int, seed: int = 0) -> tuple[Segments, Segments]:
    """Ground truth of one class per video and predictions near them, four of five of the video's class."""
    rng = np.random.default_rng(seed)
    counts = 1 + rng.poisson(0.6, videos)  # about 1.6 instances per video, as in ActivityNet-1.3
    owner = np.repeat(np.arange(videos), counts)
    label = rng.integers(0, CLASSES, videos)
    start = rng.uniform(0, 100, len(owner))
    times = np.stack([start, start + rng.uniform(2, 60, len(owner))], axis=1)
    truth = Segments(names("v", owner), names("class", label[owner]), times, np.zeros(len(owner)))
    predicted = np.repeat(np.arange(videos), per_video)
    near = times[np.repeat(np.cumsum(counts) - counts, per_video) + rng.integers(0, np.repeat(counts, per_video))]
    moved = np.sort(near + rng.normal(0, 6, near.shape), axis=1)
    right = rng.random(len(predicted)) < 0.8
    guessed = np.where(right, label[predicted], rng.integers(0, CLASSES, len(predicted)))
    scores = rng.random(len(predicted)) * (0.5 + 0.5 * right)
    return truth, Segments(names("v", predicted), names("class", guessed), moved, scores)


def names(prefix: str, numbers: np.ndarray) -> np.ndarray:
    """Text ids of numbers."""
    return np.array([f"{prefix}{number}" for number in numbers.tolist()], dtype=object)


def loop(truth: Segments, predictions: Segments, thresholds: tuple[float, ...]) -> np.ndarray:
    """AP ``(C, T)``: for each prediction its ground truths by tIoU, for each threshold the first that is free."""
    by_class: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, (video, label) in enumerate(zip(truth.videos.tolist(), truth.labels.tolist(), strict=True)):
        by_class[label][video].append(index)
    rows: dict[str, list[int]] = defaultdict(list)
    for index, label in enumerate(predictions.labels.tolist()):
        rows[label].append(index)
    videos = predictions.videos.tolist()
    result = []
    for label in sorted(by_class):
        indices = np.array(rows[label], dtype=int)
        indices = indices[np.argsort(predictions.scores[indices], kind="stable")[::-1]]
        hits = np.zeros((len(thresholds), len(indices)))
        locked = np.zeros((len(thresholds), len(truth)), dtype=bool)
        for place, index in enumerate(indices):
            own = by_class[label].get(videos[index])
            if own is None:
                continue
            times, target = predictions.times[index], truth.times[own]
            shared = (np.minimum(times[1], target[:, 1]) - np.maximum(times[0], target[:, 0])).clip(0)
            overlap = shared / ((target[:, 1] - target[:, 0]) + (times[1] - times[0]) - shared)
            ranked = overlap.argsort(kind="stable")[::-1]
            for level, threshold in enumerate(thresholds):
                for candidate in ranked:
                    if overlap[candidate] < threshold:
                        break
                    if locked[level, own[candidate]]:
                        continue
                    hits[level, place] = locked[level, own[candidate]] = True
                    break
        positives = sum(map(len, by_class[label].values()))
        result.append([area(level, positives) for level in hits])
    return np.array(result)


def area(hits: np.ndarray, positives: int) -> float:
    """Area under the interpolated precision over recall."""
    precision = np.r_[0, hits.cumsum() / np.arange(1, len(hits) + 1), 0]
    recall = np.r_[0, hits.cumsum() / positives, 1]
    for index in range(len(precision) - 1, 0, -1):
        precision[index - 1] = max(precision[index - 1], precision[index])
    steps = np.flatnonzero(recall[1:] != recall[:-1]) + 1
    return float(((recall[steps] - recall[steps - 1]) * precision[steps]).sum())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--videos", type=int, default=4728)
    parser.add_argument("--predictions", type=int, default=100, help="per video")
    options = parser.parse_args()
    truth, predictions = planted(options.videos, options.predictions)
    began = time.process_time()
    vectorised = evaluate_detection(truth, predictions, ACTIVITYNET).ap
    middle = time.process_time()
    one_by_one = loop(truth, predictions, ACTIVITYNET)
    ended = time.process_time()
    report = {
        "compared": "mAP and recall, all videos matched at a time, against mAP by a loop over the predictions",
        "videos": options.videos,
        "predictions": len(predictions),
        "vectorised_s": round(middle - began, 3),
        "loop_s": round(ended - middle, 3),
        "ratio": round((ended - middle) / (middle - began), 2),
        "at_least": AT_LEAST,
        "largest_difference": float(np.abs(vectorised - one_by_one).max()),
    }
    print(json.dumps(report) if options.json else "\n".join(f"{name:<20}{value}" for name, value in report.items()))


if __name__ == "__main__":
    main()
