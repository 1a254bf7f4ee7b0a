"""The guide to curricula says what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path

from data_prep.rows import Row, read_rows, write_rows
from invert_rl.cli import COMMANDS
from invert_rl.curriculum import MEASURES, CurriculumRows, curriculum_rows
from invert_rl.grpo.config import InvertGRPOConfig

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "curriculum.md").read_text(encoding="utf-8")


def test_commands_options_and_columns_exist():
    options = set(re.findall(r"--(difficulty_\w+)", TEXT))
    assert options == {name for name in InvertGRPOConfig.__dataclass_fields__ if name.startswith("difficulty_")}
    assert "rate-difficulty" in COMMANDS
    assert all(f"`{name}`" in TEXT for name in (*MEASURES, "weight", "from_round"))
    for line in re.findall(r'^\{"id".*\}$', TEXT, flags=re.MULTILINE):
        assert isinstance(json.loads(line)["meta"], dict)


def test_the_example_makes_a_curriculum(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rewards = (0.0, 0.5, 0.9)
    write_rows(
        [
            Row(f"r{n}", "v.mp4", 9.0, "q", ((0.0, 1.0),), meta={"mean_reward": {"tvg": reward}})
            for n, reward in enumerate(rewards)
        ],
        "rated.jsonl",
    )
    example = re.search(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    assert example is not None
    exec(example.group(1), {})
    rows = read_rows("curriculum.jsonl")
    usable = curriculum_rows(rows, range(3), "tvg")
    assert isinstance(usable, CurriculumRows)
    assert usable.from_round.tolist() == [300, 150, 0]
