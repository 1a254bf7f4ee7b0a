"""A model's answers to multiple-choice questions, one pass or two (sequential action prediction)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import nn

from data_prep.progress import progress
from data_prep.rows import Row
from invert_rl.evaluation_mode import evaluation_mode
from invert_rl.grpo.rollout import only_what_is_asked
from invert_rl.llavaction.answers.appending import AppendingScorer
from invert_rl.llavaction.answers.choices import Choice, parse_choice
from invert_rl.llavaction.data import SampleEncoder
from invert_rl.llavaction.encode import Encoded
from invert_rl.llavaction.prompts import choice_prompt
from invert_rl.llavaction.questions.several import parse_several
from invert_rl.llavaction.views import Sample, ViewSettings, choice_text, priors_of
from invert_rl.video.errors import VideoError
from invert_rl.video.ref import VideoRef

logger = logging.getLogger(__name__)


MISSING = "missing_video"


@dataclass(frozen=True)
class Answer:
    """What a model said to one question."""

    id: str
    text: str
    choice: Choice
    option: str = ""
    """Text of the option that was chosen; empty if none was."""
    status: str = "ok"
    """"ok", "unparsable" or "missing_video"."""
    places: tuple[int, ...] = ()
    """Of all options that were chosen, where more than one can be right."""

    def record(self, task: str = "mqa") -> dict[str, Any]:
        """As one JSON line."""
        return {
            "id": self.id,
            "task": task,
            "text": self.text,
            "choice": self.choice.place,
            "by": self.choice.by,
            "option": self.option,
            "status": self.status,
        } | ({"choices": list(self.places)} if self.places else {})


def answer_of(record: Mapping[str, Any]) -> Answer:
    """The answer of a line of `Answer.record`."""
    choice = Choice(record["choice"], record["by"])
    places = tuple(record.get("choices", ()))
    return Answer(record["id"], record["text"], choice, record["option"], record["status"], places)


class QuestionAnswerer:
    """Asks a model questions in batches, greedily and with a cache.

    Args:
        model: from `load_action_model`, possibly with LoRA.
        encode: the same as in training, or one with other prompts.
        batch_size: questions at a time.
        max_new_tokens: most tokens of an answer.
        rank, ranks: of this process; questions are shared out and answers gathered.
        likeliest: do not generate, but take the option whose text, as training has it, has the lowest mean
            cross-entropy: every answer can be read.
    """

    def __init__(
        self,
        model: nn.Module,
        encode: SampleEncoder,
        batch_size: int = 32,
        max_new_tokens: int = 32,
        rank: int = 0,
        ranks: int = 1,
        likeliest: bool = False,
    ) -> None:
        self.model, self.encode = model, encode
        self.batch_size, self.max_new_tokens = batch_size, max_new_tokens
        self.rank, self.ranks = rank, ranks
        self.likeliest = likeliest

    def __call__(self, rows: Sequence[Row], texts: Mapping[str, str] | None = None) -> dict[str, Answer]:
        """Answers by row id; with ``texts``, by segment id, the actions before a row are named by these."""
        answers: list[Answer] = []
        self.each(rows, texts, answers.extend)
        if self.ranks > 1:
            answers = gather_object(answers)
        return {answer.id: answer for answer in answers}

    def each(
        self, rows: Sequence[Row], texts: Mapping[str, str] | None, keep: Callable[[Sequence[Answer]], object]
    ) -> None:
        """Answer this rank's share of the rows and hand the answers of each batch to ``keep``."""
        mine = list(rows)[self.rank :: self.ranks]
        batches = range(0, len(mine), self.batch_size)
        for first in progress(batches, "questions", total=len(batches)):
            keep(self._batch(mine[first : first + self.batch_size], texts))

    def _batch(self, rows: Sequence[Row], texts: Mapping[str, str] | None) -> list[Answer]:
        answers, encoded, asked = [], [], []
        for row in rows:
            try:
                encoded.append(self.encode(question_sample(row, self.encode.settings, texts), row, False))
                asked.append(row)
            except VideoError as error:
                logger.warning("row %s: %s", row.id, error)
                answers.append(Answer(row.id, "", Choice(None, None), status=MISSING))
        for places in self.encode.encoder.together(encoded):
            said = self._say([encoded[place] for place in places], [asked[place] for place in places])
            answers += [read_answer(asked[place], text) for place, text in zip(places, said, strict=True)]
        return answers

    def _say(self, encoded: Sequence[Encoded], rows: Sequence[Row]) -> list[str]:
        """What the model answers to each prompt."""
        with evaluation_mode(self.model):
            if self.likeliest:
                return [self._likeliest(item, row) for item, row in zip(encoded, rows, strict=True)]
            return self._generate(encoded)

    def _likeliest(self, encoded: Encoded, row: Row) -> str:
        options = row.meta["options"]
        said = [choice_text(place, options, self.encode.settings.answer_format) for place in range(len(options))]
        return said[int(AppendingScorer(self.model, self.encode, said).after(encoded).argmin())]

    def _generate(self, encoded: Sequence[Encoded]) -> list[str]:
        tokenizer = self.encode.encoder.tokenizer
        device = next(self.model.parameters()).device
        batch = {n: v.to(device) for n, v in self.encode.encoder.batch(encoded, labels=False).items()}
        with torch.no_grad(), only_what_is_asked(self.model):
            output = self.model.generate(
                **batch,
                max_new_tokens=self.max_new_tokens,
                do_sample=False,
                use_cache=True,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=self.encode.encoder.end_id,
                suppress_tokens=self.encode.encoder.never_answered(),
            )
        return tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)


def question_sample(row: Row, settings: ViewSettings, texts: Mapping[str, str] | None = None) -> Sample:
    """The question of a row as it is asked at test time, naming the actions before it if ``texts`` has both."""
    priors = priors_of(row, texts) if texts is not None else []
    several = "answers" in row.meta
    prompt = choice_prompt(row.meta["options"], settings.perspective, priors, settings.prompt_style, several)
    return Sample("mqa", prompt, "", VideoRef(row.video, *row.window), has_class=False)


def read_answer(row: Row, text: str) -> Answer:
    """A generated text as the answer to a row's question."""
    if "answers" in row.meta:
        places = parse_several(text, row.meta["options"])
        status = "ok" if places else "unparsable"
        return Answer(row.id, text, Choice(None, None), status=status, places=places)
    choice = parse_choice(text, row.meta["options"])
    if choice.place is None:
        return Answer(row.id, text, choice, status="unparsable")
    return Answer(row.id, text, choice, row.meta["options"][choice.place])


def missing_of(answers: Mapping[str, Answer]) -> set[str]:
    """Ids of the rows whose clip could not be shown."""
    return {identity for identity, answer in answers.items() if answer.status == MISSING}


def sequential_answers(
    ask: Callable[[Sequence[Row], Mapping[str, str]], Mapping[str, Answer]],
    rows: Sequence[Row],
    first: Mapping[str, Answer],
) -> tuple[dict[str, Answer], int]:
    """Sequential action prediction: each question names the model's own predictions of the two clips before (4.2).

    ``first`` are the answers without them. A row keeps its first answer where the two clips before are not both among
    the rows with a readable answer. Returns the answers and how many were asked again.
    """
    texts = {identity: answer.option for identity, answer in first.items() if answer.option}
    again = [row for row in rows if priors_of(row, texts)]
    return {**first, **ask(again, texts)}, len(again)
