"""Strict loading: every tensor of a checkpoint finds its place, and every place its tensor, or an error names them."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils import load_peft_weights
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_NAME
from transformers.utils import logging as transformers_logging

WRAPPERS = {
    "module.": "DistributedDataParallel or DeepSpeed",
    "_orig_mod.": "torch.compile",
    "_fsdp_wrapped_module.": "FSDP",
}
"""Prefixes that a wrapper around the model leaves in names, and whose they are; they are taken off."""

WRAPPED = re.compile(rf"^(?:{'|'.join(re.escape(prefix) for prefix in WRAPPERS)})+")

ADAPTER = re.compile(r"^base_model\.model\.|\.lora_(?:A|B|embedding_A|embedding_B)\.|\.base_layer\.")
"""What the names of an adapter's tensors hold, or of a model's that was saved with one inside."""

ADAPTER_WEIGHTS = "adapter_model.safetensors"

UNREADABLE = (OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError, StrictDataclassError)
"""What libraries raise over a file that is not what its name says."""

SHOWN = 5
"""Names of each kind that an error lists."""


class CheckpointError(ValueError):
    """A checkpoint that this library cannot use; the message names it and what is wrong or missing."""


def load_pretrained(
    factory: Any,
    name: str | os.PathLike[str],
    missing: Sequence[str] = (),
    unexpected: Sequence[str] = (),
    **kwargs: Any,
) -> PreTrainedModel:
    """``factory.from_pretrained(name, **kwargs)``, strictly: that fills what is missing with random numbers.

    Prefixes of `WRAPPERS` are taken off the tensors' names. Tied weights need to be there once.

    Args:
        factory: a model class of transformers, or one of its ``AutoModel`` classes.
        missing: prefixes of names that may be missing.
        unexpected: prefixes of names that may be there although the model has no place for them.
        kwargs: passed on (revision, dtype, attn_implementation, …).

    Raises `CheckpointError` for tensors that are missing, left over, of another shape or not finite, and for files that
    cannot be read.
    """
    asked = {**kwargs, "output_loading_info": True, "ignore_mismatched_sizes": True}
    with quiet_load(), readable(name):
        model, info = factory.from_pretrained(name, **asked)
        if any(WRAPPED.match(key) for key in info["unexpected_keys"]):
            model, info = factory.from_pretrained(name, **asked, key_mapping={WRAPPED.pattern: ""})
    mismatched = {key: (tuple(found), tuple(wanted)) for key, found, wanted in info["mismatched_keys"]}
    _refuse(
        name,
        type(model).__name__,
        [key for key in info["missing_keys"] if not key.startswith(tuple(missing))],
        [key for key in info["unexpected_keys"] if not key.startswith(tuple(unexpected))],
        mismatched,
    )
    check_finite(model, name)
    _forget_unused_renamings(model)
    return model


def _forget_unused_renamings(model: PreTrainedModel) -> None:
    """Saving undoes the renamings of loading; under ZeRO-3 transformers also keeps those that renamed nothing.

    Undone, they give names that nothing loads, ``model.model.layers``.
    """
    renamings = getattr(model, "_weight_conversions", None)
    if renamings:
        model._weight_conversions = [renaming for renaming in renamings if renaming.was_used()]


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], name: str | os.PathLike[str]) -> None:
    """Copy ``tensors``, by name, into a module's parameters and buffers; ``name`` is where they come from.

    Prefixes of `WRAPPERS` are taken off. Weights that share their memory need to be there once. Raises
    `CheckpointError` as `load_pretrained` does, and leaves the module as it was then.
    """
    tensors = {WRAPPED.sub("", key): value for key, value in tensors.items()}
    own = model.state_dict()
    given = {_place(own[key]) for key in tensors if key in own}
    missing = [key for key, value in own.items() if key not in tensors and _place(value) not in given]
    _refuse(
        name, type(model).__name__, missing, [key for key in tensors if key not in own], _other_shapes(tensors, own)
    )
    _refuse_not_finite(tensors, name)
    model.load_state_dict(tensors, strict=False)


def load_folder(model: nn.Module, folder: str | os.PathLike[str]) -> None:
    """`load_tensors` of a folder's ``model.safetensors``."""
    load_tensors(model, read_tensors(Path(folder) / SAFE_WEIGHTS_NAME), folder)


def load_weights(model: PreTrainedModel, checkpoint: str | os.PathLike[str]) -> None:
    """Load a checkpoint folder into ``model``, in place and strictly.

    `Trainer` loads the file's names as they are, but Qwen2.5-VL is saved under its old hub names, so that nothing
    matches and only a warning tells. ``from_pretrained`` knows the renaming.
    """
    exact = load_pretrained(type(model), checkpoint, dtype=torch.float32)  # also for parts in half precision
    files = sorted(Path(checkpoint).glob("*.safetensors"))
    _refuse_rounded((value for path in files for value in read_tensors(path).values()), model.parameters(), checkpoint)
    load_tensors(model, exact.state_dict(), checkpoint)


def load_peft(base: PreTrainedModel, name: str, revision: str | None = None) -> PeftModel:
    """``base`` with the adapter of a folder or of the hub, frozen; PEFT draws what is missing, here it is an error."""
    with readable(name):
        model = PeftModel.from_pretrained(base, name, revision=revision)
    if os.path.isdir(name):
        tensors = read_tensors(Path(name) / ADAPTER_WEIGHTS)
    else:
        with readable(name):
            tensors = load_peft_weights(name, device="cpu", revision=revision)
    _load_adapter(model, model.active_adapters[0], tensors, name)
    return model


def load_adapters(model: PeftModel, checkpoint: str | os.PathLike[str]) -> None:
    """Load the adapters of a checkpoint folder into ``model``, in place and strictly.

    "default" lies in the folder itself, another one in a subfolder of its name, as PEFT saves them.
    """
    for adapter in model.peft_config:
        folder = Path(checkpoint) if adapter == "default" else Path(checkpoint) / adapter
        tensors = read_tensors(folder / ADAPTER_WEIGHTS)
        _load_adapter(model, adapter, tensors, folder)
        _refuse_rounded(tensors.values(), get_peft_model_state_dict(model, adapter_name=adapter).values(), folder)


def _load_adapter(model: PeftModel, adapter: str, tensors: dict[str, Tensor], name: str | os.PathLike[str]) -> None:
    own = get_peft_model_state_dict(model, adapter_name=adapter)
    _refuse(
        name,
        f"the adapter {adapter!r} of {type(model.base_model.model).__name__}",
        [key for key in own if key not in tensors],
        [key for key in tensors if key not in own],
        _other_shapes(tensors, own),
        adapters=True,
    )
    _refuse_not_finite(tensors, name)
    set_peft_model_state_dict(model, tensors, adapter_name=adapter)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file; raises `CheckpointError` where it is missing or damaged."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file of weights")
    with readable(path):
        return load_file(path)


def check_finite(model: nn.Module, name: str | os.PathLike[str]) -> None:
    """Raise `CheckpointError` with the names of parameters that hold NaN or infinity."""
    _refuse_not_finite(dict(model.named_parameters()), name)


@contextmanager
def quiet_load() -> Iterator[None]:
    """Inside, transformers does not print its table of names that do not fit: the error says them."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(transformers_logging.CRITICAL)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)


@contextmanager
def readable(name: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what libraries raise over files that are missing, damaged or cannot be fetched into `CheckpointError`."""
    try:
        yield
    except CheckpointError:
        raise
    except (*UNREADABLE, SafetensorError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise CheckpointError(f"{name}: cannot be loaded: {_one_line(error)}{_remedy(name, error)}") from error


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if len(text) < 20 else text[:300]


def _remedy(name: str | os.PathLike[str], error: BaseException) -> str:
    if isinstance(error, SafetensorError):
        return " (a damaged file of weights: fetch or copy it again)"
    if isinstance(error, OSError) and not os.path.exists(name):
        return " (no folder of that name, and the hub does not give it: give a folder that holds the checkpoint)"
    return ""


def _other_shapes(
    tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Shapes given and wanted, by name, where they differ."""
    return {
        key: (tuple(value.shape), tuple(own[key].shape))
        for key, value in tensors.items()
        if key in own and value.shape != own[key].shape
    }


def _place(value: Tensor) -> tuple[Any, ...]:
    """What two tensors of the same memory share."""
    if value.numel() == 0 or value.is_meta:
        return (id(value),)
    return (value.device, value.data_ptr(), tuple(value.shape))


def _refuse_not_finite(tensors: Mapping[str, Tensor], name: str | os.PathLike[str]) -> None:
    bad = [
        key
        for key, value in tensors.items()
        if value.is_floating_point() and not value.is_meta and value.element_size() > 1 and not value.isfinite().all()
    ]
    if bad:
        raise CheckpointError(f"{name}: {_listed(bad)} hold{'s' * (len(bad) == 1)} NaN or infinity; use another one")


def _refuse_rounded(given: Iterable[Tensor], own: Iterable[Tensor], name: str | os.PathLike[str]) -> None:
    """Refuse weights that somebody has rounded since the run wrote them: it would not go on where it was."""
    wanted = sum(value.numel() for value in own if value.dtype == torch.float32)
    found = sum(value.numel() for value in given if value.dtype == torch.float32)
    if found < wanted:
        raise CheckpointError(
            f"{name}: {wanted - found} of the run's {wanted} float32 weights are in another precision, from which it "
            "cannot go on exactly; take the checkpoint as the run wrote it, or start from it by --model_name_or_path"
        )


def _refuse(
    name: str | os.PathLike[str],
    model: str,
    missing: Collection[str],
    unexpected: Collection[str],
    mismatched: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]],
    adapters: bool = False,
) -> None:
    """Raise `CheckpointError` unless all is in its place."""
    if not (missing or unexpected or mismatched):
        return
    found = [key for key in unexpected if ADAPTER.search(key)]
    if found and not adapters:
        raise CheckpointError(
            f"{name}: holds tensors of an adapter (LoRA), {_listed(found)}; merge it into its base model first"
        )
    parts = []
    if missing:
        parts.append(f"{len(missing)} missing: {_listed(missing)}")
    if unexpected:
        parts.append(f"{len(unexpected)} unexpected: {_listed(unexpected)}")
    if mismatched:
        shapes = [f"{key} {found} instead of {wanted}" for key, (found, wanted) in mismatched.items()]
        parts.append(f"{len(mismatched)} of another shape: {_listed(shapes)}")
    raise CheckpointError(
        f"{name}: its tensors do not fit {model}: {'; '.join(parts)}; nothing is filled in with random numbers"
    )


def _listed(names: Collection[str]) -> str:
    shown = sorted(names)[:SHOWN]
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")
