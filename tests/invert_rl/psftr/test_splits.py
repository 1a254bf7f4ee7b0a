"""Class splits: disjoint, seeded, in the layout of the public lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.convert.thumos14 import CLASSES
from data_prep.errors import DataError
from invert_rl.psftr.splits import ClassSplit, make_splits, read_split, split_folder, write_splits


@pytest.mark.parametrize(("share", "sizes"), [(0.75, (15, 5)), (0.5, (10, 10))])
def test_ten_different_splits_of_thumos14(share: float, sizes: tuple[int, int]) -> None:
    splits = make_splits(CLASSES, share, seed=3)
    assert len(set(splits)) == 10
    for split in splits:
        assert (len(split.train), len(split.test)) == sizes
        assert not set(split.train) & set(split.test)
        assert {*split.train, *split.test} == set(CLASSES)
    assert make_splits(CLASSES[::-1], share, seed=3) == splits
    assert make_splits(CLASSES, share, seed=4) != splits


def test_sizes_of_activitynet() -> None:
    names = [f"class {number}" for number in range(200)]
    assert {(len(split.train), len(split.test)) for split in make_splits(names, 0.75)} == {(150, 50)}
    assert {(len(split.train), len(split.test)) for split in make_splits(names, 0.5)} == {(100, 100)}


def test_written_and_read_in_the_public_layout(tmp_path: Path) -> None:
    splits = make_splits(CLASSES, 0.75)
    folder = split_folder(tmp_path / "splits", 0.75, "THUMOS14")
    write_splits(folder, splits)
    lists = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.list"))
    assert len(lists) == 20
    assert lists[0] == "splits/train_75_test_25/THUMOS14/test/split_0.list"
    assert lists[10] == "splits/train_75_test_25/THUMOS14/train/split_0.list"
    first = (folder / "train" / "split_0.list").read_text().splitlines()
    assert first == list(splits[0].train)
    assert [read_split(folder, number) for number in range(10)] == splits
    assert split_folder(tmp_path, 0.5, "ActivityNet") == tmp_path / "train_50_test_50" / "ActivityNet"


def test_lists_of_others(tmp_path: Path) -> None:
    """With or without a last newline, Windows line ends, blank lines, names with spaces, any order."""
    for part, content in (("train", b"Long jump\r\nArchery\r\n\r\n"), ("test", b"Zumba\nHand car wash")):
        (tmp_path / part).mkdir()
        (tmp_path / part / "split_7.list").write_bytes(content)
    split = read_split(tmp_path, 7)
    assert split == ClassSplit(("Long jump", "Archery"), ("Zumba", "Hand car wash"))
    with pytest.raises(DataError, match=r"split_3\.list: no such list of classes; there are splits 7"):
        read_split(tmp_path, 3)
    split.check(["Archery", "Long jump", "Zumba", "Hand car wash", "Other"], "a.json")
    with pytest.raises(DataError, match=r"a\.json: no annotation of Zumba"):
        split.check(["Archery", "Long jump", "Hand car wash"], "a.json")


def test_shared_repeated_and_missing_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="share b"):
        ClassSplit(("a", "b"), ("b", "c"))
    with pytest.raises(DataError, match="name a more than once"):
        ClassSplit(("a", "a"), ("b",))
    with pytest.raises(DataError, match="no test class"):
        ClassSplit(("a",), ())
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "split_0.list").write_text("a\n")
    with pytest.raises(DataError, match="share a; zero-shot needs disjoint sets"):
        read_split(tmp_path, 0)
    with pytest.raises(DataError, match="found 3 of 10 different splits"):
        make_splits(["a", "b", "c"], 0.7)
