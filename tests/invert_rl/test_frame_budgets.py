"""Budgets drawn per prompt: one for each row of a round, the same for its group, on all ranks and after a resume."""

from __future__ import annotations

from collections import Counter
from dataclasses import astuple, replace
from pathlib import Path

import pytest
import torch

from invert_rl.frame_budgets import FrameBudgets
from invert_rl.grpo.config import InvertGRPOConfig
from invert_rl.schedule import Draw
from invert_rl.task_data import TaskDataset
from invert_rl.tasks import TASKS, video_of
from invert_rl.video.disk import entry_path
from invert_rl.video.ref import VideoRef
from invert_rl.video.settings import FrameSettings
from invert_rl.video.store import FrameStore
from tests.invert_rl.grpo.conftest import make_trainer  # noqa: F401
from tests.invert_rl.video.video_clips import constant_rate

REF = VideoRef("a.mp4", 1.0, 2.0, (3.0, 9.0))
PARAVT = (4, 8, 16, 32, 64)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_each_budget_comes_up_as_often_and_by_itself(seed):
    budgets = FrameBudgets(seed, PARAVT, (10**5, 10**6))
    draws = [Draw("tvg", row, number, 0) for row in range(40) for number in range(25)]
    drawn = Counter((budgets(REF, draw).max_frames, budgets(REF, draw).total_pixels) for draw in draws)
    assert len(drawn) == 10
    assert all(60 <= count <= 145 for count in drawn.values()), drawn  # 100 expected, 9.5 the standard deviation


def test_a_draw_depends_on_seed_round_task_and_row_and_on_nothing_else():
    budgets = FrameBudgets(3, tuple(range(2, 1000)), tuple(range(1, 10**6)))
    draw = Draw("tvg", 5, 7, 0)
    shown = budgets(REF, draw)
    assert (shown.path, shown.start, shown.end, shown.clip) == (REF.path, REF.start, REF.end, REF.clip)
    assert budgets(REF, draw._replace(slot=3)) == shown == FrameBudgets(*astuple(budgets))(REF, draw)
    others = [draw._replace(row=6), draw._replace(round=8), draw._replace(task="vc")]
    others_shown = [budgets(REF, other) for other in others] + [replace(budgets, seed=4)(REF, draw)]
    assert len({shown, *others_shown}) == 5
    assert FrameBudgets()(REF, draw) is REF
    alone = FrameBudgets(3, max_frames=(4,))(REF, draw)
    assert (alone.max_frames, alone.total_pixels) == (4, None)


def test_options_out_of_range_are_refused_by_name(tmp_path):
    settings = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False}
    for value, message in (
        ({"draw_max_frames": [8, 2]}, r"draw_max_frames: max_frames \(2\) must not be below min_frames \(4\)"),
        ({"draw_total_pixels": [0]}, "draw_total_pixels: total_pixels must be a positive integer, found 0"),
        ({"draw_max_frames": 8}, "draw_max_frames must be a list of whole numbers, found 8"),
    ):
        with pytest.raises(ValueError, match=message):
            InvertGRPOConfig(**settings, **value)
    assert InvertGRPOConfig(**settings, draw_max_frames=list(PARAVT)).frame_budgets().max_frames == PARAVT


def test_a_store_keeps_each_budget_apart(tmp_path):
    constant_rate(tmp_path / "clip.mp4", "mpeg4", frames=120)
    settings = FrameSettings(fps=2, min_pixels=28 * 56, max_pixels=2 * 64 * 128)
    store = FrameStore(tmp_path, settings, directory=tmp_path / "store", in_process=True)
    whole, few = VideoRef("clip.mp4"), VideoRef("clip.mp4", max_frames=6)
    assert [len(store.clip(ref).frames) for ref in (whole, few, whole)] == [24, 6, 24]
    assert store.clip(few).sampled_fps == 0.5
    small = VideoRef("clip.mp4", max_frames=12, total_pixels=12 * 28 * 56)
    assert store.clip(small).frames[0].numel() < store.clip(few).frames[0].numel()
    part = store.clip(replace(few, start=3.0, end=7.0))  # denser than the whole, of its size
    assert part.frames.shape == (6, *store.clip(few).frames.shape[1:]) and (part.start, part.end) == (3.0, 7.0)
    again = FrameStore(tmp_path, settings, directory=tmp_path / "store", in_process=True)
    assert torch.equal(again.clip(few).frames, store.clip(few).frames)
    paths = [entry_path(Path("s"), settings, ref) for ref in (whole, few, small)]
    assert len(set(paths)) == 3
    assert paths[1] == entry_path(Path("s"), replace(settings, max_frames=6), whole)  # as `cache-frames` stores it


def test_a_run_shows_what_is_drawn_and_a_resumed_one_the_same(make_trainer, tiny_qwen2_5, rows, tmp_path):  # noqa: F811
    def run(name: str, resume: str | None = None) -> tuple[dict[tuple[int, str, int], set[int]], dict]:
        trainer = make_trainer(
            tiny_qwen2_5,
            str(tmp_path / name),
            draw_max_frames=[4, 6, 8],
            max_steps=4,
            save_strategy="steps",
            save_steps=2,
            num_generations=2,
        )
        shown: dict[tuple[int, str, int], set[int]] = {}
        load = trainer._load_prompts

        def noted(inputs, failed):
            inputs, prompts = load(inputs, failed)
            for item, prompt in zip(inputs, prompts, strict=True):
                key = (item["draw"].round, item["draw"].task, item["draw"].row)
                shown.setdefault(key, set()).add(len(prompt.clip.frames))
                budget = video_of(item["prompt"]).max_frames
                assert budget in (4, 6, 8) and len(prompt.clip.frames) <= budget
            return inputs, prompts

        trainer._load_prompts = noted
        trainer.train(resume_from_checkpoint=resume)
        return shown, {name: p.detach().clone() for name, p in trainer.model.named_parameters()}

    whole, weights = run("whole")
    assert all(len(counts) == 1 for counts in whole.values())
    assert len(set.union(*whole.values())) > 1
    resumed, same_weights = run("resumed", str(tmp_path / "whole" / "checkpoint-2"))
    assert resumed == {key: counts for key, counts in whole.items() if key[0] >= 2}
    assert all(torch.equal(weights[name], same_weights[name]) for name in weights)


def test_rows_without_budgets_are_shown_as_ever(rows):
    data = TaskDataset(rows, ["tvg", "vc"])
    for draw in (Draw("tvg", 0, 1, 0), Draw("vc", 1, 1, 0)):
        assert video_of(data[draw]["prompt"]) == TASKS[draw.task].video(data.rows[draw.row])
