"""The toy model's first lesson in language: where in a clip its captions lie.

A language model with random weights learns to find an event far too slowly through the numbers of an answer: it has to
discover at once that there are verbs in a video, which one is meant, and where that one begins and ends. Here a clip is
followed by a chat about all of its events in a random order, the first asked as the task asks, the others by their
queries alone. Two things are told besides: where to look (while a verb or a span is written, some heads of a layer are
to attend to the event) and what each group of frames holds (its verb, when that began, when the last one ended), read
by a linear head that is thrown away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, ProcessorMixin

from data_prep.rows import Row
from invert_rl.tasks import Task, messages, normalise_query
from invert_rl.toy.answers import target_text
from invert_rl.toy.lesson import FLOOR, TELLING, middle_of, misread, read, teach_language
from invert_rl.toy.shown import IGNORED, Shown, by_clip, look_at
from invert_rl.video.store import FrameStore

CLIPS = 16
"""Clips of a step."""
MAX_GAP = 150
"""Most positions that are left out between a query alone and its answer: what a task's prompt adds is about as long."""


@dataclass(frozen=True)
class Script:
    """The tokens that follow a clip."""

    ids: list[int]
    labels: list[int]
    """The same where a token belongs to an answer, else `IGNORED`."""
    steps: list[int]
    """By how much the position of each token is larger than that of the one before."""
    looks: list[tuple[int, int]]
    """Where to look: places of the tokens right before those that tell of an event, and its number."""


def write_script(processor: ProcessorMixin, rows: Sequence[Row], task: Task, rng: np.random.Generator) -> Script:
    """A chat about the rows of one clip in a random order: prompt or query, and the answer to teach for ``task``."""

    def encode(text: str) -> list[int]:
        return list(processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    asked, end = encode("<|im_end|>\n<|im_start|>assistant\n"), encode("<|im_end|>")
    ids, labels, steps, looks = encode("<|vision_end|>"), [IGNORED], [1], []
    for turn, place in enumerate(rng.permutation(len(rows))):
        row = rows[int(place)]
        alone = encode("\n<|im_start|>user\n" + normalise_query(row.query))
        question = (alone if turn else encode(prompt_text(task, row))) + asked
        answer = encode(target_text(task, row, rng)) + end
        first = len(ids) + len(question)  # place of the answer's first token
        looks += [(first + at - 1, event) for at, event in told_by(answer, encode, row.meta["event"])]
        gap = int(rng.integers(MAX_GAP + 1)) if turn else 0
        steps += [1] * (len(question) - len(asked)) + [1 + gap]
        steps += [1] * (len(asked) - 1 + len(answer))
        labels += [IGNORED] * len(question) + answer
        ids += question + answer
    return Script(ids, labels, steps, looks)


def prompt_text(task: Task, row: Row) -> str:
    """The words of a task's prompt, which follow the clip."""
    return "".join(part["text"] for part in messages(task, row)[-1]["content"] if part["type"] == "text")


def told_by(answer: list[int], encode: Callable[[str], list[int]], number: int) -> list[tuple[int, int]]:
    """Which tokens of an answer tell of which event: of the thought ``a: b, c, a`` those after the colon, in order,
    and all of the span of the event ``number``."""
    (colon,), (end_thought,), (begin,), (end,) = (encode(text) for text in (":", "</think>", "<answer>", "</answer>"))
    scanned: list[int] = []
    if colon in answer and end_thought in answer:
        scanned = list(range(answer.index(colon) + 1, answer.index(end_thought), 2))  # every other one is a comma
    start = answer.index(begin) + 1 if begin in answer else 0
    stop = answer.index(end) if end in answer else len(answer) - 1
    return [(at, event) for event, at in enumerate(scanned)] + [(at, number) for at in range(start, stop)]


def teach_captions(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    rows: Sequence[Row],
    store: FrameStore,
    steps: int,
    seed: int,
    task: Task,
) -> float:
    """Train all but the vision tower of ``model`` in place; returns the share of attention on the event at the end.

    ``rows`` are the toy world's, ``task`` is grounding as a preset words it. The tower sees each clip once. The share,
    0 to 1, is the mean of the last 20 steps over the heads that are told where to look. The global random state stays
    as it is.
    """
    clips = by_clip(rows)
    videos = list(clips)

    @cache
    def look(video: str) -> Shown:
        return look_at(model.model.visual, processor, clips[video][0], store)

    def step(reader: nn.Linear, opening: list[int], rng: np.random.Generator) -> tuple[torch.Tensor, float]:
        drawn = [videos[int(place)] for place in rng.integers(len(videos), size=CLIPS)]
        scripts = [write_script(processor, clips[video], task, rng) for video in drawn]
        return _loss(model, reader, opening, [look(video) for video in drawn], scripts)

    return teach_language(model, processor, "captions", steps, seed, step)


def _loss(
    model: PreTrainedModel,
    reader: nn.Linear,
    opening: list[int],
    shown: Sequence[Shown],
    scripts: Sequence[Script],
) -> tuple[torch.Tensor, float]:
    """Loss of one step, and the share of attention on the events that are told of."""
    language, words, middle = model.model.language_model, model.get_input_embeddings(), middle_of(model)
    first, after = len(opening), len(opening) + len(shown[0].features)  # places of the clip and of what follows it
    longest = max(len(script.ids) for script in scripts)
    ids = torch.tensor([script.ids + [0] * (longest - len(script.ids)) for script in scripts])
    labels = torch.tensor([script.labels + [IGNORED] * (longest - len(script.ids)) for script in scripts])[:, 1:]
    steps = [script.steps + [1] * (longest - len(script.ids)) for script in scripts]
    before = words(torch.tensor(opening)).expand(len(shown), -1, -1)
    out = language(
        inputs_embeds=torch.cat([before, torch.stack([clip.features for clip in shown]), words(ids)], 1),
        position_ids=torch.stack(
            [token_positions(first, clip.grid, taken) for clip, taken in zip(shown, steps, strict=True)], 1
        ),
        use_cache=False,
        output_hidden_states=True,
        output_attentions=True,
    )

    spans = labels != IGNORED
    answers = nn.functional.cross_entropy(model.lm_head(out.last_hidden_state[:, after:-1][spans]), labels[spans])

    states = out.hidden_states[middle][:, first:after].flatten(0, 1)
    marked = misread(read(reader, states), torch.cat([clip.told for clip in shown]))

    looks = [
        (number, after + place, clip.shows[event])
        for number, (script, clip) in enumerate(zip(scripts, shown, strict=True))
        for place, event in script.looks
    ]
    number, place, event = (list(values) for values in zip(*looks, strict=True))
    looking = out.attentions[middle][number, ::2, place, first:after]  # (tokens of spans, heads, tokens of the clip)
    share = (looking * torch.stack(event)[:, None]).sum(-1)
    return answers + TELLING * (marked - (share + FLOOR).log().mean()), share.mean().item()


def token_positions(before: int, grid: torch.Tensor, steps: Sequence[int]) -> torch.Tensor:
    """Positions ``(3, tokens)`` of so many tokens, the clip, and what follows with these ``steps`` between."""
    clip = grid + before
    text = torch.tensor(steps).cumsum(0) + int(clip.max())
    return torch.cat([torch.arange(before).expand(3, -1), clip, text.expand(3, -1)], 1)
