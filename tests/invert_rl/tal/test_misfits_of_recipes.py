"""One meaning of missing and odd features in the three recipes that read them, on a folder of all kinds of misfits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep.errors import DataError
from invert_rl.actionvlm.config import ActionVLMArguments
from invert_rl.actionvlm.data import read_data
from invert_rl.cli import main
from invert_rl.psftr.experiment import load_split
from invert_rl.psftr.settings import PSFTRArguments
from invert_rl.psftr.splits import ClassSplit
from invert_rl.psftr.text import write_text
from invert_rl.tal.annotations import read_database
from invert_rl.tal.features import Features, Layout, read_array
from invert_rl.wtal.build import load_data
from invert_rl.wtal.config import WtalArguments

GOOD = np.random.default_rng(0).standard_normal((142, 6)).astype(np.float32)
"""Rows of 19.4 s at 30 frames a second, stride 4, clip 16."""


def save(path: Path, content: Any) -> None:
    """A file of an array, or of bytes."""
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)


MISFITS: dict[str, Any] = {
    "empty": b"",
    "words": b"no array",
    "cut": (np.lib.format.MAGIC_PREFIX + bytes([1, 0])),
    "wide": np.zeros((142, 7), np.float32),
    "turned": GOOD.T,
    "deep": GOOD[None],
    "none": GOOD[:0],
    "nan": np.where(np.arange(142)[:, None] == 3, np.nan, GOOD),
    "complex": GOOD.astype(np.complex64),
    "strings": GOOD.astype("U8"),
    "half": GOOD[:70],
}


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """Two subsets of good videos and of one video for each of `MISFITS`, two kinds of files, folders, other names."""
    features = tmp_path / "features"
    features.mkdir()
    names = ["good", "other", "UPPER", "few", "missing", "folder", "twice", "pickle", *MISFITS]
    database = {}
    for subset in ("validation", "test"):
        for name in names:
            video = f"{name}_{subset}"
            entry = {"segment": [2.0, 6.0], "label": "other" if name == "other" else "good"}
            database[video] = {"subset": subset, "duration": 19.4, "fps": 30.0, "annotations": [entry]}
            if name in MISFITS:
                save(features / f"{video}.npy", MISFITS[name])
            elif name == "folder":
                (features / f"{video}.npy").mkdir()
            elif name == "pickle":
                np.save(features / f"{video}.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
            elif name != "missing":
                np.save(features / f"{video.lower()}.npy", GOOD[:-2] if name == "few" else GOOD)
            if name == "twice":
                np.savez(features / f"{video}.npz", feats=GOOD)
    (tmp_path / "a.json").write_text(json.dumps({"database": database}))
    return tmp_path


Used = tuple[set[str], set[str], dict[str, Any]]
"""Videos of training, videos of testing, and what the summary says of the features."""


def of_actionvlm(zoo: Path, shared: dict[str, Any]) -> Used:
    data = read_data(ActionVLMArguments(train_annotations=str(zoo / "a.json"), **shared), 0)
    return {v.video for v in data.train}, {v.video for v in data.test}, data.features or {}


def of_wtal(zoo: Path, shared: dict[str, Any]) -> Used:
    data = load_data(WtalArguments(annotations=str(zoo / "a.json"), rgb_width=4, flow_width=2, **shared))
    return {v.video for v in data.train}, {v.video for v in data.test}, data.features or {}


def of_psftr(zoo: Path, shared: dict[str, Any]) -> Used:
    text = zoo / "text.safetensors"
    write_text(text, ["good", "other"], {"none": torch.ones(2, 6)})
    args = PSFTRArguments(annotations=str(zoo / "a.json"), text=str(text), prompt="none", slice_size=None, **shared)
    # the class of training stands alone, so that its video is the only one; all others are tested
    data = load_split(args, ClassSplit(("other",), ("good",)), 6)
    return {v.video for v in data.slices}, {v.video for v in data.unseen.videos}, data.features


RECIPES = {"actionvlm": of_actionvlm, "wtal": of_wtal, "psftr": of_psftr}


def of_subset(names: set[str], subset: str) -> set[str]:
    return {f"{name}_{subset}" for name in names}


@pytest.mark.parametrize("read", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize(("policy", "more"), [("skip", set()), ("take", {"half"})])
def test_one_meaning_of_skip_and_take(
    read: Callable[[Path, dict[str, Any]], Used], policy: str, more: set[str], zoo: Path
) -> None:
    train, test, told = read(zoo, shared(zoo, bad_features=policy))
    usable = {"good", "other", "UPPER", "few"} | more
    if read is of_psftr:
        assert train == {"other_validation"} and test == of_subset(usable - {"other"}, "test")
    else:
        assert train == of_subset(usable, "validation") and test == of_subset(usable, "test")
    assert set(told["missing"]) == of_subset({"missing"}, "validation") | of_subset({"missing"}, "test")
    odd = {"folder", "twice", "pickle", *MISFITS}
    assert set(told["odd"]) == of_subset(odd, "validation") | of_subset(odd, "test")
    assert told["policy"] == policy and told["ok"] == 8
    assert told["left_out"] == 2 * (len(odd) + 1 - len(more))
    assert told["ground_truth_without_features"] == len(odd) + 1 - len(more)  # of the test videos, one each


@pytest.mark.parametrize("read", RECIPES.values(), ids=RECIPES)
def test_error_lists_the_misfits_of_both_subsets(read: Callable[[Path, dict[str, Any]], Used], zoo: Path) -> None:
    with pytest.raises(DataError, match="features of 2 videos are missing and of 28 do not fit") as caught:
        read(zoo, shared(zoo))
    assert "missing: missing_validation, missing_test" in str(caught.value)


def shared(zoo: Path, **more: Any) -> dict[str, Any]:
    """Settings that the three have in common."""
    return {
        "output_dir": str(zoo / "run"),
        "features": str(zoo / "features"),
        "feature_layout": "thumos-i3d",
        "feature_width": 6,
        "use_cpu": True,
        **more,
    }


def test_hdf5_groups_and_damage_are_named(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    layout = Layout(6, 4, 16)
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file.create_group("grouped")["feats"] = GOOD
        file.create_group("other")["x"] = GOOD
        file["words"] = "no rows"
        file["nothing"] = h5py.Empty("f")
    features = Features(tmp_path / "f.h5", layout)
    assert np.array_equal(features.read("grouped"), GOOD)
    for name, why in (("other", "without 'feats'; it has: x"), ("words", "words: expected"), ("nothing", "nothing:")):
        with pytest.raises(DataError, match=why):
            features.read(name)
    (tmp_path / "cut.h5").write_bytes((tmp_path / "f.h5").read_bytes()[:900])
    with pytest.raises(DataError, match=r"cut\.h5: cannot be read as HDF5"):
        Features(tmp_path / "cut.h5", layout).missing(["a"])


def test_tensors_and_folders_of_other_files(tmp_path: Path) -> None:
    torch.save({"feats": torch.from_numpy(GOOD).requires_grad_()}, tmp_path / "a.pt")
    assert np.array_equal(read_array(tmp_path / "a.pt"), GOOD)
    torch.save({"x": torch.from_numpy(GOOD)}, tmp_path / "b.pt")
    with pytest.raises(DataError, match=r"b\.pt: expected a tensor, or an object with one named 'feats'"):
        read_array(tmp_path / "b.pt")
    (tmp_path / "pickles").mkdir()
    (tmp_path / "pickles" / "a.pkl").write_bytes(b"")
    with pytest.raises(DataError, match=r"no file ends in \.npy, \.npz, \.pt; found \.pkl"):
        Features(tmp_path / "pickles", Layout(6, 4, 16)).missing(["a"])


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ([], "expected an object"),
        ({"annotations": []}, "duration must be seconds above 0, found None"),
        ({"duration": -3, "annotations": []}, "duration must be seconds above 0, found -3"),
        ({"duration": 3}, "'annotations' must be a list"),
        ({"duration": 3, "annotations": [{"segment": [1, 2]}]}, "needs a label"),
        ({"duration": 3, "annotations": [{"label": "a", "segment": [1]}]}, "two times in seconds"),
        ({"duration": 3, "annotations": [{"label": "a", "segment": [1, float("nan")]}]}, "two times in seconds"),
    ],
)
def test_records_that_cannot_be_used_are_named(record: Any, why: str, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"database": {"clip": record}}))
    with pytest.raises(DataError, match=f"video 'clip': .*{why}"):
        read_database(tmp_path / "a.json")
    assert main(["check-features", str(tmp_path / "a.json"), str(tmp_path)]) == 1
    assert "video 'clip'" in capsys.readouterr().err
