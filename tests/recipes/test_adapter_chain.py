"""Invert-SFT by LoRA, GRPO on top of it, evaluation, rating and merge: every step takes what the one before left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from invert_rl.cli import main
from invert_rl.models import load_model
from invert_rl.toy.make import make_world

LORA = ["--use_peft", "true", "--lora_r", "4", "--lora_target_modules", "q_proj", "v_proj"]
SHORT = ["--max_steps", "2", "--logging_steps", "1", "--report_to", "none", "--gradient_accumulation_steps", "1"]
GRPO = ["--per_device_train_batch_size", "8", "--max_completion_length", "8", "--save_strategy", "no"]
FRAMES = ["--fps", "2", "--min-pixels", "3136", "--max-pixels", "6272"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    make_world(folder, seed=5, n_train=3, n_validation=0, n_test=1)
    return folder


def test_the_chain(run_recipe, clips, tiny, tmp_path, capsys):
    data = ["--train_data", str(clips / "train.jsonl"), "--video_root", str(clips / "videos")]
    test = ["--eval_data", str(clips / "test.jsonl")]

    # Invert-SFT by LoRA
    run_recipe(
        *("sft_invert.py", *SHORT, *data, *LORA, "--model_name_or_path", tiny, "--output_dir", "sft", "--tasks", "vd"),
        *(
            "--tvg_probability",
            "0",
            "--tvg_from",
            "0",
            "--eval_data",
            str(clips / "test.jsonl"),
            "--max_completion_length",
            "8",
        ),
        *("--learning_rate", "1e-2", "--muon_learning_rate", "1e-1", "--per_device_train_batch_size", "2"),
        *("--save_strategy", "no"),
    )
    sft = tmp_path / "sft" / "model"
    assert (sft / "adapter_model.safetensors").is_file()
    assert not (sft / "config.json").exists()

    # GRPO goes on with that adapter; the reference is the base, from which it already differs
    started = ["--model_name_or_path", str(sft), "--output_dir", "grpo", "--beta", "0.04"]
    started += ["--eval_strategy", "steps", "--eval_steps", "1", "--keep_best", "eval/mIoU", "--validation_samples"]
    started += ["2", "--refill_groups", "1", "--keep_kl_of_equal_groups", "true", "--online_difficulty", "true"]
    run_recipe("grpo_invert.py", *SHORT, *GRPO, *data, *test, *started)
    log = [json.loads(line) for line in (tmp_path / "grpo" / "log.jsonl").read_text().splitlines()]
    assert next(entry["kl"] for entry in log if "kl" in entry) > 1e-5
    validated = [entry for entry in log if "eval/mIoU" in entry]
    assert [entry["step"] for entry in validated] == [1, 2]
    assert {"eval/R1@0.7", "eval/VC", "eval/AR", "eval/VD"} <= validated[0].keys()
    assert {file.name for file in (tmp_path / "grpo" / "best").iterdir()} >= {"adapter_config.json", "validation.json"}
    model = tmp_path / "grpo" / "model"
    before = load_model(str(sft)).state_dict()
    after = load_model(str(model)).state_dict()
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert moved
    assert all("lora_" in name for name in moved)
    assert any(before[name].abs().sum() > 0 for name in moved if "lora_B" in name)  # it did not start anew
    summary = json.loads((tmp_path / "grpo" / "summary.json").read_text())
    assert {"mIoU", "VC", "AR", "VD"} <= summary["after"].keys()

    # evaluate and rate it
    capsys.readouterr()
    rows = [str(clips / "test.jsonl"), "--videos", str(clips / "videos")]
    asked = ["--model", str(model), "--max-new-tokens", "8", *FRAMES]
    assert main(["evaluate", "--data", *rows, *asked, "--output", str(tmp_path / "a.jsonl"), "--cpu", "--json"]) == 0
    by_adapter = json.loads(capsys.readouterr().out)
    assert main(["rate-difficulty", *rows, *asked, "--output", str(tmp_path / "r.jsonl"), "--generations", "2"]) == 0
    assert main(["report", str(tmp_path / "grpo")]) == 0
    assert "Validation, percent" in next((tmp_path / "grpo").glob("*.html")).read_text()

    # merge: a plain checkpoint that answers the same
    capsys.readouterr()
    merged = tmp_path / "merged"
    assert main(["merge", str(model), "--output", str(merged), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["base"] == tiny
    assert not isinstance(load_model(str(merged)), PeftModel)
    ids = torch.arange(20, 40)[None]
    with torch.no_grad():
        logits = [load_model(str(folder)).eval()(input_ids=ids).logits for folder in (model, merged, tiny)]
    assert torch.allclose(logits[0], logits[1], atol=1e-4)
    assert (logits[0] - logits[2]).abs().max() > 1e-3
    asked[1] = str(merged)
    assert main(["evaluate", "--data", *rows, *asked, "--output", str(tmp_path / "m.jsonl"), "--cpu", "--json"]) == 0
    by_merged = json.loads(capsys.readouterr().out)
    assert {name: by_merged[name] for name in ("mIoU", "n")} == {name: by_adapter[name] for name in ("mIoU", "n")}
    assert main(["merge", str(model), "--output", str(merged)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert main(["merge", tiny, "--output", str(tmp_path / "x")]) == 1
    assert "no adapter" in capsys.readouterr().err


def test_an_adapter_whose_base_is_gone_says_so(run_recipe, tiny, tmp_path, capsys):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_model.safetensors").touch()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/not/there", "r": 4}))
    assert main(["merge", str(folder), "--output", str(tmp_path / "x")]) == 1
    assert "its base /not/there is not there" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run_recipe("grpo_invert.py", *SHORT, *GRPO, "--model_name_or_path", str(folder), "--output_dir", "out")
    assert "its base /not/there is not there" in capsys.readouterr().err
