"""Features of videos as they are published: a file per video (npy, npz, pt) or one HDF5 file for all."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_prep.errors import DataError
from invert_rl.tal.grid import Grid, resize

ENDINGS = (".npy", ".npz", ".pt")
HDF5_ENDINGS = (".h5", ".hdf5")
NPZ_KEY = "feats"
"""Key of ActionFormer's and OpenTAD's npz files."""


@dataclass(frozen=True)
class Layout:
    """How one published set of features is stored and what its rows stand for."""

    width: int
    """D, channels; 0: not known, any."""
    stride: float
    """Frames between rows; 0: not known."""
    clip: float
    """Frames that a row saw."""
    fps: float | None = None
    """Frames a second of all videos; None: the frame rate of each video's own file."""
    prefix: str = ""
    """Before the video's id in file names and HDF5 keys; a name without it serves, too."""
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
    "anet-clip": Layout(512, 16, 16, prefix="v_"),
    "epic-slowfast": Layout(2304, 16, 32, 30.0),
    "wtal-i3d": Layout(2048, 16, 16, 25.0),
}
"""Published features: ActionFormer's and OpenTAD's I3D, VideoMAEv2-g, TSP and SlowFast, GAP's CLIP ViT-B/16 (whose
clip is one stride; its rows are not normalised), and I3D as weakly supervised work has it."""


def changed_layout(
    name: str | None = None,
    width: int | None = None,
    stride: float | None = None,
    clip: float | None = None,
    fps: float | None = None,
    prefix: str | None = None,
) -> Layout:
    """The layout of `LAYOUTS` called ``name`` with what is given in place of its own numbers.

    Without a name ``stride`` says that of the rows; width and length are only checked as far as they are known. Raises
    `DataError` for an unknown name and numbers not above 0.
    """
    for what, number in (("width", width), ("stride", stride), ("clip", clip), ("fps", fps)):
        if number is not None and not is_rate(number):
            raise DataError(f"the {what} of features must be above 0, not {number!r}")
    if name is not None and name not in LAYOUTS:
        raise DataError(f"feature_layout {name!r}: not one of {', '.join(LAYOUTS)}")
    known = LAYOUTS[name] if name is not None else Layout(0, stride or 0.0, clip or stride or 0.0)
    given: dict[str, Any] = {"width": width, "stride": stride, "clip": clip, "fps": fps, "prefix": prefix}
    return replace(known, **{key: value for key, value in given.items() if value is not None})


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
        where, array = self._open(video)
        rows = check_array(array, self.layout.width or None, where, self.transposed)
        if duration is not None and self.layout.stride:
            self._grid(fps, where).check_length(len(rows), duration, where)
        return rows

    def check(self, video: str, duration: float, fps: float | None = None) -> None:
        """Raise `DataError` as `read` does, a `LengthError` where only the number of rows does not fit."""
        self.read(video, duration, fps)

    def rows(self, video: str) -> Rows:
        """The rows of a video, read when they are asked for; raises `DataError` for a missing file."""
        where, array = self._open(video)
        shape = array.shape[::-1] if self.transposed else array.shape
        if len(shape) != 2:
            raise DataError(f"{where}: expected an array of rows (T, D), found shape {array.shape}")
        return Rows(self, video, (int(shape[0]), int(shape[1])))

    def slice(self, video: str, first: int, last: int) -> np.ndarray:
        """Rows ``first`` to ``last`` ``(last - first, D)`` float32; of an npy file nothing else is read."""
        array = self._open(video)[1]
        part = array[:, first:last].T if self.transposed else array[first:last]
        return np.array(part, dtype=np.float32, order="C")

    def missing(self, videos: list[str]) -> list[str]:
        """Those of ``videos`` that have no features."""
        return [video for video in videos if self._name(video) is None]

    def _name(self, video: str) -> str | None:
        """The name that a video's features have: with the layout's prefix, or without it; `folded` alike."""
        wanted = (f"{self.layout.prefix}{video}{self.layout.suffix}", f"{video}{self.layout.suffix}")
        exact = next((name for name in wanted if name in self._names), None)
        return exact or next((self._folded[folded(name)] for name in wanted if folded(name) in self._folded), None)

    def _grid(self, fps: float | None, where: str) -> Grid:
        if self.layout.fps is None and fps is None:
            raise DataError(
                f"{where}: these features were taken at each video's own frame rate, which the annotations do not "
                "say; give --feature_fps if one holds for all, or --frame_rates"
            )
        if self.layout.fps is None and not is_rate(fps):
            raise DataError(
                f"{where}: the annotated fps must be frames a second above 0, found {fps!r}; correct it, or give "
                "--frame_rates, or --feature_fps if one holds for all"
            )
        return self.layout.grid(fps)

    def _open(self, video: str) -> tuple[str, np.ndarray]:
        """The file, for errors, and its array, mapped into memory where it is npy."""
        name, expected = self._name(video), f"{self.layout.prefix}{video}{self.layout.suffix}"
        if self.path.is_file():
            if name is None:
                keys = ", ".join(list(self._names)[:3]) or "none"
                raise DataError(f"{self.path}: no key {expected!r}; the first keys are: {keys}")
            where = f"{self.path}: {name}"
            with self._opened() as file:
                entry = file[name]
                if not hasattr(entry, "shape"):
                    if NPZ_KEY not in entry:
                        raise DataError(
                            f"{where}: a group without {NPZ_KEY!r}; it has: {', '.join(entry) or 'nothing'}"
                        )
                    entry = entry[NPZ_KEY]
                try:
                    return where, np.asarray(entry)
                except (OSError, TypeError, ValueError) as error:
                    raise DataError(f"{where}: cannot read the features ({error})") from error
        if name is None:
            raise DataError(
                f"{self.path}: no {expected}{ENDINGS[0]} (nor {', '.join(ENDINGS[1:])}); correct prefix or suffix?"
            )
        endings = self._names[name]
        if len(endings) > 1:
            raise DataError(f"{self.path}: {name} is there as {' and as '.join(endings)}; remove all but one")
        file = self.path / f"{name}{endings[0]}"
        return str(file), read_array(file)

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        """Names that are there, without their endings, and these; raises `DataError` where there is none to read."""
        if self.path.is_file():
            with self._opened() as file:
                return {name: [""] for name in file}
        found: dict[str, list[str]] = {}
        others: Counter[str] = Counter()
        for file in sorted(self.path.iterdir(), key=lambda file: file.name):
            if file.suffix in ENDINGS:
                found.setdefault(file.stem, []).append(file.suffix)
            else:
                others[file.suffix or file.name] += 1
        if not found and others:
            endings = ", ".join(name for name, _ in others.most_common(3))
            raise DataError(
                f"{self.path}: no file ends in {', '.join(ENDINGS)}; found {endings}; save rows (T, D) as npy"
            )
        return found

    def _opened(self) -> Any:
        """The HDF5 file, open for reading; raises `DataError` where it is none."""
        try:
            return _hdf5().File(self.path, "r")
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read as HDF5 ({error}); fetch or copy it again") from error

    @cached_property
    def _folded(self) -> dict[str, str]:
        """The names as `folded` writes them, and as they are."""
        return {folded(name): name for name in self._names}


@dataclass(frozen=True)
class Rows:
    """Rows ``(T, D)`` of a video that stay on disk until a slice ``rows[first:last]`` of them, float32, is taken."""

    source: Features
    video: str
    stored: tuple[int, int]
    """Rows and channels in the file."""
    size: int | None = None
    """Rows after resizing; None: as in the file."""
    mode: str = "actionformer"
    """How they are resized (see `invert_rl.tal.grid.resize`)."""
    step: int = 1
    """Of so many rows of the file one is taken."""

    def __len__(self) -> int:
        return self.size if self.size is not None else -(-self.stored[0] // self.step)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and channels as they are taken."""
        return len(self), self.stored[1]

    def __getitem__(self, part: slice) -> Tensor:
        first, last, step = part.indices(len(self))
        if self.size is None and self.step == 1 and step == 1:
            return torch.from_numpy(self.source.slice(self.video, first, last))
        whole = torch.from_numpy(self.source.slice(self.video, 0, self.stored[0]))[:: self.step]
        return (whole if self.size is None else resize(whole, self.size, self.mode))[part]


def is_rate(fps: object) -> bool:
    """Whether a frame rate, or another number of a grid, is finite and above 0."""
    return isinstance(fps, (int, float)) and not isinstance(fps, bool) and 0 < fps < math.inf


def folded(name: str) -> str:
    """A name without regard to capitals and to how accents are encoded, which file systems change."""
    return unicodedata.normalize("NFC", name).casefold()


def read_array(path: Path, key: str | None = None) -> np.ndarray:
    """The array of an npy (mapped into memory), npz (``key``, else ``feats``, else the only one) or pt file.

    Of a pt file with an object of tensors likewise ``key``, else ``feats``. Raises `DataError` where it cannot be read,
    among these an array of Python objects, which is a pickle, and what is no file, such as a pipe, which would be
    waited for.
    """
    if not path.is_file():
        raise DataError(f"{path}: cannot read the features (no file: a folder, a pipe or a broken link)")
    try:
        if path.suffix == ".pt":
            stored = torch.load(path, map_location="cpu", weights_only=True)
            stored = stored.get(key or NPZ_KEY) if isinstance(stored, dict) else stored
            if not isinstance(stored, Tensor):
                raise DataError(f"{path}: expected a tensor, or an object with one named {key or NPZ_KEY!r}")
            return stored.detach().float().numpy()
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
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        pickled = "Python objects" in reason or "Object arrays" in reason
        hint = "; a pickled object array is read by read_joint_features" if pickled else ""
        if "load it unsafely" in reason:  # numpy takes whatever does not begin like npy for a pickle
            reason = "it does not begin like an npy file"
        raise DataError(f"{path}: cannot read the features ({reason}){hint}") from error


def check_array(array: np.ndarray, width: int | None, where: str, transposed: bool = False) -> np.ndarray:
    """A copy of ``array`` as ``(T, D)`` float32; raises `DataError` for another shape or values not finite."""
    if array.ndim != 2 or not array.size:
        raise DataError(f"{where}: expected an array of rows (T, D), found shape {array.shape}")
    if array.dtype.kind not in "fiub":
        raise DataError(f"{where}: expected real numbers, found values of type {array.dtype}")
    rows = np.array(array.T if transposed else array, dtype=np.float32, order="C")
    if width is not None and rows.shape[1] != width:
        turned = "; it looks transposed, pass transposed" if rows.shape[0] == width else ""
        raise DataError(f"{where}: expected {width} channels, found shape {array.shape}{turned}")
    if not np.isfinite(rows).all():
        row = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise DataError(f"{where}: row {row} has values that are not finite; extract the features again")
    return rows


def _hdf5() -> Any:
    """The h5py module, which only HDF5 files need."""
    try:
        return import_module("h5py")
    except ModuleNotFoundError as error:
        raise DataError("HDF5 features need h5py: pip install -e '.[tal]'") from error
