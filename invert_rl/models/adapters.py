"""LoRA adapters on disk: a folder with ``adapter_config.json`` that names the checkpoint it belongs to."""

from __future__ import annotations

import os
from dataclasses import dataclass

from transformers.utils.peft_utils import find_adapter_config_file

from data_prep.files import read_object

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class Adapter:
    """Where an adapter lies and what it was trained on."""

    name: str
    revision: str | None
    base: str
    """The checkpoint whose weights it changes: a folder or a name on the hub."""
    base_revision: str | None


def find_adapter(name: str, revision: str | None = None) -> Adapter | None:
    """The adapter of that name, or None for a whole checkpoint, and for what is neither.

    A base given as a relative path is looked for from here and beside the adapter. Raises `ValueError` for an adapter
    that names no base, whose base is a folder that is not there, or whose weights are not in safetensors.
    """
    if os.path.isdir(name):
        path = os.path.join(name, ADAPTER_CONFIG)
        if not os.path.isfile(path) or os.path.isfile(os.path.join(name, "config.json")):
            return None
        if not os.path.isfile(os.path.join(name, ADAPTER_WEIGHTS)):
            raise ValueError(f"{name}: an adapter without {ADAPTER_WEIGHTS}; other formats of weights are not read")
    elif name.count("/") == 1 and not name.startswith((".", "/", "~")):
        found = find_adapter_config_file(name, revision=revision)
        if found is None:
            return None
        path = found
    else:
        return None
    settings = read_object(path)
    base = settings.get("base_model_name_or_path")
    if not base:
        raise ValueError(f"{path}: base_model_name_or_path is missing: which checkpoint does the adapter belong to?")
    return Adapter(name, revision, _locate(base, name), settings.get("revision"))


def _locate(base: str, adapter: str) -> str:
    for path in (base, os.path.join(os.path.dirname(os.path.abspath(adapter)), base)):
        if os.path.isdir(path):
            return path
    if base.startswith((".", "/", "~")) or base.count("/") > 1:
        raise ValueError(
            f"{adapter}: its base {base} is not there; write the folder where it lies into {ADAPTER_CONFIG}"
        )
    return base
