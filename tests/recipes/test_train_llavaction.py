"""The recipe of LLaVAction as a user runs it: what it leaves, exact resume, own data, the commands on its model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from data_prep.rows import Row, read_rows
from invert_rl.cli import main as command
from invert_rl.toy.make import make_world
from tests.invert_rl.llavaction.kitchen import write_csv
from tests.invert_rl.llavaction.toy_actions import toy_segment
from tests.recipes.resumed import assert_exact

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "train_llavaction.py"
TINY = ["--toy_train_clips", "6", "--toy_test_clips", "2", "--per_device_train_batch_size", "4", "--logging_steps", "1"]


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def epic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small world's clips with a csv in EPIC-KITCHENS-100's columns, and captions."""
    folder = tmp_path_factory.mktemp("epic")
    make_world(folder, seed=8, n_train=8, n_validation=0, n_test=2)
    rows: list[Row] = [*read_rows(folder / "train.jsonl"), *read_rows(folder / "test.jsonl")]
    segments = [toy_segment(row) for row in rows]
    write_csv(folder / "all.csv", segments)
    write_csv(folder / "test.csv", [segment for segment in segments if segment.id.startswith("test")])
    lines = [{"id": s.id, "caption": "I move.", "qa": [{"question": "Who?", "answer": "I."}]} for s in segments[:4]]
    (folder / "made.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    return folder


def test_what_a_run_leaves(run_recipe: Callable[..., None], tiny: str, tmp_path: Path, capsys):
    run_recipe("train_llavaction.py", *TINY, "--model_name_or_path", tiny, "--max_steps", "2", "--sap", "true")
    run = tmp_path / "runs" / "train_llavaction_001"
    summary = summary_of(run)
    assert summary.keys() >= {"before", "after", "random_distractors", "seconds", "peak_rss_gib", "settings"}
    assert summary["before"].keys() == summary["after"].keys() == summary["random_distractors"].keys()
    assert {"MQA", "unparsable", "n", "random/MQA", "SAP"} <= summary["after"].keys()
    assert summary["trivial"].keys() == {"MQA", "random/MQA"}
    assert summary["blind"]["hard"].keys() >= {"chance", "learned", "worst"}
    assert summary["settings"]["distractors"] == "hard"
    samples = [json.loads(line) for line in (run / "samples_after.jsonl").read_text().splitlines()]
    assert {sample["test"] for sample in samples} == {"hard", "random", "hard/sap"}
    assert len(samples) == 3 * summary["after"]["n"]
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert {"loss", "answer_loss", "verb_loss", "noun_loss", "action_loss"} <= log[0].keys()
    assert (run / "random_distractors" / "model" / "model.safetensors").is_file()
    AutoModelForImageTextToText.from_pretrained(run / "model")
    assert "trained with random options" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run_recipe("train_llavaction.py", *TINY, "--output_dir", str(run), "--max_steps", "1")
    assert "holds another run" in capsys.readouterr().err


def test_a_resumed_run_ends_as_one_that_never_stopped(run_recipe, tiny, tmp_path, capsys):
    common = [*TINY, "--model_name_or_path", tiny, "--save_steps", "2", "--compare_random", "false"]
    common += ["--lr_scheduler_type", "constant", "--lr_scheduler_kwargs", "{}", "--prior_probability", "0.5"]
    run_recipe("train_llavaction.py", *common, "--max_steps", "4", "--output_dir", str(tmp_path / "straight"))
    run_recipe("train_llavaction.py", *common, "--max_steps", "2", "--output_dir", str(tmp_path / "killed"))
    resume = ["--resume_from_checkpoint", "latest"]
    capsys.readouterr()
    run_recipe("train_llavaction.py", *common, "--max_steps", "4", "--output_dir", str(tmp_path / "killed"), *resume)
    assert_exact(tmp_path / "straight", tmp_path / "killed", capsys.readouterr().out)
    assert summary_of(tmp_path / "straight")["before"] == summary_of(tmp_path / "killed")["before"]


def test_two_ranks_train_what_one_rank_trains(run_recipe, tiny, cache, tmp_path):
    """Two ranks of two samples against one rank that accumulates two parts of two, by plain gradient descent."""
    common = ["--toy_train_clips", "6", "--toy_test_clips", "2", "--model_name_or_path", tiny, "--max_steps", "2"]
    common += ["--per_device_train_batch_size", "2", "--compare_random", "false", "--direct_weight", "1"]
    common += ["--optim", "sgd", "--learning_rate", "0.1", "--lr_scheduler_type", "constant"]
    common += ["--lr_scheduler_kwargs", "{}", "--max_grad_norm", "1000", "--save_strategy", "no"]
    one, two = tmp_path / "one", tmp_path / "two"
    run_recipe("train_llavaction.py", *common, "--gradient_accumulation_steps", "2", "--output_dir", str(one))
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--rdzv_backend=c10d"]
    result = subprocess.run(
        [*launch, "--rdzv_endpoint=localhost:0", str(RECIPE), *common, "--output_dir", str(two)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    first, second = (load_file(folder / "model" / "model.safetensors") for folder in (one, two))
    start = load_file(Path(tiny) / "model.safetensors")
    kept = [name for name in start if name in first and first[name].shape == start[name].shape]
    assert first.keys() == second.keys()
    assert max((first[name] - second[name]).abs().max().item() for name in first) < 1e-4
    assert any((first[name] - start[name]).abs().max() > 1e-3 for name in kept)
    assert summary_of(one)["after"]["n"] == summary_of(two)["after"]["n"]


def test_lora_runs_answer_and_end_as_a_plain_checkpoint(run_recipe, tiny, tmp_path):
    lora = ["--use_peft", "--lora_r", "4", "--lora_target_modules", "q_proj", "v_proj", "--compare_random", "false"]
    run_recipe(
        "train_llavaction.py", *TINY, *lora, "--model_name_or_path", tiny, "--max_steps", "2", "--output_dir", "o"
    )
    names = load_file(tmp_path / "o" / "model" / "model.safetensors").keys()
    assert not [name for name in names if "lora" in name or "modules_to_save" in name or "adapter" in name]
    assert not [name for name in names if "action_heads" in name]  # engines refuse what they do not know
    heads = load_file(tmp_path / "o" / "model" / "action_heads" / "heads.safetensors")
    assert heads.keys() == {f"action_heads.{name}.weight" for name in ("verb", "noun", "action")}
    assert summary_of(tmp_path / "o")["after"]["n"] > 0


def test_own_data_from_build_mqa_to_the_commands(run_recipe, tiny, epic, tmp_path, capsys):
    """Builder, training on all views, evaluation with both kinds of prediction, attention."""
    for name, mode in (("all", "train"), ("test", "benchmark")):
        arguments = ["--annotations", str(epic / f"{name}.csv"), "--classes-from", str(epic / "all.csv")]
        arguments += ["--mode", mode, "--output", str(tmp_path / f"{name}.jsonl")]
        assert command(["build-mqa", *arguments, "--specialist", "random"]) == 0
    data = ["--train_data", str(tmp_path / "all.jsonl"), "--eval_data", str(tmp_path / "test.jsonl")]
    data += ["--video_root", str(epic / "videos"), "--reformulated", str(epic / "made.jsonl")]
    weights = ["--temporal_weight", "1", "--direct_weight", "0.5", "--mqa_weight", "1"]
    run_recipe(
        *("train_llavaction.py", *data, *weights, "--model_name_or_path", tiny, "--output_dir", "out"),
        *("--max_steps", "-1", "--num_train_epochs", "0.5", "--per_device_train_batch_size", "8"),
        *("--time_instruction", "true", "--perspective", "egocentric", "--lr_scheduler_type", "cosine"),
        *("--lr_scheduler_kwargs", "{}", "--save_strategy", "no"),
    )
    rows = len(read_rows(tmp_path / "all.jsonl"))
    out = capsys.readouterr().out
    assert f"{{'mqa': {rows}, 'temporal': {rows}, 'direct': {round(rows / 2)}, 'caption': 4, 'qa': 4}}" in out
    run = tmp_path / "out"
    assert summary_of(run)["settings"]["max_steps"] == -1
    common = ["--model", str(run / "model"), "--data", str(tmp_path / "test.jsonl"), "--videos", str(epic / "videos")]
    common += ["--cpu", "--json"]
    assert command(["evaluate-mqa", *common, "--sap", "--appending", "2"]) == 1  # not every class is an option
    assert "--verb-classes and --noun-classes" in capsys.readouterr().err
    assert command(["evaluate-mqa", *common, "--sap", "--max-new-tokens", "16"]) == 0
    found = json.loads(capsys.readouterr().out)
    after = summary_of(run)["after"]
    assert (found["MQA"], found["n"]) == (after["MQA"], after["n"])
    assert found["sap"]["n"] == after["n"]
    assert command(["attention", *common, "--limit", "3"]) == 0
    attention = json.loads(capsys.readouterr().out)
    assert attention["n"] == 3
    assert 0 < attention["text_visual_mean"] < attention["text_visual_p90"] < 1
    assert attention["text_action_mean"] > 0
    assert command(["attention", *common, "--limit", "3", "--no-action-token"]) == 0
    assert "text_action_mean" not in json.loads(capsys.readouterr().out)


def test_structured_prediction_and_appending_from_files(run_recipe, tiny, epic, tmp_path, capsys):
    from tests.invert_rl.llavaction.kitchen import write_names, write_scores
    from tests.invert_rl.llavaction.toy_actions import NOUN_NAMES, VERB_NAMES

    rows = [*read_rows(epic / "train.jsonl"), *read_rows(epic / "test.jsonl")]
    segments = [toy_segment(row) for row in rows]
    write_scores(tmp_path / "scores.npz", segments)
    names = ["--verb-classes", str(write_names(tmp_path / "v.csv", VERB_NAMES))]
    names += ["--noun-classes", str(write_names(tmp_path / "n.csv", NOUN_NAMES))]
    build = ["build-mqa", "--annotations", str(epic / "all.csv"), "--specialist", str(tmp_path / "scores.npz")]
    structured = tmp_path / "structured.jsonl"
    assert command([*build, *names, "--mode", "structured", "--style", "label", "--output", str(structured)]) == 0
    run_recipe("train_llavaction.py", *TINY, "--model_name_or_path", tiny, "--max_steps", "1", "--output_dir", "out")
    capsys.readouterr()
    model = tmp_path / "out" / "model"
    (model / "classes.json").write_text(structured.with_suffix(".classes.json").read_text())
    arguments = ["--model", str(model), "--data", str(structured), "--videos", str(epic / "videos"), "--cpu", "--json"]
    assert command(["evaluate-mqa", *arguments, *names, "--appending", "3", "--output", str(tmp_path / "a.jsonl")]) == 0
    found = json.loads(capsys.readouterr().out)
    summary = json.loads(structured.with_suffix(".summary.json").read_text())
    assert found["structured"]["upper_bound"] == pytest.approx(100 * summary["specialist_recall"]["top_5"], abs=1e-3)
    assert found["structured"]["specialist"] == pytest.approx(100 * summary["specialist_recall"]["top_1"], abs=1e-3)
    assert found["appending"]["n"] == 3
    assert found["appending"]["cost_ratio"] > 0
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == len(rows)


BAD = {
    "no model": (["--train_data", "DATA", "--video_root", "."], "needs --model_name_or_path"),
    "no folder": (["--train_data", "DATA"], "--train_data needs --video_root"),
    "no videos": (["--train_data", "DATA", "--video_root", ".", "--model_name_or_path", "TINY"], "holds none of the"),
    "no options": (["--train_data", "ROWS", "--video_root", ".", "--model_name_or_path", "TINY"], "meta.options must"),
    "a weight": (["--qa_weight", "-1"], "the weight of 'qa' must not be negative"),
    "nothing left": (["--mqa_weight", "0", "--model_name_or_path", "TINY"], "every view has weight 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_with_one_line(run_recipe, epic, tiny, tmp_path, capsys, case):
    options, message = BAD[case]
    arguments = ["build-mqa", "--annotations", str(epic / "all.csv"), "--specialist", "random"]
    assert command([*arguments, "--output", str(tmp_path / "data.jsonl")]) == 0
    known = {"DATA": str(tmp_path / "data.jsonl"), "ROWS": str(epic / "train.jsonl"), "TINY": tiny}
    with pytest.raises(SystemExit) as stop:
        run_recipe("train_llavaction.py", *TINY, "--output_dir", "out", *(known.get(word, word) for word in options))
    assert stop.value.code == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


def test_the_paper_configs_hold_what_the_paper_prints():
    """Sections 3.2 and 4.1."""
    paths = sorted((ROOT / "recipes" / "configs" / "epic_kitchens").glob("llavaction*.yaml"))
    assert len(paths) == 3
    for path in paths:
        given = yaml.safe_load(path.read_text())
        assert (given["learning_rate"], given["vision_learning_rate"]) == (1e-5, 2e-6)
        assert given["per_device_train_batch_size"] * 8 * given["gradient_accumulation_steps"] == 64
        assert given["gradient_accumulation_steps"] == given["num_train_epochs"] == 2
        assert (given["padding"], given["prior_probability"]) == (3.0, 0.3)
        assert given["min_frames"] == given["max_frames"] == 16


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_default_learns_to_tell_actions_apart_that_no_blind_rule_can(run_recipe, tmp_path, seed):
    run_recipe("train_llavaction.py", "--output_dir", str(tmp_path / "run"), "--seed", str(seed))
    summary = summary_of(tmp_path / "run")
    assert summary["blind"]["hard"]["learned"] < 27
    assert summary["after"]["MQA"] >= summary["trivial"]["MQA"] + 15


def test_a_video_llm_is_the_specialist_and_its_pass_goes_on_after_a_kill(tiny, epic, tmp_path, capsys):
    """Rankings of all classes for each clip; those that a kill left are kept, the others are the same again."""
    output = tmp_path / "mqa.jsonl"
    build = ["build-mqa", "--annotations", str(epic / "test.csv"), "--specialist", f"model:{tiny}"]
    build += ["--output", str(output), "--cpu", "--max-frames", "4", "--json"]
    assert command(build) == 1
    assert "needs --videos" in capsys.readouterr().err
    build += ["--videos", str(epic / "videos")]
    assert command(build) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["settings"]["balanced"]
    assert summary["questions"] == summary["rows"]
    assert 0 < summary["specialist_recall"]["top_20"] <= 1
    questions = output.read_text()
    rankings = tmp_path / "mqa.specialist.jsonl"
    lines = rankings.read_text().splitlines()
    assert len(lines) == summary["rows"]
    first = json.loads(lines[0])
    assert first["scores"] == sorted(first["scores"], reverse=True)
    rankings.write_text("\n".join(lines[:2]) + "\n" + lines[2][:20])
    assert command(build) == 0
    capsys.readouterr()
    assert sorted(rankings.read_text().splitlines()) == sorted(lines)
    assert output.read_text() == questions
    assert command([*build, "--max-frames", "2"]) == 1
    assert "begun with another max_frames" in capsys.readouterr().err


def launch(*arguments: str, cache: Path, error: str | None = None) -> None:
    """Two ranks by torchrun, which end well or with that ``error``."""
    ranks = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--rdzv_backend=c10d"]
    result = subprocess.run(
        [*ranks, "--rdzv_endpoint=localhost:0", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(cache), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=550,
    )
    if error is not None:
        assert result.returncode != 0
        assert error in result.stderr
        return
    assert result.returncode == 0, result.stderr[-6000:]


@pytest.mark.slow
def test_a_sharded_run_ends_as_a_folder_that_is_evaluated(run_recipe, tiny, epic, cache, tmp_path, capsys):
    """FSDP2 on two ranks: the model of one rank, with all that the next command needs, asked by two ranks."""
    for name, mode in (("all", "train"), ("test", "benchmark")):
        arguments = ["--annotations", str(epic / f"{name}.csv"), "--classes-from", str(epic / "all.csv")]
        arguments += ["--mode", mode, "--output", str(tmp_path / f"{name}.jsonl")]
        assert command(["build-mqa", *arguments, "--specialist", "random"]) == 0
    common = ["--train_data", str(tmp_path / "all.jsonl"), "--video_root", str(epic / "videos")]
    common += ["--model_name_or_path", tiny, "--max_steps", "2", "--save_strategy", "no", "--learning_rate", "0.1"]
    common += ["--optim", "sgd", "--lr_scheduler_type", "constant", "--lr_scheduler_kwargs", "{}"]
    common += ["--max_grad_norm", "1000", "--temporal_weight", "0", "--direct_weight", "0"]
    one, two = tmp_path / "one", tmp_path / "two"
    run_recipe(
        *("train_llavaction.py", *common, "--output_dir", str(one)),
        *("--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2"),
    )
    sharded = [*common, "--output_dir", str(two), "--per_device_train_batch_size", "2"]
    script = str(Path(__file__).with_name("sharded.py"))
    lora = ["--use_peft", "--lora_r", "4", "--lora_target_modules", "q_proj", "v_proj"]
    launch(script, str(RECIPE), *sharded, *lora, cache=cache, error="train with DDP or ZeRO-2")
    launch(script, str(RECIPE), *sharded, cache=cache)
    first, second = (load_file(folder / "model" / "model.safetensors") for folder in (one, two))
    start = load_file(Path(tiny) / "model.safetensors")
    assert first.keys() <= second.keys()  # tied weights may lie there twice
    assert max((first[name].float() - second[name].float()).abs().max().item() for name in first) < 1e-4
    kept = [name for name in start if name in first and first[name].shape == start[name].shape]
    assert any((first[name].float() - start[name].float()).abs().max() > 1e-4 for name in kept)
    assert {path.name for path in (one / "model").iterdir()} <= {path.name for path in (two / "model").iterdir()}
    assert (two / "quarantine.json").is_file()
    asked = ["--data", str(tmp_path / "test.jsonl"), "--videos", str(epic / "videos"), "--cpu", "--json"]
    answers = tmp_path / "answers.jsonl"
    evaluate = ["evaluate-mqa", "--model", str(two / "model"), *asked]
    launch("-m", "invert_rl.cli", *evaluate, "--output", str(answers), cache=cache)
    lines = [json.loads(line) for line in answers.read_text().splitlines()]
    assert [line["id"] for line in lines] == [row.id for row in read_rows(tmp_path / "test.jsonl")]
    capsys.readouterr()
    assert command(evaluate) == 0
    alone = json.loads(capsys.readouterr().out)
    assert command([*evaluate, "--output", str(answers)]) == 0  # all of them are there
    assert json.loads(capsys.readouterr().out)["MQA"] == alone["MQA"]
