"""The rewards in other trainers: TRL's for real, the others' functions with the arguments that those pass."""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
RIGHT = "<think>a door</think> <answer>2.50 to 7.00</answer>"
HALF = "<think>a door</think> <answer>2.50 to 4.75</answer>"
BAD = "at 2.50 to 7.00"
TVG = json.dumps({"windows": [[2.5, 7.0]]})


def load(name: str) -> types.ModuleType:
    """A file by its path, as the frameworks load it."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_trl_trains_with_the_rewards_as_they_are(tmp_path):
    log = load("trl_grpo").main(str(tmp_path))
    names = {name for entry in log for name in entry if name.startswith("rewards/")}
    assert {"rewards/format_reward/mean", "rewards/iou_reward/mean", "rewards/wasserstein/mean"} <= names
    assert [entry["step"] for entry in log[:2]] == [1, 2]


def test_verl():
    score = load("verl_reward").compute_score
    for text, wanted in ((RIGHT, 1.0), (HALF, 0.75), (BAD, 0.5), ("nothing", 0.0)):
        result = score(data_source="charades", solution_str=text, ground_truth=TVG, extra_info={"num_turns": None})
        assert result["score"] == pytest.approx(wanted)
    verbs = json.dumps({"task": "vd", "verbs": ["open"]})
    said = "<think>x</think> <answer>a person opens the door</answer>"
    assert score("c", said, verbs)["score"] == 1.0


def test_easyr1():
    inputs = [
        {"response": text, "response_length": len(text), "ground_truth": TVG} for text in (RIGHT, HALF, "nothing")
    ]
    scores = load("easyr1_reward").compute_score(inputs, format_weight=0.2)
    assert [score["overall"] for score in scores] == pytest.approx([1.0, 0.2 + 0.8 * 0.5, 0.0])
    assert scores[1].keys() == {"overall", "format", "accuracy"}


@pytest.mark.parametrize("module", ["swift.rewards", "swift.plugin"])
def test_ms_swift(monkeypatch, module):
    stand_in = types.ModuleType(module)
    stand_in.ORM, stand_in.orms = type("ORM", (), {}), {}
    monkeypatch.setitem(sys.modules, "swift", types.ModuleType("swift"))
    monkeypatch.setitem(sys.modules, module, stand_in)
    load("ms_swift_plugin")
    # as its trainer calls them: an instance, with the data set's columns and the trainer's state
    columns = {"windows": [[[2.5, 7.0]], [[2.5, 7.0]], None], "solution": ["", "", ""], "trainer_state": object()}
    assert stand_in.orms["tvg_iou"]()([RIGHT, HALF, RIGHT], **columns) == [1.0, 0.5, 0.0]
    assert stand_in.orms["tvg_format"]()([RIGHT, BAD], task=["tvg", "tvg"]) == [1.0, 0.0]
    assert stand_in.orms["vd_verbs"]()(["<answer>someone opens it</answer>"], verbs=[["open"]]) == [1.0]


def test_a_row_without_what_its_task_needs_is_refused():
    from rewards import RewardError

    with pytest.raises(RewardError, match="needs 'verbs'"):
        load("ground_truth").score(RIGHT, {"task": "ar", "windows": [[1, 2]]})
    with pytest.raises(RewardError, match="unknown task 'vqa'"):
        load("ground_truth").score(RIGHT, {"task": "vqa"})
