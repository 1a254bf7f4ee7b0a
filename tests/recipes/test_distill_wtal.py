"""recipes/distill_wtal.py: generated data, both layouts of real features, resume, and what it leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from invert_rl.cli import main
from invert_rl.tal.planted import PlantedSettings, plant, write_joint_world
from invert_rl.wtal.export import load_localizer
from tests.recipes.resumed import assert_exact

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "recipes" / "configs"
SMALL = ["--rgb_width", "6", "--flow_width", "4", "--snippets", "16", "--width", "8", "--attention_width", "8"]
SMALL += ["--reconstruction_width", "8", "--text_heads", "2", "--planted_train", "8", "--planted_test", "4"]
SHORT = ["--max_steps", "4", "--save_steps", "2", "--logging_steps", "1", "--evaluate_every", "2"]


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_generated_data_end_to_end(run_recipe, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run_recipe("distill_wtal.py", *SMALL, *SHORT)
    folder = tmp_path / "runs" / "distill_wtal_001"
    said = capsys.readouterr().out
    assert "descriptions: planted" in said and "class names serve" not in said
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["trivial"]["rule"] in summary["trivial"]["rules"]
    for part in ("before", "after", "shuffled", "trivial"):
        assert 0 <= summary[part]["average_mAP"] <= 1
        levels = [summary[part][f"mAP@0.{digit}"] for digit in range(1, 8)]
        assert summary[part]["average_mAP"] == pytest.approx(np.mean(levels))
    assert set(summary["reconstruction"]) == {"attention", "all", "complement", "none", "n"}
    assert summary["reconstruction"]["n"] == 4
    assert summary["settings"]["lambda1"] == 1.5
    assert summary["settings"]["descriptions_from"] == "planted"
    tests = [
        (line["step"], line["test/average_mAP"]) for line in lines_of(folder / "log.jsonl") if "test/mAP@0.1" in line
    ]
    assert [step for step, _ in tests] == [2, 4]
    assert tests[-1][1] == pytest.approx(summary["after"]["average_mAP"])  # the last iteration is what is reported
    assert summary["best"]["average_mAP"] == pytest.approx(max(value for _, value in tests))
    model, classes, _ = load_localizer(folder / "model")
    assert classes == ["bow", "clap", "jump", "wave"]
    assert model.reconstruction is not None

    with pytest.raises(SystemExit):
        run_recipe("distill_wtal.py", *SMALL, *SHORT, "--output_dir", str(folder))
    assert "holds another run" in capsys.readouterr().err


def test_the_text_encoder_is_tried_before_features_are_read(run_recipe, tmp_path: Path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    features = ["--annotations", str(tmp_path / "none.json"), "--features", str(tmp_path / "none")]
    with pytest.raises(SystemExit):
        run_recipe("distill_wtal.py", *SMALL, *SHORT, *features, "--text_encoder", str(tmp_path / "empty"))
    told = capsys.readouterr().err
    assert str(tmp_path / "empty") in told and "none.json" not in told


def test_a_resumed_run_reports_the_same(run_recipe, tmp_path: Path, capsys) -> None:
    common = [*SMALL, *SHORT, "--shuffled_control", "false"]
    run_recipe("distill_wtal.py", *common, "--output_dir", str(tmp_path / "a"))
    run_recipe("distill_wtal.py", *common, "--output_dir", str(tmp_path / "b"))
    (tmp_path / "b" / "summary.json").unlink()
    (tmp_path / "b" / "model" / "model.safetensors").unlink()
    for path in (tmp_path / "b" / "checkpoint-4").iterdir():
        path.unlink()  # killed while it was deleted: the newest complete one is checkpoint-2
    capsys.readouterr()
    run_recipe("distill_wtal.py", *common, "--output_dir", str(tmp_path / "b"), "--resume_from_checkpoint", "latest")
    assert_exact(tmp_path / "a", tmp_path / "b", capsys.readouterr().out)
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in "ab"]
    for part in ("before", "after", "best"):
        assert summaries[0][part] == summaries[1][part]


@pytest.mark.parametrize("layout", ["joint", "files"])
def test_real_layouts_and_the_evaluator_of_the_command_line(
    layout: str, run_recipe, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    world = plant(PlantedSettings(train_videos=6, test_videos=4, width=6, second_width=4))
    data = tmp_path / "data"
    write_joint_world(world, data)
    common = ["--config", str(CONFIGS / "thumos14" / "wtal.yaml"), *SMALL, *SHORT, "--text_encoder", "hashed"]
    common += ["--use_cpu", "true", "--reconstruction_layers", "1", "--output_dir", str(tmp_path / "run")]
    common += ["--round_truth", "false"]
    if layout == "joint":
        with pytest.raises(SystemExit):
            run_recipe("distill_wtal.py", *common, "--joint_features", str(data))
        assert "allow_pickle" in capsys.readouterr().err
        common += ["--joint_features", str(data), "--allow_pickle", "true"]
    else:
        (data / "files").mkdir()
        for video in world.videos:
            np.save(data / "files" / f"{video.video}.npy", np.concatenate([video.features, video.second], axis=1))
        common += ["--annotations", str(data / "annotations.json"), "--features", str(data / "files")]
    run_recipe("distill_wtal.py", *common)
    assert "no descriptions given: class names serve" in capsys.readouterr().out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert "shuffled" not in summary
    assert summary["settings"]["descriptions_from"] == "class names"
    arguments = ["--predictions", str(tmp_path / "run" / "results.json"), "--protocol", "activitynet", "--json"]
    arguments += ["--ground-truth", str(data / "annotations.json"), "--subset", "test"]
    levels = [f"0.{digit}" for digit in range(1, 8)]
    assert main(["evaluate-detection", *arguments, "--thresholds", *levels]) == 0
    found = json.loads(capsys.readouterr().out)["average_mAP"]
    assert found == pytest.approx(summary["after"]["average_mAP"], abs=1e-9)


def test_configs_hold_what_the_scripts_and_the_supplement_print() -> None:
    thumos = yaml.safe_load((CONFIGS / "thumos14" / "wtal.yaml").read_text())
    for name in ("thumos14/wtal", "activitynet/wtal12", "activitynet/wtal13"):
        given = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
        assert (given["lambda1"], given["lambda2"], given["mu1"]) == (1.5, 1.5, 1.0)
        assert given["per_device_train_batch_size"] == 10
    assert (thumos["evidential_weight"], thumos["uncertainty_weight"], thumos["guide_weight"]) == (1.3, 0.4, 0.4)
    assert (thumos["learning_rate"], thumos["weight_decay"], thumos["max_steps"]) == (5e-5, 1e-3, 5000)
    twelve = yaml.safe_load((CONFIGS / "activitynet" / "wtal12.yaml").read_text())
    assert (twelve["learning_rate"], twelve["snippets"], twelve["pool"], twelve["max_steps"]) == (3e-5, 60, 13, 22000)


@pytest.mark.slow
def test_the_default_learns_and_the_full_method_is_not_below_its_base(run_recipe, tmp_path: Path) -> None:
    """Three seeds of the default and of its base."""
    means = {}
    for name, switches in (("full", []), ("base", ["--matching", "false", "--reconstruction", "false"])):
        found = []
        for seed in range(3):
            folder = tmp_path / f"{name}{seed}"
            options = ["--seed", str(seed), "--output_dir", str(folder), "--shuffled_control", "false"]
            run_recipe("distill_wtal.py", *switches, *options, "--save_strategy", "no")
            summary = json.loads((folder / "summary.json").read_text())
            assert summary["before"]["average_mAP"] < 0.15
            assert summary["after"]["average_mAP"] >= 0.3
            found.append(summary["after"]["average_mAP"])
        means[name] = np.mean(found)
    assert means["full"] >= means["base"]
