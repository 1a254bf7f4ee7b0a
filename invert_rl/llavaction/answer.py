"""A model's answers to multiple-choice questions, one pass or two (sequential action prediction)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import nn

from data_prep.progress import progress
from data_prep.rows import Row
from invert_rl.grpo.rollout import only_what_is_asked
from invert_rl.llavaction.choices import Choice, parse_choice
from invert_rl.llavaction.data import SampleEncoder
from invert_rl.llavaction.prompts import choice_prompt
from invert_rl.llavaction.views import Sample, priors_of
from invert_rl.video.errors import VideoError
from invert_rl.video.ref import VideoRef

logger = logging.getLogger(__name__)


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

    def record(self) -> dict[str, Any]:
        """As one JSON line."""
        return {
            "id": self.id,
            "task": "mqa",
            "text": self.text,
            "choice": self.choice.place,
            "by": self.choice.by,
            "option": self.option,
            "status": self.status,
        }


class QuestionAnswerer:
    """Asks a model questions in batches, greedily and with a cache.

    Args:
        model: from `load_action_model`, possibly with LoRA.
        encode: the same as in training, or one with other prompts.
        batch_size: questions at a time.
        max_new_tokens: most tokens of an answer.
        rank, ranks: of this process; questions are shared out and answers gathered.
    """

    def __init__(
        self,
        model: nn.Module,
        encode: SampleEncoder,
        batch_size: int = 32,
        max_new_tokens: int = 32,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.model, self.encode = model, encode
        self.batch_size, self.max_new_tokens = batch_size, max_new_tokens
        self.rank, self.ranks = rank, ranks

    def __call__(self, rows: Sequence[Row], texts: Mapping[str, str] | None = None) -> dict[str, Answer]:
        """Answers by row id; with ``texts``, by segment id, the actions before a row are named by these."""
        mine = list(rows)[self.rank :: self.ranks]
        answers: list[Answer] = []
        training = self.model.training
        self.model.eval()
        batches = range(0, len(mine), self.batch_size)
        for first in progress(batches, "questions", total=len(batches)):
            answers += self._batch(mine[first : first + self.batch_size], texts)
        self.model.train(training)
        if self.ranks > 1:
            answers = gather_object(answers)
        return {answer.id: answer for answer in answers}

    def _batch(self, rows: Sequence[Row], texts: Mapping[str, str] | None) -> list[Answer]:
        answers, encoded, asked = [], [], []
        for row in rows:
            try:
                encoded.append(self.encode(question_sample(row, self.encode.settings.perspective, texts), row, False))
                asked.append(row)
            except VideoError as error:
                logger.warning("row %s: %s", row.id, error)
                answers.append(Answer(row.id, "", Choice(None, None), status="missing_video"))
        if not encoded:
            return answers
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
        said = tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        return answers + [read_answer(row, text) for row, text in zip(asked, said, strict=True)]


def question_sample(row: Row, perspective: str, texts: Mapping[str, str] | None = None) -> Sample:
    """The question of a row as it is asked at test time, naming the actions before it if ``texts`` has both."""
    priors = priors_of(row, texts) if texts is not None else []
    prompt = choice_prompt(row.meta["options"], perspective, priors)
    return Sample("mqa", prompt, "", VideoRef(row.video, *row.window), has_class=False)


def read_answer(row: Row, text: str) -> Answer:
    """A generated text as the answer to a row's question."""
    choice = parse_choice(text, row.meta["options"])
    if choice.place is None:
        return Answer(row.id, text, choice, status="unparsable")
    return Answer(row.id, text, choice, row.meta["options"][choice.place])


def sequential_answers(
    ask: QuestionAnswerer, rows: Sequence[Row], first: Mapping[str, Answer] | None = None
) -> tuple[dict[str, Answer], int]:
    """Sequential action prediction: each question names the model's own predictions of the two clips before (4.2).

    ``first`` are the answers without them, asked here if they are not given. A row keeps its first answer where the
    two clips before are not both among the rows with a readable answer. Returns the answers and how many were asked
    again.
    """
    answers = dict(ask(rows) if first is None else first)
    texts = {identity: answer.option for identity, answer in answers.items() if answer.option}
    again = [row for row in rows if priors_of(row, texts)]
    return answers | ask(again, texts), len(again)
