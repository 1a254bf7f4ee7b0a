"""Options of commands that show videos to a model: how many frames of which size."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from data_prep.errors import DataError
from data_prep.files import read_object
from invert_rl.described import description_of, warn_if_silent
from invert_rl.video.settings import FrameSettings

FRAME_FIELDS = {
    "fps": float,
    "min_frames": int,
    "max_frames": int,
    "total_pixels": int,
    "min_pixels": int,
    "max_pixels": int,
}
"""Fields of `FrameSettings` that are options; the patch size is the model's."""


def add_frame_arguments(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Declare one option for each of `FRAME_FIELDS`."""
    for name, kind in FRAME_FIELDS.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=kind, help="default: as the model was trained, or the paper's"
        )


def frame_options(args: argparse.Namespace, published: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Frame settings: those given, else what ``args.model`` says of itself, else those of its run, else the paper's.

    ``published`` are those that a named protocol fixes: they come before all but the given ones. Warns where the model
    says nothing; raises `DataError` where what it says cannot be read.
    """
    settings = {}
    for field in fields(FrameSettings):
        if field.name in FRAME_FIELDS:
            assert field.default is not MISSING
            settings[field.name] = field.default
    revision = getattr(args, "revision", None)
    described = description_of(args.model, revision).get("frames", {})
    summary = Path(args.model).parent / "summary.json"
    if described:
        settings |= {name: described[name] for name in FRAME_FIELDS if name in described}
    else:
        warn_if_silent(args.model, revision)
        if Path(args.model).is_dir() and summary.is_file():
            try:
                trained = read_object(summary).get("settings", {})
            except DataError as error:
                raise DataError(f"{error}; say all of --fps, … or delete the file") from error
            settings |= {name: trained[name] for name in FRAME_FIELDS if name in trained}
    settings |= published or {}
    return settings | {name: getattr(args, name) for name in FRAME_FIELDS if getattr(args, name) is not None}
