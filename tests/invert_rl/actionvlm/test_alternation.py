"""Epochs of vision alone and of both in turn, and the videos of each batch."""

from __future__ import annotations

import pytest

from invert_rl.actionvlm.alternation import Alternation


def kinds(schedule: Alternation, steps: int) -> list[bool]:
    return [schedule.vision_only(schedule.epoch(step)) for step in range(steps)]


def test_epochs_take_turns_and_begin_with_vision_alone():
    schedule = Alternation(videos=10, batch_size=2, parts=2, seed=0)  # 2.5 steps an epoch: 3
    assert kinds(schedule, 9) == [True] * 3 + [False] * 3 + [True] * 3


def test_warmup_epochs_are_vision_alone_and_the_turns_begin_behind_them():
    schedule = Alternation(videos=4, batch_size=4, parts=1, seed=0, warmup_epochs=3)
    assert kinds(schedule, 7) == [True, True, True, True, False, True, False]


def test_without_turns_all_epochs_are_both():
    assert not any(kinds(Alternation(videos=4, batch_size=4, parts=1, seed=0, alternate=False), 5))


@pytest.mark.parametrize(("batch_size", "parts"), [(3, 2), (6, 1), (1, 6)])
def test_every_video_comes_up_in_every_epoch_in_whatever_parts(batch_size: int, parts: int):
    schedule = Alternation(videos=10, batch_size=batch_size, parts=parts, seed=3)
    assert schedule.steps_per_epoch == 2
    orders = []
    for epoch in (0, 1):
        steps = (2 * epoch, 2 * epoch + 1)
        seen = [place for step in steps for part in range(parts) for place in schedule.places(step, part)]
        assert sorted(seen[:10]) == list(range(10))
        assert seen[10:] == seen[:2]  # the last step is filled with the first videos again
        orders.append(seen)
    assert orders[0] != orders[1]
    reference = Alternation(videos=10, batch_size=6, parts=1, seed=3)
    assert orders[0] == [place for step in (0, 1) for place in reference.places(step, 0)]
