"""A detector as a folder that explains itself: weights as safetensors, and a JSON file with all that testing needs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_model, save_model

from data_prep.errors import DataError
from data_prep.files import atomic_write, read_json
from invert_rl.tal.detector import Detector, DetectorConfig
from invert_rl.tal.features import Layout
from invert_rl.tal.nms import Suppression
from invert_rl.tal.pyramid import PyramidConfig

WEIGHTS, ABOUT = "model.safetensors", "invert_rl.json"
KIND = "detector"


@dataclass(frozen=True)
class SavedDetector:
    """What a detector was trained on, and how it is tested."""

    config: DetectorConfig
    classes: tuple[str, ...]
    """Of the heads' outputs, in order; a class-agnostic head has one."""
    layout: Layout
    """Of the features."""
    window: int
    """Rows that every shorter video is padded to."""
    downsample: int = 1
    """Of so many rows of the features one is taken."""
    resize: int | None = None
    """Rows that every video is resized to."""
    resize_mode: str = "actionformer"
    """How (see `invert_rl.tal.grid.resize`)."""
    overlap: float | None = None
    """Share that windows of ``window`` rows overlap by; None: videos are taken whole."""
    subset: str | None = None
    """The test subset."""
    video_classes: tuple[str, ...] = ()
    """Class-agnostic heads: classes that external scores of videos stand for, in order."""
    source: str = ""
    """Where the weights are from."""


def save_detector(model: Detector, about: SavedDetector, folder: Path) -> None:
    """Write ``model.safetensors`` and ``invert_rl.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    save_model(model, str(folder / WEIGHTS))
    with atomic_write(folder / ABOUT) as out:
        json.dump({"kind": KIND, **asdict(about)}, out, indent=1)
        out.write("\n")


def read_about(folder: Path) -> SavedDetector:
    """What a folder says of its detector; raises `DataError` where it is none."""
    path = folder / ABOUT
    if not path.is_file():
        raise DataError(f"{folder}: no {ABOUT}; import-actionformer makes such a folder")
    content = read_json(path)
    if not isinstance(content, dict) or content.pop("kind", None) != KIND:
        raise DataError(f"{path}: is not of a detector")
    try:
        return SavedDetector(
            **{
                **content,
                "config": detector_config(content["config"]),
                "classes": tuple(content["classes"]),
                "video_classes": tuple(content["video_classes"]),
                "layout": Layout(**content["layout"]),
            }
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a detector's settings ({error})") from error


def load_detector(folder: Path) -> tuple[Detector, SavedDetector]:
    """The detector of a folder, in evaluation mode; raises `DataError` where weights are missing or do not fit."""
    about = read_about(folder)
    model = Detector(about.config)
    try:
        load_model(model, str(folder / WEIGHTS), strict=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise DataError(f"{folder / WEIGHTS}: does not hold the weights of {ABOUT} ({error})") from error
    return model.eval(), about


def detector_config(content: dict[str, Any]) -> DetectorConfig:
    """A `DetectorConfig` out of what `dataclasses.asdict` made of it, and JSON of that."""
    pyramid, ranges = content["pyramid"], content["ranges"]
    window = pyramid["window"]
    return DetectorConfig(
        **{
            **content,
            "pyramid": PyramidConfig(**{**pyramid, "window": window if isinstance(window, int) else tuple(window)}),
            "ranges": tuple((float(low), float(high)) for low, high in ranges),
            "suppression": Suppression(**content["suppression"]),
        }
    )
