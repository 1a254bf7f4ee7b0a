"""The toy model's first lesson in language where answers have no thought: which frames a question is about.

A thought copies the asked verb and goes through a clip's events until one is equal (`invert_rl.toy.captions`). Without
one the model has to match the verb of a question with frames in the one step before a span's first number. Here a clip
is followed by questions about all of its events, the first as the task asks it, the others by their queries alone, and
a segment by what the inverted tasks ask about it; no question sees another one. What is told besides the answers is
what captions tell, and one thing more: the linear head that reads the verb of each group of frames is to read the asked
one where a span is written, so that both stand there alike and attention can match them. Without that it hardly does
(docs/proof.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, ProcessorMixin

from data_prep.rows import Row
from invert_rl.tasks import Task, normalise_query
from invert_rl.toy.answers import target_text
from invert_rl.toy.captions import prompt_text, told_by
from invert_rl.toy.lesson import FLOOR, TELLING, middle_of, misread, read, teach_language
from invert_rl.toy.shown import IGNORED, Seen, Shown, by_clip, look_at, see
from invert_rl.video.store import FrameStore

CLIPS, SEGMENTS = 12, 4
"""Clips and segments of a step."""
MAX_GAP = 75
"""Most positions that are left out between a query alone and its answer: what a task's prompt adds is about as long."""


@dataclass(frozen=True)
class Question:
    """A question and its answer, as they follow a clip."""

    ids: list[int]
    labels: list[int]
    """The same where a token belongs to the answer, else `IGNORED`."""
    positions: list[int]
    """Of each token, from 1 for what follows the clip."""
    tells: list[int]
    """Places of the tokens right before those of an event's span."""
    event: int
    """Number of the event that is asked for."""


def write_question(
    processor: ProcessorMixin, task: Task, row: Row, rng: np.random.Generator, alone: bool = False
) -> Question:
    """A task's question about a row, or its query ``alone``, with the answer to teach."""

    def encode(text: str) -> list[int]:
        return list(processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    question = encode("<|vision_end|>" + (normalise_query(row.query) if alone else prompt_text(task, row)))
    turn = encode("<|im_end|>\n<|im_start|>assistant\n")
    answer = encode(target_text(task, row, rng)) + encode("<|im_end|>")
    first = len(question) + len(turn)  # place of the answer's first token
    gap = int(rng.integers(MAX_GAP + 1)) if alone else 0
    positions = [1 + at + (gap if at >= len(question) else 0) for at in range(first + len(answer))]
    labels, event = [IGNORED] * first + answer, row.meta["event"]
    tells = [first + at - 1 for at, _ in told_by(answer, encode, event)] if task.names_spans else []
    return Question([*question, *turn, *answer], labels, positions, tells, event)


@dataclass(frozen=True)
class Page:
    """A clip or a segment and the questions that follow it."""

    shown: Seen
    """Nothing is told of what is not a `Shown`, that is of a segment."""
    questions: list[Question]


def teach_matching(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    rows: Sequence[Row],
    store: FrameStore,
    steps: int,
    seed: int,
    tasks: Mapping[str, Task],
) -> float:
    """Train all but the vision tower of ``model`` in place; returns the share of attention on the event at the end.

    ``rows`` are the toy world's, ``tasks`` the four tasks by name as a preset without thoughts words them. The tower
    sees each clip and segment once. The share, 0 to 1, is the mean of the last 20 steps, right before the first number
    of a span, over the heads that are told where to look. The global random state stays as it is.
    """
    forward = next(task for task in tasks.values() if task.names_spans)
    inverted = [task for task in tasks.values() if task.segment]
    clips, tower = by_clip(rows), model.model.visual
    videos = list(clips)

    @cache
    def look(video: str) -> Shown:
        return look_at(tower, processor, clips[video][0], store)

    @cache
    def segment(number: int) -> Seen:
        return see(tower, processor, store.clip(inverted[0].video(rows[number])))

    def about_clip(video: str, rng: np.random.Generator) -> Page:
        asked = [clips[video][int(place)] for place in rng.permutation(len(clips[video]))]
        questions = [write_question(processor, forward, row, rng, alone=turn > 0) for turn, row in enumerate(asked)]
        return Page(look(video), questions)

    def about_segment(number: int, rng: np.random.Generator) -> Page:
        return Page(segment(number), [write_question(processor, task, rows[number], rng) for task in inverted])

    def step(reader: nn.Linear, opening: list[int], rng: np.random.Generator) -> tuple[torch.Tensor, float]:
        pages = [about_clip(videos[int(place)], rng) for place in rng.integers(len(videos), size=CLIPS)]
        pages += [about_segment(int(number), rng) for number in rng.integers(len(rows), size=SEGMENTS)]
        return _loss(model, reader, opening, pages)

    return teach_language(model, processor, "matching", steps, seed, step)


def _loss(
    model: PreTrainedModel, reader: nn.Linear, opening: Sequence[int], pages: Sequence[Page]
) -> tuple[torch.Tensor, float]:
    """Loss of one step, and the share of attention on the event before the first number of its span."""
    language, middle = model.model.language_model, middle_of(model)
    spread = lay_out(model, opening, pages)
    out = language(
        inputs_embeds=spread.embeddings,
        position_ids=spread.positions,
        attention_mask=spread.mask,
        use_cache=False,
        output_hidden_states=True,
        output_attentions=True,
    )
    clips = [page.shown for page in pages if isinstance(page.shown, Shown)]
    loss = sum(
        cross_entropy(model.lm_head(out.last_hidden_state[of, :-1][learned]), spread.labels[of, 1:][learned])
        for of in (slice(len(clips)), slice(len(clips), None))  # clips and segments count alike
        if (learned := spread.labels[of, 1:] != IGNORED).any()
    )

    states = out.hidden_states[middle]
    shown = slice(len(opening), len(opening) + len(clips[0].features))
    told = torch.cat([clip.told for clip in clips])
    marked = misread(read(reader, states[: len(clips), shown].flatten(0, 1)), told)

    number, place, event, first = (list(values) for values in zip(*spread.looks, strict=True))
    shows = torch.stack([clips[at].shows[of] for at, of in zip(number, event, strict=True)])
    verbs = torch.stack([clips[at].verbs[of] for at, of in zip(number, event, strict=True)])
    asked, *_ = read(reader, states[number, place])
    share = (out.attentions[middle][number, ::2, place, shown] * shows[:, None]).sum(-1)  # (tokens, heads)
    looking = -(share + FLOOR).log().mean()
    return loss + TELLING * (marked + looking + cross_entropy(asked, verbs)), share[first].mean().item()


@dataclass(frozen=True)
class Spread:
    """Pages as one batch of the language model."""

    embeddings: torch.Tensor
    """``(pages, longest, width)``"""
    positions: torch.Tensor
    """``(3, pages, longest)``"""
    mask: torch.Tensor
    """``(pages, 1, longest, longest)``: 0 where a token may look, else very low."""
    labels: torch.Tensor
    """``(pages, longest)``"""
    looks: list[tuple[int, int, int, bool]]
    """Tokens right before those of a span: page, place, number of the event, whether the span begins there."""


def lay_out(model: PreTrainedModel, opening: Sequence[int], pages: Sequence[Page]) -> Spread:
    """The pages side by side, padded: each is ``opening``, what is shown, and its questions one after the other.

    A question sees what is shown and itself alone; its positions go on from what is shown, as if it were the only one.
    """
    words, before = model.get_input_embeddings(), len(opening)
    sizes = [before + len(page.shown.features) for page in pages]
    longest = max(size + sum(len(of.ids) for of in page.questions) for size, page in zip(sizes, pages, strict=True))
    embeddings, positions, labels, turns, looks = [], [], [], [], []
    for number, (size, page) in enumerate(zip(sizes, pages, strict=True)):
        ids: list[int] = []
        learned, turn, taken = [IGNORED] * size, [0] * size, []
        for asked, question in enumerate(page.questions, 1):
            first = size + len(ids)
            looks += [(number, first + at, question.event, at == question.tells[0]) for at in question.tells]
            ids += question.ids
            learned += question.labels
            turn += [asked] * len(question.ids)
            taken += question.positions
        rest = longest - size - len(ids)
        grid = page.shown.grid + before
        text = torch.tensor(taken + [0] * rest) + int(grid.max())
        positions.append(torch.cat([torch.arange(before).expand(3, -1), grid, text.expand(3, -1)], 1))
        tokens = [words(torch.tensor(opening)), page.shown.features, words(torch.tensor(ids + [0] * rest))]
        embeddings.append(torch.cat(tokens))
        labels.append(learned + [IGNORED] * rest)
        turns.append(turn + [-1] * rest)
    turn = torch.tensor(turns)
    seen = (turn[:, :, None] == turn[:, None, :]) | (turn[:, None, :] == 0)
    seen &= torch.ones(longest, longest, dtype=torch.bool).tril()
    mask = torch.zeros(seen.shape).masked_fill_(~seen, torch.finfo(torch.float32).min)
    return Spread(torch.stack(embeddings), torch.stack(positions, 1), mask[:, None], torch.tensor(labels), looks)
