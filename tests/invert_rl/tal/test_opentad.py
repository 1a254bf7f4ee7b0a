"""OpenTAD's ActionFormer: settings that are read and not run, names of weights, its network against a transcript."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from data_prep.errors import DataError
from invert_rl.cli import main
from invert_rl.tal.checkpoint import load_detector
from invert_rl.tal.opentad import RENAMED, merged, read_config, saved_detector

DATASET = """
dataset_type = "ThumosPaddingDataset"
root = "data/"
stride = 4
dataset = dict(
    train=dict(type="nothing"),
    test=dict(
        type=dataset_type, class_map=root + "category_idx.txt", subset_name="validation", feature_stride=stride,
        sample_stride=1, offset_frames=8, pipeline=[dict(type="LoadFeats", feat_format="npy")],
    ),
)
"""
MODEL = '''
"""Sizes."""
model = dict(
    type="ActionFormer",
    projection=dict(
        type="Conv1DTransformerProj", in_channels=2048, out_channels=16, arch=(2, 1, 2),
        conv_cfg=dict(kernel_size=3, proj_pdrop=0.0), norm_cfg=dict(type="LN"),
        attn_cfg=dict(n_head=2, n_mha_win_size=-1), path_pdrop=0.1, use_abs_pe=False, max_seq_len=32,
    ),
    neck=dict(type="FPNIdentity", in_channels=16, out_channels=16, num_levels=3),
    rpn_head=dict(
        type="ActionFormerHead", num_classes=3, in_channels=16, feat_channels=16, num_convs=2, cls_prior_prob=0.01,
        prior_generator=dict(type="PointGenerator", strides=[1, 2, 4], regression_range=[(0, 4), (4, 8), (8, 10000)]),
        loss_normalizer=100, center_sample="radius", center_sample_radius=1.5, label_smoothing=0.0,
    ),
)
'''
CONFIG = """
_base_ = ["base/dataset.py", "base/model.py"]
model = dict(projection=dict(in_channels=8, input_pdrop=0.2))
post_processing = dict(
    nms=dict(use_soft_nms=True, sigma=0.5, max_seg_num=30, iou_threshold=0.1, min_score=0.001, multiclass=True,
             voting_thresh=0.7),
)
"""
CLASSES = ("b", "a", "c")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "dataset.py").write_text(DATASET)
    (tmp_path / "base" / "model.py").write_text(MODEL)
    (tmp_path / "c.py").write_text(CONFIG)
    (tmp_path / "category_idx.txt").write_text("\n".join(CLASSES) + "\n")
    return tmp_path


def state_of(folder: Path, seed: int = 0) -> dict[str, Tensor]:
    """Random weights by OpenTAD's names, found without the importer: ours are asked for shapes alone."""
    from invert_rl.tal.detector import Detector

    about = saved_detector(read_config(folder / "c.py"), CLASSES, "c.py")
    shapes = {name: value.shape for name, value in Detector(about.config).state_dict().items()}
    back = [
        (r"pyramid\.embedding\.(\d)\.conv\.", r"projection.embed.\1.conv."),
        (r"pyramid\.embedding_norms\.(\d)\.", r"projection.embed.\1.norm."),
        (r"pyramid\.(stem|branch)\.(\d)\.norm\.", r"projection.\1.\2.ln1."),
        (r"pyramid\.(stem|branch)\.(\d)\.mlp_norm\.", r"projection.\1.\2.ln2."),
        (r"pyramid\.(stem|branch)\.(\d)\.mlp\.", r"projection.\1.\2.mlp."),
        (r"pyramid\.(stem|branch)\.(\d)\.attention\.convs\.(\w+)\.conv\.", r"projection.\1.\2.attn.\3_conv.conv."),
        (r"pyramid\.(stem|branch)\.(\d)\.attention\.norms\.(\w+)\.", r"projection.\1.\2.attn.\3_norm."),
        (r"pyramid\.(stem|branch)\.(\d)\.attention\.projections\.(\w+)\.", r"projection.\1.\2.attn.\3."),
        (r"pyramid\.(stem|branch)\.(\d)\.attention\.output\.", r"projection.\1.\2.attn.proj."),
        (r"pyramid\.(stem|branch)\.(\d)\.attention_path\.", r"projection.\1.\2.drop_path_attn."),
        (r"pyramid\.(stem|branch)\.(\d)\.mlp_path\.", r"projection.\1.\2.drop_path_mlp."),
        (r"pyramid\.level_norms\.(\d)\.", r"neck.fpn_norms.\1."),
        (r"classifier\.convs\.(\d)\.conv\.", r"rpn_head.cls_convs.\1.conv."),
        (r"classifier\.norms\.(\d)\.", r"rpn_head.cls_convs.\1.norm."),
        (r"classifier\.last\.conv\.", r"rpn_head.cls_head."),
        (r"regressor\.convs\.(\d)\.conv\.", r"rpn_head.reg_convs.\1.conv."),
        (r"regressor\.norms\.(\d)\.", r"rpn_head.reg_convs.\1.norm."),
        (r"regressor\.last\.conv\.", r"rpn_head.reg_head."),
    ]
    generator = torch.Generator().manual_seed(seed)
    state = {"rpn_head.loss_normalizer": torch.tensor(93.0)}
    for name, shape in shapes.items():
        if name == "scales":
            state |= {
                f"rpn_head.scale.{level}.scale": torch.rand((), generator=generator) + 0.5 for level in range(shape[0])
            }
        elif name != "normalizer.value":
            (theirs,) = {re.sub(old, new, name) for old, new in back if re.match(old, name)}
            state[theirs] = 0.3 * torch.randn(shape, generator=generator) + (0.5 if "norm" in name else 0.0)
    return state


def reference(state: dict[str, Tensor], rows: Tensor, padded: int) -> tuple[Tensor, Tensor]:
    """Scores ``(P, C)`` and segments ``(P, 2)`` of a video's points, by OpenTAD's forward pass in plain tensors."""
    length = len(rows)
    x = torch.zeros(1, rows.shape[1], padded)
    x[0, :, :length] = rows.T
    mask = (torch.arange(padded) < length)[None, None]

    def norm(x: Tensor, name: str, eps: float = 1e-5) -> Tensor:
        weight, bias = state[f"{name}.weight"].flatten(), state[f"{name}.bias"].flatten()
        return F.layer_norm(x.transpose(1, 2), x.shape[1:2], weight, bias, eps).transpose(1, 2)

    def module(x: Tensor, name: str, mask: Tensor) -> Tensor:  # convolution, mask, norm, ReLU, mask
        x = F.conv1d(x, state[f"{name}.conv.weight"], padding=1) * mask
        return F.relu(norm(x, f"{name}.norm", 1e-6)) * mask

    def block(x: Tensor, mask: Tensor, name: str, stride: int) -> tuple[Tensor, Tensor]:
        y, out = norm(x, f"{name}.ln1"), mask[..., ::stride]
        heads = {}
        for part in ("query", "key", "value"):
            z = F.conv1d(y, state[f"{name}.attn.{part}_conv.conv.weight"], None, stride, 1, groups=y.shape[1]) * out
            z = norm(z, f"{name}.attn.{part}_norm")
            z = F.conv1d(z, state[f"{name}.attn.{part}.weight"], state[f"{name}.attn.{part}.bias"])
            heads[part] = z.view(1, 2, z.shape[1] // 2, -1).transpose(2, 3)
        attention = heads["query"] @ heads["key"].transpose(2, 3) / heads["query"].shape[-1] ** 0.5
        attention = attention.masked_fill(~out[:, None], float("-inf")).softmax(dim=-1)
        z = (attention @ (heads["value"] * out[:, 0, None, :, None])).transpose(2, 3).reshape(1, y.shape[1], -1)
        z = F.conv1d(z, state[f"{name}.attn.proj.weight"], state[f"{name}.attn.proj.bias"]) * out
        skip = F.max_pool1d(x, 3, 2, 1) if stride == 2 else x
        x = skip * out + z * state[f"{name}.drop_path_attn.scale"]
        z = F.gelu(F.conv1d(norm(x, f"{name}.ln2"), state[f"{name}.mlp.0.weight"], state[f"{name}.mlp.0.bias"]))
        z = F.conv1d(z, state[f"{name}.mlp.3.weight"], state[f"{name}.mlp.3.bias"]) * out
        return x + z * state[f"{name}.drop_path_mlp.scale"], out

    for layer in range(2):
        x = module(x, f"projection.embed.{layer}", mask)
    x, mask = block(x, mask, "projection.stem.0", 1)
    levels = [(x, mask)]
    for layer in range(2):
        x, mask = block(x, mask, f"projection.branch.{layer}", 2)
        levels.append((x, mask))
    scores, segments = [], []
    for level, (x, mask) in enumerate(levels):
        x = norm(x, f"neck.fpn_norms.{level}", 1e-6)
        outputs = {}
        for kind in ("cls", "reg"):
            y = x
            for layer in range(2):
                y = module(y, f"rpn_head.{kind}_convs.{layer}", mask)
            weight, bias = state[f"rpn_head.{kind}_head.weight"], state[f"rpn_head.{kind}_head.bias"]
            outputs[kind] = F.conv1d(y, weight, bias, padding=1)[0].T
        offsets = F.relu(outputs["reg"] * state[f"rpn_head.scale.{level}.scale"]) * 2**level
        place = torch.arange(x.shape[-1])[:, None] * 2.0**level
        inside = mask[0, 0]
        scores.append(outputs["cls"].sigmoid()[inside])
        segments.append(torch.cat([place - offsets[:, :1], place + offsets[:, 1:]], dim=1)[inside])
    return torch.cat(scores), torch.cat(segments)


def imported(folder: Path, state: dict[str, Tensor]) -> Path:
    content = {"epoch": 3, "state_dict": {}, "state_dict_ema": {f"module.{name}": x for name, x in state.items()}}
    torch.save(content, folder / "w.pth")
    arguments = [str(folder / "w.pth"), "--config", str(folder / "c.py"), "--output", str(folder / "model")]
    assert main(["import-actionformer", *arguments, "--class-map", str(folder / "category_idx.txt")]) == 0
    return folder / "model"


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("length", [32, 27, 13, 40])
def test_the_network_is_opentads(seed: int, length: int, folder: Path) -> None:
    """Whole, padded and over-long videos."""
    state = state_of(folder, seed)
    model, about = load_detector(imported(folder, state))
    rows = torch.randn(length, 8, generator=torch.Generator().manual_seed(seed + 7))
    padded = max(32, -(-length // 4) * 4)
    wanted = reference(state, rows, padded)
    features, mask = torch.zeros(1, padded, 8), torch.zeros(1, padded, dtype=torch.bool)
    features[0, :length], mask[0, :length] = rows, True
    with torch.no_grad():
        outputs = model(features, mask)
    inside = outputs.mask[0]
    assert torch.allclose(outputs.logits.sigmoid()[0][inside], wanted[0], atol=1e-5)
    stride = outputs.points.stride[inside]
    place = torch.cat([torch.arange(padded // 2**level) * 2.0**level for level in range(3)])[inside]
    offsets = outputs.offsets[0][inside] * stride[:, None]
    found = torch.stack([place - offsets[:, 0], place + offsets[:, 1]], dim=1)
    assert torch.allclose(found, wanted[1], atol=1e-4)
    assert about.classes == CLASSES and about.config.suppression.voting_weight == "score"


def test_masks_after_norms_matter(folder: Path) -> None:
    """Without them a padded video is another one: the switch is not idle."""
    state = state_of(folder)
    model, _ = load_detector(imported(folder, state))
    features, mask = torch.randn(1, 32, 8), (torch.arange(32) < 20)[None]
    with torch.no_grad():
        own = model(features * mask[..., None], mask).logits
        model.pyramid.config.masked_norms = False
        model.classifier.masked_norms = model.regressor.masked_norms = False
        other = model(features * mask[..., None], mask).logits
    assert (own - other)[0, :20].abs().max() > 1e-3


def test_detect_by_two_commands(folder: Path) -> None:
    state = state_of(folder)
    model = imported(folder, state)
    (folder / "features").mkdir()
    rows = np.random.default_rng(0).standard_normal((30, 8)).astype(np.float32)
    np.save(folder / "features" / "v1.npy", rows)
    duration = (29 * 4 + 16) / 30
    record = {"subset": "validation", "duration": duration, "fps": 30.0, "annotations": []}
    record["annotations"] = [{"segment": [0, 1], "label": name} for name in CLASSES]
    (folder / "a.json").write_text(json.dumps({"database": {"v1": record}}))
    arguments = ["--model", str(model), "--annotations", str(folder / "a.json"), "--cpu"]
    arguments += ["--features", str(folder / "features"), "--output", str(folder / "d.json")]
    assert main(["detect", *arguments]) == 0
    (found,) = json.loads((folder / "d.json").read_text())["results"].values()
    scores, segments = reference(state, torch.from_numpy(rows), 32)
    best = int(scores.flatten().argmax())  # the first choice is never changed by suppression
    assert len(found) == 30 and found[0]["label"] == CLASSES[best % 3]
    assert found[0]["score"] == pytest.approx(float(scores.flatten()[best]), abs=1e-5)
    seconds = ((segments[best // 3] * 4 + 8) / 30).clamp(0, duration)  # convert_to_seconds
    assert found[0]["segment"] == pytest.approx(seconds.tolist(), abs=1e-4)


def test_settings_are_read_and_never_run(folder: Path) -> None:
    settings = read_config(folder / "c.py")
    assert settings["model"]["projection"]["in_channels"] == 8 and settings["model"]["projection"]["arch"] == [2, 1, 2]
    assert settings["dataset"]["test"]["class_map"] == "data/category_idx.txt"
    assert merged({"a": {"x": 1, "y": 2}}, {"a": {"_delete_": True, "y": 3}}) == {"a": {"y": 3}}
    for line in ("import os", "x = open('/etc/passwd')", "x = __import__('os').system('true')", "x = [i for i in 'a']"):
        (folder / "bad.py").write_text(f"a = 1\n{line}\n")
        with pytest.raises(DataError, match="line 2: .*(nothing is run|nothing in a config is run)"):
            read_config(folder / "bad.py")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('type="ActionFormer",', 'type="TriDet",', "model is 'TriDet'; only 'ActionFormer'"),
        ("ThumosPaddingDataset", "ThumosSlidingDataset", "dataset.test.type is 'ThumosSlidingDataset'"),
        ("num_classes=3", "num_classes=4", "4 classes, but the class map has 3"),
        ("use_soft_nms=True", "use_soft_nms=False", "only Gaussian soft suppression"),
        ('center_sample="radius", ', "", "not the settings of an ActionFormer of OpenTAD .*center_sample"),
    ],
)
def test_what_is_not_supported_is_named(old: str, new: str, message: str, folder: Path) -> None:
    for path in (folder / "c.py", folder / "base" / "model.py", folder / "base" / "dataset.py"):
        path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError, match=message):
        saved_detector(read_config(folder / "c.py"), CLASSES, "c.py")


def test_bases_that_lead_back_to_a_file(folder: Path) -> None:
    (folder / "base" / "model.py").write_text('_base_ = "../c.py"\n' + MODEL)
    with pytest.raises(DataError, match=r"model.py: _base_ leads back to .*c.py"):
        read_config(folder / "c.py")


@pytest.mark.parametrize(("given", "window"), [("-1", (0, 0, 0)), ("1", (0, 0, 0)), ("[9, 5, 1]", (9, 5, 0))])
def test_windows_of_one_row_are_none(given: str, window: tuple[int, ...], folder: Path) -> None:
    (folder / "base" / "model.py").write_text(MODEL.replace("n_mha_win_size=-1", f"n_mha_win_size={given}"))
    assert saved_detector(read_config(folder / "c.py"), CLASSES, "c.py").config.pyramid.windows == window


def test_resized_and_class_agnostic(folder: Path) -> None:
    (folder / "c.py").write_text(
        CONFIG.replace("multiclass=True", "multiclass=False")
        + 'dataset = dict(test=dict(_delete_=True, type="AnetResizeDataset", subset_name="validation", '
        'resize_length=32, pipeline=[dict(type="LoadFeats", prefix="v_"), '
        'dict(type="ResizeFeat", tool="torchvision_align")]))\n'
    )
    path = folder / "base" / "model.py"
    path.write_text(
        path.read_text().replace("num_classes=3", "num_classes=1").replace("use_abs_pe=False", "use_abs_pe=True")
    )
    about = saved_detector(read_config(folder / "c.py"), CLASSES, "c.py")
    assert (about.resize, about.resize_mode, about.video_classes, about.classes) == (
        32,
        "opentad",
        CLASSES,
        ("action",),
    )
    assert about.config.pyramid.positions == 32 and about.config.top_points == 0 and about.layout.prefix == "v_"
    (folder / "features").mkdir()
    np.save(folder / "features" / "v_x.npy", np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32))
    record = {"subset": "validation", "duration": 64.0, "annotations": []}  # no frame rate is needed
    (folder / "a.json").write_text(json.dumps({"database": {"x": record}}))
    arguments = ["--model", str(imported(folder, state_of(folder))), "--annotations", str(folder / "a.json"), "--cpu"]
    arguments += ["--features", str(folder / "features"), "--output", str(folder / "d.json")]
    assert main(["detect", *arguments]) == 0
    (found,) = json.loads((folder / "d.json").read_text())["results"].values()
    assert len(found) == 30 and all(0 <= entry["segment"][0] <= entry["segment"][1] <= 64 for entry in found)


def test_unknown_weights_are_named(folder: Path, capsys: Any) -> None:
    state = state_of(folder)
    state["rpn_head.quality.weight"] = torch.zeros(1)
    torch.save(state, folder / "w.pth")
    arguments = [str(folder / "w.pth"), "--config", str(folder / "c.py"), "--output", str(folder / "model")]
    assert main(["import-actionformer", *arguments, "--class-map", str(folder / "category_idx.txt")]) == 1
    assert "has unknown rpn_head.quality.weight" in capsys.readouterr().err
    assert main(["import-actionformer", *arguments]) == 1
    assert "need --class-map" in capsys.readouterr().err
    assert len({new for _, new in RENAMED}) == len(RENAMED)


@pytest.mark.slow
def test_two_ranks_detect_what_one_does(folder: Path) -> None:
    """By torchrun: every video once, in the order of the annotations, and nothing is left of the ranks' parts."""
    model = imported(folder, state_of(folder))
    (folder / "features").mkdir()
    database = {}
    for number in range(5):
        rows = np.random.default_rng(number).standard_normal((20 + number, 8)).astype(np.float32)
        np.save(folder / "features" / f"v{number}.npy", rows)
        duration = ((19 + number) * 4 + 16) / 30
        database[f"v{number}"] = {"subset": "validation", "duration": duration, "fps": 30.0, "annotations": []}
    (folder / "a.json").write_text(json.dumps({"database": database}))
    arguments = ["--model", str(model), "--annotations", str(folder / "a.json"), "--cpu"]
    arguments += ["--features", str(folder / "features"), "--output"]
    assert main(["detect", *arguments, str(folder / "one.json")]) == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "invert_rl.cli", "detect", *arguments, str(folder / "two.json")]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    one, two = (json.loads((folder / f"{name}.json").read_text())["results"] for name in ("one", "two"))
    assert list(two) == list(database) and one == two
    assert not list(folder.glob("*.part*"))
