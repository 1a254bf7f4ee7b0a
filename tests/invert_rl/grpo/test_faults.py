"""Rewards that raise and decoders that hang, on one rank: the row at fault is replaced, the rest is untouched."""

from __future__ import annotations

import asyncio
import logging
import math
import threading

import pytest

from invert_rl.grpo.reward_faults import note_failures
from invert_rl.video.store import FrameStore
from rewards.errors import RewardError

A, B = ("tvg", 1), ("tvg", 2)
DRAWN = [A, A, B, B]
COLUMNS = {"completions": ["a", "b", "c", "d"], "trainer_state": "state", "id": ["1", "1", "2", "2"]}


def test_only_the_group_at_fault_is_blamed(caplog):
    def reward(completions, id, trainer_state):
        assert trainer_state == "state"
        if "2" in id:
            raise KeyError("verbs")
        return [len(completion) for completion in completions]

    failures = {}
    with caplog.at_level(logging.WARNING):
        assert note_failures(reward, "verb", DRAWN, failures)(**COLUMNS) == [1.0, 1.0, None, None]
    assert failures == {B: "reward verb raised KeyError: 'verbs'"}
    assert "Traceback" in caplog.text


def test_what_fails_only_as_a_whole_blames_all():
    def reward(completions, **columns):
        if len(completions) > 2:
            raise MemoryError("too many")
        return [0.0] * len(completions)

    failures = {}
    note_failures(reward, "r", DRAWN, failures)(**COLUMNS)
    assert set(failures) == {A, B}


@pytest.mark.parametrize(
    ("returned", "error"), [([1.0], "returned 1 rewards for 2"), (["x", 1.0], "could not convert")]
)
def test_a_wrong_answer_is_a_failure_too(returned, error):
    failures = {}
    note_failures(lambda **columns: returned, "r", DRAWN, failures)(**COLUMNS)
    assert error in failures[A]


def test_rewards_without_trouble_pass_through():
    failures = {}
    assert note_failures(lambda **columns: [1, None, 0.5, 2], "r", DRAWN, failures)(**COLUMNS) == [1.0, None, 0.5, 2.0]

    async def later(**columns):
        return [1, None, 0.5, 2]

    assert asyncio.run(note_failures(later, "r", DRAWN, failures)(**COLUMNS)) == [1.0, None, 0.5, 2.0]
    assert not failures


def test_async_rewards_blame_all():
    async def broken(**columns):
        raise TimeoutError("judge")

    failures = {}
    assert asyncio.run(note_failures(broken, "r", DRAWN, failures)(**COLUMNS)) == [None] * 4
    assert set(failures) == {A, B}


def test_a_row_whose_reward_raises_is_replaced_and_counted(make_trainer, tiny_qwen2_5, rows):
    trainer = make_trainer(tiny_qwen2_5, max_steps=8, per_device_train_batch_size=8, tvg_probability=0.5)
    bad = {row.id for row in rows if row.video == rows[0].video and row.id.endswith(("_0", "_1"))}
    scored: list[str] = []

    def reward(completions, completion_ids, id, log_extra, log_metric, **columns):
        log_extra("row", list(id))
        log_metric("seen", 1.0)
        if bad & set(id):
            raise ZeroDivisionError("no verbs")
        scored.extend(id)
        return [len(set(ids)) / len(ids) for ids in completion_ids]

    trainer.reward_funcs[0] = reward
    trainer.train()
    logged = [log["data/replaced"] for log in trainer.state.log_history if "data/replaced" in log]
    assert len(logged) == 8
    assert sum(logged) == sum(bool(count) for count in logged) > 0  # one row at a time
    assert trainer.quarantine.videos
    assert all(any(f"row {row_id}," in name for row_id in bad) for name in trainer.quarantine.videos)
    for log in trainer.state.log_history:
        assert all(not math.isnan(value) for value in log.values() if isinstance(value, float))


def test_a_reward_that_always_raises_ends_with_its_name(make_trainer, tiny_qwen2_5):
    trainer = make_trainer(tiny_qwen2_5)

    def iou(**columns):
        raise AttributeError("windows")

    trainer.reward_funcs[1] = iou
    with pytest.raises(RewardError, match="in 5 generations of one round.*tvg_only raised AttributeError: windows"):
        trainer.train()


def test_a_decoder_that_hangs_in_this_process_is_left_behind(make_trainer, tiny_qwen2_5, rows, monkeypatch):
    trainer = make_trainer(tiny_qwen2_5, max_steps=8, per_device_train_batch_size=8)
    clip, released = FrameStore.clip, threading.Event()

    def hang(self, ref):
        if ref.path == rows[0].video:
            released.wait(600)
        return clip(self, ref)

    monkeypatch.setattr(FrameStore, "clip", hang)
    trainer.clips.limit = 5.0
    try:
        trainer.train()
    finally:
        released.set()
    assert trainer.state.global_step == 8
    assert trainer.quarantine.videos == {rows[0].video: "decoding: not finished after the limit of 5 s"}
