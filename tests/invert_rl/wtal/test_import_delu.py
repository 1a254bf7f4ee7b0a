"""DELU's checkpoint by its own names, against a transcript of its forward pass; its detections by two commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from invert_rl.cli import main
from invert_rl.wtal.data import WeakVideo, snippet_grid
from invert_rl.wtal.evaluate import detect_videos
from invert_rl.wtal.export import load_localizer

CLASSES = ("Diving", "BaseballPitch", "Shotput")
STREAM, HIDDEN, WIDTH = 6, 5, 8


def checkpoint(seed: int) -> dict[str, Tensor]:
    """Random weights by the official names, with the layer that the official network has and never uses."""
    generator = torch.Generator().manual_seed(seed)

    def conv(outputs: int, inputs: int, kernel: int) -> tuple[Tensor, Tensor]:
        weight = torch.randn(outputs, inputs, kernel, generator=generator) / (inputs * kernel) ** 0.5
        return weight, 0.3 * torch.randn(outputs, generator=generator)

    layers = {"feat_encoder.0": conv(WIDTH, 2 * STREAM, 3), "fusion.0": conv(2 * STREAM, 2 * STREAM, 1)}
    layers |= {"classifier.1": conv(WIDTH, 2 * STREAM, 3), "classifier.4": conv(len(CLASSES) + 1, WIDTH, 1)}
    for stream in ("vAttn", "fAttn"):
        layers[f"{stream}.bit_wise_attn.0"] = conv(STREAM, STREAM, 3)
        layers[f"{stream}.channel_conv.0"] = conv(STREAM, STREAM, 3)
        layers[f"{stream}.attention.0"] = conv(HIDDEN, STREAM, 3)
        layers[f"{stream}.attention.3"] = conv(HIDDEN, HIDDEN, 3)
        layers[f"{stream}.attention.5"] = conv(1, HIDDEN, 1)
    state = {f"{name}.weight": weight for name, (weight, _) in layers.items()}
    return state | {f"{name}.bias": bias for name, (_, bias) in layers.items()}


def official(state: dict[str, Tensor], rows: Tensor, pool: int) -> tuple[Tensor, Tensor]:
    """Class scores ``(T, C + 1)`` and attention ``(T,)`` of rows ``(T, D)``, without dropout."""

    def conv(x: Tensor, name: str) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv1d(x, weight, state[f"{name}.bias"], padding=weight.shape[2] // 2)

    def stream(own: Tensor, other: Tensor, name: str) -> tuple[Tensor, Tensor]:
        channel = F.leaky_relu(conv(own.mean(dim=2, keepdim=True), f"{name}.channel_conv.0"), 0.2)
        local = F.leaky_relu(conv(other, f"{name}.bit_wise_attn.0"), 0.2)
        gated = torch.sigmoid(local * channel) * own
        x = F.leaky_relu(conv(gated, f"{name}.attention.0"), 0.2)
        x = F.leaky_relu(conv(x, f"{name}.attention.3"), 0.2)
        return torch.sigmoid(conv(x, f"{name}.attention.5")), gated

    x = rows.T[None]
    first, second = x[:, :STREAM], x[:, STREAM:]
    (v, gated_v), (f, gated_f) = stream(first, second, "vAttn"), stream(second, first, "fAttn")
    x = F.leaky_relu(conv(torch.cat([gated_v, gated_f], dim=1), "fusion.0"), 0.2)
    x = conv(F.leaky_relu(conv(x, "classifier.1"), 0.2), "classifier.4")
    attention = (v + f) / 2
    if pool > 1:
        x, attention = (F.avg_pool1d(y, pool, 1, pool // 2) for y in (x, attention))
    return x[0].T, attention[0, 0]


def imported(folder: Path, state: dict[str, Tensor], *more: str) -> Path:
    torch.save(state, folder / "best.pkl")
    np.save(folder / "classlist.npy", np.array([name.encode() for name in CLASSES]))
    arguments = [str(folder / "best.pkl"), "--classes", str(folder / "classlist.npy"), *more]
    assert main(["import-delu", *arguments, "--output", str(folder / "model")]) == 0
    return folder / "model"


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("network", "pool"), [("thumos14", 1), ("activitynet", 13)])
def test_activations_are_those_of_the_official_network(network: str, pool: int, seed: int, tmp_path: Path) -> None:
    state = checkpoint(seed)
    model, classes, _ = load_localizer(imported(tmp_path, state, "--network", network))
    assert tuple(classes) == CLASSES  # the order of the checkpoint, not of the alphabet
    rows = torch.randn(30, 2 * STREAM, generator=torch.Generator().manual_seed(seed + 9))
    with torch.no_grad():
        found = model.activations(rows[None])
    cas, attention = official(state, rows, pool)
    assert torch.allclose(found.cas[0], cas, atol=1e-5)
    assert torch.allclose(found.attention[0], attention, atol=1e-6)


def test_detections_by_two_commands(tmp_path: Path, capsys: Any) -> None:
    model = imported(tmp_path, checkpoint(0))
    (tmp_path / "features").mkdir()
    rows = np.random.default_rng(0).standard_normal((3, 40, 2 * STREAM)).astype(np.float32) * 2
    database = {}
    for number, of_video in enumerate(rows):
        np.save(tmp_path / "features" / f"v{number}.npy", of_video)
        entry = {"segment": [1.0, 5.0], "label": CLASSES[number]}
        database[f"v{number}"] = {"subset": "test", "duration": 40 * 16 / 25, "fps": 25.0, "annotations": [entry]}
    (tmp_path / "a.json").write_text(json.dumps({"database": database}))
    arguments = ["--model", str(model), "--annotations", str(tmp_path / "a.json"), "--cpu"]
    arguments += ["--features", str(tmp_path / "features"), "--output", str(tmp_path / "d.json")]
    assert main(["detect", *arguments, "--json"]) == 0
    results = json.loads((tmp_path / "d.json").read_text())["results"]
    localizer, classes, settings = load_localizer(model)
    video = WeakVideo("v1", 40 * 16 / 25, snippet_grid(), torch.from_numpy(rows[1]), torch.zeros(3))
    assert results["v1"] == detect_videos(localizer, [video], classes, settings.proposals())["v1"]
    assert results["v1"] and list(results) == ["v0", "v1", "v2"]
    capsys.readouterr()
    assert main(["detect", *arguments, "--external-scores", "s.json"]) == 1
    assert "--external-scores: has no effect on a weakly supervised model" in capsys.readouterr().err
    assert main(["detect", "--model", str(model), "--output", str(tmp_path / "e.json"), "--cpu"]) == 1
    assert "needs --joint-features, or --annotations and --features" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("classifier.1.weight"), "lacks base.hidden.1.weight"),
        (lambda state: state.update({"head.weight": torch.zeros(1)}), "unknown weight head.weight"),
        (lambda state: state.update({"classifier.4.weight": torch.zeros(9, WIDTH, 1)}), "scores 8 classes"),
        (lambda state: state.update({"fusion.0.bias": torch.zeros(2)}), "do not fit together"),
    ],
)
def test_other_checkpoints_are_refused(change: Any, message: str, tmp_path: Path, capsys: Any) -> None:
    state = checkpoint(0)
    change(state)
    torch.save(state, tmp_path / "best.pkl")
    (tmp_path / "names.txt").write_text("\n".join(CLASSES))
    arguments = [str(tmp_path / "best.pkl"), "--classes", str(tmp_path / "names.txt")]
    assert main(["import-delu", *arguments, "--output", str(tmp_path / "model")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
