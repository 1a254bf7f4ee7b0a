"""What the language model of a toy start is shown before its tasks: clips, their captions and where these lie."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from data_prep.rows import Row
from invert_rl.positions import trained_rope_index
from invert_rl.tasks import load_preset
from invert_rl.toy import captions
from invert_rl.toy.answers import target_text
from invert_rl.toy.captions import prompt_text, teach_captions, token_positions, write_script
from invert_rl.toy.shown import IGNORED, look_at

EVENTS = [["walk", 0.5, 2.0], ["open", 3.25, 5.75]]
META = {"events": EVENTS, "event": 0, "object": "box", "colour": "red"}
WALK = Row("a", "v.mp4", 12.0, "Someone walks across the room.", ((0.5, 2.0),), meta=META)
OPEN = replace(WALK, id="b", query="Someone opens the box.", windows=((3.25, 5.75),), meta={**WALK.meta, "event": 1})


THINK = load_preset("think").tasks["tvg"]


def answer_to(row: Row) -> str:
    return target_text(THINK, row, np.random.default_rng(0))


def test_the_first_event_is_asked_as_the_task_asks_the_others_by_query_and_only_answers_are_learned(start):
    tokenizer = start[0].tokenizer
    rows, queries = (WALK, OPEN), ("someone walks across the room", "someone opens the box")
    orders, gaps = set(), set()
    for seed in range(20):
        script = write_script(start[0], rows, THINK, np.random.default_rng(seed))
        turns = tokenizer.decode(script.ids).removeprefix("<|vision_end|>").split("\n<|im_start|>user\n")
        order = [0 if queries[0] in turn else 1 for turn in turns]
        orders.add(tuple(order))
        asked = [prompt_text(THINK, rows[order[0]]), queries[order[1]]]
        answers = [answer_to(rows[number]) + "<|im_end|>" for number in order]
        for turn, question, answer in zip(turns, asked, answers, strict=True):
            assert turn == f"{question}<|im_end|>\n<|im_start|>assistant\n{answer}"
        assert queries[order[0]] in asked[0] and "<think>" in asked[0]
        learned = [label for label in script.labels if label != IGNORED]
        assert tokenizer.decode(learned) == "".join(answers)
        assert all(label in (IGNORED, token) for token, label in zip(script.ids, script.labels, strict=True))
        far = [step for step in script.steps if step != 1]
        assert len(script.steps) == len(script.ids) and len(far) <= 1  # after the second query
        gaps |= set(far)
    assert orders == {(0, 1), (1, 0)} and len(gaps) > 12 and max(gaps) <= captions.MAX_GAP + 1


@pytest.mark.parametrize("preset", ["think", "no_think"])
def test_what_comes_next_tells_of_the_event_that_is_looked_at(start, preset):
    tokenizer, task = start[0].tokenizer, load_preset(preset).tasks["tvg"]
    for row, scanned in ((WALK, " walk"), (OPEN, " walk open")):
        script = write_script(start[0], [row], task, np.random.default_rng(0))
        told = {to: [script.ids[at + 1] for at, event in script.looks if event == to] for to in (0, 1)}
        verbs = dict(enumerate(scanned.split() if preset == "think" else []))
        span = f"{row.windows[0][0]:.2f} to {row.windows[0][1]:.2f}"
        wanted = {event: f" {verbs[event]}" if event in verbs else "" for event in (0, 1)}
        wanted[row.meta["event"]] += span
        assert {event: tokenizer.decode(ids) for event, ids in told.items()} == wanted


def test_positions_are_those_of_a_chat_but_for_the_gaps(world, start):
    rows, store = world
    processor, model = start
    grid = look_at(model.model.visual, processor, rows[0], store).grid
    chat = torch.tensor([[3] * 5 + [7] * 48 + [4] + [9] * 6])
    wanted, _ = trained_rope_index(
        model.model, chat, video_grid_thw=torch.tensor([[12, 4, 4]]), second_per_grid_ts=torch.tensor([1.0])
    )
    assert torch.equal(token_positions(5, grid, [1] * 7), wanted[:, 0])
    later = token_positions(5, grid, [1, 1, 21, 1, 1, 1, 1])
    assert torch.equal(later[:, :55], wanted[:, 0, :55]) and torch.equal(later[:, 55:], wanted[:, 0, 55:] + 20)


def test_it_learns_where_to_look_in_a_clip_that_it_is_shown_again_and_again(world, start, monkeypatch):
    monkeypatch.setattr(captions, "CLIPS", 4)
    processor, model = start
    rows, store = world
    rows = [row for row in rows if row.video == rows[0].video]
    everywhere = look_at(model.model.visual, processor, rows[0], store).shows.mean()
    assert everywhere < 0.3  # of the attention that lies on all tokens alike
    assert teach_captions(model, processor, rows, store, 80, 0, THINK) > everywhere + 0.05
