"""The driver with stand-in recipes: what runs, what is skipped, what happens to kills and failures."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from trl import TrlParser

from data_prep.errors import DataError
from invert_rl.ablation.config import AblationConfig
from invert_rl.ablation.execute import execute
from invert_rl.ablation.jobs import Job, write_config
from invert_rl.ablation.plan import plan
from invert_rl.grpo.config import InvertGRPOConfig
from invert_rl.recipe.arguments import config_arguments
from invert_rl.schedule import TaskSchedule
from invert_rl.toy.tiny_model import save_tiny_checkpoint

RECIPE = """
import json, os, pathlib, sys, time, yaml
given = {}
for word in sys.argv[1:]:
    if word.startswith("--"):
        given[name := word[2:]] = []
    else:
        given[name].append(word)
folder = pathlib.Path(given["output_dir"][0])
given.update(yaml.safe_load(open(given["config"][0])))
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps(given) + "\\n")
(folder / "samples_before.jsonl").write_text("{}")
if "vd" in given["tasks"] and "FAIL" in os.environ:
    sys.exit("cannot describe")
if "HANG" in os.environ and "resume_from_checkpoint" not in given:
    (folder / "checkpoint-1").mkdir()
    (folder / "hanging").write_text(str(os.getpid()))
    time.sleep(float(os.environ["HANG"]))
(folder / "summary.json").write_text(json.dumps({"before": {"mIoU": 1.0}, "after": {"mIoU": 2.0}, "seconds": 1.0,
    "settings": {}}))
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("start")
    return str(save_tiny_checkpoint(folder, "qwen2_5_vl", seed=1, hidden=64, layers=2, vision_blocks=2))


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "recipes"
    folder.mkdir()
    for name in ("grpo_invert.py", "sft_invert.py"):
        (folder / name).write_text(RECIPE)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return folder


def config(tmp_path: Path, start: str, **changes) -> AblationConfig:
    base = {"model_name_or_path": start, "max_steps": 5, "use_cpu": True, "bf16": False, "report_to": "none"}
    base |= {"per_device_train_batch_size": 8, "num_generations": 8, "tasks": ["tvg", "vc", "ar", "vd"]}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    values = {
        "output_dir": str(tmp_path / "out"),
        "base": "base.yaml",
        "configurations": {"only-tvg": {"tasks": ["tvg"], "tvg_probability": 1.0}, "all": {}},
        "seeds": [1, 2],
    }
    return AblationConfig(**{**values, **changes})


def calls(tmp_path: Path) -> list[dict[str, list[str]]]:
    path = tmp_path / "calls"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run(jobs: list[Job], recipes: Path, parallel: int = 1) -> tuple[list[Job], list[str]]:
    said: list[str] = []
    return execute(jobs, recipes, parallel, None, said.append), said


def test_every_configuration_and_seed_runs_once_and_never_again(tmp_path, start, recipes):
    jobs = plan(config(tmp_path, start), tmp_path)
    failed, said = run(jobs, recipes, parallel=2)
    assert not failed
    done = {(call["tasks"][-1], call["seed"], call["max_steps"]) for call in calls(tmp_path)}
    assert done == {(task, seed, 5) for task in ("tvg", "vd") for seed in (1, 2)}
    assert any(re.fullmatch(r"only-tvg, seed 1: \d+ s  mIoU 1\.0 -> 2\.0", line) for line in said)
    run(plan(config(tmp_path, start), tmp_path), recipes)
    assert len(calls(tmp_path)) == 4


def test_supervised_recipes_run_every_seed_on_every_world(tmp_path):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({"max_steps": 5, "use_cpu": True, "width": 32}))
    given = AblationConfig(
        recipe="train_psftr",
        base="base.yaml",
        output_dir=str(tmp_path / "out"),
        configurations={"all": {}, "ce": {"class_loss": "ce"}},
        worlds=[0, 4],
        seeds=[1, 2],
    )
    jobs = plan(given, tmp_path)
    assert len({job.folder for job in jobs}) == len(jobs) == 8
    assert {(job.name, job.settings["planted_seed"], job.settings["seed"]) for job in jobs} == {
        (name, world, seed) for name in ("all", "ce") for world in (0, 4) for seed in (1, 2)
    }
    assert all(job.before is None and job.recipe == "train_psftr.py" for job in jobs)
    given.configurations = {"all": {"class_loss": "hinge"}}
    with pytest.raises(DataError, match="all, world 0, seed 1: .*class_loss must be one of focal, ce"):
        plan(given, tmp_path)
    given.recipe = "train_nothing"
    with pytest.raises(DataError, match="'train_nothing' is none of grpo_invert, train_actionvlm"):
        plan(given, tmp_path)


def test_answers_before_training_are_shared_by_runs_that_differ_in_training_only(tmp_path, start, recipes):
    configurations = {"only-tvg": {"tasks": ["tvg"], "tvg_probability": 1.0}, "all": {}, "blank": {"blank_video": True}}
    run(plan(config(tmp_path, start, configurations=configurations), tmp_path), recipes)
    shared = {
        (Path(call["output_dir"][0]).parent.name, call["seed"]): "before_samples" in call for call in calls(tmp_path)
    }
    assert [key for key, has in shared.items() if not has] == [("only-tvg", 1), ("blank", 1)]


def test_a_failed_run_is_named_and_the_others_go_on(tmp_path, start, recipes, monkeypatch):
    monkeypatch.setenv("FAIL", "1")
    failed, said = run(plan(config(tmp_path, start), tmp_path), recipes)
    assert [job.label for job in failed] == ["all, seed 1", "all, seed 2"]
    assert any("FAILED (exit code 1): cannot describe" in line for line in said)
    monkeypatch.delenv("FAIL")
    failed, _ = run(plan(config(tmp_path, start), tmp_path), recipes)
    assert not failed
    assert len(calls(tmp_path)) == 6


def test_runs_of_a_start_model_wait_for_it_and_fail_with_it(tmp_path, start, recipes, monkeypatch):
    changes = {
        "configurations": {"warm": {"start": "sft", "tasks": ["tvg"], "tvg_probability": 1.0}},
        "start_models": {"sft": {"tasks": ["vd"], "use_cpu": True, "bf16": False, "report_to": "none"}},
        "seeds": [1],
    }
    monkeypatch.setenv("FAIL", "1")
    failed, said = run(plan(config(tmp_path, start, **changes), tmp_path), recipes)
    assert [job.label for job in failed] == ["start model sft", "warm, seed 1"]
    assert "warm, seed 1: not run, its start model failed" in said
    monkeypatch.delenv("FAIL")
    assert not run(plan(config(tmp_path, start, **changes), tmp_path), recipes, parallel=2)[0]
    first, last = calls(tmp_path)[-2:]
    assert first["model_name_or_path"] == start
    assert last["model_name_or_path"] == str(Path(first["output_dir"][0]) / "model")


def test_other_settings_or_another_start_model_are_never_mixed_in(tmp_path, start, recipes):
    run(plan(config(tmp_path, start), tmp_path), recipes)
    with pytest.raises(DataError, match="max_steps 5 instead of 9"):
        plan(config(tmp_path, start, max_steps=9), tmp_path)
    path = Path(start) / "generation_config.json"
    content = path.read_text()
    try:
        path.write_text(content + " ")
        with pytest.raises(DataError, match=r"other settings \(start"):
            plan(config(tmp_path, start), tmp_path)
    finally:
        path.write_text(content)
    assert all(job.finished for job in plan(config(tmp_path, start), tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"configurations": {"x": {"tvg_probability": 2}}}, "x, seed 1: tvg_probability must be in"),
        ({"configurations": {"x": {"verb_reward": "soft"}}}, "x, seed 1: .*invalid choice: 'soft'"),
        ({"configurations": {"x": {"no_such_field": 1}}}, "x, seed 1: .*no_such_field"),
        ({"configurations": {"x": {"start": "sft"}}}, "no start model 'sft'"),
        ({"only": ["y"]}, "no configuration 'y'; there are only-tvg, all"),
        ({"seeds": []}, "no configurations or no seeds"),
        ({"base": "gone.yaml"}, "gone.yaml: cannot be read"),
        ({"parallel": 0}, "parallel must be at least 1"),
    ],
)
def test_what_a_recipe_would_refuse_is_refused_before_anything_runs(tmp_path, start, changes, message):
    with pytest.raises(DataError, match=message):
        plan(config(tmp_path, start, **changes), tmp_path)


def test_a_recipe_run_by_the_config_has_these_fields_and_none_of_the_toy_world(tmp_path):
    settings = {"tasks": ["tvg", "vc"], "learning_rate": 1e-5, "manifest": None, "lr_scheduler_kwargs": {}}
    job = Job("x", 1, tmp_path, "grpo_invert.py", {**settings, "bf16": False, "max_steps": 1}, {})
    toy = Path(__file__).resolve().parents[3] / "recipes" / "configs" / "toy" / "grpo.yaml"
    words = config_arguments(["--config", str(write_config(job, tmp_path)), "--output_dir", "out"], toy)
    (args,) = TrlParser((InvertGRPOConfig,)).parse_args_and_config(words)
    assert {name: getattr(args, name) for name in settings} == settings
    assert args.max_pixels == InvertGRPOConfig(bf16=False).max_pixels != yaml.safe_load(toy.read_text())["max_pixels"]


DRIVER = """
import signal, sys
from pathlib import Path
from invert_rl.ablation.execute import execute
from invert_rl.ablation.jobs import Job
signal.signal(signal.SIGTERM, signal.default_int_handler)
folder = Path(sys.argv[1])
job = Job("x", 1, folder / "seed_1", "grpo_invert.py", {"tasks": ["tvg"], "seed": 1}, {"a": 1})
execute([job], Path(sys.argv[2]), 1, None, lambda line: sys.stdout.write(line + chr(10)))
"""


def wait_for(path: Path) -> int:
    deadline = time.monotonic() + 60
    while not path.is_file() or not path.read_text():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.05)
    return int(path.read_text())


def test_after_sigterm_no_run_is_left_and_the_next_start_resumes(tmp_path, recipes, monkeypatch):
    monkeypatch.setenv("HANG", "600")
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path), str(recipes)], stderr=subprocess.DEVNULL)
    child = wait_for(tmp_path / "seed_1" / "hanging")
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(timeout=30) != 0
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    subprocess.run([sys.executable, "-c", DRIVER, str(tmp_path), str(recipes)], check=True)
    assert [call.get("resume_from_checkpoint") for call in calls(tmp_path)] == [None, ["latest"]]
    assert (tmp_path / "seed_1" / "summary.json").is_file()


def test_after_kill_9_a_run_that_still_goes_on_is_waited_for_and_not_doubled(tmp_path, recipes, monkeypatch):
    monkeypatch.setenv("HANG", "4")
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path), str(recipes)])
    child = wait_for(tmp_path / "seed_1" / "hanging")
    driver.kill()
    driver.wait()
    os.kill(child, 0)  # still running
    subprocess.run([sys.executable, "-c", DRIVER, str(tmp_path), str(recipes)], check=True)
    assert len(calls(tmp_path)) == 1
    assert (tmp_path / "seed_1" / "summary.json").is_file()


def test_tvg_without_the_other_rounds_has_as_many_steps_as_the_coin_gives_it(tmp_path, start):
    mixed = {"tasks": ["tvg", "vc", "ar", "vd"], "tvg_probability": 0.5}
    alone = {"tasks": ["tvg"], "tvg_probability": 1.0, "without_rounds_of": "mixed"}
    configurations = {"mixed": mixed, "alone": alone}
    jobs = plan(config(tmp_path, start, configurations=configurations, max_steps=40, seeds=[1, 2]), tmp_path)
    steps = {(job.name, job.seed): job.settings["max_steps"] for job in jobs}
    for seed in (1, 2):
        coin = TaskSchedule(seed=seed, tvg_probability=0.5)
        assert steps["mixed", seed] == 40
        assert steps["alone", seed] == sum(coin(number) == "tvg" for number in range(40))
    assert 10 < steps["alone", 1] < 30
    with pytest.raises(DataError, match="without_rounds_of: no configuration 'x'"):
        plan(config(tmp_path, start, configurations={"a": {"without_rounds_of": "x"}}), tmp_path)
