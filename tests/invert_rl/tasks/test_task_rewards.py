"""Rewards by name and weight: what is read, what is refused, and that each task gets its own."""

from __future__ import annotations

import asyncio
import math

import pytest

from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.tasks import TASKS, Task, register_task
from invert_rl.tasks.rewards import reward_weights, task_rewards, try_rewards
from rewards import registry

ROW = Row("r", "v.mp4", 9.0, "he opens it", ((1.0, 3.0),), meta={"verbs": ["open"], "masked_query": "he [] it"})
SOME = {name: TASKS[name] for name in ("tvg", "vc")}


@pytest.fixture
def own_reward(monkeypatch):
    """Registers rewards for one test."""
    monkeypatch.setattr(registry, "_rewards", dict(registry._rewards))
    return registry.register_reward


def test_defaults_are_the_papers():
    weights = reward_weights(None, {name: TASKS[name] for name in ("tvg", "vc", "ar", "vd")})
    assert weights == {
        "tvg": {"format": 1, "iou": 1},
        "vc": {"format": 1, "vc": 1},
        "ar": {"format": 1, "ar": 1},
        "vd": {"format": 1, "vd": 1},
    }


def test_command_line_and_yaml_say_the_same():
    line = ["tvg=format:1,timestamp_iou:0.5", "vc=vc"]
    mapping = {"tvg": {"format": 1, "timestamp_iou": 0.5}, "vc": {"vc": 1.0}}
    assert reward_weights(line, SOME) == reward_weights(mapping, SOME) == mapping
    path = "rewards.span_rewards:iou"
    assert reward_weights([f"tvg={path}:2,format"], SOME)["tvg"] == {path: 2.0, "format": 1.0}
    assert reward_weights([f"tvg={path}"], SOME)["tvg"] == {path: 1.0}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["tvg"], "must be TASK=REWARD:WEIGHT"),
        (["tvg="], "must be TASK=REWARD:WEIGHT"),
        (["sing=iou:1"], "unknown task 'sing'"),
        (["tvg=iuo:1"], "unknown reward 'iuo'"),
        (["tvg=iou:-1"], "must be a number >= 0, found -1"),
        (["tvg=iou:nan"], "must be a number >= 0, found nan"),
        (["tvg=iou:inf"], "must be a number >= 0, found inf"),
        ({"tvg": {"iou": True}}, "must be a number >= 0, found True"),
        ({"tvg": {"iou": "1"}}, "must be a number >= 0, found '1'"),
        ({"tvg": ["iou"]}, "expected a mapping"),
        ({"tvg": {}}, "task 'tvg' is given no reward"),
        (["tvg=iou:1", "tvg=format:1"], "named twice"),
        (["tvg=iou:1,iou:2"], "names 'iou' twice"),
        (["tvg=format:1"], "no reward of its content"),
        (["tvg=format:1,iou:0"], "no reward of its content"),
        (["tvg=format:1,parse_penalty:1"], "no reward of its content"),
        (["tvg=nowhere.at_all:f:1"], "cannot be imported"),
        (["tvg=:1"], "must be REWARD"),
    ],
)
def test_what_cannot_be_a_reward_is_refused(given, message):
    with pytest.raises(DataError, match=message):
        reward_weights(given, SOME)


def test_each_task_gets_its_own():
    made = task_rewards({"tvg": {"format": 1, "iou": 1}, "vc": {"format": 0.5}})
    texts = ["<think>t</think> <answer>1 to 3</answer>", "<think>t</think> <answer>it</answer>"]
    columns = {
        "task": ["tvg", "vc"],
        "windows": [[[1.0, 3.0]], [[1.0, 3.0]]],
        "answer_format": ["think/span", "think/text"],
    }
    found = {reward.__name__: reward(completions=texts, **columns) for reward in made}
    assert found == {"format": [1.0, 1.0], "iou": [1.0, None]}
    assert made[0].weights == {"tvg": 1, "vc": 0.5}


def test_async_rewards_are_awaited(own_reward):
    async def judge(completions, **columns):
        return [0.25 for _ in completions]

    own_reward("judge", judge)
    (made,) = task_rewards({"tvg": {"judge": 1.0}})
    assert asyncio.run(made(completions=["a", "b"], task=["vc", "tvg"])) == [None, 0.25]


def test_a_reward_that_cannot_be_used_is_named_before_the_run(own_reward):
    bad = {
        "few": (lambda completions, **columns: [1.0], "'few'.*returned 1 rewards for 2"),
        "words": (lambda completions, **columns: ["1"] * len(completions), "'words'.*returned '1'"),
        "nans": (lambda completions, **columns: [math.nan] * len(completions), "'nans'.*returned nan"),
        "none": (lambda completions, **columns: None, "'none'.*raised TypeError"),
        "raises": (lambda completions, **columns: 1 / 0, "'raises'.*raised ZeroDivisionError"),
    }
    for name, (reward, message) in bad.items():
        own_reward(name, reward)
        with pytest.raises(DataError, match=message):
            try_rewards({"tvg": {name: 1.0}, "vc": {"vc": 1.0}}, SOME, [ROW], {})
    try_rewards(reward_weights(None, SOME), SOME, [ROW], {})


def test_a_reward_that_can_never_pay_its_task_is_named_before_the_run(own_reward, caplog):
    with pytest.raises(DataError, match="'iou' of task 'vc' gives an annotated answer no more"):
        try_rewards({"vc": {"format": 1.0, "iou": 1.0}}, {"vc": SOME["vc"]}, [ROW] * 30, {})
    with pytest.raises(DataError, match="'vc' of task 'tvg'"):
        try_rewards({"tvg": {"vc": 1.0, "iou": 1.0}}, {"tvg": SOME["tvg"]}, [ROW], {})
    own_reward("flat", lambda completions, **columns: [0.5] * len(completions))
    try_rewards({"vc": {"flat": 1.0}}, {"vc": SOME["vc"]}, [ROW], {})  # somebody's own may have its reasons
    assert "'flat' of task 'vc'" in caplog.text


def test_a_task_without_content_reward_is_refused(monkeypatch):
    from invert_rl.tasks import registry as tasks

    monkeypatch.setattr(tasks, "TASKS", dict(tasks.TASKS))
    task = register_task(Task(name="empty", question="What?", wanted="a word"))
    with pytest.raises(DataError, match="'empty' has no reward of its content"):
        reward_weights(None, {"empty": task})
