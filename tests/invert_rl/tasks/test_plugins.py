"""Plugins: what cannot be imported is said in one line; the guide's code is run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.errors import DataError
from invert_rl.plugins import load_plugins, plugins_of_arguments

ROOT = Path(__file__).resolve().parents[3]
GUIDE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
CODE = {
    re.match(r"# (\w+\.py)", block)[1]: block for block in re.findall(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL)
}


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("raises_1.py", "x = 1\nraise RuntimeError('no')\n", r"RuntimeError: no \(.*raises_1.py:2\)"),
        ("syntax_1.py", "x = (\n", r"SyntaxError: .*syntax_1.py:1"),
        (
            "taken_1.py",
            "from invert_rl.tasks import Task, register_task\n"
            "register_task(Task(name='tvg', question='q', wanted='w'))\n",
            "a task 'tvg' is registered already",
        ),
        (
            "name_1.py",
            "from invert_rl.tasks import Task, register_task\n"
            "register_task(Task(name='My Task', question='q', wanted='w'))\n",
            "must be lower-case",
        ),
        ("needs_1.py", "import no_such_thing\n", "No module named 'no_such_thing'"),
    ],
)
def test_a_plugin_that_cannot_be_used_is_named(tmp_path, name, text, message):
    path = write(tmp_path, name, text)
    with pytest.raises(DataError, match=message):
        load_plugins([path])


def test_plugins_that_are_not_there():
    with pytest.raises(DataError, match="no such file"):
        load_plugins(["nowhere.py"])
    with pytest.raises(DataError, match="no such module"):
        load_plugins(["nowhere_at.all"])


def test_plugins_are_found_in_arguments_and_yaml(tmp_path):
    config = write(tmp_path, "c.yaml", "plugins: [a.py, b.c]\nlearning_rate: 1\n")
    assert plugins_of_arguments(["--config", config]) == ["a.py", "b.c"]
    assert plugins_of_arguments([f"--config={config}", "--plugins", "x.py", "y", "--seed", "1"]) == ["x.py", "y"]
    assert plugins_of_arguments(["--plugins=x.py", "--rewards", "tvg=iou"]) == ["x.py"]
    assert plugins_of_arguments(["evaluate", "--data", "d"]) == []


def test_the_guide_shows_both_in_under_40_lines():
    assert set(CODE) == {"my_task.py", "my_rewards.py"}
    for code in CODE.values():
        assert len(code.splitlines()) < 45
        assert sum(bool(line.strip()) and not line.startswith("#") for line in code.splitlines()) < 40


def test_the_guides_task_and_reward_train(tmp_path):
    """The main recipe with both plugins: trained on, evaluated, in the log under their names."""
    plugins = [write(tmp_path, name, code) for name, code in CODE.items()]
    run = tmp_path / "run"
    command = [sys.executable, str(ROOT / "recipes" / "grpo_invert.py"), "--plugins", *plugins]
    command += ["--tasks", "tvg", "obj", "--tvg_probability", "0.5", "--rewards", "tvg=format:1,iou:1,centre:0.5"]
    command += ["--toy_train_clips", "6", "--toy_test_clips", "2", "--max_steps", "4", "--logging_steps", "1"]
    command += ["--per_device_train_batch_size", "8", "--num_generations", "4", "--save_strategy", "no"]
    command += ["--output_dir", str(run), "--report_to", "none", "--max_completion_length", "40"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    names = {name for record in log for name in record}
    assert {"obj/names_object", "obj/format", "tvg/iou", "tvg/centre", "tvg/reward", "obj/valid_answers"} <= names
    assert "obj/iou" not in names
    summary = json.loads((run / "summary.json").read_text())
    assert {"OBJ", "mIoU", "VC"} <= summary["after"].keys()
    assert summary["settings"]["preset"]["name"] == "think"
    samples = [json.loads(line) for line in (run / "samples_after.jsonl").read_text().splitlines()]
    assert {sample["task"] for sample in samples} == {"tvg", "vc", "ar", "vd", "obj"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rewards", "tvg=format:1"], "no reward of its content"),
        (["--rewards", "tvg=iou:-1"], "must be a number >= 0"),
        (["--prompt", "thinking"], "no prompt preset 'thinking'"),
        (["--windows", "all"], "asks tvg for one span"),
        (["--windows", "most"], "invalid choice: 'most'"),
        (["--tasks", "tvg", "sing"], "unknown task 'sing'"),
        (["--plugins", "nowhere.py"], "no such file"),
        (["--irrelevant_share", "0.3"], "which --tasks leaves out"),
    ],
)
def test_bad_options_end_in_one_line_before_anything_is_loaded(options, message, tmp_path, monkeypatch, capsys):
    import importlib.util

    spec = importlib.util.spec_from_file_location("grpo_recipe", ROOT / "recipes" / "grpo_invert.py")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    monkeypatch.setattr(recipe, "load_policy", lambda *args, **kwargs: pytest.fail("the model was loaded"))
    monkeypatch.setattr(sys, "argv", ["grpo_invert.py", "--output_dir", str(tmp_path / "run"), *options])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended, recipe.clear_errors():
        recipe.main(
            *recipe.parse_arguments("grpo_invert", (recipe.InvertGRPOConfig, recipe.ModelConfig), recipe.DEFAULT_CONFIG)
        )
    assert ended.value.code
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told
