"""The settings file of ActionFormer's repository: its defaults, and what each setting may be.

Names of settings and their defaults are facts of happyharrycn/actionformer_release (libs/core/config.py); none of its
code is here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from data_prep.errors import DataError
from invert_rl.tal.points import RANGES

DEFAULTS: dict[str, dict[str, Any]] = {
    "dataset": {
        "feat_stride": 16,
        "num_frames": 32,
        "default_fps": None,
        "input_dim": 2304,
        "num_classes": 97,
        "downsample_rate": 1,
        "max_seq_len": 2304,
        "force_upsampling": False,
        "file_prefix": None,
    },
    "model": {
        "backbone_type": "convTransformer",
        "fpn_type": "identity",
        "backbone_arch": [2, 2, 5],
        "scale_factor": 2,
        "regression_range": [list(pair) for pair in RANGES],
        "n_head": 4,
        "n_mha_win_size": -1,
        "embd_kernel_size": 3,
        "embd_dim": 512,
        "embd_with_ln": True,
        "fpn_dim": 512,
        "fpn_with_ln": True,
        "fpn_start_level": 0,
        "head_dim": 512,
        "head_kernel_size": 3,
        "head_num_layers": 3,
        "head_with_ln": True,
        "use_abs_pe": False,
        "use_rel_pe": False,
    },
    "train_cfg": {
        "center_sample": "radius",
        "center_sample_radius": 1.5,
        "loss_weight": 1.0,
        "cls_prior_prob": 0.01,
        "init_loss_norm": 2000,
        "dropout": 0.1,
        "droppath": 0.1,
        "label_smoothing": 0.0,
    },
    "test_cfg": {
        "pre_nms_thresh": 0.001,
        "pre_nms_topk": 5000,
        "iou_threshold": 0.1,
        "min_score": 0.01,
        "max_seg_num": 1000,
        "nms_method": "soft",
        "nms_sigma": 0.5,
        "duration_thresh": 0.05,
        "multiclass_nms": True,
        "voting_thresh": 0.75,
    },
}
"""What a setting is where the file is silent."""
ONLY = {
    "backbone_type": "convTransformer",
    "fpn_type": "identity",
    "scale_factor": 2,
    "embd_kernel_size": 3,
    "embd_with_ln": True,
    "fpn_with_ln": True,
    "fpn_start_level": 0,
    "head_kernel_size": 3,
    "head_with_ln": True,
    "use_rel_pe": False,
}
"""Settings of ``model`` of which one value is supported, the one that all released weights have."""
METHODS = {"soft": "gaussian", "hard": "hard"}


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _positive(value: Any) -> bool:
    return _number(value) and value > 0


def _share(value: Any) -> bool:
    return _number(value) and 0 <= value < 1


def _count(value: Any) -> bool:
    return _whole(value) and value > 0


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _arch(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 3 and all(_whole(part) and part >= 0 for part in value)


def _window(value: Any) -> bool:
    return _whole(value) or (isinstance(value, (list, tuple)) and all(map(_whole, value)))


def _ranges(value: Any) -> bool:
    pairs = isinstance(value, (list, tuple)) and all(isinstance(pair, (list, tuple)) for pair in value)
    return pairs and all(len(pair) == 2 and all(map(_number, pair)) and pair[0] < pair[1] for pair in value)


COUNT = (_count, "a whole number above 0")
POSITIVE = (_positive, "a number above 0")
NUMBER = (_number, "a number")
SHARE = (_share, "a number from 0 to below 1")
OVERLAP = (lambda value: _number(value) and 0 <= value <= 1, "a number from 0 to 1")
FLAG = (_flag, "true or false")
RULES: dict[str, dict[str, tuple[Callable[[Any], bool], str]]] = {
    "dataset": {
        "feat_stride": POSITIVE,
        "num_frames": POSITIVE,
        "default_fps": (lambda value: value is None or _positive(value), "empty or a number above 0"),
        "input_dim": (_count, "a whole number above 0 (several sets of features side by side are not supported)"),
        "num_classes": COUNT,
        "downsample_rate": COUNT,
        "max_seq_len": COUNT,
        "force_upsampling": FLAG,
        "file_prefix": (lambda value: value is None or isinstance(value, str), "empty or a text"),
    },
    "model": {
        "backbone_arch": (_arch, "three whole numbers, of embedding layers, stem blocks and halvings"),
        "regression_range": (_ranges, "a list of pairs of numbers, the lower one first"),
        "n_head": COUNT,
        "n_mha_win_size": (_window, "a whole number, or one for each level"),
        "embd_dim": COUNT,
        "fpn_dim": COUNT,
        "head_dim": COUNT,
        "head_num_layers": COUNT,
        "use_abs_pe": FLAG,
    },
    "train_cfg": {
        "center_sample": (lambda value: value in ("radius", "none"), "radius or none"),
        "center_sample_radius": POSITIVE,
        "loss_weight": NUMBER,  # -1 lets it follow the losses in training, which imported weights are not for
        "cls_prior_prob": (lambda value: _share(value) and value > 0, "a number between 0 and 1"),
        "init_loss_norm": POSITIVE,
        "dropout": SHARE,
        "droppath": SHARE,
        "label_smoothing": SHARE,
    },
    "test_cfg": {
        "pre_nms_thresh": NUMBER,
        "pre_nms_topk": COUNT,
        "iou_threshold": OVERLAP,
        "min_score": NUMBER,
        "max_seg_num": COUNT,
        "nms_sigma": POSITIVE,
        "duration_thresh": NUMBER,
        "multiclass_nms": FLAG,
        "voting_thresh": OVERLAP,
    },
}
"""What each setting may be: a check, and it in words."""


def read_settings(path: Path) -> dict[str, Any]:
    """The repository's yaml with its defaults; raises `DataError` for another file and for what is not supported."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path}: cannot read the settings ({error})") from error
    if not isinstance(content, dict) or not isinstance(content.get("dataset"), dict):
        raise DataError(f"{path}: expected ActionFormer's settings, a mapping with 'dataset' and 'model'")
    settings = {**content}
    for part, known in DEFAULTS.items():
        given = content.get(part) or {}
        if not isinstance(given, dict):
            raise DataError(f"{path}: {part} must be a mapping")
        settings[part] = {**known, **given}
    for part, rules in RULES.items():
        for name, (fits, wanted) in rules.items():
            value = settings[part][name]
            if not fits(value):
                raise DataError(f"{path}: {part}.{name} must be {wanted}, not {value!r}")
    subsets = settings.get("val_split")
    if subsets is not None and not (
        _text(subsets) or (isinstance(subsets, list) and subsets and all(map(_text, subsets)))
    ):
        raise DataError(f"{path}: val_split must be names of subsets, not {subsets!r}")
    model = settings["model"]
    for name, value in ONLY.items():
        if model[name] != value:
            raise DataError(f"{path}: model.{name} is {model[name]!r}; only {value!r} is supported")
    if not model["embd_dim"] == model["fpn_dim"] == model["head_dim"]:
        raise DataError(f"{path}: embd_dim, fpn_dim and head_dim must be equal")
    if settings["test_cfg"]["nms_method"] not in METHODS:
        raise DataError(f"{path}: test_cfg.nms_method must be one of {', '.join(METHODS)}")
    _check_levels(model, settings["dataset"]["max_seq_len"], path)
    return settings


def _check_levels(model: dict[str, Any], rows: int, path: Path) -> None:
    """Raise `DataError` where there is not one number per level, or ``max_seq_len`` has no whole chunks of a window."""
    levels, windows = 1 + model["backbone_arch"][2], model["n_mha_win_size"]
    windows = [windows] * levels if isinstance(windows, int) else windows
    for name, values in (("n_mha_win_size", windows), ("regression_range", model["regression_range"])):
        if len(values) != levels:
            raise DataError(f"{path}: model.{name} has {len(values)} entries, but backbone_arch makes {levels} levels")
    for level, window in enumerate(windows):
        chunk = 2**level * (window // 2 * 2 if window > 1 else 1)
        if rows % chunk:
            raise DataError(
                f"{path}: dataset.max_seq_len must be a multiple of {chunk}, which level {level} with a window of "
                f"{window} needs; it is {rows}"
            )
