"""Taught answers earn full reward, and no thought holds a span."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.tasks import DEFAULT_TASKS, load_preset
from invert_rl.toy.answers import target_text
from rewards.errors import RewardError
from rewards.format import format_reward
from rewards.iou import iou_reward
from rewards.verbs import ar_reward, load_pipeline, vc_reward, vd_reward

ROW = Row(
    id="r",
    video="v.mp4",
    duration=12.0,
    query="The red figure is opening the box.",
    windows=((3.25, 5.75),),
    meta={
        "verbs": ["open"],
        "masked_query": "The red figure is [] the box.",
        "object": "box",
        "colour": "red",
        "events": [["jump", 0.5, 2.0], ["open", 3.25, 5.75], ["close", 6.5, 9.0]],
        "event": 1,
    },
)
THINK, ANSWER = load_preset("think").tasks, load_preset("no_think").tasks


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_texts_with_a_thought_name_verbs_and_no_seconds():
    assert target_text(THINK["tvg"], ROW, rng()) == "<think> open: jump, open</think> <answer>3.25 to 5.75</answer>"
    first = replace(ROW, query="Someone jumps.", windows=((0.5, 2.0),), meta={**ROW.meta, "event": 0})
    assert target_text(THINK["tvg"], first, rng()) == "<think> jump: jump</think> <answer>0.50 to 2.00</answer>"
    vc = target_text(THINK["vc"], ROW, rng())
    assert vc == "<think> open</think> <answer>the red figure is opening the box</answer>"
    assert target_text(THINK["ar"], ROW, rng()) == "<think> open</think> <answer>open</answer>"


def test_texts_without_a_thought_are_the_answer():
    assert target_text(ANSWER["tvg"], ROW, rng()) == "<answer>3.25 to 5.75</answer>"
    assert target_text(ANSWER["ar"], ROW, rng()) == "<answer>open</answer>"
    descriptions = {target_text(ANSWER["vd"], ROW, rng(seed)) for seed in range(50)}
    assert len(descriptions) > 10
    assert not any("the red figure is opening the box<" in text for text in descriptions)


@pytest.mark.parametrize("tasks", [THINK, ANSWER], ids=["think", "no_think"])
def test_taught_answers_earn_every_reward(tasks):
    texts = [target_text(tasks[task], ROW, rng()) for task in DEFAULT_TASKS]
    formats = [tasks[task].answer_format for task in DEFAULT_TASKS]
    assert format_reward(texts, task=list(DEFAULT_TASKS), answer_format=formats) == [1.0] * 4
    assert iou_reward(texts[:1], task=["tvg"], windows=[[[3.25, 5.75]]]) == [1.0]
    try:
        load_pipeline()
    except RewardError as error:
        pytest.skip(f"no verb pipeline: {error}")
    for task, reward in (("vc", vc_reward), ("ar", ar_reward), ("vd", vd_reward)):
        answers = [target_text(tasks[task], ROW, rng(seed)) for seed in range(20)]
        assert reward(answers, task=[task] * 20, verbs=[["open"]] * 20) == [1.0] * 20


def test_a_row_of_another_data_set_is_named():
    with pytest.raises(DataError, match="'r2'"):
        target_text(THINK["vd"], Row("r2", "v.mp4", 12.0, "q", ((0.5, 1.5),)), rng())
