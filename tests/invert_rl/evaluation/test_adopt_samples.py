"""Answers before training that another run has given already."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.evaluation.predictions import Prediction
from invert_rl.evaluation.runs.before_after import adopt_samples, evaluate_once
from invert_rl.grpo.trainer import InvertGRPOTrainer
from invert_rl.tasks import load_preset

ROWS = [Row(f"r{n}", "v.mp4", 10.0, "q", ((0.0, 5.0),)) for n in range(2)]


def write_samples(path: Path, ids: list[str]) -> Path:
    samples = [Prediction(name, "tvg", windows=[[0.0, 5.0]], text="0 to 5") for name in ids]
    path.write_text("".join(json.dumps(sample.record()) + "\n" for sample in samples))
    return path


class Settings:
    def __init__(self, output_dir: Path) -> None:
        self.output_dir = str(output_dir)


class NoModel:
    """A trainer that can be asked for nothing but its folder."""

    is_fsdp_enabled = is_deepspeed_enabled = False

    def __init__(self, output_dir: Path) -> None:
        self.args = Settings(output_dir)


def test_adopted_answers_give_the_metrics_without_a_model(tmp_path):
    source = write_samples(tmp_path / "samples.jsonl", ["r0", "r1"])
    run = tmp_path / "run"
    adopt_samples(str(source), str(run), ROWS)
    trainer: InvertGRPOTrainer = NoModel(run)  # type: ignore[assignment]
    assert evaluate_once("before", trainer, ROWS, load_preset("think"), {}, reuse=True)["mIoU"] == 100.0
    assert (run / "samples_before.jsonl").is_file()


@pytest.mark.parametrize("ids", [["r0"], ["r0", "r1", "r2"], ["r0", "r9"]])
def test_answers_to_other_rows_are_refused(tmp_path, ids):
    source = write_samples(tmp_path / "samples.jsonl", ids)
    with pytest.raises(DataError, match=f"answers {len(ids)} rows, and not exactly the 2 test rows"):
        adopt_samples(str(source), str(tmp_path / "run"), ROWS)
    assert not (tmp_path / "run").exists()


def test_a_run_may_adopt_its_own_file(tmp_path):
    """What the ablation does with a folder that holds the answers already."""
    source = write_samples(tmp_path / "samples_before.jsonl", ["r1", "r0"])
    before = [json.loads(line) for line in source.read_text().splitlines()]
    adopt_samples(str(source), str(tmp_path), ROWS)
    assert [json.loads(line) for line in source.read_text().splitlines()] == before
