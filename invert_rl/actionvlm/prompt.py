"""What the language model reads beside the frames, and the answer that it is taught."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from data_prep.errors import DataError
from data_prep.files import read_json

INSTRUCTION = (
    "This is a video reasoning for the action localization task. You should identify the start and end frames of each "
    "action in the given video and output the ranked list of action proposals according to their confidence. The "
    "candidate actions include: {actions}"
)
"""T_ins of appendix B.2, with T_desc in its place."""
WRITE_WEIGHT = (
    " After each frame write a digit from 0 to 9: how much these descriptions help to tell what happens there."
)
"""Asks for the weight of language as text (table 4); the paper does not print its prompt [C]."""
FRAMES = "<frames>"
"""Where the frames' tokens go, while the chat is still text."""
POSITIONS = ("before", "after")
ANSWER_STYLES = ("proposals", "descriptions")
DESCRIPTIONS = Path(__file__).parent / "descriptions"
"""Descriptions that are shipped, one JSON file per data set."""


@dataclass(frozen=True)
class Prompt:
    """Token ids before and after the frames' tokens; what follows ``after`` is the answer."""

    before: list[int]
    after: list[int]


def read_descriptions(path: Path | str, classes: Sequence[str]) -> dict[str, str]:
    """Descriptions of ``classes`` from a JSON object of texts by class name.

    A class without a text is described by its name [R]. Raises `DataError` where the file is of another form or holds
    none of the classes.
    """
    content = read_json(Path(path))
    if not isinstance(content, dict) or not all(isinstance(text, str) and text for text in content.values()):
        raise DataError(f"{path}: expected a JSON object that gives each class name a text")
    if not set(classes) & content.keys():
        raise DataError(f"{path}: describes none of the classes; it has {sorted(content)[:3]}, they are {classes[:3]}")
    return {name: content.get(name, name) for name in classes}


def deranged(descriptions: Mapping[str, str]) -> dict[str, str]:
    """Every class with the description of another one, the same at each call: conflicting language (section 4.3).

    The next class in a fixed random order lends its text [C]. Raises `ValueError` for fewer than two classes.
    """
    if len(descriptions) < 2:
        raise ValueError("descriptions of one class cannot be exchanged")
    names = sorted(descriptions)
    order = [names[index] for index in np.random.default_rng(0).permutation(len(names))]
    lender = dict(zip(order, [*order[1:], order[0]], strict=True))
    return {name: descriptions[lender[name]] for name in descriptions}


def build_prompt(
    tokenizer: PreTrainedTokenizerBase,
    classes: Sequence[str],
    descriptions: Mapping[str, str] | None,
    position: str = "before",
    ask: str = "",
) -> Prompt:
    """The instruction with the classes and their descriptions (None: names alone), in the tokenizer's chat.

    ``before`` [C] puts the text in front of the frames, whose tokens then attend to it; ``after`` [S fig. 3, R] puts
    it behind, where a causal model's special tokens cannot see it. ``ask`` is added to the instruction.
    """
    if position not in POSITIONS:
        raise ValueError(f"the prompt's position must be one of {POSITIONS}, not {position!r}")
    if descriptions is None:
        actions = ", ".join(classes)
    else:
        actions = " ".join(f"{name}: {descriptions[name].rstrip('.')}." for name in classes)
    text = INSTRUCTION.format(actions=actions) + ask
    content = f"{text}\n{FRAMES}" if position == "before" else f"{FRAMES}\n{text}"
    if tokenizer.chat_template:
        chat = [{"role": "user", "content": content}]
        content = str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
    else:
        content = f"{content}\n"
    before, after = content.split(FRAMES)

    def ids(part: str) -> list[int]:
        return list(tokenizer(part, add_special_tokens=False)["input_ids"])

    return Prompt(ids(before), ids(after))


def answer_text(
    segments: Tensor,
    labels: Tensor,
    classes: Sequence[str],
    rows: int,
    descriptions: Mapping[str, str] | None = None,
) -> str:
    """The answer for a window of ``rows`` rows with segments ``(N, 2)`` and class ids ``(N,)``; "" for no action.

    ``Action: start-end, …`` in whole rows by start [R]; ground truth has no confidence to rank by. With
    ``descriptions``, as in the released code, the texts of the classes that occur.
    """
    if descriptions is not None:
        return "\n".join(f"{classes[i]}: {descriptions[classes[i]]}" for i in sorted(set(labels.tolist())))
    whole = segments.round().clamp(0, rows - 1).int().tolist()
    proposals = sorted((start, end, classes[label]) for (start, end), label in zip(whole, labels.tolist(), strict=True))
    return ", ".join(f"{name}: {start}-{end}" for start, end, name in proposals)
