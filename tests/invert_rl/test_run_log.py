"""The log of a run that was killed and resumed has each step once."""

from __future__ import annotations

import json

from invert_rl.recipe.run_log import forget_later_steps


def test_steps_after_the_checkpoint_and_a_cut_off_line_are_dropped(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps({"step": step, "loss": 0.5}) + "\n" for step in (10, 20, 30)) + '{"step": 4')
    forget_later_steps(log, 20)
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [10, 20]


def test_a_new_run_has_nothing_to_drop(tmp_path):
    forget_later_steps(tmp_path / "log.jsonl", 0)
    assert not (tmp_path / "log.jsonl").exists()
