"""Greedy answers of a model to TVG, VC, AR and VD, and their scores on a set of rows."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from tqdm.auto import tqdm
from transformers import GenerationConfig, PreTrainedModel, ProcessorMixin

from data_prep.rows import Row, Window
from invert_rl.encoding import EncodedPrompt, PromptEncoder
from invert_rl.evaluation.grounding import grounding_metrics
from invert_rl.grpo.rollout import generate_completions
from invert_rl.models import never_sampled_ids
from invert_rl.tasks import TASKS, messages, video_of
from invert_rl.video.errors import VideoError
from invert_rl.video.store import FrameStore
from rewards.answers import extract_answer, parse_span
from rewards.pipelines import VerbPipeline
from rewards.verbs import ar_reward, vc_reward, vd_reward

logger = logging.getLogger(__name__)

VERB_REWARDS = {"vc": vc_reward, "ar": ar_reward, "vd": vd_reward}


@dataclass
class Prediction:
    """One answer; every annotated row gets one, whatever happened to its video."""

    id: str
    task: str
    windows: list[Window] = field(default_factory=list)
    """Predicted windows in seconds, best first; empty for verb tasks and where none could be read."""
    text: str = ""
    status: str = "ok"
    """ok, unparsable, or missing_video."""
    score: float = 0.0
    """IoU is left to the metrics; for verb tasks the reward, 0 or 1."""

    def record(self) -> dict:
        """The prediction as one JSON line of a predictions file."""
        return asdict(self)


@contextmanager
def evaluation_mode(model: PreTrainedModel) -> Iterator[None]:
    """Switch dropout off inside and restore the mode afterwards."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def predict(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    rows: Sequence[Row],
    task_name: str,
    store: FrameStore,
    pipeline: VerbPipeline | None = None,
    batch_size: int = 64,
    max_new_tokens: int = 256,
    progress: bool | None = None,
) -> list[Prediction]:
    """Answer ``task_name`` for every row by greedy decoding and score verb tasks with ``pipeline``.

    A row whose video cannot be used gets status ``missing_video``; it stays in the list.
    """
    task = TASKS[task_name]
    tokenizer = processor.tokenizer
    encoder = PromptEncoder(processor)
    ends = model.generation_config.eos_token_id
    ends = [ends] if isinstance(ends, int) else list(ends or [tokenizer.eos_token_id])
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=ends,
        suppress_tokens=never_sampled_ids(processor),
        disable_compile=True,
    )
    predictions = [Prediction(row.id, task_name) for row in rows]
    bar = tqdm(
        total=len(rows),
        desc=f"{task_name.upper():4}",
        unit="row",
        disable=None if progress is None else not progress,
    )
    with evaluation_mode(model), bar:
        for first in range(0, len(rows), batch_size):
            places: list[int] = []
            prompts: list[EncodedPrompt] = []
            for place in range(first, min(first + batch_size, len(rows))):
                chat = messages(task, rows[place])
                try:
                    prompts.append(encoder(chat, store.clip(video_of(chat))))
                    places.append(place)
                except VideoError as error:
                    logger.warning("row %s: %s", rows[place].id, error)
                    predictions[place].status = "missing_video"
            if prompts:
                completions = generate_completions(
                    model, prompts, range(len(prompts)), config, tokenizer.pad_token_id, ends
                )
                texts = tokenizer.batch_decode(completions, skip_special_tokens=True)
                for place, text in zip(places, texts, strict=True):
                    _read_answer(predictions[place], text)
            bar.update(min(batch_size, len(rows) - first))
    if task_name in VERB_REWARDS:
        scores = VERB_REWARDS[task_name](
            [prediction.text for prediction in predictions],
            [task_name] * len(rows),
            [row.meta.get("verbs", []) for row in rows],
            pipeline=pipeline,
        )
        for prediction, score in zip(predictions, scores, strict=True):
            prediction.score = float(score or 0.0)
    return predictions


def _read_answer(prediction: Prediction, text: str) -> None:
    prediction.text = text
    answer = extract_answer(text)
    if prediction.task != "tvg":
        prediction.status = "ok" if answer else "unparsable"
        return
    span = parse_span(answer) if answer is not None else None
    if span is None:
        prediction.status = "unparsable"
    else:
        prediction.windows = [span]


def metrics_of(predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
    """Metrics in percent of the predictions of any tasks on ``rows``, in any order.

    TVG gives R1@m, mIoU and n; VC, AR and VD give an accuracy under their upper-case name over the rows that have
    verbs; ``unparsable`` is the share of all answers that could not be read, ``missing_video`` the number of answers
    without a usable video.
    """
    answers = {(prediction.task, prediction.id): prediction for prediction in predictions}
    metrics: dict[str, float] = {}
    for name, task in TASKS.items():
        asked = [answers.get((name, row.id)) for row in rows if not task.needs_verbs or row.meta.get("verbs")]
        if not any(asked):
            continue
        if name == "tvg":
            metrics.update(grounding_metrics([answer.windows if answer else [] for answer in asked], rows))
        else:
            metrics[name.upper()] = 100 * sum(answer.score for answer in asked if answer) / len(asked)
    statuses = [prediction.status for prediction in predictions]
    metrics["unparsable"] = 100 * statuses.count("unparsable") / max(1, len(statuses))
    metrics["missing_video"] = statuses.count("missing_video")
    return metrics
