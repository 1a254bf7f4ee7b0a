"""Ground truth by class and filter, slices, batches that follow from seed and step, class texts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from data_prep.convert import thumos14
from data_prep.convert.ledger import Ledger
from data_prep.errors import DataError
from invert_rl.psftr.data import (
    SliceBatches,
    filter_ground_truth,
    normalized,
    of_classes,
    training_slices,
)
from invert_rl.psftr.planted import attribute_directions
from invert_rl.psftr.splits import make_splits
from invert_rl.psftr.text import PROMPTS, read_text_embeddings, write_text
from invert_rl.tal.annotations import class_names, with_frame_rates
from invert_rl.tal.data import Video
from invert_rl.tal.features import LAYOUTS
from invert_rl.tal.grid import Grid


def entry(start: float, end: float, label: str) -> dict:
    return {"segment": [start, end], "label": label}


DATABASE = {
    "video_test_0000270": {"subset": "test", "duration": 9.0, "fps": 30.0, "annotations": [entry(1, 5, "a")]},
    "short": {
        "subset": "test",
        "duration": 9.0,
        "fps": 30.0,
        "annotations": [entry(1, 1.26, "a"), entry(2, 2.27, "b")],
    },
    "long": {"subset": "test", "duration": 9.0, "fps": 24.0, "annotations": [entry(0, 1.0, "b"), entry(2, 3.5, "c")]},
}


def kept(database: dict) -> list[tuple[str, str]]:
    return [(video, found["label"]) for video, record in database.items() for found in record["annotations"]]


def test_filters_of_ground_truth() -> None:
    layout = LAYOUTS["thumos-clip"]
    everything, dropped = filter_ground_truth(DATABASE, "none", layout)
    assert (everything, dropped) == (DATABASE, 0)
    # 0.26 s are less than the 8 frames of a row at 30 fps, 0.27 s are more
    thumos, dropped = filter_ground_truth(DATABASE, "gap_thumos14", layout)
    assert (kept(thumos), dropped) == ([("short", "b"), ("long", "b"), ("long", "c")], 2)
    activitynet, dropped = filter_ground_truth(DATABASE, "gap_activitynet", LAYOUTS["anet-clip"])
    assert (kept(activitynet), dropped) == ([("video_test_0000270", "a"), ("long", "c")], 3)
    with pytest.raises(DataError, match="'gap' is none of none, gap_thumos14"):
        filter_ground_truth(DATABASE, "gap", layout)


def test_frame_rates_of_a_file_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "info.json"
    path.write_text('{"long": {"video_fps": 25.0, "snippet_length": 7}, "other": {"video_fps": 30.0}}')
    changed = with_frame_rates(DATABASE, path)
    assert {video: record["fps"] for video, record in changed.items()} == {
        **dict.fromkeys(DATABASE, 30.0),
        "long": 25.0,
    }
    assert kept(changed) == kept(DATABASE)
    path.write_text('{"v_long": {"video_fps": 25.0}}')
    assert with_frame_rates(DATABASE, path, "v_") == changed
    path.write_text('{"long": 25.0}')
    with pytest.raises(DataError, match="expected .*video_fps"):
        with_frame_rates(DATABASE, path)


def test_only_the_chosen_classes_and_videos_that_have_them() -> None:
    assert kept(of_classes(DATABASE, ["b", "c"])) == [("short", "b"), ("long", "b"), ("long", "c")]
    assert len(DATABASE["short"]["annotations"]) == 2


def video(rows: int, segments: list[list[float]], labels: list[int]) -> Video:
    features = torch.arange(rows)[:, None].repeat(1, 4).float()
    return Video("v", rows / 4, Grid(4, 1, 1), features, torch.tensor(segments).view(-1, 2), torch.tensor(labels))


def test_slices_for_training_hold_a_ground_truth_by_three_quarters() -> None:
    slices = training_slices([video(20, [[9.0, 13.0]], [2])], 8, 0.5)  # slices from 0, 4, 8 and 12
    assert [(int(one.features[0, 0]), one.segments.tolist()) for one in slices] == [
        (4, [[5.0, 8.0]]),  # three quarters of it
        (8, [[1.0, 5.0]]),
    ]
    assert len(training_slices([video(20, [[9.0, 12.0]], [2])], 8, 0.75)) == 3  # 4: 3 of 3, 6, 8
    (whole,) = training_slices([video(20, [[9.0, 13.0]], [2]), video(7, [], [])], None, 0.75)
    assert len(whole.features) == 20
    with pytest.raises(DataError, match="no slice of 4 rows"):
        training_slices([video(20, [[0.0, 19.0]], [2])], 4, 0.5)


def test_normalized_segments_are_shares_of_the_slice() -> None:
    found = normalized(torch.tensor([[-0.5, 9.5], [1.5, 3.5]]), 10)
    assert found.tolist() == [pytest.approx([0.5, 1.0]), pytest.approx([0.3, 0.2])]


def make_batches(**changes) -> SliceBatches:
    slices = [video(5 + number, [[1.0, 3.0]], [number % 7]) for number in range(10)]
    settings = {"batch_size": 3, "parts": 2, "seed": 1, "size": 16, **changes}
    return SliceBatches(slices, torch.arange(7.0)[:, None].repeat(1, 4), **settings)


def test_batches_follow_from_seed_and_step_alone() -> None:
    first, second = make_batches(least_classes=3), make_batches(least_classes=3)
    second(5, 1)
    for name, value in first(2, 1).items():
        other = second(2, 1)[name]
        assert all(map(torch.equal, value, other)) if isinstance(value, list) else torch.equal(value, other)
    assert not torch.equal(first(2, 1)["features"], make_batches(seed=2)(2, 1)["features"])


def test_an_epoch_goes_once_through_all_slices() -> None:
    batches = make_batches(batch_size=5, parts=1)
    for first in (0, 2, 4):
        lengths = torch.cat([batches(step, 0)["mask"].sum(dim=1) for step in (first, first + 1)])
        assert sorted(lengths.tolist()) == list(range(5, 15))
    ranks = make_batches(batch_size=5, parts=2)
    assert torch.equal(ranks(0, 1)["features"], batches(1, 0)["features"])


def test_a_subset_of_classes_keeps_those_of_the_batch() -> None:
    batches, plain = make_batches(least_classes=4), make_batches()
    sizes = set()
    for step in range(30):
        batch, whole = batches(step, 0), plain(step, 0)
        sizes.add(len(batch["text"]))
        assert len(set(batch["text"][:, 0].tolist())) == len(batch["text"])
        for few, all_classes in zip(batch["labels"], whole["labels"], strict=True):
            assert torch.equal(batch["text"][few], whole["text"][all_classes])
    assert sizes == {4, 5, 6, 7}
    assert torch.equal(plain(0, 0)["text"], plain.text)


def test_class_texts_by_name_and_prompt(tmp_path: Path) -> None:
    path = tmp_path / "text.safetensors"
    rows = torch.randn(3, 4)
    write_text(path, ["a", "b", "c"], {"prompt3": rows, "none": -rows}, model="m")
    assert torch.equal(read_text_embeddings(path, ["c", "a"]), rows[[2, 0]])
    assert torch.equal(read_text_embeddings(path, ["b"], "none"), -rows[[1]])
    with pytest.raises(DataError, match="no embedding of 'd'"):
        read_text_embeddings(path, ["a", "d"])
    with pytest.raises(DataError, match="no embeddings of 'prompt1'; there are: none, prompt3"):
        read_text_embeddings(path, ["a"], "prompt1")
    with pytest.raises(DataError, match="cannot read the class texts"):
        read_text_embeddings(tmp_path / "none.safetensors", ["a"])
    with pytest.raises(ValueError, match="expected 2 rows"):
        write_text(path, ["a", "b"], {"none": rows})
    assert PROMPTS["prompt3"].format("x") == "a video of a person doing x"  # section 3.3


def test_classes_of_the_default_share_attributes() -> None:
    directions = torch.from_numpy(attribute_directions(4, 6, 32))
    cosines = directions @ directions.T
    assert directions.shape == (15, 32)
    shared = [
        torch.isclose(row, torch.tensor(value, dtype=row.dtype), atol=1e-6).sum()
        for row in cosines
        for value in (1.0, 0.5, 0.0)
    ]
    assert shared == [1, 8, 6] * 15


def test_filter_of_thumos14_on_the_real_annotations() -> None:
    path = Path(__file__).resolve().parents[3] / ".." / "shared" / "data" / "thumos14" / "thumos14.json.gz"
    if not path.is_file():
        pytest.skip("no annotations of THUMOS14 beside the repository")
    database = thumos14.read(path, None, None, Ledger())
    layout = LAYOUTS["thumos-clip"]
    filtered, _ = filter_ground_truth(database, "gap_thumos14", layout)
    seconds = {video: 8 / record["fps"] for video, record in database.items()}
    left_out = {f"video_test_{number}" for number in ("0000270", "0000504", "0000814", "0001292", "0001496")}
    expected = [
        (video, entry["label"])
        for video, record in database.items()
        for entry in record["annotations"]
        if video not in left_out and entry["segment"][1] - entry["segment"][0] > seconds[video]
    ]
    assert kept(filtered) == expected
    assert len(expected) < len(kept(database))
    for split in make_splits(class_names(database), 0.5):
        seen, unseen = of_classes(filtered, split.train), of_classes(filtered, split.test)
        assert not {label for _, label in kept(seen)} & {label for _, label in kept(unseen)}
        assert len(kept(seen)) + len(kept(unseen)) == len(expected)
