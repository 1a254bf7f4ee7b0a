"""A recipe that is asked to stop, requeued, resumed with other settings, or started twice."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from invert_rl.recipe.run_log import RunLog
from invert_rl.run_folder import LOCK
from invert_rl.toy.default import start_checkpoint

RUN = ["--toy_train_clips", "6", "--toy_test_clips", "1", "--per_device_train_batch_size", "4"]
RUN += ["--num_generations", "4", "--max_completion_length", "48", "--learning_rate", "1e-3", "--lr_scheduler_type"]
RUN += [
    "cosine",
    "--lr_scheduler_kwargs",
    "{}",
    "--report_to",
    "none",
    "--logging_steps",
    "1",
    "--max_steps",
    "4",
    "--save_steps",
    "50",
]
RUN += ["--eval_samples", "1", "--output_dir"]
"""The shipped checkpoint, whose answers earn rewards: its weights move."""


def model(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def ask(monkeypatch: pytest.MonkeyPatch, number: signal.Signals, step: int) -> None:
    """Send this process a signal while it logs a step."""
    real = RunLog.on_log

    def on_log(self, args, state, control, **kwargs):
        real(self, args, state, control, **kwargs)
        if state.global_step == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(RunLog, "on_log", on_log)


def errors(capsys: pytest.CaptureFixture) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]


def test_a_run_that_is_stopped_goes_on_as_if_it_had_not_been(run_recipe, tmp_path, monkeypatch, capsys):
    """And with other settings it does not go on, unless they are accepted."""
    run_recipe("grpo_invert.py", *RUN, "straight")
    start, straight = load_file(Path(start_checkpoint()) / "model.safetensors"), model(tmp_path / "straight")
    moved = [name for name in straight if not torch.equal(start[name], straight[name])]
    assert len(moved) > len(straight) / 2
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        ask(patch, signal.SIGTERM, step=2)
        run_recipe("grpo_invert.py", *RUN, "run", "--resume_from_checkpoint", "auto")
    assert stop.value.code == 143
    run, text = tmp_path / "run", capsys.readouterr().err
    assert "stopped by SIGTERM after step 3 of 4, run/checkpoint-3 is written; go on with --output_dir run" in text
    assert "Traceback" not in text
    assert not (run / "summary.json").exists() and not (run / "model").exists()
    assert json.loads((run / "checkpoint-3" / "quarantine.json").read_text()) == {}
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

    again = ["grpo_invert.py", *RUN, "run", "--resume_from_checkpoint", "auto"]
    with pytest.raises(SystemExit) as stop:
        run_recipe(*again, "--seed", "7", "--learning_rate", "0.5", "--tvg_probability", "0.3", "--fps", "1")
    assert stop.value.code == 1
    (error,) = errors(capsys)
    for difference in ("seed 42 -> 7", "learning_rate 0.001 -> 0.5", "tvg_probability 0.8 -> 0.3"):
        assert difference in error
    assert "fps 2.0 -> 1.0" in error and "--accept_changes" in error

    run_recipe(*again)
    assert same(model(run), straight)
    logs = [[json.loads(line) for line in (tmp_path / name / "log.jsonl").open()] for name in ("straight", "run")]
    rewards = [[(entry["step"], entry["reward"]) for entry in log if "reward" in entry] for log in logs]
    assert rewards[0] == rewards[1] and len(rewards[0]) == 4
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("straight", "run")]
    for when in ("before", "after"):
        assert summaries[0][when] == summaries[1][when]


def test_outside_of_training_a_signal_ends_the_run_at_once(run_recipe, monkeypatch, capsys, tmp_path):
    def signalled(*args):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    monkeypatch.setattr("invert_rl.toy.default.toy_world", signalled)
    with pytest.raises(SystemExit) as stop:
        run_recipe("grpo_invert.py", *RUN, "run")
    assert stop.value.code == 130
    assert capsys.readouterr().err.strip() == "stopped by SIGINT: no step was under way, nothing is lost"
    assert not (tmp_path / "run").exists()


def test_resuming_needs_the_folder(run_recipe, capsys, tmp_path):
    for value in ("latest", "auto"):
        with pytest.raises(SystemExit):
            run_recipe("grpo_invert.py", *RUN[:-1], "--resume_from_checkpoint", value)
        assert errors(capsys)[0].startswith(f"error: --resume_from_checkpoint {value} needs --output_dir")
    assert not any(tmp_path.iterdir())


def test_a_folder_in_use_is_refused_with_who_has_it(run_recipe, capsys, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).write_text("process 7 on elsewhere")
    with FileLock(tmp_path / "run" / LOCK), pytest.raises(SystemExit) as stop:
        run_recipe("grpo_invert.py", *RUN, "run")
    assert stop.value.code == 1
    assert "run: another run is using it (process 7 on elsewhere)" in errors(capsys)[0]


def test_default_folders_are_made_and_locked_in_one_step(tmp_path):
    """Two runs that choose at the same moment get two folders."""
    from invert_rl.run_folder import lock_folder, new_run_folder

    found: list[Path] = []
    begin = threading.Barrier(8)

    def choose() -> None:
        begin.wait()
        found.append(new_run_folder(tmp_path / "runs", "recipe"))

    threads = [threading.Thread(target=choose) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.name for path in found) == [f"recipe_{number:03d}" for number in range(1, 9)]
    lock = lock_folder(found[0])
    assert f"process {os.getpid()} on " in (found[0] / LOCK).read_text()
    lock.release()
