"""A tiny language model and what belongs to it."""

from __future__ import annotations

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from invert_rl.actionvlm.llm import tiny_language_model

CLASSES = ["bow", "clap", "jump"]
TEXTS = {"bow": "bends forward", "clap": "strikes the palms", "jump": "leaves the ground"}


@pytest.fixture(scope="package")
def tiny() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A language model with 32 channels and its tokenizer; do not train it."""
    return tiny_language_model([*CLASSES, *TEXTS.values(), "0123456789 - , :"], seed=0, width=32)
