"""What is taught earns full reward."""

from __future__ import annotations

import pytest

from data_prep.rows import Row
from invert_rl.sft.targets import target_text
from invert_rl.tasks import TASKS
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
    texts = {task: [target_text(task, ROW)] for task in TASKS}
    for task, text in texts.items():
        assert format_reward(text, task=[task]) == [1.0]
    assert iou_reward(texts["tvg"], task=["tvg"], windows=[[[3.25, 5.5]]]) == [1.0]
    for task, reward in (("vc", vc_reward), ("ar", ar_reward), ("vd", vd_reward)):
        assert reward(texts[task], task=[task], verbs=[["open"]]) == [1.0]


def test_unknown_tasks_are_refused():
    with pytest.raises(ValueError, match="unknown task 'xx'"):
        target_text("xx", ROW)
