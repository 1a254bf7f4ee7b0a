"""Features of videos as they are published: a file per video (npy, npz, pt) or one HDF5 file for all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.errors import DataError
from invert_rl.tal.grid import Grid

ENDINGS = (".npy", ".npz", ".pt")
HDF5_ENDINGS = (".h5", ".hdf5")
NPZ_KEY = "feats"
"""Key of ActionFormer's and OpenTAD's npz files."""


@dataclass(frozen=True)
class Layout:
    """How one published set of features is stored and what its rows stand for."""

    width: int
    """D, channels."""
    stride: float
    """Frames between rows."""
    clip: float
    """Frames that a row saw."""
    fps: float | None = None
    """Frames a second of all videos; None: the frame rate of each video's own file."""
    prefix: str = ""
    """Before the video's id in file names and HDF5 keys."""
    suffix: str = ""

    def grid(self, fps: float | None = None) -> Grid:
        """The grid of a video; ``fps`` is its own rate. Raises `ValueError` where no rate is known."""
        rate = self.fps if self.fps is not None else fps
        if rate is None:
            raise ValueError("these features were taken at each video's own frame rate; give fps")
        return Grid(rate, self.stride, self.clip)


LAYOUTS = {
    "thumos-i3d": Layout(2048, 4, 16),
    "thumos-videomaev2-g": Layout(1408, 4, 16),
    "thumos-clip": Layout(512, 8, 8),
    "anet-tsp": Layout(512, 16, 16, 15.0, prefix="v_"),
    "anet-clip": Layout(512, 16, 16),
    "epic-slowfast": Layout(2304, 16, 32, 30.0),
}
"""Published features: ActionFormer's and OpenTAD's I3D, VideoMAEv2-g, TSP and SlowFast, GAP's CLIP ViT-B/16 (whose
clip is one stride; its rows are not normalised)."""


class Features:
    """Features of many videos in a folder (one file each) or in one HDF5 file, keyed by video id."""

    def __init__(self, path: str | Path, layout: Layout, transposed: bool = False) -> None:
        """``transposed`` says that arrays are ``(D, T)``. Raises `DataError` where ``path`` does not exist."""
        self.path, self.layout, self.transposed = Path(path), layout, transposed
        if not self.path.exists():
            raise DataError(f"{self.path}: no such folder or HDF5 file of features")
        if self.path.is_file() and self.path.suffix not in HDF5_ENDINGS:
            raise DataError(f"{self.path}: expected a folder, or a file ending in {' or '.join(HDF5_ENDINGS)}")

    def read(self, video: str, duration: float | None = None, fps: float | None = None) -> np.ndarray:
        """Rows ``(T, D)`` float32 of a video; with ``duration`` (seconds) the number of rows is checked.

        Raises `DataError` where they are missing, of another shape, not finite, or too few or many.
        """
        name = f"{self.layout.prefix}{video}{self.layout.suffix}"
        if self.path.is_file():
            where, array = f"{self.path}: {name}", _read_hdf5(self.path, name)
        else:
            file = self._file(name)
            where, array = str(file), read_array(file)
        rows = check_array(array, self.layout.width, where, self.transposed)
        if duration is not None:
            self.layout.grid(fps).check_length(len(rows), duration, where)
        return rows

    def missing(self, videos: list[str]) -> list[str]:
        """Those of ``videos`` that have no features."""
        names = set(self._names())
        return [video for video in videos if f"{self.layout.prefix}{video}{self.layout.suffix}" not in names]

    def _file(self, name: str) -> Path:
        for ending in ENDINGS:
            file = self.path / f"{name}{ending}"
            if file.is_file():
                return file
        raise DataError(f"{self.path}: no {name}{ENDINGS[0]} (nor {', '.join(ENDINGS[1:])}); correct prefix or suffix?")

    def _names(self) -> Iterator[str]:
        if self.path.is_file():
            with _hdf5().File(self.path, "r") as file:
                yield from list(file)
        else:
            yield from (file.stem for file in self.path.iterdir() if file.suffix in ENDINGS)


def read_array(path: Path, key: str | None = None) -> np.ndarray:
    """The array of an npy (mapped into memory), npz (``key``, else ``feats``, else the only one) or pt file.

    Raises `DataError` where it cannot be read, among these an array of Python objects, which is a pickle.
    """
    try:
        if path.suffix == ".pt":
            import torch

            return torch.load(path, map_location="cpu", weights_only=True).float().numpy()
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            names = loaded.files
            name = key or (NPZ_KEY if NPZ_KEY in names else names[0] if len(names) == 1 else None)
            if name not in names:
                raise DataError(f"{path}: no array {key or NPZ_KEY!r}; the file has: {', '.join(names) or 'none'}")
            return loaded[name]
    except DataError:
        raise
    except Exception as error:  # a damaged file fails in any way, from BadZipFile to UnpicklingError
        pickled = "; a pickled object array is read by read_joint_features" if "bject" in str(error) else ""
        raise DataError(f"{path}: cannot read the features ({error}){pickled}") from error


def check_array(array: np.ndarray, width: int | None, where: str, transposed: bool = False) -> np.ndarray:
    """A copy of ``array`` as ``(T, D)`` float32; raises `DataError` for another shape or values not finite."""
    if array.ndim != 2 or not array.size:
        raise DataError(f"{where}: expected an array of rows (T, D), found shape {array.shape}")
    rows = np.array(array.T if transposed else array, dtype=np.float32, order="C")
    if width is not None and rows.shape[1] != width:
        turned = "; it looks transposed, pass transposed" if rows.shape[0] == width else ""
        raise DataError(f"{where}: expected {width} channels, found shape {array.shape}{turned}")
    if not np.isfinite(rows).all():
        row = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise DataError(f"{where}: row {row} has values that are not finite; extract the features again")
    return rows


def _read_hdf5(path: Path, name: str) -> np.ndarray:
    with _hdf5().File(path, "r") as file:
        if name not in file:
            raise DataError(f"{path}: no key {name!r}; the first keys are: {', '.join(list(file)[:3]) or 'none'}")
        entry = file[name]
        return np.asarray(entry if hasattr(entry, "shape") else entry[NPZ_KEY])


def _hdf5() -> Any:
    """The h5py module, which only HDF5 files need."""
    try:
        return import_module("h5py")
    except ModuleNotFoundError as error:
        raise DataError("HDF5 features need h5py: pip install 'invert-rl[tal]'") from error
