"""Detections of whole videos, what the field's evaluator does to them and to the ground truth, and their mAP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from data_prep.progress import progress
from invert_rl.evaluation.detection.ambiguous import Intervals
from invert_rl.evaluation.detection.scoring import score_results
from invert_rl.wtal.data import WeakData, WeakVideo
from invert_rl.wtal.descriptions import Descriptions, words_of
from invert_rl.wtal.model import SemanticLocalizer
from invert_rl.wtal.proposals import ProposalSettings, propose
from invert_rl.wtal.words import Vocabulary, choose_masked, pad_words

Results = dict[str, list[dict[str, Any]]]
"""Per video ``{"segment", "label", "score"}``, in seconds."""
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
"""Of THUMOS14 in weakly supervised work [S table 1]."""


@dataclass(frozen=True)
class EvaluationRules:
    """What is counted."""

    thresholds: tuple[float, ...] = THRESHOLDS
    protocol: str = "delu"
    """Evaluator: DELU's counts in whole snippets of 16/25 s [R]."""
    ambiguous: Intervals | None = None
    """Intervals in seconds of test videos; detections that share time with one are not counted."""


@torch.no_grad()
def detect_videos(
    model: SemanticLocalizer, videos: Sequence[WeakVideo], classes: Sequence[str], settings: ProposalSettings
) -> Results:
    """Detections of whole ``videos``, each at its full length. The model's mode is restored."""
    training, device = model.training, next(model.parameters()).device
    model.eval()
    results: Results = {}
    for video in progress(videos, "detect"):
        found = model.activations(video.features[:][None].to(device))
        segments, scores, labels = propose(found.cas[0], found.attention[0], settings)
        times = video.grid.segments_in_seconds(segments.double(), video.duration)
        results[video.video] = [
            {"segment": time, "label": classes[label], "score": score}
            for time, score, label in zip(times.tolist(), scores.tolist(), labels.tolist(), strict=True)
        ]
    model.train(training)
    return results


def reconstruction_errors(
    model: SemanticLocalizer, data: WeakData, descriptions: Descriptions, vocabulary: Vocabulary, longest: int
) -> dict[str, float] | None:
    """The mean of `SemanticReconstruction.compare` over the test videos; None without that branch.

    Of their complete texts, cut to ``longest`` words, with words hidden by a fixed seed; videos whose texts have a word
    that the ``vocabulary`` lacks do not count, nor do those without a class. The model's mode is restored.
    """
    branch = model.reconstruction
    if branch is None:
        return None
    training, device = branch.training, next(branch.parameters()).device
    branch.eval()
    generator = np.random.default_rng(0)
    found: dict[str, list[float]] = {}
    for video in data.test:
        names = [data.classes[index] for index in torch.nonzero(video.labels)[:, 0].tolist()]
        text = words_of(descriptions.complete_text(video.video, names))
        if not text or not set(text) <= set(vocabulary.words):
            continue
        words = pad_words([vocabulary.ids(" ".join(text))], longest)
        inputs = video.features[:][None].to(device), words.to(device), choose_masked(words, generator).to(device)
        for name, errors in branch.compare(*inputs).items():
            found.setdefault(name, []).append(float(errors[0]))
    branch.train(training)
    return {name: float(np.mean(errors)) for name, errors in found.items()} | {"n": float(len(found.get("all", ())))}


def score(data: WeakData, results: Results, rules: EvaluationRules) -> dict[str, float]:
    """``average_mAP`` and ``mAP@t`` of each threshold, as fractions, and ``n``, the ground truths that count."""
    return score_results(
        data.database, results, data.test_subset, rules.protocol, rules.thresholds, rules.ambiguous
    ).metrics
