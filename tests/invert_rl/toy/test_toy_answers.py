"""Taught answers earn full reward where they are exact, and lose tightness where they are loosened."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.tasks import DEFAULT_TASKS
from invert_rl.toy.answers import loose_window, target_text
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
        "events": [["jump", 0.5, 2.0], ["open", 3.25, 5.75]],
        "event": 1,
    },
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_texts():
    thought = "<think>the person opens the box</think>"
    time_line = "<think> open: 0.50 to 2.00 jump, 3.25 to 5.75 open</think>"
    assert target_text("tvg", ROW, rng()) == f"{time_line} <answer>3.25 to 5.75</answer>"
    first = replace(ROW, query="Someone jumps.", windows=((0.5, 2.0),), meta={**ROW.meta, "event": 0})
    assert target_text("tvg", first, rng()) == "<think> jump: 0.50 to 2.00 jump</think> <answer>0.50 to 2.00</answer>"
    assert target_text("vc", ROW, rng()) == f"{thought} <answer>the red figure is opening the box</answer>"
    assert target_text("ar", ROW, rng()) == f"{thought} <answer>open</answer>"
    descriptions = {target_text("vd", ROW, rng(seed)) for seed in range(50)}
    assert len(descriptions) > 10
    assert not any("the red figure is opening the box<" in text for text in descriptions)


def test_exact_answers_earn_every_reward():
    texts = [target_text(task, ROW, rng()) for task in DEFAULT_TASKS]
    assert format_reward(texts, task=list(DEFAULT_TASKS)) == [1.0] * 4
    assert iou_reward(texts[:1], task=["tvg"], windows=[[[3.25, 5.75]]]) == [1.0]
    try:
        load_pipeline()
    except RewardError as error:
        pytest.skip(f"no verb pipeline: {error}")
    for task, reward in (("vc", vc_reward), ("ar", ar_reward), ("vd", vd_reward)):
        answers = [target_text(task, ROW, rng(seed)) for seed in range(20)]
        assert reward(answers, task=[task] * 20, verbs=[["open"]] * 20) == [1.0] * 20


def test_only_the_answer_is_loosened():
    for seed in range(20):
        text = target_text("tvg", ROW, rng(seed), loosen=1.5)
        thought, answer = text.removeprefix("<think>").removesuffix("</answer>").split("</think> <answer>")
        assert thought == " open: 0.50 to 2.00 jump, 3.25 to 5.75 open"
        start, end = (float(word) for word in answer.split(" to "))
        assert 1.75 <= start <= 3.25 and 5.75 <= end <= 7.25


def test_loose_windows_hold_the_true_one_stay_in_the_video_and_spread_as_asked():
    generator = rng()
    windows = np.array([loose_window((3.25, 5.75), 12.0, 2.0, generator) for _ in range(4000)])
    assert (windows[:, 0] <= 3.25).all() and (windows[:, 1] >= 5.75).all()
    assert (windows % 0.25 == 0).all()
    assert windows[:, 0].min() == 1.25 and windows[:, 1].max() == 7.75
    # U(0, 2) has mean 1 and deviation 2/sqrt(12); independent borders are uncorrelated.
    assert abs((3.25 - windows[:, 0]).mean() - 1.0) < 0.05
    assert abs(windows[:, 0].std() - 2 / 12**0.5) < 0.05
    assert abs(np.corrcoef(windows.T)[0, 1]) < 0.06
    ends = [loose_window((0.5, 11.5), 12.0, 4.0, generator) for _ in range(50)]
    assert min(ends)[0] == 0.0 and max(end for _, end in ends) == 12.0


def test_bad_input_is_named():
    with pytest.raises(DataError, match="'r2'"):
        target_text("vd", Row("r2", "v.mp4", 12.0, "q", ((0.5, 1.5),)), rng())
    with pytest.raises(ValueError, match="unknown task"):
        target_text("xx", ROW, rng())
    with pytest.raises(ValueError, match="negative"):
        loose_window((3.25, 5.75), 12.0, -1.0, rng())
