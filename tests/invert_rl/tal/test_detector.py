"""The pyramid and its heads: masks, losses by hand, decoding of perfect outputs, and learning on planted actions."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from invert_rl.tal.annotations import read_database
from invert_rl.tal.data import pad, random_batch, read_videos
from invert_rl.tal.detect import detect, detect_all, mean_ap
from invert_rl.tal.detector import Detector, DetectorConfig
from invert_rl.tal.features import Features
from invert_rl.tal.losses import diou_loss
from invert_rl.tal.nms import Suppression
from invert_rl.tal.planted import PlantedSettings, plant, write_world
from invert_rl.tal.pyramid import ConvAttention, Pyramid, PyramidConfig, sinusoids

TINY = PyramidConfig(
    input_width=32, width=32, heads=4, embedding_layers=1, stem_layers=1, levels=3, window=0, drop_path=0
)
RANGES = ((0, 4), (4, 8), (8, 10000))


def tiny(**changes: object) -> Detector:
    torch.manual_seed(0)
    config = DetectorConfig(TINY, 4, 2, RANGES, initial_positives=20.0, suppression=Suppression(max_segments=50))
    return Detector(replace(config, **changes))


def test_levels_halve_and_what_stands_in_padding_changes_nothing() -> None:
    torch.manual_seed(0)
    pyramid = Pyramid(replace(TINY, window=5)).eval()
    features, mask = torch.randn(2, 16, 32), torch.ones(2, 16, dtype=torch.bool)
    levels, masks = pyramid(features, mask)
    assert [level.shape for level in levels] == [(2, 32, 16), (2, 32, 8), (2, 32, 4)]
    mask = torch.arange(32)[None].expand(2, -1) < 16
    longer, other = (pyramid(torch.cat([features, torch.randn(2, 16, 32)], dim=1), mask) for _ in range(2))
    for level, same, rows in zip(longer[0], other[0], other[1], strict=True):
        assert torch.equal(level, same)
        assert rows.sum() == 2 * 16 * level.shape[-1] // 32
    with pytest.raises(ValueError, match="multiple of 4"):
        pyramid(features[:, :15], mask[:, :15])


def test_windows_and_positions_of_levels() -> None:
    config = replace(TINY, window=(5, 4, 0), positions=8)
    torch.manual_seed(0)
    pyramid = Pyramid(config)
    windows = [block.attention.window for block in (*pyramid.stem, *pyramid.branch)]
    assert windows == [5, 4, 0]
    assert pyramid.multiple == 8  # stride 2 times chunks of 4
    assert Pyramid(TINY).multiple == 4
    with pytest.raises(ValueError, match="2 attention windows for 3 levels"):
        Pyramid(replace(TINY, window=(5, 5)))
    with pytest.raises(ValueError, match="positions of training end at 8"):
        pyramid(torch.zeros(1, 16, 32), torch.ones(1, 16, dtype=torch.bool))
    places = sinusoids(3, 4) * 2  # over the root of the width
    assert places[0, :, 1].tolist() == pytest.approx([math.sin(1), math.cos(1), math.sin(0.01), math.cos(0.01)])
    assert places[0, :, 0].tolist() == [0, 1, 0, 1]


def test_attention_sees_only_its_window() -> None:
    torch.manual_seed(0)
    attention = ConvAttention(replace(TINY, window=5), stride=1)
    features = torch.randn(1, 32, 20, requires_grad=True)
    attention(features, torch.ones(1, 1, 20, dtype=torch.bool))[0][0, :, 10].sum().backward()
    reached = torch.nonzero(features.grad.abs().sum(dim=(0, 1)))[:, 0].tolist()
    assert reached == list(range(7, 14))  # two rows to each side, and one more by the convolution


def test_prior_and_regression_ranges() -> None:
    model = tiny()
    outputs = model(torch.zeros(1, 16, 32), torch.ones(1, 16, dtype=torch.bool))
    assert outputs.logits.shape == (1, 28, 4)
    assert (outputs.offsets >= 0).all()
    bias = model.classifier.last.conv.bias
    assert bias.tolist() == pytest.approx([-math.log(99)] * 4)
    with pytest.raises(ValueError, match="2 regression ranges for 3 levels"):
        Detector(replace(model.config, ranges=RANGES[:2]))


def test_losses_are_the_sums_over_points_by_the_running_count() -> None:
    model = tiny(label_smoothing=0.1, regression_weight=2.0)
    mask = torch.arange(16)[None].expand(2, -1) < torch.tensor([[16], [8]])
    outputs = model(torch.randn(2, 16, 32), mask)
    segments = [torch.tensor([[2.0, 6.0]]), torch.zeros(0, 2)]
    losses = model.losses(outputs, segments, [torch.tensor([1]), torch.zeros(0, dtype=torch.long)])
    positive = losses.targets.sum(dim=-1) > 0
    count = 0.9 * 20 + 0.1 * max(1, int(positive.sum()))
    assert int(positive.sum()) == 3
    wanted = losses.targets * 0.9 + 0.1 / 5
    classification = (sigmoid_focal_loss(outputs.logits, wanted).sum(dim=-1) * outputs.mask).sum() / count
    place = outputs.points.place[positive[0]]
    truth = torch.stack([place - 2, 6 - place], dim=1) / outputs.points.stride[positive[0], None]
    regression = diou_loss(outputs.offsets[positive], truth).sum() / count
    assert losses.classification.item() == pytest.approx(classification.item(), rel=1e-5)
    assert losses.regression.item() == pytest.approx(regression.item(), rel=1e-5)
    assert losses.total.item() == pytest.approx((classification + 2 * regression).item(), rel=1e-5)
    assert losses.point_regression[1].abs().max() == 0
    assert losses.point_classification[1, 8:16].abs().max() == 0  # outside the second video


def test_perfect_outputs_decode_to_the_ground_truth() -> None:
    model = tiny(min_score=0.5)
    outputs = model(torch.randn(1, 16, 32), torch.ones(1, 16, dtype=torch.bool))
    segments, labels = torch.tensor([[2.0, 6.0], [1.0, 15.0]]), torch.tensor([3, 1])
    targets = model.losses(outputs, [segments], [labels]).targets
    outputs.logits = torch.where(targets > 0, 5.0, -5.0)
    place, stride = outputs.points.place, outputs.points.stride
    owner = torch.where(targets[0, :, 3] > 0, 0, 1)
    outputs.offsets = (torch.stack([place - segments[owner, 0], segments[owner, 1] - place], dim=1) / stride[:, None])[
        None
    ]
    ((found, scores, ids),) = model.decode(outputs)
    assert len(found) == int(targets.sum())
    for segment, score, label in zip(found.tolist(), scores.tolist(), ids.tolist(), strict=True):
        assert score == pytest.approx(1 / (1 + math.exp(-5)))
        assert segment == pytest.approx(segments[labels.tolist().index(label)].tolist())


def test_windows_give_the_rows_of_the_video(tmp_path: Path) -> None:
    world = plant(PlantedSettings(train_videos=1, test_videos=0, rows=(60, 60)))
    write_world(world, tmp_path)
    (video,) = read_videos(tmp_path / "annotations.json", Features(tmp_path / "features", world.layout), "training")
    model = tiny(min_score=0.0)
    whole = detect(model, video, 64)
    parts = detect(model, video, 32, overlap=0.5)
    assert whole[0].max() > 40
    assert parts[0].max() > 40
    assert pad([video], 32, 8).features.shape == (1, 64, 32)


def train(folder: Path, steps: int, seed: int = 0) -> Detector:
    model = tiny()
    features = Features(folder / "features", plant(PlantedSettings(1, 0)).layout)
    videos = read_videos(folder / "annotations.json", features, "training")
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    rng = np.random.default_rng(seed)
    model.train()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1.0, (step + 1) / 10)
        batch = random_batch(videos, 16, 64, rng)
        losses = model.losses(model(batch.features, batch.mask), batch.segments, batch.labels)
        optimizer.zero_grad()
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model


def average_map(folder: Path, truth: Path, model: Detector) -> tuple[float, dict]:
    world = plant(PlantedSettings(1, 0))
    videos = read_videos(truth / "annotations.json", Features(folder / "features", world.layout), "validation")
    results = detect_all(model, videos, world.classes, 64)
    return mean_ap(read_database(truth / "annotations.json"), "validation", results)[1], results


def test_learns_planted_actions_and_not_shuffled_labels(tmp_path: Path) -> None:
    world = plant()
    write_world(world, tmp_path / "true")
    write_world(world.with_shuffled_labels(), tmp_path / "shuffled")
    untrained, _ = average_map(tmp_path / "true", tmp_path / "true", tiny())
    trained, _ = average_map(tmp_path / "true", tmp_path / "true", train(tmp_path / "true", 60))
    shuffled, _ = average_map(tmp_path / "true", tmp_path / "true", train(tmp_path / "shuffled", 60))
    assert trained >= untrained + 0.25
    assert trained >= shuffled + 0.15
