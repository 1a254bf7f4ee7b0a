"""A user's own `rewards.py` and `data_prep.py` in the working folder break nothing, and the layers have two names."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(folder, code: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments, "-c", code], cwd=folder, capture_output=True, text=True)


def test_the_layers_are_importable_under_the_package(tmp_path):
    code = """
import invert_rl.rewards.spans, invert_rl.data_prep.rows, rewards.spans, data_prep.rows
from invert_rl.rewards import get_reward, register_reward
from invert_rl.data_prep.rows import Row
assert invert_rl.rewards.spans is rewards.spans and Row is data_prep.rows.Row
assert rewards.spans.__spec__.name == 'rewards.spans', rewards.spans.__spec__
register_reward('mine', lambda completions, **columns: [1.0])
import rewards
assert rewards.get_reward('mine')([''], windows=[]) == [1.0]
import sys; sys.exit('torch' in sys.modules)
"""
    done = run(tmp_path, code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("before", ["", "import rewards; assert rewards.MINE\n"])
def test_a_users_own_files_do_not_break_the_command(tmp_path, before):
    (tmp_path / "rewards.py").write_text("MINE = 1\n")
    (tmp_path / "data_prep.py").write_text("raise RuntimeError('mine')\n")
    rows = '{"id": "a", "video": "a.mp4", "duration": 9, "query": "x opens", "windows": [[1, 2]]}\n'
    (tmp_path / "rows.jsonl").write_text(rows)
    (tmp_path / "p.jsonl").write_text('{"id": "a", "windows": [[1, 2]]}\n')
    code = before + (
        "import sys; from invert_rl.cli import main\n"
        "sys.exit(main(['evaluate', '--predictions', 'p.jsonl', '--data', 'rows.jsonl', '--json']))"
    )
    done = run(tmp_path, code)
    assert done.returncode == 0, done.stderr
    assert '"mIoU": 100.0' in done.stdout
    assert "rewards.py has the name of a package of invert-rl" in done.stderr
