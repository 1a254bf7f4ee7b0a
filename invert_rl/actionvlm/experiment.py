"""A run's parts as the recipe puts them together: data, model, trainer, tests, tables."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase, set_seed
from transformers.trainer_utils import SaveStrategy

from data_prep.files import write_records
from invert_rl.actionvlm.alternation import Alternation
from invert_rl.actionvlm.build import ask, build_model, parameter_groups
from invert_rl.actionvlm.config import ActionVLMArguments
from invert_rl.actionvlm.data import ActionData, Batches, read_data
from invert_rl.actionvlm.metrics import (
    GROUPS,
    ambiguity,
    hallucination_rates,
    lap,
    mean_weights,
    read_ambiguous_clips,
    read_groups,
)
from invert_rl.actionvlm.model import ActionVLM
from invert_rl.actionvlm.planted import planted_data, planted_groups
from invert_rl.actionvlm.predict import Detections, detect_videos, results, write_texts
from invert_rl.actionvlm.prompt import DESCRIPTIONS, build_prompt, deranged, read_descriptions
from invert_rl.actionvlm.vision import VideoEncoder, load_video_encoder
from invert_rl.evaluation.detection.scoring import score_results
from invert_rl.tal.training import SupervisedTrainer

ANSWERS = "answers.jsonl"
"""What the language model wrote about each test video, in a run folder."""
Results = dict[str, list[dict[str, Any]]]
"""Detections of each video, as in a results file."""


@dataclass
class Experiment:
    """Data, model and what belongs to them."""

    args: ActionVLMArguments
    data: ActionData
    model: ActionVLM
    tokenizer: PreTrainedTokenizerBase | None
    descriptions: dict[str, str] | None
    groups: dict[str, list[str]]
    """Classes that are reported together."""

    def trainer(self) -> SupervisedTrainer:
        """The trainer of the alternation that the arguments ask for."""
        return SupervisedTrainer(self.model, self.batches(), self.args, parameter_groups(self.model, self.args))

    def batches(self) -> Batches:
        """Training batches; answers only where they are taught."""
        args = self.args
        schedule = Alternation(
            videos=len(self.data.train),
            batch_size=args.per_device_train_batch_size,
            parts=args.world_size * args.gradient_accumulation_steps,
            seed=args.seed,
            alternate=args.alternate and args.streams == "both",
            warmup_epochs=args.language_warmup_epochs if args.streams == "both" else 0,
        )
        taught = self.tokenizer if args.text_weight > 0 else None
        texts = self.descriptions if args.answer_style == "descriptions" else None
        return Batches(self.data, schedule, args.window, taught, texts, args.augment)


def load_data(args: ActionVLMArguments) -> tuple[ActionData, VideoEncoder | None]:
    """The data that the arguments name, generated without ``train_annotations``, and the vision encoder if any."""
    if args.train_annotations is None:
        return planted_data(Path(args.output_dir) / "planted", args.planted_seed), None
    vision = None
    if args.video_root is not None and args.vision_model is not None:
        vision = load_video_encoder(args.vision_model, args.frame_size)
    return read_data(args, vision.width if vision is not None else 0), vision


def build(args: ActionVLMArguments, data: ActionData, vision: VideoEncoder | None = None) -> Experiment:
    """The model of ``args.seed`` for ``data``."""
    texts = None if args.descriptions is None else shipped(args.descriptions, DESCRIPTIONS)
    descriptions = None if texts is None else read_descriptions(texts, data.classes)
    set_seed(args.seed)
    model, tokenizer = build_model(args, data.classes, descriptions, data.feature_width, data.evidence_width, vision)
    if args.class_groups is not None:
        groups = read_groups(shipped(args.class_groups, GROUPS), data.classes)
    else:
        groups = planted_groups(data.classes) if args.train_annotations is None else {}
    run = Experiment(args, data, model, tokenizer, descriptions, groups)
    if args.max_steps <= 0:
        args.max_steps = round(args.num_train_epochs * run.batches().schedule.steps_per_epoch)
    return run


def shipped(name: str, folder: Path) -> Path:
    """The file that a setting means: one that comes with the package by its bare name, or the path as it is."""
    own = folder / f"{name}.json"
    return own if own.is_file() else Path(name)


def evaluate(run: Experiment, detections: Sequence[Detections]) -> dict[str, float]:
    """Metrics of the test set as fractions: average mAP, mAP at each threshold, and of each group of classes.

    ``<group>/average_mAP`` and ``<group>/mLA``, the mean λ over its frames (table 3); ``mLA`` is over all actions.
    """
    data = run.data
    scored = score_results(
        data.truth, results(data, detections), data.test_subset, run.args.protocol, run.args.thresholds
    )
    metrics = scored.metrics
    seen = [(video, found) for video, found in zip(data.test, detections, strict=True) if found.seen]
    videos = [video for video, _ in seen]
    weights = mean_weights(videos, [found.weight for _, found in seen], len(data.classes))
    advantages = mean_weights(videos, [found.advantage for _, found in seen], len(data.classes))
    metrics["mLA"] = float(weights[:-1].nanmean())
    metrics["background/mLA"] = float(weights[-1])
    for group, names in run.groups.items():
        rows = [scored.result.classes.index(name) for name in names if name in scored.result.classes]
        ids = [data.classes.index(name) for name in names if name in data.classes]
        if rows and ids:
            metrics[f"{group}/average_mAP"] = float(scored.result.ap[rows].mean())
            metrics[f"{group}/mLA"] = float(weights[ids].nanmean())
            metrics[f"{group}/advantage"] = float(advantages[ids].nanmean())
    return metrics


def score_test_set(run: Experiment) -> tuple[dict[str, float], Results]:
    """Metrics of the test videos (see `evaluate`), with those of ambiguous clips where given, and the detections."""
    detections = detect_videos(run.model, run.data, run.args.window, run.args.overlap)
    metrics = evaluate(run, detections)
    found = results(run.data, detections)
    if run.args.ambiguous_clips is not None:
        metrics |= ambiguity(found, read_ambiguous_clips(run.args.ambiguous_clips))
    return metrics, found


def bias_report(run: Experiment, aligned: float) -> dict[str, float]:
    """LAP against an ``aligned`` average mAP, and the hallucination rates where texts are asked for."""
    report: dict[str, float] = {}
    language = run.model.language
    if language is None or run.tokenizer is None:
        return report
    if run.args.lap and run.descriptions is not None:
        own = language.prompt
        language.prompt = build_prompt(
            run.tokenizer, run.data.classes, deranged(run.descriptions), run.args.prompt_position, ask(run.args)
        )
        conflict = score_test_set(run)[0]["average_mAP"]
        language.prompt = own
        report |= {"conflict/average_mAP": conflict, "LAP": lap(aligned, conflict)}
    if run.args.text_tokens:
        texts = write_texts(run.model, run.data, run.tokenizer, run.args.window, run.args.text_tokens)
        records = [{"video": video, "text": text} for video, text in texts.items()]
        write_records(Path(run.args.output_dir) / ANSWERS, records)
        report |= {f"hallucination/{name}": rate for name, rate in hallucination_rates(texts).items()}
    return report


def control_arguments(args: ActionVLMArguments) -> ActionVLMArguments:
    """The same settings for a control, which logs into a folder of its own and saves nothing."""
    control = copy.copy(args)
    control.output_dir = str(Path(args.output_dir) / "shuffled")
    control.save_strategy = SaveStrategy.NO
    return control
