"""OpenTAD's ActionFormer: the repository's Python settings, which are read and never run, and its weights.

Names of settings and weights are facts of sming256/OpenTAD (configs/actionformer, opentad/models); none of its code is
here. Its network is ActionFormer's but for two points: rows of padding are 0 also after the norms of convolutions, and
these norms have an epsilon of 1e-6.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep.errors import DataError
from data_prep.files import read_text
from invert_rl.tal.actionformer import attention_window
from invert_rl.tal.checkpoint import SavedDetector
from invert_rl.tal.detector import DetectorConfig
from invert_rl.tal.features import Layout
from invert_rl.tal.nms import Suppression
from invert_rl.tal.pyramid import PyramidConfig

BASES, DELETE = "_base_", "_delete_"
RENAMED = (
    (r"projection\.embed\.(\d+)\.conv\.", r"pyramid.embedding.\1.conv."),
    (r"projection\.embed\.(\d+)\.norm\.", r"pyramid.embedding_norms.\1."),
    (r"projection\.(stem|branch)\.(\d+)\.ln1\.", r"pyramid.\1.\2.norm."),
    (r"projection\.(stem|branch)\.(\d+)\.ln2\.", r"pyramid.\1.\2.mlp_norm."),
    (r"projection\.(stem|branch)\.(\d+)\.mlp\.", r"pyramid.\1.\2.mlp."),
    (r"projection\.(stem|branch)\.(\d+)\.attn\.(\w+)_conv\.conv\.", r"pyramid.\1.\2.attention.convs.\3.conv."),
    (r"projection\.(stem|branch)\.(\d+)\.attn\.(\w+)_norm\.", r"pyramid.\1.\2.attention.norms.\3."),
    (r"projection\.(stem|branch)\.(\d+)\.attn\.proj\.", r"pyramid.\1.\2.attention.output."),
    (r"projection\.(stem|branch)\.(\d+)\.attn\.(query|key|value)\.", r"pyramid.\1.\2.attention.projections.\3."),
    (r"projection\.(stem|branch)\.(\d+)\.drop_path_attn\.", r"pyramid.\1.\2.attention_path."),
    (r"projection\.(stem|branch)\.(\d+)\.drop_path_mlp\.", r"pyramid.\1.\2.mlp_path."),
    (r"neck\.fpn_norms\.(\d+)\.", r"pyramid.level_norms.\1."),
    (r"rpn_head\.cls_convs\.(\d+)\.conv\.", r"classifier.convs.\1.conv."),
    (r"rpn_head\.cls_convs\.(\d+)\.norm\.", r"classifier.norms.\1."),
    (r"rpn_head\.cls_head\.", r"classifier.last.conv."),
    (r"rpn_head\.reg_convs\.(\d+)\.conv\.", r"regressor.convs.\1.conv."),
    (r"rpn_head\.reg_convs\.(\d+)\.norm\.", r"regressor.norms.\1."),
    (r"rpn_head\.reg_head\.", r"regressor.last.conv."),
)
"""OpenTAD's names of weights, and ours."""
SCALE = r"rpn_head\.scale\.(\d+)\.scale"
IGNORED = ("rpn_head.loss_normalizer",)
"""Weights that testing does not need."""
TYPES = {"model": "ActionFormer", "projection": "Conv1DTransformerProj", "neck": "FPNIdentity"}
"""Parts of ``model`` of which one type is supported."""


def read_config(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The settings of an OpenTAD config with those of its ``_base_`` files underneath.

    The file is parsed, not run: assignments of literals, ``dict(...)``, names assigned before and sums of these. Raises
    `DataError` for anything else, also for a file that is underneath itself; ``above`` are those on the way to it.
    """
    if path.resolve() in above:
        raise DataError(f"{above[-1]}: {BASES} leads back to {path}")
    try:
        tree = ast.parse(read_text(path), str(path))
    except SyntaxError as error:
        raise DataError(f"{path}: line {error.lineno}: not Python ({error.msg})") from error
    known: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # a docstring
        if not isinstance(node, ast.Assign) or len(node.targets) != 1 or not isinstance(node.targets[0], ast.Name):
            raise DataError(f"{path}: line {node.lineno}: only assignments of values are read, nothing is run")
        known[node.targets[0].id] = _value(node.value, known, path)
    bases = known.pop(BASES, [])
    settings: dict[str, Any] = {}
    for base in [bases] if isinstance(bases, str) else bases:
        settings = merged(settings, read_config(path.parent / base, (*above, path.resolve())))
    return merged(settings, known)


def _value(node: ast.expr, known: Mapping[str, Any], path: Path) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        return {str(part.arg): _value(part.value, known, path) for part in node.keywords}
    if isinstance(node, ast.Dict) and None not in node.keys:
        pairs = zip(node.keys, node.values, strict=True)
        return {_value(key, known, path): _value(value, known, path) for key, value in pairs if key is not None}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(part, known, path) for part in node.elts]
    if isinstance(node, ast.Name) and node.id in known:
        return known[node.id]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _value(node.left, known, path) + _value(node.right, known, path)
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise DataError(f"{path}: line {node.lineno}: not a plain value; nothing in a config is run") from error


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``below`` with what ``above`` says in its place, mappings part by part unless they say ``_delete_``."""
    result = dict(below)
    for name, value in above.items():
        under = result.get(name)
        if isinstance(value, Mapping) and isinstance(under, Mapping) and not value.get(DELETE):
            result[name] = merged(under, value)
        elif isinstance(value, Mapping):
            result[name] = {key: part for key, part in value.items() if key != DELETE}
        else:
            result[name] = value
    return result


def saved_detector(settings: Mapping[str, Any], classes: tuple[str, ...], where: str) -> SavedDetector:
    """What the settings say; ``classes`` are those of the class map, in its order. ``where`` names the settings.

    Raises `DataError` for what is not supported and where a setting or the number of classes does not fit.
    """
    try:
        return _saved_detector(settings, classes, where)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise DataError(f"{where}: not the settings of an ActionFormer of OpenTAD ({error!r})") from error


def _saved_detector(settings: Mapping[str, Any], classes: tuple[str, ...], where: str) -> SavedDetector:
    model, data, post = settings["model"], settings["dataset"]["test"], settings["post_processing"]
    projection, head, nms = model["projection"], model["rpn_head"], post["nms"]
    for name, value in TYPES.items():
        found = (model if name == "model" else model[name]).get("type")
        if found != value:
            raise DataError(f"{where}: {name} is {found!r}; only {value!r} is supported")
    if "backbone" in model:
        raise DataError(f"{where}: model.backbone: networks over frames are not supported, only features")
    if not nms.get("use_soft_nms", True) or nms.get("method", 2) != 2:
        raise DataError(f"{where}: post_processing.nms: only Gaussian soft suppression is supported")
    kind = str(data["type"])
    if not kind.endswith(("PaddingDataset", "ResizeDataset")):
        raise DataError(f"{where}: dataset.test.type is {kind!r}; only whole videos, padded or resized, are supported")
    resized = kind.endswith("ResizeDataset")
    align = [part for part in data["pipeline"] if part["type"] == "ResizeFeat"]
    if resized and [part.get("tool") for part in align] != ["torchvision_align"]:
        raise DataError(f"{where}: dataset.test: only ResizeFeat by torchvision_align is supported")
    agnostic = head["num_classes"] == 1 < len(classes)
    if not agnostic and len(classes) != head["num_classes"]:
        raise DataError(f"{where}: {head['num_classes']} classes, but the class map has {len(classes)}")
    arch, window = projection["arch"], projection["attn_cfg"]["n_mha_win_size"]
    pyramid = PyramidConfig(
        input_width=projection["in_channels"],
        width=projection["out_channels"],
        heads=projection["attn_cfg"]["n_head"],
        embedding_layers=arch[0],
        stem_layers=arch[1],
        levels=1 + arch[2],
        window=attention_window(window),
        positions=projection["max_seq_len"] if projection.get("use_abs_pe") else 0,
        dropout=projection["conv_cfg"]["proj_pdrop"],
        drop_path=projection["path_pdrop"],
        masked_norms=True,
        norm_epsilon=1e-6,
    )
    config = DetectorConfig(
        pyramid=pyramid,
        num_classes=head["num_classes"],
        head_layers=head["num_convs"] + 1,
        ranges=tuple((float(low), float(high)) for low, high in head["prior_generator"]["regression_range"]),
        center_radius=head["center_sample_radius"] if head["center_sample"] == "radius" else None,
        prior=head["cls_prior_prob"],
        label_smoothing=head["label_smoothing"],
        regression_weight=head.get("loss_weight", 1.0),
        initial_positives=head["loss_normalizer"],
        # one class: every point goes into suppression
        min_score=0.0 if head["num_classes"] == 1 else post.get("pre_nms_thresh", 0.001),
        top_points=0 if head["num_classes"] == 1 else post.get("pre_nms_topk", 2000),
        top_in_all=True,
        min_length=-1.0,
        suppression=Suppression(
            sigma=nms["sigma"],
            min_score=nms["min_score"],
            max_segments=nms["max_seg_num"],
            per_class=nms["multiclass"],
            voting_threshold=nms.get("voting_thresh", 0.0),
            voting_weight="score",
        ),
    )
    prefix = next((part.get("prefix", "") for part in data["pipeline"] if part["type"] == "LoadFeats"), "")
    # rows of videos that are resized need no grid of their own: they are spread over the duration
    stride, clip = (0, 0) if resized else (data["feature_stride"], 2 * data["offset_frames"])
    return SavedDetector(
        config=config,
        classes=("action",) if agnostic else classes,
        layout=Layout(pyramid.input_width, stride, clip, prefix=prefix),
        window=projection["max_seq_len"],
        downsample=1 if resized else data.get("sample_stride", 1),
        resize=data["resize_length"] if resized else None,
        resize_mode="opentad",
        subset=data["subset_name"],
        video_classes=classes if agnostic else (),
        source="OpenTAD",
    )
