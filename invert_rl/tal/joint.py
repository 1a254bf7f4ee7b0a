"""The single-file layout of weakly supervised localization: THUMOS14 I3D features with annotations beside them.

``Thumos14reduced-I3D-JOINTFeatures.npy`` is an array of Python objects, that is a pickle: whoever wrote the file can
run any code on reading, so reading must be asked for.
"""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.errors import DataError
from invert_rl.tal.features import check_array
from invert_rl.tal.grid import Grid

NAME = "Thumos14reduced"
FEATURES_END = "-I3D-JOINTFeatures.npy"
ANNOTATIONS_END = "-Annotations"
FEATURES = NAME + FEATURES_END
ANNOTATIONS = NAME + ANNOTATIONS_END
SHOWN = 5
"""Odd entries named in an error."""
GRID = Grid(25.0, 16.0, 16.0, offset=0.0)
"""25 frames a second, clips of 16 frames end to end; row = seconds * 25 / 16."""


@dataclass(frozen=True)
class JointVideo:
    """One video of the file."""

    video: str
    subset: str
    duration: float
    """Seconds."""
    features: np.ndarray | None
    """``(T, 2048)`` float32: RGB, then flow; None where the entry is odd."""
    labels: tuple[str, ...]
    """Classes of the video, without times."""
    segments: tuple[tuple[float, float, str], ...]
    """``(start, end, class)`` in seconds, for evaluation only."""
    why: str = ""
    """What is wrong with the features."""


def read_joint_features(
    folder: str | Path, allow_pickle: bool = False, width: int | None = None, name: str = NAME, odd: str = "error"
) -> list[JointVideo]:
    """Videos of a folder with ``<name>-I3D-JOINTFeatures.npy`` and ``<name>-Annotations``, in the order of the file.

    ``allow_pickle`` must be True: reading runs what the file says. ``width`` is D (None: any). ``odd`` ``keep`` gives
    videos whose features cannot be used None in their place. Raises `DataError` without ``allow_pickle``, for missing
    files, where the arrays do not have one entry per video or a video has two, and, all at once, for odd entries unless
    they are kept.
    """
    path = Path(folder) / f"{name}{FEATURES_END}"
    if not allow_pickle:
        raise DataError(
            f"{path}: the file is a pickle, which can run any code when it is read; pass "
            "allow_pickle=True if you trust where it is from"
        )
    features = _load(path)
    notes = Path(folder) / f"{name}{ANNOTATIONS_END}"
    names, subsets, durations, labels, segment_labels, segments = (
        _load(notes / f"{column}.npy", len(features))
        for column in ("videoname", "subset", "duration", "labels_all", "labels", "segments")
    )
    twice = [name for name, count in Counter(map(_text, names)).items() if count > 1]
    if twice:
        raise DataError(f"{notes / 'videoname.npy'}: video {twice[0]!r} is there more than once; keep one entry of it")
    videos: list[JointVideo] = []
    wrong: list[str] = []
    for index, rows in enumerate(features):
        where = f"{path}: entry {index} ({_text(names[index])})"
        times, classes = list(segments[index]), list(segment_labels[index])
        if len(times) != len(classes):
            raise DataError(f"{where}: {len(times)} segments but {len(classes)} labels")
        rows, why = _checked(rows, width, where)
        wrong += [why] if why else []
        videos.append(
            JointVideo(
                _text(names[index]),
                _text(subsets[index]),
                float(np.ravel(durations[index])[0]),
                rows,
                tuple(_text(label) for label in np.ravel(labels[index])),
                tuple((float(s), float(e), _text(label)) for (s, e), label in zip(times, classes, strict=True)),
                why,
            )
        )
    if wrong and odd == "error":
        more = f"\n  and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        shown = "\n  ".join(wrong[:SHOWN])
        raise DataError(
            f"{path}: {len(wrong)} entries do not fit; --bad_features skip leaves them out\n  {shown}{more}"
        )
    return videos


def _checked(rows: object, width: int | None, where: str) -> tuple[np.ndarray | None, str]:
    """The rows of an entry, or None and why not."""
    try:
        return check_array(np.asarray(rows, dtype=np.float32), width, where), ""
    except (DataError, TypeError, ValueError) as error:
        return None, str(error) if isinstance(error, DataError) else f"{where}: no array of numbers ({error})"


def _load(path: Path, length: int | None = None) -> np.ndarray:
    if not path.is_file():
        raise DataError(f"{path}: no such file; the folder must hold NAME{FEATURES_END} and NAME{ANNOTATIONS_END}")
    try:
        array = np.load(path, allow_pickle=True, encoding="bytes")
    except (OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise DataError(f"{path}: cannot be read as an array ({error}); fetch or copy it again") from error
    if length is not None and len(array) != length:
        raise DataError(f"{path}: {len(array)} entries for {length} videos of features")
    return array


def _text(value: object) -> str:
    value = value.item() if isinstance(value, np.generic) else value
    return value.decode() if isinstance(value, bytes) else str(value)
