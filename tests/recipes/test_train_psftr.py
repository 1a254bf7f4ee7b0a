"""The recipe of PSFTR on generated features: what it leaves, exact resume, several splits, ranks, learning."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from data_prep.errors import DataError
from invert_rl.cli import main as command
from invert_rl.psftr.planted import write_attribute_world
from invert_rl.psftr.settings import PSFTRArguments
from invert_rl.psftr.splits import read_split
from invert_rl.tal.planted import PlantedSettings
from tests.recipes.resumed import assert_exact

ROOT = Path(__file__).resolve().parents[2]
SMALL = PlantedSettings(train_videos=40, test_videos=40, strength=8.0, one_class=True)
SHORT = ["--max_steps", "4", "--save_steps", "2", "--logging_steps", "1", "--per_device_train_batch_size", "4"]


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small attribute world in files."""
    folder = tmp_path_factory.mktemp("attributes")
    write_attribute_world(folder, seed=0, settings=SMALL)
    return folder


@pytest.fixture
def train(run_recipe: Callable[..., None], data: Path, tmp_path: Path) -> Callable[..., Path]:
    """``train("name", *more)`` makes a short run on the small world in a folder of that name."""
    files = ["--annotations", data / "annotations.json", "--features", data / "features"]
    files += ["--text", data / "text.safetensors", "--split_lists", data / "splits"]

    def run(name: str, *more: str) -> Path:
        run_recipe("train_psftr.py", *map(str, files), "--output_dir", str(tmp_path / name), *SHORT, *more)
        return tmp_path / name

    return run


def test_what_a_run_leaves(train, data: Path, capsys) -> None:
    folder = train("run", "--evaluate_epochs", "0.3")
    summary = read(folder)
    for condition in ("before", "after", "shuffled", "best"):
        assert 0 <= summary[condition]["average_mAP"] <= 1
        assert "seen_average_mAP" in summary[condition]
    split = read_split(data / "splits", 0)
    assert summary["settings"]["classes"] == {"train": list(split.train), "test": list(split.test)}
    steps = [json.loads(line)["step"] for line in (folder / "evaluations.jsonl").read_text().splitlines()]
    assert steps == [0, 2, 4]
    losses = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert {"loss", "class", "l1", "iou", "actionness", "saliency"} <= losses[0].keys()
    # the detections are of unseen classes alone, and another evaluator command gives the same number
    results = json.loads((folder / "results.json").read_text())["results"]
    assert {found["label"] for of_video in results.values() for found in of_video} <= set(split.test)
    capsys.readouterr()
    arguments = ["--ground-truth", str(folder / "ground_truth.json"), "--protocol", "activitynet"]
    arguments += ["--subset", "validation", "--unknown-labels", "ignore"]
    arguments += ["--predictions", str(folder / "results.json"), "--thresholds", "0.3", "0.4", "0.5", "0.6", "0.7"]
    assert command(["evaluate-detection", *arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["average_mAP"] == pytest.approx(summary["after"]["average_mAP"])


def test_a_resumed_run_is_bit_equal(train, capsys) -> None:
    whole, parts = train("whole", "--dropout", "0.1"), train("parts", "--dropout", "0.1")
    (parts / "summary.json").unlink()
    for path in parts.glob("checkpoint-4/*"):
        path.unlink()
    (parts / "checkpoint-4").rmdir()
    (parts / "model" / "model.safetensors").unlink()
    capsys.readouterr()
    train("parts", "--dropout", "0.1", "--resume_from_checkpoint", "latest")
    assert_exact(whole, parts, capsys.readouterr().out)
    assert read(whole)["after"] == read(parts)["after"]
    assert read(whole)["before"] == read(parts)["before"]
    capsys.readouterr()
    with pytest.raises(SystemExit):
        train("whole")
    assert "holds another run" in capsys.readouterr().err


def test_several_splits_and_their_mean(train) -> None:
    folder = train("splits", "--splits", "1", "3", "--max_steps", "2", "--evaluate_seen", "false")
    summary, splits = read(folder), [read(folder / f"split_{number}") for number in (1, 3)]
    each = [split["after"]["average_mAP"] for split in splits]
    assert summary["after"]["average_mAP"] == pytest.approx(sum(each) / 2)
    assert summary["after"]["average_mAP_std"] == pytest.approx(abs(each[0] - each[1]) / 2)
    assert [summary["splits"][number]["average_mAP"] for number in ("1", "3")] == each
    assert splits[0]["settings"]["classes"] != splits[1]["settings"]["classes"]
    weights = (folder / "split_1" / "model" / "model.safetensors").stat().st_mtime_ns
    (folder / "summary.json").unlink()
    with pytest.raises(SystemExit):
        train("splits", "--splits", "1", "3")
    (folder / "split_3" / "summary.json").unlink()
    train(
        "splits",
        "--splits",
        "1",
        "3",
        "--max_steps",
        "2",
        "--resume_from_checkpoint",
        "latest",
        "--evaluate_seen",
        "false",
    )
    assert (folder / "split_1" / "model" / "model.safetensors").stat().st_mtime_ns == weights
    assert read(folder)["after"] == summary["after"]


def test_videos_without_features_are_left_out_only_when_asked(train, data: Path, tmp_path: Path, capsys) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for number, path in enumerate(sorted((data / "features").iterdir())):
        if number % 4:
            (few / path.name).write_bytes(path.read_bytes())
    with pytest.raises(SystemExit):
        train("few", "--features", str(few))
    told = capsys.readouterr().err
    assert "features of 20 videos are missing" in told and "planted_0000" in told
    folder = train("few", "--features", str(few), "--bad_features", "skip")
    assert "20 videos left out for their features" in capsys.readouterr().out
    summary = read(folder)
    assert summary["features"]["policy"] == "skip"
    assert len(summary["features"]["missing"]) == 20
    # what the left-out test videos hold counts as missed
    assert summary["features"]["ground_truth_without_features"] > 0
    truth = json.loads((folder / "ground_truth.json").read_text())["database"]
    assert set(truth) & set(summary["features"]["missing"])


def test_wrong_settings_say_what_to_do(train, run_recipe, data: Path, tmp_path: Path, capsys) -> None:
    def refused(*more: str) -> str:
        with pytest.raises(SystemExit):
            train("refused", *more)
        return capsys.readouterr().err

    assert "there are splits 0, 1, 2, 3, 4, 5, 6, 7, 8, 9" in refused("--splits", "12")
    assert "a checkpoint of one split" in refused("--splits", "1", "2", "--resume_from_checkpoint", "run/checkpoint-2")
    assert "but width is 16" in refused("--width", "16")
    assert "subsets: training, validation" in refused("--test_subset", "testing")
    with pytest.raises(DataError, match="--annotations needs --features and --text"):
        PSFTRArguments(output_dir=str(tmp_path), annotations="a.json", use_cpu=True).check()


@pytest.mark.slow
def test_two_ranks_make_the_run_of_one_with_accumulation(data: Path, tmp_path: Path) -> None:
    script = [str(ROOT / "recipes" / "train_psftr.py"), *SHORT, "--learning_rate", "1e-4", "--optim", "sgd"]
    script += ["--annotations", str(data / "annotations.json"), "--features", str(data / "features")]
    script += ["--text", str(data / "text.safetensors"), "--split_lists", str(data / "splits")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    two = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--rdzv_backend=c10d"]
    two += ["--rdzv_endpoint=localhost:0", *script, "--output_dir", str(tmp_path / "two")]
    one = [sys.executable, *script, "--output_dir", str(tmp_path / "one"), "--gradient_accumulation_steps", "2"]
    for launch in (two, one):
        subprocess.run(launch, env=environment, check=True, timeout=600, capture_output=True)
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two")]
    for name in weights[0]:
        assert torch.allclose(weights[0][name], weights[1][name], atol=1e-5), name


@pytest.mark.slow
def test_the_default_learns_seen_and_reaches_unseen_classes(run_recipe, tmp_path: Path) -> None:
    """Mean of three seeds; one of the texts' few permutations can by chance leave similar classes their texts."""
    summaries = []
    for seed in range(3):
        run_recipe("train_psftr.py", "--output_dir", str(tmp_path / str(seed)), "--seed", str(seed))
        summaries.append(read(tmp_path / str(seed)))
        assert summaries[-1]["after"]["seen_average_mAP"] >= summaries[-1]["before"]["seen_average_mAP"] + 0.3
        assert summaries[-1]["shuffled"]["seen_average_mAP"] <= 0.1
        assert summaries[-1]["shuffled"]["average_mAP"] <= 0.1

    def mean(condition: str) -> float:
        return sum(summary[condition]["average_mAP"] for summary in summaries) / len(summaries)

    assert mean("after") >= mean("before") + 0.3
    assert mean("after") >= mean("shuffled") + 0.3


def test_a_short_run_learns(train) -> None:
    folder = train("learns", "--max_steps", "50", "--per_device_train_batch_size", "16", "--save_steps", "100")
    losses = [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines() if '"loss"' in line]
    assert sum(losses[-5:]) / 5 < losses[0] / 2
    assert read(folder)["after"]["seen_average_mAP"] >= read(folder)["before"]["seen_average_mAP"] + 0.03
