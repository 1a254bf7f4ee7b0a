"""A trained localizer as a folder: weights in safetensors and the settings that build it again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import torch
from safetensors.torch import save_file

from data_prep.errors import DataError
from data_prep.files import atomic_write, read_json
from invert_rl.loading import CheckpointError, load_folder
from invert_rl.tal.training import SupervisedArguments
from invert_rl.wtal.build import Semantics, build_model
from invert_rl.wtal.config import WtalArguments
from invert_rl.wtal.model import SemanticLocalizer
from invert_rl.wtal.words import Vocabulary

SETTINGS = "wtal.json"
WEIGHTS = "model.safetensors"


def save_localizer(
    folder: Path, model: SemanticLocalizer, args: WtalArguments, classes: Sequence[str], vocabulary: Vocabulary
) -> None:
    """Write ``model.safetensors`` and ``wtal.json`` (settings, classes, vocabulary)."""
    folder.mkdir(parents=True, exist_ok=True)
    inherited = {field.name for field in fields(SupervisedArguments)}
    own = {field.name: getattr(args, field.name) for field in fields(args) if field.name not in inherited}
    texts = {} if model.matching is None else {"text_channels": model.matching.texts.shape[1]}
    words = (
        {} if model.reconstruction is None else {"word_channels": model.reconstruction.reconstructor.vectors.shape[1]}
    )
    save_file({name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}, folder / WEIGHTS)
    with atomic_write(folder / SETTINGS) as out:
        content = {"classes": list(classes), "vocabulary": list(vocabulary.words), **texts, **words, "settings": own}
        json.dump(content, out, indent=1, ensure_ascii=False)
        out.write("\n")


def load_localizer(folder: Path) -> tuple[SemanticLocalizer, list[str], WtalArguments]:
    """The model in evaluation mode, its classes and the settings that it was trained with.

    Only for models with a base of the recipe. Raises `DataError` where files are missing or do not belong together.
    """
    content = read_json(folder / SETTINGS)
    args = WtalArguments(**content["settings"], output_dir=str(folder), use_cpu=True)
    classes, vocabulary = content["classes"], Vocabulary(tuple(content["vocabulary"]))
    semantics = Semantics(
        torch.zeros(len(classes), content.get("text_channels", 1)),
        vocabulary,
        torch.zeros(len(vocabulary), content.get("word_channels", 1)),
        [],
    )
    model = build_model(args, semantics)
    try:
        load_folder(model, folder)
    except CheckpointError as error:
        raise DataError(f"{folder / WEIGHTS}: does not fit {SETTINGS} beside it ({error})") from error
    return model.eval(), classes, args
