"""Greedy answers of a model to TVG, VC, AR and VD, and their scores on a set of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tqdm.auto import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from data_prep.rows import Row
from invert_rl.encoding import EncodedPrompt, PromptEncoder, PromptLimit, prompt_limit
from invert_rl.evaluation.jobs import Job, encode_jobs
from invert_rl.evaluation.predictions import Prediction, read_answer, unanswered
from invert_rl.evaluation.scoring import metrics_of, score_answers
from invert_rl.evaluation_mode import evaluation_mode
from invert_rl.grpo.rollout import generate_completions
from invert_rl.models import decoding_config
from invert_rl.tasks import Task
from invert_rl.video.prefetch import Prefetcher
from invert_rl.video.store import FrameStore

__all__ = ["Answerer", "Prediction", "complete_with", "evaluation_mode", "metrics_of", "predict"]

Complete = Callable[[Sequence[EncodedPrompt]], list[list[int]]]
"""Token ids of one completion for each prompt."""


class Answerer:
    """Answers tasks a batch at a time: decodes and encodes the prompts, has them completed, reads the answers."""

    def __init__(
        self,
        processor: ProcessorMixin,
        clips: Prefetcher,
        complete: Complete,
        limit: PromptLimit,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.clips = clips
        self.complete = complete
        self.limit = limit
        self.tokenizer = processor.tokenizer
        self.encoder = PromptEncoder(processor, chat_template_kwargs)

    def __call__(self, jobs: Sequence[Job], upcoming: Sequence[Job] = ()) -> list[Prediction]:
        """One prediction per job, in their order.

        A row whose video cannot be used gets status ``missing_video``, one whose prompt does not fit ``too_long``.
        ``upcoming`` are the next jobs, whose videos are decoded while these are answered.
        """
        asked = encode_jobs(self.encoder, self.clips, self.limit, jobs, upcoming)
        predictions = unanswered(jobs, asked.too_long)
        if asked.prompts:
            texts = self.tokenizer.batch_decode(self.complete(asked.prompts), skip_special_tokens=True)
            for place, text in zip(asked.places, texts, strict=True):
                read_answer(predictions[place], text, *jobs[place])
        return predictions


def complete_with(model: PreTrainedModel, processor: ProcessorMixin, max_new_tokens: int) -> Complete:
    """Greedy completions of ``model`` by transformers, token ids up to and including the end token."""
    config = decoding_config(model, processor, max_new_tokens)

    def complete(prompts: Sequence[EncodedPrompt]) -> list[list[int]]:
        return generate_completions(
            model, prompts, range(len(prompts)), config, config.pad_token_id, config.eos_token_id
        )

    return complete


def predict(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    rows: Sequence[Row],
    task: Task,
    store: FrameStore,
    options: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    max_new_tokens: int = 256,
    progress: bool | None = None,
    decode_workers: int = 0,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> list[Prediction]:
    """Answer ``task`` for every row by greedy decoding and score the answers by its rewards with ``options``.

    A row whose video cannot be used gets status ``missing_video``, one whose prompt does not fit ``too_long``; they
    stay in the list. ``decode_workers`` processes decode the next batch while one is answered.
    """
    predictions: list[Prediction] = []
    bar = tqdm(
        total=len(rows),
        desc=f"{task.label:4}",
        unit="row",
        disable=None if progress is None else not progress,
    )
    with evaluation_mode(model), bar, Prefetcher(store, decode_workers) as clips:
        limit = prompt_limit(model.config, max_new_tokens)
        complete = complete_with(model, processor, max_new_tokens)
        answer = Answerer(processor, clips, complete, limit, chat_template_kwargs)
        for first in range(0, len(rows), batch_size):
            batch, upcoming = rows[first : first + batch_size], rows[first + batch_size : first + 2 * batch_size]
            predictions += answer([(task, row) for row in batch], [(task, row) for row in upcoming])
            bar.update(len(batch))
    score_answers(predictions, rows, {task.name: task}, options)
    return predictions
