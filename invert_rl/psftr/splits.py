"""Class splits of the zero-shot protocol (section 4.1): seen and unseen classes, as lists in the public layout.

The public lists stand in ``splits/train_75_test_25/THUMOS14/train/split_0.list`` and so on, one class name a line.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.errors import DataError
from data_prep.files import atomic_write, read_text

TRIALS = 1000
"""Draws of a split before it is given up to find one that is not there yet."""


@dataclass(frozen=True)
class ClassSplit:
    """Seen classes for training and unseen ones for testing; raises `DataError` unless they are disjoint."""

    train: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self) -> None:
        for part, names in (("train", self.train), ("test", self.test)):
            if not names:
                raise DataError(f"a class split has no {part} class")
            repeated = sorted({name for name in names if names.count(name) > 1})
            if repeated:
                raise DataError(f"the {part} classes of a split name {', '.join(repeated)} more than once")
        both = sorted(set(self.train) & set(self.test))
        if both:
            raise DataError(f"train and test classes of a split share {', '.join(both)}; zero-shot needs disjoint sets")

    def check(self, known: Iterable[str], where: str) -> None:
        """Raise `DataError` for a class that is not among ``known``, those of the annotations ``where``."""
        unknown = sorted({*self.train, *self.test} - set(known))
        if unknown:
            raise DataError(
                f"{where}: no annotation of {', '.join(unknown)}, which the class split names; "
                "are the lists those of this data set?"
            )


def make_splits(classes: Sequence[str], share: float, count: int = 10, seed: int = 0) -> list[ClassSplit]:
    """``count`` different random splits with the rounded ``share`` of the classes for training, in alphabetical order.

    Raises `DataError` where a side would be empty or there are not so many different splits.
    """
    names = sorted(set(classes))
    seen = round(share * len(names))
    rng = np.random.default_rng(seed)
    found: dict[ClassSplit, None] = {}
    for _ in range(TRIALS * count):
        order = rng.permutation(len(names))
        train, test = (tuple(names[index] for index in sorted(part)) for part in (order[:seen], order[seen:]))
        found[ClassSplit(train, test)] = None
        if len(found) == count:
            return list(found)
    raise DataError(f"found {len(found)} of {count} different splits of {len(names)} classes with {seen} for training")


def split_folder(root: Path, share: float, dataset: str) -> Path:
    """The folder of the public layout: ``root/train_75_test_25/dataset``; ``share`` is that of the seen classes."""
    percent = round(100 * share)
    return root / f"train_{percent}_test_{100 - percent}" / dataset


def write_splits(folder: Path, splits: Sequence[ClassSplit]) -> None:
    """Write ``train/split_N.list`` and ``test/split_N.list`` into ``folder``, whole files or none."""
    for number, split in enumerate(splits):
        for part, names in (("train", split.train), ("test", split.test)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            with atomic_write(_path(folder, part, number)) as out:
                out.writelines(f"{name}\n" for name in names)


def read_split(folder: Path, number: int) -> ClassSplit:
    """Split ``number`` of ``folder``; raises `DataError` with the files where they are missing or not disjoint."""
    parts = {}
    for part in ("train", "test"):
        path = _path(folder, part, number)
        if not path.is_file():
            raise DataError(f"{path}: no such list of classes; there are splits {_numbers(folder) or 'none'}")
        parts[part] = tuple(line.strip() for line in read_text(path).splitlines() if line.strip())
    try:
        return ClassSplit(**parts)
    except DataError as error:
        raise DataError(f"{_path(folder, '{train,test}', number)}: {error}") from error


def _path(folder: Path, part: str, number: int) -> Path:
    return folder / part / f"split_{number}.list"


def _numbers(folder: Path) -> str:
    found = [path.stem.removeprefix("split_") for path in (folder / "train").glob("split_*.list")]
    return ", ".join(sorted(found, key=lambda name: (len(name), name)))
