"""A trained checkpoint with its clips, ready to be asked: what the commands share."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import AutoConfig, PreTrainedModel, ProcessorMixin

from data_prep.errors import DataError
from data_prep.files import read_json
from data_prep.rows import Row
from invert_rl.described import description_of, warn_if_silent
from invert_rl.llavaction.answers.model_arguments import FRAMES, VIEWS
from invert_rl.llavaction.data import Classes, SampleEncoder, SegmentStore, read_questions
from invert_rl.llavaction.encode import ClipEncoder
from invert_rl.llavaction.model import load_action_model, load_action_processor
from invert_rl.llavaction.views import ViewSettings
from invert_rl.models import CheckpointError
from invert_rl.task_data import check_video_root
from invert_rl.video.settings import FrameSettings


@dataclass(frozen=True)
class Loaded:
    """A model and how it is shown clips."""

    model: PreTrainedModel
    encode: SampleEncoder
    rows: list[Row]
    classes: Classes


def load_rows(args: argparse.Namespace) -> list[Row]:
    """The questions that the arguments name, as `read_questions`."""
    rows = read_questions(args.data)[: args.limit]
    check_video_root(rows, args.videos)
    return rows


def load(args: argparse.Namespace, **kwargs: Any) -> Loaded:
    """The model and the questions that the arguments name, as `load_model` and `load_rows`."""
    rows = load_rows(args)
    model, encode = load_model(args, **kwargs)
    return Loaded(model, encode, rows, encode.classes)


def load_model(args: argparse.Namespace, **kwargs: Any) -> tuple[PreTrainedModel, SampleEncoder]:
    """The model that the arguments name, and its encoder as `load_encoder` has it.

    Raises `DataError` for a checkpoint that cannot be used.
    """
    encode = load_encoder(args)
    return load_weights(args, encode, **kwargs), encode


def load_weights(args: argparse.Namespace, encode: SampleEncoder, **kwargs: Any) -> PreTrainedModel:
    """The model that the arguments name, in evaluation mode and where it computes; raises `DataError`."""
    known = token_settings(args)
    sizes = (1, 1, 1) if known is None else known["classes"]
    kwargs.setdefault("trained_positions", has_trained_positions(args))
    try:
        model = load_action_model(args.model, encode.encoder.processor, sizes, dtype=args.dtype, **kwargs)
    except (CheckpointError, OSError) as error:
        raise DataError(f"--model {args.model}: {error}") from error
    return model.to(PartialState(cpu=args.cpu).device).eval()


def has_trained_positions(args: argparse.Namespace) -> bool:
    """Whether the model's positions are the released weights', as it says of itself; those of transformers if not."""
    return bool(description_of(args.model).get("trained_positions", True))


def token_settings(args: argparse.Namespace) -> dict[str, Any] | None:
    """What the checkpoint's configuration says of its action token; None without one."""
    return getattr(AutoConfig.from_pretrained(args.model), "action_token", None)


def load_encoder(args: argparse.Namespace) -> SampleEncoder:
    """How the model that the arguments name is asked; settings that are not given are those of the run it is of.

    Raises `DataError` for a checkpoint that cannot be used.
    """
    settings = run_settings(args)
    try:
        processor: ProcessorMixin = load_action_processor(args.model)
        config = AutoConfig.from_pretrained(args.model)
        known = token_settings(args)
    except (CheckpointError, OSError) as error:
        raise DataError(f"--model {args.model}: {error}") from error
    sizes = (1, 1, 1) if known is None else known["classes"]
    with_token = known is not None and not args.no_action_token and settings.get("action_token", True)
    frames = {name: settings[name] for name in FRAMES if name in settings}
    patch = getattr(processor.video_processor, "patch_size", 14)
    store = SegmentStore(str(args.videos), FrameSettings(**frames, image_patch_size=patch))
    views = ViewSettings(**{name: settings[name] for name in VIEWS if name in settings})
    path = Path(args.model) / "classes.json"
    classes = Classes.read(path) if path.is_file() else Classes(sizes[0], sizes[1], [])
    return SampleEncoder(ClipEncoder(processor, config, with_token), store, views, classes)


def run_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Settings given on the command line, else what the model says of itself, else its run's summary beside it."""
    described = description_of(args.model)
    summary = Path(args.model).parent / "summary.json"
    found: dict[str, Any] = {}
    if "views" in described:
        found = {**described["frames"], **described["views"]}
    else:
        warn_if_silent(args.model)
        if summary.is_file():
            found = read_json(summary).get("settings", {})
    given = {name: getattr(args, name, None) for name in (*FRAMES, *VIEWS)}
    return found | {name: value for name, value in given.items() if value is not None}
