"""Greedy answers of a model in training, by the engine that makes its rollouts, shared out over ranks.

Before, during and after a run alike: transformers under the run's autocast, whole or sharded (FSDP2, ZeRO-3), or vLLM.
Nothing that training depends on is touched: no random number is drawn and the model's mode is put back.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import Trainer
from trl.models.utils import unwrap_model_for_generation

from data_prep.progress import progress
from data_prep.rows import Row
from invert_rl.encoding import EncodedPrompt, PromptEncoder, prompt_limit
from invert_rl.evaluation.jobs import batches_of, encode_jobs, jobs_of, key_of
from invert_rl.evaluation.predict import Complete
from invert_rl.evaluation.predictions import Prediction, read_answer, unanswered
from invert_rl.evaluation.scoring import score_answers
from invert_rl.evaluation_mode import evaluation_mode
from invert_rl.grpo.rollout import generate_completions
from invert_rl.grpo.scoring_trainer import ScoringTrainer
from invert_rl.models import decoding_config
from invert_rl.tasks import Preset
from invert_rl.video.prefetch import Prefetcher

logger = logging.getLogger(__name__)


def answer_rows(
    trainer: Trainer, rows: Sequence[Row], preset: Preset, options: Mapping[str, Any], what: str = "evaluate"
) -> list[Prediction]:
    """The answers of a trainer's model to all tasks of ``preset``, scored with ``options``; the same on all ranks.

    A row whose video cannot be used gets status ``missing_video``, one whose prompt does not fit ``too_long``. Prompts
    go in batches of ``eval_batch_size`` on each rank, halved where a GPU has no memory for them.
    """
    state = trainer.accelerator
    jobs = jobs_of(list(preset.tasks.values()), rows)
    encoder = PromptEncoder(trainer.processing_class, preset.chat_template_kwargs)
    engine = getattr(trainer.args, "vllm_max_model_length", None)
    limit = prompt_limit(trainer.model.config, trainer.args.max_completion_length, engine=engine)
    tokenizer = trainer.processing_class.tokenizer
    batches = batches_of(jobs, trainer.args.eval_batch_size * state.num_processes)
    mine = [batch[state.process_index :: state.num_processes] for batch in batches]
    predictions: list[Prediction] = []
    clips = Prefetcher(trainer.store, trainer.args.dataloader_num_workers)
    shown = progress(mine, what, total=len(mine)) if state.is_main_process else mine
    with clips, greedy_engine(trainer) as complete:
        for number, batch in enumerate(shown, start=1):
            upcoming = mine[number] if number < len(mine) else []
            asked = encode_jobs(encoder, clips, limit, batch, upcoming)
            answers = unanswered(batch, asked.too_long)
            for place, ids in zip(asked.places, complete(asked.prompts), strict=True):
                read_answer(answers[place], tokenizer.decode(ids, skip_special_tokens=True), *batch[place])
            score_answers(answers, [row for _, row in batch], preset.tasks, options)
            predictions += answers
    found = {(answer.task, answer.id): answer for answer in gather_object(predictions)}
    return [found[key_of(job)] for job in jobs]


@contextmanager
def greedy_engine(trainer: Trainer) -> Iterator[Complete]:
    """One greedy completion for each of the prompts of a batch, which may be none; all ranks call it equally often."""
    if getattr(trainer, "use_vllm", False):
        trainer.load_weights_into_engine()
        shared = trainer.args.vllm_mode == "colocate" and trainer.args.vllm_tensor_parallel_size > 1
        engine = trainer.complete_greedily
        yield Together(engine) if shared else lambda prompts: engine(prompts) if prompts else []
        return
    state = trainer.accelerator
    together = (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled) and state.num_processes > 1
    unwrapped = unwrap_model_for_generation(
        trainer.model_wrapped,
        state,
        gather_deepspeed3_params=getattr(trainer.args, "ds3_gather_for_generation", True),
        gradient_checkpointing_kwargs=trainer.args.gradient_checkpointing_kwargs,
    )
    with unwrapped as model, evaluation_mode(model), state.autocast():
        config = decoding_config(model, trainer.processing_class, trainer.args.max_completion_length)

        def generate(prompts: Sequence[EncodedPrompt]) -> list[list[int]]:
            given = (model, prompts, range(len(prompts)), config, config.pad_token_id, config.eos_token_id)
            if not isinstance(trainer, ScoringTrainer):
                return generate_completions(*given)
            trainer.vision.start_round()  # what is over the budget goes, batch by batch
            return generate_completions(*given, videos_of=trainer.vision.of)

        yield Together(generate) if together else Halving(generate)


class Together:
    """Completes on all ranks at once: their forwards gather each other's weights, so that none may be missing.

    A rank without a prompt of its own goes along with another's.
    """

    def __init__(self, complete: Complete) -> None:
        self.complete = complete

    def __call__(self, prompts: Sequence[EncodedPrompt]) -> list[list[int]]:
        given = gather_object([len(prompts)])
        if not any(given):
            return []
        if all(given):
            return self.complete(prompts)
        spare = next(prompt for prompt in gather_object([prompts[0] if prompts else None]) if prompt is not None)
        return self.complete(prompts or [spare])[: len(prompts)]


class Halving:
    """Completes as many prompts at a time as fit into the GPU's memory: half as many after each time they do not."""

    def __init__(self, complete: Complete) -> None:
        self.complete = complete
        self.most: int | None = None

    def __call__(self, prompts: Sequence[EncodedPrompt]) -> list[list[int]]:
        answers: list[list[int]] = []
        while len(answers) < len(prompts):
            batch = prompts[len(answers) :][: self.most]
            try:
                answers += self.complete(batch)
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise
                self.most = len(batch) // 2
                logger.warning("out of GPU memory with %d prompts at a time: on with %d", len(batch), self.most)
            if self.most is not None and torch.cuda.is_available():
                torch.cuda.empty_cache()
        return answers
