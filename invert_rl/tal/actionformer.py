"""Released weights of ActionFormer: the repository's own settings file and checkpoint as a `Detector`.

Names of settings and weights are facts of happyharrycn/actionformer_release (libs/core/config.py,
libs/modeling/meta_archs.py); none of its code is here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_prep.errors import DataError
from invert_rl.tal.actionformer_settings import METHODS
from invert_rl.tal.annotations import class_names
from invert_rl.tal.checkpoint import SavedDetector
from invert_rl.tal.detector import Detector, DetectorConfig
from invert_rl.tal.features import Layout
from invert_rl.tal.nms import Suppression
from invert_rl.tal.pyramid import PyramidConfig

RENAMED = (
    (r"backbone\.embd\.(\d+)\.conv\.", r"pyramid.embedding.\1.conv."),
    (r"backbone\.embd_norm\.(\d+)\.", r"pyramid.embedding_norms.\1."),
    (r"backbone\.(stem|branch)\.(\d+)\.ln1\.", r"pyramid.\1.\2.norm."),
    (r"backbone\.(stem|branch)\.(\d+)\.ln2\.", r"pyramid.\1.\2.mlp_norm."),
    (r"backbone\.(stem|branch)\.(\d+)\.mlp\.", r"pyramid.\1.\2.mlp."),
    (r"backbone\.(stem|branch)\.(\d+)\.attn\.(\w+)_conv\.conv\.", r"pyramid.\1.\2.attention.convs.\3.conv."),
    (r"backbone\.(stem|branch)\.(\d+)\.attn\.(\w+)_norm\.", r"pyramid.\1.\2.attention.norms.\3."),
    (r"backbone\.(stem|branch)\.(\d+)\.attn\.proj\.", r"pyramid.\1.\2.attention.output."),
    (r"backbone\.(stem|branch)\.(\d+)\.attn\.(query|key|value)\.", r"pyramid.\1.\2.attention.projections.\3."),
    (r"backbone\.(stem|branch)\.(\d+)\.drop_path_attn\.", r"pyramid.\1.\2.attention_path."),
    (r"backbone\.(stem|branch)\.(\d+)\.drop_path_mlp\.", r"pyramid.\1.\2.mlp_path."),
    (r"neck\.fpn_norms\.(\d+)\.", r"pyramid.level_norms.\1."),
    (r"cls_head\.head\.(\d+)\.conv\.", r"classifier.convs.\1.conv."),
    (r"cls_head\.norm\.(\d+)\.", r"classifier.norms.\1."),
    (r"cls_head\.cls_head\.conv\.", r"classifier.last.conv."),
    (r"reg_head\.head\.(\d+)\.conv\.", r"regressor.convs.\1.conv."),
    (r"reg_head\.norm\.(\d+)\.", r"regressor.norms.\1."),
    (r"reg_head\.offset_head\.conv\.", r"regressor.last.conv."),
)
"""Official names of weights, and ours."""
SCALE = r"reg_head\.scale\.(\d+)\.scale"
NORM = re.compile(r"norms?\.(\d+\.|key\.|query\.|value\.)?(weight|bias)$")


def saved_detector(settings: Mapping[str, Any], database: Mapping[str, Any], where: str) -> SavedDetector:
    """What the settings say, with the classes of an annotation database in the order of their ``label_id``.

    Without ``label_id`` the order is alphabetical, as in the published files. ``where`` names the settings in errors.
    Raises `DataError` where the number of classes is another.
    """
    data, model, train, test = (settings[part] for part in ("dataset", "model", "train_cfg", "test_cfg"))
    classes = ordered_classes(database)
    agnostic = data["num_classes"] == 1 < len(classes)
    if not agnostic and len(classes) != data["num_classes"]:
        raise DataError(f"{where}: {data['num_classes']} classes, but the annotations have {len(classes)}")
    window = data["max_seq_len"]
    pyramid = PyramidConfig(
        input_width=data["input_dim"],
        width=model["embd_dim"],
        heads=model["n_head"],
        embedding_layers=model["backbone_arch"][0],
        stem_layers=model["backbone_arch"][1],
        levels=1 + model["backbone_arch"][2],
        window=attention_window(model["n_mha_win_size"]),
        positions=window if model["use_abs_pe"] else 0,
        dropout=train["dropout"],
        drop_path=train["droppath"],
    )
    suppression = Suppression(
        method=METHODS[test["nms_method"]],
        sigma=test["nms_sigma"],
        iou_threshold=test["iou_threshold"],
        min_score=test["min_score"],
        max_segments=test["max_seg_num"],
        per_class=test["multiclass_nms"],
        voting_threshold=test["voting_thresh"],
    )
    config = DetectorConfig(
        pyramid=pyramid,
        num_classes=data["num_classes"],
        head_layers=model["head_num_layers"],
        ranges=tuple((float(low), float(high)) for low, high in model["regression_range"]),
        center_radius=train["center_sample_radius"] if train["center_sample"] == "radius" else None,
        prior=train["cls_prior_prob"],
        label_smoothing=train["label_smoothing"],
        regression_weight=train["loss_weight"],
        initial_positives=train["init_loss_norm"],
        min_score=test["pre_nms_thresh"],
        top_points=test["pre_nms_topk"],
        min_length=test["duration_thresh"],
        suppression=suppression,
    )
    subsets = settings.get("val_split") or ["validation"]
    return SavedDetector(
        config=config,
        classes=("action",) if agnostic else classes,
        layout=Layout(
            data["input_dim"],
            data["feat_stride"],
            data["num_frames"],
            data["default_fps"],
            prefix=data["file_prefix"] or "",
        ),
        window=window,
        downsample=data["downsample_rate"],
        resize=window if data["force_upsampling"] else None,
        subset=subsets if isinstance(subsets, str) else subsets[0],
        video_classes=classes if agnostic else (),
        source="ActionFormer",
    )


def ordered_classes(database: Mapping[str, Any]) -> tuple[str, ...]:
    """Classes by ``label_id``, or in alphabetical order; raises `DataError` where one id has two names."""
    ids: dict[int, str] = {}
    entries = [entry for record in database.values() for entry in record["annotations"]]
    if not all("label_id" in entry for entry in entries):
        return tuple(class_names(dict(database)))
    for entry in entries:
        if ids.setdefault(int(entry["label_id"]), entry["label"]) != entry["label"]:
            raise DataError(
                f"label_id {entry['label_id']} is both {ids[int(entry['label_id'])]!r} and {entry['label']!r}"
            )
    return tuple(ids[index] for index in sorted(ids))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Official weights of a checkpoint, the averaged ones if it has any, without ``module.``.

    A ``.safetensors`` file is taken as the weights alone. Raises `DataError` for a file that is no such checkpoint, or
    that holds more than tensors and plain values: nothing in it is run.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(str(path))
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in any way
        raise DataError(f"{path}: cannot be read as a checkpoint of weights alone ({error})") from error
    if isinstance(content, dict):
        content = content.get("state_dict_ema", content.get("state_dict", content))
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise DataError(f"{path}: holds no state_dict_ema, no state_dict and no plain weights")
    return {name.removeprefix("module."): value for name, value in content.items()}


def detector_of(
    about: SavedDetector,
    official: Mapping[str, Tensor],
    where: str,
    renamed: Sequence[tuple[str, str]] = RENAMED,
    scale_name: str = SCALE,
    ignored: tuple[str, ...] = ("point_generator.",),
) -> Detector:
    """A detector with official weights; raises `DataError` naming those that are missing, unknown or of another shape.

    ``renamed`` gives patterns of their names and ours, ``scale_name`` that of the scale of a level; what begins with
    one of ``ignored`` is not needed.
    """
    try:
        model = Detector(about.config)
    except ValueError as error:
        raise DataError(f"{where}: the settings make no model ({error})") from error
    own = model.state_dict()
    found: dict[str, Tensor] = {"normalizer.value": own["normalizer.value"]}
    scales = own["scales"].clone()
    seen, unknown = set(), []
    for name, value in official.items():
        scale = re.fullmatch(scale_name, name)
        if scale is not None and int(scale[1]) < len(scales):
            scales[int(scale[1])] = value.float()
            seen.add(int(scale[1]))
            continue
        ours = next((re.sub(old, new, name) for old, new in renamed if re.match(old, name)), None)
        if ours is None:
            if not name.startswith(ignored):
                unknown.append(name)
            continue
        found[ours] = value.float().flatten() if NORM.search(ours) else value.float()
    if len(seen) == len(scales):
        found["scales"] = scales
    missing = sorted(own.keys() - found.keys())
    unknown += sorted(found.keys() - own.keys())
    shapes = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in found and found[name].shape != own[name].shape
    ]
    for problem, names in (("lacks", missing), ("has unknown", unknown), ("has other shapes:", shapes)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise DataError(f"{where}: {problem} {', '.join(names[:3])}{more}; are the settings those of the weights?")
    model.load_state_dict(found, strict=True)
    return model.eval()


def attention_window(value: int | Sequence[int]) -> int | tuple[int, ...]:
    """A window as `PyramidConfig` has it; both repositories attend to all rows where it is not above 1."""
    if isinstance(value, int):
        return value if value > 1 else 0
    return tuple(width if width > 1 else 0 for width in value)
