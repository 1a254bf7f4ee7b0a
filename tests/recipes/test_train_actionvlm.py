"""The ActionVLM recipe: the embedded default, feature files, resume, refusals; what it learns takes longer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from invert_rl.cli import main as command_line
from invert_rl.tal.planted import PlantedSettings, plant, write_world
from tests.recipes.resumed import assert_exact

ROOT = Path(__file__).resolve().parents[2] / "recipes" / "configs"
FEW = ["--max_steps", "2", "--per_device_train_batch_size", "2", "--tiny_width", "32", "--head_width", "16"]


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def test_without_arguments_it_compares_with_the_untrained_model_and_shuffled_labels(run_recipe, tmp_path, capsys):
    run_recipe("train_actionvlm.py", *FEW, "--logging_steps", "1", "--text_tokens", "3")
    folder = tmp_path / "runs" / "train_actionvlm_001"
    summary = summary_of(folder)
    assert summary["trivial"]["rule"] in summary["trivial"]["rules"]
    for part in ("before", "after", "shuffled", "trivial"):
        assert 0 <= summary[part]["average_mAP"] <= 1
    for part in ("before", "after", "shuffled"):
        assert 0 <= summary[part]["average_mAP"] <= 1
        assert {"mAP@0.5", "ambiguous/mLA", "clear/average_mAP"} <= summary[part].keys()
    assert {"LAP", "hallucination/fixed", "hallucination/infinite"} <= summary["after"].keys()
    assert summary["settings"]["max_steps"] == 2
    assert load_file(folder / "model" / "model.safetensors").keys() >= {"means.mean", "advantage.bias"}
    assert "untrained" in capsys.readouterr().out
    words = summary["rescore"].split()[1:]  # the score is made again from the folder
    assert command_line([str(folder / word) if word.endswith(".json") else word for word in [*words, "--json"]]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["average_mAP"] == pytest.approx(summary["after"]["average_mAP"], abs=1e-12)
    assert printed["n_ground_truth"] == summary["after"]["n"]
    with pytest.raises(SystemExit):
        run_recipe("train_actionvlm.py", *FEW, "--output_dir", str(folder))
    assert "holds another run" in capsys.readouterr().err


def test_it_trains_on_feature_files_and_goes_on_from_its_last_checkpoint(run_recipe, tmp_path, capsys):
    world = plant(PlantedSettings(train_videos=6, test_videos=3))
    annotations = write_world(world, tmp_path / "data", "npz")
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps({"bow": "bends forward", "jump": "leaves the ground"}))
    options = [
        *("--train_annotations", str(annotations), "--features", str(tmp_path / "data" / "features")),
        *("--train_subset", "training", "--test_subset", "validation", "--descriptions", str(texts)),
        *("--feature_width", "32", "--feature_fps", "30", "--save_steps", "2", "--logging_steps", "1"),
        *(
            "--max_steps",
            "4",
            "--learning_rate",
            "1e-2",
            "--lr_scheduler_type",
            "constant",
            "--lr_scheduler_kwargs",
            "{}",
        ),
    ]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    run_recipe("train_actionvlm.py", *FEW, *options, "--output_dir", str(straight))
    assert "shuffled" not in summary_of(straight)
    assert not (straight / "planted").exists()
    run_recipe("train_actionvlm.py", *FEW, *options, "--output_dir", str(killed), "--max_steps", "2")
    capsys.readouterr()
    resume = ["--output_dir", str(killed), "--resume_from_checkpoint", "latest"]
    run_recipe("train_actionvlm.py", *FEW, *options, *resume)
    assert_exact(straight, killed, capsys.readouterr().out)
    assert summary_of(straight)["after"] == summary_of(killed)["after"]
    with pytest.raises(SystemExit):
        run_recipe("train_actionvlm.py", *FEW, "--train_annotations", str(annotations))
    assert "--features or --video_root" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["thumos14/actionvlm", "thumos14/actionvlm_end_to_end", "activitynet/actionvlm"])
def test_the_paper_configs_hold_what_the_paper_prints(name):
    """Section 4.1 of the paper; table 6 has the window."""
    given = yaml.safe_load((ROOT / f"{name}.yaml").read_text())
    assert given["learning_rate"] == 1e-4
    assert given["llm_learning_rate"] == given.get("vision_learning_rate", 5e-6) == 5e-6
    assert (given["lora_rank"], given["lora_alpha"]) == (128, 256)
    assert given["advantage_weight"] == given["text_weight"] == 0.1
    assert given["num_train_epochs"] == 120
    assert given["per_device_train_batch_size"] == (4 if name.startswith("activitynet") else 1)
    assert given["window"] == (192 if name.startswith("activitynet") else 768)


@pytest.mark.slow
def test_the_default_beats_vision_alone_and_weighs_language_where_vision_is_ambiguous(run_recipe, tmp_path):
    """Three seeds, the same number of steps; the vision stream cannot tell the twins apart."""
    gains = []
    for seed in ("0", "1", "2"):
        runs = {}
        for streams in ("both", "vision"):
            folder = tmp_path / f"{streams}_{seed}"
            options = ["--streams", streams, "--seed", seed, "--shuffled_control", "false", "--lap", "false"]
            run_recipe("train_actionvlm.py", "--output_dir", str(folder), *options)
            runs[streams] = summary_of(folder)["after"]
        gains.append(runs["both"]["average_mAP"] - runs["vision"]["average_mAP"])
        assert runs["both"]["ambiguous/mLA"] > runs["both"]["clear/mLA"]
    assert sum(gains) / 3 >= 0.05
