"""A control of an answer: the same question, the model's own thought, and nothing to see.

The thought that a model had on the true frames is put in front of its answer and every frame is grey. What it still
answers right it took from its thought, from the text and from the length of the video.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import gather_object
from transformers import PreTrainedModel, ProcessorMixin

from data_prep.files import read_jsonl, write_records
from data_prep.rows import Row
from invert_rl.encoding import EncodedPrompt, PromptEncoder, prompt_limit
from invert_rl.evaluation.jobs import encode_jobs
from invert_rl.evaluation.predict import complete_with, evaluation_mode
from invert_rl.evaluation.predictions import Prediction, read_answer, unanswered
from invert_rl.evaluation.scoring import metrics_of
from invert_rl.tasks import Preset, Task
from invert_rl.video.blank import BlankFrameStore
from invert_rl.video.prefetch import Prefetcher
from invert_rl.video.store import FrameStore

if TYPE_CHECKING:
    from invert_rl.grpo.trainer import InvertGRPOTrainer

logger = logging.getLogger(__name__)

END_OF_THOUGHT = "</think>"


def grey_metrics(name: str, trainer: InvertGRPOTrainer, rows: Sequence[Row], preset: Preset) -> dict[str, float]:
    """Metrics of the tasks that name spans with grey frames, after the thoughts of ``samples_<name>.jsonl``.

    Writes ``samples_<name>_grey.jsonl`` into the run folder and shards the rows over ranks. Empty without rows or
    samples, and, with a warning, for models that FSDP or DeepSpeed have sharded.
    """
    folder = Path(str(trainer.args.output_dir))
    state = trainer.accelerator
    state.wait_for_everyone()
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        logger.warning("grey_control does nothing with FSDP or DeepSpeed")
        return {}
    if not rows or not (folder / f"samples_{name}.jsonl").is_file():
        return {}
    seen = [record for _, record in read_jsonl(folder / f"samples_{name}.jsonl")]
    tasks = {key: task for key, task in preset.tasks.items() if task.names_spans and not task.segment}
    predictions: list[Prediction] = []
    for task in tasks.values():
        with state.autocast():
            predictions += answer_grey_frames(
                state.unwrap_model(trainer.model),
                trainer.processing_class,
                task.rows(rows)[state.process_index :: state.num_processes],
                task,
                trainer.store,
                {record["id"]: record["text"] for record in seen if record["task"] == task.name},
                trainer.args.eval_batch_size,
                trainer.args.max_completion_length,
                preset.chat_template_kwargs,
            )
    predictions = gather_object(predictions)
    if state.is_main_process:
        write_records(folder / f"samples_{name}_grey.jsonl", [prediction.record() for prediction in predictions])
    return metrics_of(predictions, rows, tasks=tasks)


def answer_grey_frames(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    rows: Sequence[Row],
    task: Task,
    store: FrameStore,
    seen: Mapping[str, str],
    batch_size: int,
    max_new_tokens: int,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> list[Prediction]:
    """Greedy answers to ``task`` with grey frames, each after the thought of ``seen``: completions by row id.

    What stands up to and including ``</think>`` is given; a completion without it, as of a preset without thoughts,
    gives nothing. The text of a prediction is the whole completion.
    """
    grey = BlankFrameStore(store.root, store.settings, store.memory_bytes / 1e6, store.directory, store.timeout)
    encoder, tokenizer = PromptEncoder(processor, chat_template_kwargs), processor.tokenizer
    limit = prompt_limit(model.config, 2 * max_new_tokens)  # a thought is given, and as much again may follow
    complete = complete_with(model, processor, max_new_tokens)
    predictions = []
    with evaluation_mode(model), Prefetcher(grey, 0) as clips:
        for first in range(0, len(rows), batch_size):
            jobs = [(task, row) for row in rows[first : first + batch_size]]
            encoded = encode_jobs(encoder, clips, limit, jobs)
            prompts, asked = encoded.prompts, unanswered(jobs, encoded.too_long)
            thoughts = [_given(seen.get(jobs[place][1].id, "")) for place in encoded.places]
            prefixes = [tokenizer(thought, add_special_tokens=False)["input_ids"] for thought in thoughts]
            if prompts:
                ids = complete([_after(prompt, prefix) for prompt, prefix in zip(prompts, prefixes, strict=True)])
                texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
                for place, thought, text in zip(encoded.places, thoughts, texts, strict=True):
                    read_answer(asked[place], thought + text, *jobs[place])
            predictions += asked
    return predictions


def _given(completion: str) -> str:
    thought, end, _ = completion.partition(END_OF_THOUGHT)
    return thought + end if end else ""


def _after(prompt: EncodedPrompt, prefix: list[int]) -> EncodedPrompt:
    types = [*prompt.mm_token_type_ids, *[0] * len(prefix)]
    return replace(prompt, input_ids=[*prompt.input_ids, *prefix], mm_token_type_ids=types)
