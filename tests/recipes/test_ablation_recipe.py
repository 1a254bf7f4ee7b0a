"""The ablation recipe with real runs in miniature: killed, started again, and its table."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CONFIG = {
    "base": "base.yaml",
    "seeds": [1],
    "configurations": {
        "only-tvg": {"tasks": ["tvg"], "tvg_probability": 1.0},
        "blank-video": {"blank_video": True, "tvg_probability": 0.5},
    },
    "tables": [
        {"name": "control", "title": "Control", "rows": ["only-tvg", "blank-video"], "text_only": True},
    ],
}
BASE = {
    "max_steps": 3,
    "save_steps": 1,
    "save_total_limit": 1,
    "per_device_train_batch_size": 4,
    "num_generations": 4,
    "max_completion_length": 6,
    "min_pixels": 3136,
    "max_pixels": 6272,
    "toy_train_clips": 6,
    "toy_test_clips": 2,
    "eval_samples": 3,
    "log_completions": False,
    "logging_steps": 1,
    "report_to": "none",
    "bf16": False,
    "gradient_checkpointing": False,
    "use_cpu": True,
}


def write_configs(folder: Path, tiny: str) -> Path:
    (folder / "base.yaml").write_text(yaml.safe_dump({**BASE, "model_name_or_path": tiny}, sort_keys=False))
    (folder / "ablation.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    return folder / "ablation.yaml"


@pytest.mark.slow
def test_a_killed_ablation_goes_on_and_ends_with_a_table(tiny, cache, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, str(ROOT / "recipes" / "ablation.py"), "--config", str(write_configs(tmp_path, tiny))]
    command += ["--output_dir", str(out), "--plots", "false"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    first = out / "runs" / "only-tvg" / "seed_1"
    process = subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 900
    while not (first / "checkpoint-1" / "trainer_state.json").is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "the same command goes on from here" in error
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--resume_from_checkpoint latest" in (first / "console.log").read_text()
    content = json.loads((out / "table.json").read_text())
    assert (content["runs"], content["expected_runs"]) == (2, 2)
    lines = {line["name"]: line for line in content["tables"]["control"]["lines"]}
    for name in ("only-tvg", "blank-video"):
        summary = json.loads((out / "runs" / name / "seed_1" / "summary.json").read_text())
        for metric in ("mIoU", "R1@0.5", "VC", "AR", "VD"):  # also of a model that was trained on TVG alone
            assert lines[name]["metrics"][metric]["mean"] == summary["after"][metric]
    assert "text only" in lines
    again = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert "2 runs, 2 of them finished" in again.stdout


def test_bad_settings_end_with_one_message_and_leave_nothing(run_recipe, tiny, tmp_path, capsys):
    config = write_configs(tmp_path, tiny)
    with pytest.raises(SystemExit) as stop:
        run_recipe("ablation.py", "--config", str(config), "--output_dir", "out", "--only", "all", "--plots", "false")
    assert stop.value.code == 1
    assert "error: --only: no configuration 'all'; there are only-tvg, blank-video" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
