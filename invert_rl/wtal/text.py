"""Vectors of sentences and of words: hashed words without any weights, CLIP, or any text encoder of transformers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from invert_rl.loading import load_pretrained, readable
from invert_rl.models import check_source
from invert_rl.wtal.descriptions import words_of

HASHED = "hashed"
"""Name of the encoder that needs no weights."""
HASHED_WIDTH = 64
BATCH = 64
"""Texts that are encoded at a time."""


def encode_texts(texts: Sequence[str], encoder: str = HASHED, device: str | torch.device = "cpu") -> Tensor:
    """Vectors ``(N, E)`` of length 1, frozen.

    ``encoder`` is `HASHED` (the mean of one fixed random vector per word: only equal words make texts alike) or the
    name or folder of a text encoder: CLIP and its kin by their projected text features, another one by the mean of
    its last hidden states. Raises `CheckpointError` for a folder that is none.
    """
    if encoder == HASHED:
        vectors = torch.from_numpy(np.stack([_hashed(text) for text in texts])).float()
    else:
        vectors = _by_transformers(texts, encoder, device)
    return F.normalize(vectors, dim=-1)


def _hashed(text: str) -> np.ndarray:
    total = np.zeros(HASHED_WIDTH)
    for word in words_of(text):
        digest = hashlib.sha256(word.encode()).digest()
        total += np.random.default_rng(int.from_bytes(digest[:8], "little")).standard_normal(HASHED_WIDTH)
    return total


@torch.no_grad()
def _by_transformers(texts: Sequence[str], name: str, device: str | torch.device) -> Tensor:
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    check_source(name)
    with readable(name):
        tokenizer: Any = AutoTokenizer.from_pretrained(name)
        config = AutoConfig.from_pretrained(name)
    places = getattr(getattr(config, "text_config", config), "max_position_embeddings", tokenizer.model_max_length)
    limit = min(places, tokenizer.model_max_length)
    # a head of another use may be left over; a pooler, which is not used here, may be missing
    model: Any = load_pretrained(AutoModel, name, missing=("pooler.",), unexpected=("",)).to(device).eval()
    parts = []
    for start in range(0, len(texts), BATCH):
        inputs = tokenizer(
            list(texts[start : start + BATCH]), return_tensors="pt", padding=True, truncation=True, max_length=limit
        ).to(device)
        if hasattr(model, "get_text_features"):
            found = model.get_text_features(**inputs)
            parts.append(found if isinstance(found, Tensor) else found.pooler_output)
        else:
            states = model(**inputs).last_hidden_state
            mask = inputs["attention_mask"][..., None].to(states)
            parts.append((states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1))
    return torch.cat(parts).float().cpu()
