"""Class texts: prompts (Table 4) and the file that holds their CLIP embeddings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from data_prep.errors import DataError

PROMPTS = {
    "none": "{}",
    "prompt1": "a video of {}",
    "prompt2": "a video of action {}",
    "prompt3": "a video of a person doing {}",
}
"""Table 4's rows; the last is the method's."""
DEFAULT_PROMPT = "prompt3"
CLASSES = "classes"
"""Key of the class names in a file's metadata."""


def write_text(path: Path, classes: Sequence[str], embeddings: Mapping[str, Tensor], **facts: str) -> None:
    """Write embeddings ``(K, d)`` by the name of their prompt, with the class names, as a safetensors file."""
    for prompt, rows in embeddings.items():
        if rows.ndim != 2 or len(rows) != len(classes):
            raise ValueError(f"{prompt}: expected {len(classes)} rows, found shape {tuple(rows.shape)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    tensors = {prompt: rows.detach().float().cpu().contiguous() for prompt, rows in embeddings.items()}
    save_file(tensors, draft, {CLASSES: json.dumps(list(classes), ensure_ascii=False), **facts})
    draft.replace(path)


def read_text_embeddings(path: Path, classes: Sequence[str], prompt: str = DEFAULT_PROMPT) -> Tensor:
    """Embeddings ``(K, d)`` of ``classes`` in their order.

    Raises `DataError` where the file, the prompt or a class is missing, or a value is not finite.
    """
    try:
        with safe_open(path, framework="pt") as file:
            there = list(file.keys())
            if prompt not in there:
                raise DataError(f"{path}: no embeddings of {prompt!r}; there are: {', '.join(sorted(there))}")
            names = json.loads((file.metadata() or {}).get(CLASSES, "[]"))
            rows = file.get_tensor(prompt).float()
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: cannot read the class texts ({error}); write them with extract-clip") from error
    places = {name: place for place, name in enumerate(names)}
    missing = [name for name in classes if name not in places]
    if missing:
        raise DataError(f"{path}: no embedding of {', '.join(map(repr, missing))}; run extract-clip with these classes")
    chosen = rows[torch.tensor([places[name] for name in classes], dtype=torch.long)]
    if not torch.isfinite(chosen).all():
        raise DataError(f"{path}: embeddings of {prompt!r} have values that are not finite; extract them again")
    return chosen
