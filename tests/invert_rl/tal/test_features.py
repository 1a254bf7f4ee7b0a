"""Every layout is read back as it was written, and what is wrong is said."""

from __future__ import annotations

import os
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep.errors import DataError
from invert_rl.tal.features import LAYOUTS, Features, Layout, changed_layout, read_array
from invert_rl.tal.joint import ANNOTATIONS, FEATURES, read_joint_features
from invert_rl.tal.misfits import infer_layout, inspect_features

LAYOUT = Layout(6, 4, 16, 30.0)
ROWS = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)


def write(folder: Path, name: str) -> None:
    path = folder / name
    if path.suffix == ".npy":
        np.save(path, ROWS)
    elif path.suffix == ".npz":
        np.savez(path, feats=ROWS, fps=np.array(30))
    else:
        torch.save(torch.from_numpy(ROWS).half(), path)


@pytest.mark.parametrize("ending", [".npy", ".npz", ".pt"])
def test_a_file_per_video(ending: str, tmp_path: Path) -> None:
    write(tmp_path, f"a{ending}")
    features = Features(tmp_path, LAYOUT)
    duration = (19 * 4 + 16) / 30
    assert features.read("a", duration) == pytest.approx(ROWS, abs=2e-3)
    assert features.read("a").dtype == np.float32
    assert features.missing(["a", "b"]) == ["b"]
    with pytest.raises(DataError, match="a.np|a.pt.*20 rows"):
        features.read("a", 2 * duration)
    with pytest.raises(DataError, match=r"no b\.npy"):
        features.read("b")


def test_hdf5_with_prefix(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "tsp.hdf5", "w") as file:
        file["v_a"] = ROWS
    features = Features(tmp_path / "tsp.hdf5", Layout(6, 16, 16, 15.0, prefix="v_"))
    assert np.array_equal(features.read("a"), ROWS)
    assert features.missing(["a", "b"]) == ["b"]
    with pytest.raises(DataError, match="no key 'v_b'; the first keys are: v_a"):
        features.read("b")


def test_hdf5_without_its_library_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tsp.h5").touch()
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match=r"pip install -e '\.\[tal\]'"):
        Features(tmp_path / "tsp.h5", LAYOUT).read("a")


def test_transposed(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ROWS.T)
    with pytest.raises(DataError, match="it looks transposed"):
        Features(tmp_path, LAYOUT).read("a")
    assert np.array_equal(Features(tmp_path, LAYOUT, transposed=True).read("a"), ROWS)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((5, 7)), "expected 6 channels, found shape"),
        (np.zeros((1, 5, 6)), "expected an array of rows"),
        (np.zeros((0, 6)), "expected an array of rows"),
        (np.where(np.arange(30).reshape(5, 6) == 20, np.nan, 0.0), "row 3 has values that are not finite"),
        (np.array([{"a": 1}], dtype=object), "pickled object array is read by read_joint_features"),
    ],
)
def test_bad_arrays(array: np.ndarray, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match=message):
        Features(tmp_path, LAYOUT).read("a")


@pytest.mark.parametrize("kind", ["pipe", "folder", "link to nothing", "link to itself"])
def test_what_is_no_file_is_not_waited_for(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "a.npy"
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    else:
        place.symlink_to(tmp_path / "none" if kind == "link to nothing" else place)
    with pytest.raises(DataError, match="a.npy: cannot read the features .no file"):
        Features(tmp_path, LAYOUT).read("a")


def test_names_whose_accents_a_file_system_encoded_anew(tmp_path: Path) -> None:
    np.save(tmp_path / (unicodedata.normalize("NFD", "Café") + ".npy"), ROWS)
    assert np.array_equal(Features(tmp_path, LAYOUT).read(unicodedata.normalize("NFC", "café")), ROWS)


@pytest.mark.parametrize("fps", [0, -25.0, "30", True, float("nan"), float("inf")])
def test_frame_rates_that_are_none(fps: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ROWS)
    own = Features(tmp_path, replace(LAYOUT, fps=None))
    with pytest.raises(DataError, match="a.npy: the annotated fps must be frames a second above 0, found"):
        own.check("a", 1.0, fps)
    with pytest.raises(DataError, match="own frame rate"):
        own.check("a", 1.0, None)
    database = {"a": {"subset": "test", "duration": 1.0, "fps": fps, "annotations": []}}
    assert list(inspect_features(own, database).odd) == ["a"]
    assert infer_layout(own, database).width == ROWS.shape[1]


@pytest.mark.parametrize("what", ["width", "stride", "clip", "fps"])
@pytest.mark.parametrize("number", [0, -4, float("nan")])
def test_numbers_of_a_grid_are_above_0(what: str, number: float) -> None:
    for name in ("thumos-i3d", None):
        with pytest.raises(DataError, match=f"the {what} of features must be above 0, not {number}"):
            changed_layout(name, **{what: number})  # type: ignore[arg-type]


def test_bad_files(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"not an array")
    with pytest.raises(DataError, match="a.npy: cannot read the features .it does not begin like an npy file"):
        Features(tmp_path, LAYOUT).read("a")
    np.savez(tmp_path / "b.npz", x=ROWS, y=ROWS)
    with pytest.raises(DataError, match="no array 'feats'; the file has: x, y"):
        read_array(tmp_path / "b.npz")
    assert np.array_equal(read_array(tmp_path / "b.npz", "y"), ROWS)
    with pytest.raises(DataError, match="no such folder"):
        Features(tmp_path / "none", LAYOUT)
    with pytest.raises(DataError, match="expected a folder"):
        Features(tmp_path / "a.npy", LAYOUT)


def test_published_layouts_have_their_grid() -> None:
    assert LAYOUTS["anet-tsp"].grid().seconds(1.0) == pytest.approx(24 / 15)
    assert LAYOUTS["thumos-i3d"].grid(29.97).seconds(0.0) == pytest.approx(8 / 29.97)
    assert LAYOUTS["thumos-clip"].grid(30.0).length(8273 / 30) == pytest.approx(1034, abs=1)
    with pytest.raises(ValueError, match="give fps"):
        LAYOUTS["thumos-i3d"].grid()


def objects(values: list) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        array[index] = value
    return array


def test_joint_file(tmp_path: Path) -> None:
    np.save(tmp_path / FEATURES, objects([ROWS, ROWS[:5]]))
    notes = tmp_path / ANNOTATIONS
    notes.mkdir()
    np.save(notes / "videoname.npy", np.array([b"video_validation_1", b"video_test_2"]))
    np.save(notes / "subset.npy", np.array([b"validation", b"test"]))
    np.save(notes / "duration.npy", np.array([[12.8], [3.2]]))
    np.save(notes / "labels_all.npy", objects([["Diving", "Shotput"], ["Diving"]]))
    np.save(notes / "labels.npy", objects([["Diving", "Shotput"], ["Diving"]]))
    np.save(notes / "segments.npy", objects([[[1.0, 2.0], [3.0, 9.5]], [[0.5, 3.0]]]))
    with pytest.raises(DataError, match="pass allow_pickle=True"):
        read_joint_features(tmp_path)
    first, second = read_joint_features(tmp_path, allow_pickle=True, width=6)
    assert (first.video, first.subset, first.duration) == ("video_validation_1", "validation", 12.8)
    assert np.array_equal(second.features, ROWS[:5])
    assert first.labels == ("Diving", "Shotput")
    assert first.segments == ((1.0, 2.0, "Diving"), (3.0, 9.5, "Shotput"))
    np.save(notes / "duration.npy", np.array([1.0]))
    with pytest.raises(DataError, match="1 entries for 2 videos"):
        read_joint_features(tmp_path, allow_pickle=True)
    (notes / "subset.npy").unlink()
    with pytest.raises(DataError, match="subset.npy: no such file"):
        read_joint_features(tmp_path, allow_pickle=True)
