"""Two ranks, torchrun and gloo: the same task each round, groups over both ranks, the same weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from invert_rl.schedule import TaskSchedule


def test_two_ranks_are_one_run(tiny_qwen2_5, world, rows, tmp_path):
    script = Path(__file__).with_name("two_ranks.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29533"]
    result = subprocess.run(
        [*command, str(script), tiny_qwen2_5, str(world), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first["digest"] == second["digest"]
    schedule = TaskSchedule(seed=3, tvg_probability=0.5)
    assert len(first["rounds"]) == 12
    for number, (a, b) in enumerate(zip(first["rounds"], second["rounds"], strict=True)):
        assert set(a["tasks"]) == set(b["tasks"]) == {schedule(number)}
        assert len(set(a["ids"] + b["ids"])) == 1  # one prompt a round, its four completions on both ranks
    broken = rows[0].video
    assert first["left_out"] == second["left_out"] == [broken]
    used = {row_id for one_round in first["rounds"] for row_id in one_round["ids"]}
    assert not used & {row.id for row in rows if row.video == broken}
