"""Class by RoIAlign, scores, and slices put together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from invert_rl.psftr.inference import class_probabilities, decode, detect, detect_all, roi_probabilities
from invert_rl.psftr.layers import to_borders
from invert_rl.tal.data import Video
from invert_rl.tal.grid import Grid
from tests.invert_rl.psftr.conftest import small_model


def softmax(values: np.ndarray) -> np.ndarray:
    weights = np.exp(values - values.max())
    return weights / weights.sum()


def video(rows: int, seed: int = 0, width: int = 16) -> Video:
    features = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    none = torch.zeros(0, 2), torch.zeros(0, dtype=torch.long)
    return Video(f"v{seed}", rows * 8 / 30, Grid(30, 8, 8), features, *none)


def test_roi_class_is_the_text_most_like_the_mean_of_linear_interpolation() -> None:
    rng = np.random.default_rng(1)
    rows, text = rng.standard_normal((10, 4)), rng.standard_normal((3, 4))
    start, end = 1.7, 6.2
    places = start - 0.5 + (np.arange(32) + 0.5) / 32 * (end - start)  # 16 bins of two samples
    mean = np.mean([[np.interp(place, np.arange(10), rows[:, c]) for c in range(4)] for place in places], axis=0)
    cosines = text @ mean / np.linalg.norm(mean) / np.linalg.norm(text, axis=1)
    features = torch.zeros(1, 14, 4, dtype=torch.double)
    features[0, :10] = torch.from_numpy(rows)
    mask = (torch.arange(14) < 10)[None]
    borders = torch.tensor([[[start / 10, end / 10]]], dtype=torch.double)
    found = roi_probabilities(features, mask, borders, torch.from_numpy(text), 16, 20.0)
    assert np.allclose(found[0, 0].numpy(), softmax(20 * cosines), atol=1e-6)


def test_padding_does_not_leak_into_segments_at_the_end(batch) -> None:
    features, mask, text = batch
    borders = torch.tensor([[0.7, 1.0], [0.0, 1.0], [0.9, 0.95]]).expand(3, 3, 2)
    padded = roi_probabilities(features * mask[..., None], mask, borders, text, 8, 10.0)
    for number, rows in enumerate(mask.sum(dim=1).tolist()):
        alone = roi_probabilities(
            features[number : number + 1, :rows], mask[number : number + 1, :rows], borders[:1], text, 8, 10.0
        )
        assert torch.allclose(padded[number], alone[0], atol=1e-5)


def test_score_is_actionness_times_class(batch) -> None:
    features, mask, text = batch
    model = small_model(top=11)
    outputs = model(features, mask, text)
    classes = class_probabilities(model, outputs, features, mask, text)
    assert torch.allclose(classes.sum(dim=-1), torch.ones(3, 7), atol=1e-5)
    scores = (outputs.actionness.sigmoid()[..., None] * classes).detach()
    borders, best, labels = decode(model, outputs, features, mask, text)[1]
    assert len(best) == 11
    assert best.tolist() == pytest.approx(sorted(scores[1].flatten().tolist(), reverse=True)[:11])
    query, label = divmod(int(scores[1].argmax()), 5)
    assert labels[0] == label
    assert torch.allclose(borders[0], to_borders(outputs.segments[1, query]) * 11)


def test_sources_of_the_class(batch) -> None:
    features, mask, text = batch
    found = {}
    for source in ("roi", "query", "mean"):
        model = small_model(class_source=source)
        outputs = model(features, mask, text)
        found[source] = class_probabilities(model, outputs, features, mask, text)
    assert torch.allclose(found["mean"], (found["roi"] + found["query"]) / 2, atol=1e-6)
    assert torch.allclose(found["query"], outputs.logits.softmax(dim=-1))
    assert not torch.allclose(found["roi"], found["query"], atol=0.05)


def test_slices_are_put_back_into_their_video() -> None:
    model, text = small_model(top=4), torch.randn(5, 16)
    long = video(23)
    ((segments, scores, labels),) = detect(model, [long], text, size=10, overlap=0.2, fusion=None)
    assert len(segments) == 12  # slices from rows 0, 8 and 13, the last of which ends with the video
    assert scores.tolist() == sorted(scores.tolist(), reverse=True)
    expected = []
    for start in (0, 8, 13):
        part = long.features[start : start + 10][None]
        mask = torch.ones(1, 10, dtype=torch.bool)
        ((borders, values, ids),) = decode(model, model(part, mask, text), part, mask, text)
        expected += [
            (value, label, first + start - 0.5, last + start - 0.5)
            for (first, last), value, label in zip(borders.tolist(), values.tolist(), ids.tolist(), strict=True)
        ]
    expected.sort(reverse=True)
    found = list(zip(scores.tolist(), labels.tolist(), *segments.T.tolist(), strict=True))
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_fusion_drops_the_worse_of_two_slices_alone() -> None:
    model, text = small_model(top=7), torch.randn(1, 16)  # one class: all overlaps are rivals
    (everything,) = detect(model, [video(20)], text, size=12, overlap=0.5, fusion=None)
    (fused,) = detect(model, [video(20)], text, size=12, overlap=0.5, fusion=0.05)
    assert 0 < len(fused[1]) < len(everything[1])
    assert set(fused[1].tolist()) <= set(everything[1].tolist())
    assert fused[1][0] == everything[1][0]
    (single,) = detect(model, [video(12)], text, size=12, fusion=0.0)
    assert len(single[1]) == 7  # within a slice nothing suppresses


def test_whole_videos_of_several_lengths_and_results_in_seconds() -> None:
    model, text = small_model(top=3), torch.randn(5, 16)
    videos = [video(9, 1), video(14, 2), video(5, 3)]
    together = detect(model, videos, text, None)
    for one, (segments, scores, labels) in zip(videos, together, strict=True):
        ((alone, values, ids),) = detect(model, [one], text, None)
        assert torch.allclose(segments, alone, atol=1e-4)
        assert torch.allclose(scores, values, atol=1e-5)
        assert torch.equal(labels, ids)
    results = detect_all(model, videos, ["a", "b", "c", "d", "e"], text, None)
    first = results["v2"][0]
    assert first["label"] == "abcde"[int(together[1][2][0])]
    assert first["segment"] == pytest.approx(((together[1][0][0] + 0.5) * 8 / 30).tolist(), abs=1e-4)
