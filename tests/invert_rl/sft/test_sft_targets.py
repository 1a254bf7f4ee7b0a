"""What is taught earns full reward."""

from __future__ import annotations

import pytest

from data_prep.rows import Row
from invert_rl.tasks import DEFAULT_TASKS, TASKS, load_preset
from rewards.format import format_reward
from rewards.iou import iou_reward
from rewards.verbs import ar_reward, vc_reward, vd_reward

ROW = Row(
    id="r",
    video="v.mp4",
    duration=30.0,
    query="A person opens the door.",
    windows=((3.25, 5.5),),
    meta={"verbs": ["open"], "masked_query": "A person [] the door."},
)


def test_taught_answers_earn_every_reward():
    texts = {task: [TASKS[task].target(ROW)] for task in DEFAULT_TASKS}
    for task, text in texts.items():
        assert format_reward(text, task=[task]) == [1.0]
    assert iou_reward(texts["tvg"], task=["tvg"], windows=[[[3.25, 5.5]]]) == [1.0]
    for task, reward in (("vc", vc_reward), ("ar", ar_reward), ("vd", vd_reward)):
        assert reward(texts[task], task=[task], verbs=[["open"]]) == [1.0]


@pytest.mark.parametrize("preset", ["think", "no_think", "spans_json"])
def test_what_is_taught_has_the_form_of_the_preset(preset):
    for task in load_preset(preset).tasks.values():
        text = task.target(ROW)
        assert format_reward([text], answer_format=[task.answer_format]) == [1.0]
        assert task.is_valid(text, ROW)
        if task.names_spans:
            assert task.read(text, ROW) == [(3.25, 5.5)]


def test_a_bare_preset_teaches_the_answer_alone():
    assert load_preset("spans_json").tasks["tvg"].target(ROW) == "[[3.25, 5.50]]"
    assert load_preset("timelens").tasks["tvg"].target(ROW) == "The event happens in 3.25 - 5.50 seconds."
    assert load_preset("no_think").tasks["ar"].target(ROW) == "<answer>open</answer>"
