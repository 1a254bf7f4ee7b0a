"""ActionVLM as the arguments say, and the optimizer's groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from data_prep.errors import DataError
from invert_rl.actionvlm.config import ActionVLMArguments
from invert_rl.actionvlm.language import LanguageModel
from invert_rl.actionvlm.llm import TINY, add_lora, language_width, load_language_model, tiny_language_model
from invert_rl.actionvlm.model import ActionVLM, ActionVLMConfig
from invert_rl.actionvlm.prompt import INSTRUCTION, WRITE_WEIGHT, build_prompt
from invert_rl.actionvlm.vision import VideoEncoder
from invert_rl.tal.detector import DetectorConfig
from invert_rl.tal.nms import Suppression
from invert_rl.tal.points import EPIC_RANGES, RANGES
from invert_rl.tal.pyramid import PyramidConfig


def build_model(
    args: ActionVLMArguments,
    classes: Sequence[str],
    descriptions: Mapping[str, str] | None,
    feature_width: int,
    evidence_width: int = 0,
    vision: VideoEncoder | None = None,
) -> tuple[ActionVLM, PreTrainedTokenizerBase | None]:
    """The model, and the language model's tokenizer (None for ``streams: vision``)."""
    language, tokenizer = None, None
    width = args.tiny_width if args.llm == TINY else language_width(args.llm, args.llm_revision)
    if args.streams != "vision":
        if args.llm == TINY:
            texts = [INSTRUCTION + ask(args), "0123456789 - , :", *classes, *(descriptions or {}).values()]
            llm, tokenizer = tiny_language_model(texts, args.seed, args.tiny_width, args.tiny_layers)
        else:
            llm, tokenizer = load_language_model(args.llm, args.llm_revision, args.llm_dtype)
        if args.lora_rank:
            add_lora(llm, args.lora_rank, args.lora_alpha, args.lora_dropout)
        else:
            llm.float()
        prompt = build_prompt(tokenizer, classes, descriptions, args.prompt_position, ask(args))
        digits = digit_ids(tokenizer) if args.lambda_source == "text" else ()
        end = int(tokenizer.eos_token_id)
        language = LanguageModel(llm, prompt, end, args.token_layout, args.feature_tokens, digits)
    config = ActionVLMConfig(
        detector=detector_config(args, len(classes), width),
        feature_width=feature_width,
        evidence_width=evidence_width,
        streams=args.streams,
        fixed_weight=args.fixed_lambda,
        weight_source=args.lambda_source,
        text_weight=args.text_weight,
        advantage_weight=args.advantage_weight,
        granularity=args.advantage_granularity,
        advantage_scale=args.advantage_scale,
        advantage_bias=args.advantage_bias,
        hold_epochs=args.advantage_hold_epochs,
    )
    return ActionVLM(config, language, vision), tokenizer


def ask(args: ActionVLMArguments) -> str:
    """What is asked beside the instruction."""
    return WRITE_WEIGHT if args.lambda_source == "text" else ""


def digit_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens of 0 to 9; raises `DataError` where a digit is not one token."""
    found = [tokenizer(str(digit), add_special_tokens=False)["input_ids"] for digit in range(10)]
    if any(len(ids) != 1 for ids in found):
        raise DataError("lambda_source text: this tokenizer has no token for each digit; take another llm")
    return [int(ids[0]) for ids in found]


def detector_config(args: ActionVLMArguments, num_classes: int, width: int) -> DetectorConfig:
    """The detection head for features of ``width`` channels."""
    published = EPIC_RANGES if args.regression_ranges == "epic" else RANGES
    last = args.head_levels - 1
    ranges = (*published[:last], (published[last][0], published[-1][1]))
    return DetectorConfig(
        pyramid=PyramidConfig(
            input_width=width,
            width=args.head_width,
            heads=args.head_heads,
            levels=args.head_levels,
            window=args.attention_window,
        ),
        num_classes=num_classes,
        ranges=ranges,
        regression_weight=args.regression_weight,
        label_smoothing=args.label_smoothing,
        initial_positives=args.initial_positives,
        suppression=Suppression(sigma=args.nms_sigma, per_class=args.nms_per_class, max_segments=2000),
    )


def parameter_groups(model: ActionVLM, args: ActionVLMArguments) -> list[dict[str, Any]]:
    """Groups for AdamW: the head, the language model and the vision encoder, each with and without weight decay.

    Biases, norms and the scales of residual branches do not decay (ActionFormer).
    """
    rates = {
        "head": (args.learning_rate, args.weight_decay),
        "llm": (args.llm_learning_rate, args.llm_weight_decay),
        "vision": (args.vision_learning_rate, args.weight_decay),
    }
    decaying = {
        f"{prefix}.weight" if prefix else "weight"
        for prefix, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    }
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, value in model.named_parameters():
        if value.requires_grad:
            part = "llm" if name.startswith("language.llm.") else "vision" if name.startswith("vision.") else "head"
            groups.setdefault((part, name in decaying), []).append(value)
    return [
        {"params": values, "lr": rates[part][0], "weight_decay": rates[part][1] if decays else 0.0}
        for (part, decays), values in groups.items()
    ]
