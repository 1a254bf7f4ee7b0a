"""What the language model of a toy start without thoughts is shown before its tasks: questions about clips."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from data_prep.rows import Row
from invert_rl.encoding import PromptEncoder
from invert_rl.positions import trained_rope_index
from invert_rl.tasks import DEFAULT_TASKS, load_preset, messages
from invert_rl.toy import matching
from invert_rl.toy.captions import prompt_text
from invert_rl.toy.matching import Page, lay_out, teach_matching, write_question
from invert_rl.toy.shown import IGNORED, look_at, see
from invert_rl.video.ref import VideoRef

META = {"events": [["walk", 0.5, 2.0], ["open", 3.25, 5.75]], "object": "box", "colour": "red"}
WALK = Row(
    "a",
    "v.mp4",
    12.0,
    "Someone walks across the room.",
    ((0.5, 2.0),),
    meta={**META, "event": 0, "masked_query": "Someone [] across the room.", "verbs": ["walk"]},
)
OPEN = replace(
    WALK,
    id="b",
    query="Someone opens the box.",
    windows=((3.25, 5.75),),
    meta={**META, "event": 1, "masked_query": "Someone [] the box.", "verbs": ["open"]},
)
TASKS = {name: load_preset("no_think").tasks[name] for name in DEFAULT_TASKS}
OPENING = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"


def opening_of(processor) -> list[int]:
    return list(processor.tokenizer(OPENING, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("task", TASKS)
def test_a_question_is_what_the_task_asks_and_only_its_answer_is_learned(start, task):
    tokenizer = start[0].tokenizer
    question = write_question(start[0], TASKS[task], OPEN, np.random.default_rng(0))
    answer = tokenizer.decode([label for label in question.labels if label != IGNORED])
    asked = f"<|vision_end|>{prompt_text(TASKS[task], OPEN)}<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(question.ids) == asked + answer
    assert answer.startswith("<answer>") and answer.endswith("</answer><|im_end|>") and "think" not in answer
    assert question.positions == list(range(1, len(question.ids) + 1))
    told = [question.ids[at + 1] for at in question.tells]
    assert tokenizer.decode(told) == ("3.25 to 5.75" if task == "tvg" else "")


def test_an_answer_without_tags_tells_of_the_event_from_its_first_token(start):
    bare = load_preset("spans_json").tasks["tvg"]
    question = write_question(start[0], bare, OPEN, np.random.default_rng(0))
    told = start[0].tokenizer.decode([question.ids[at + 1] for at in question.tells])
    assert told == bare.answer(OPEN) and "3.25" in told


def test_of_a_query_alone_the_answer_is_as_far_away_as_a_prompt_would_put_it(start):
    tokenizer, far = start[0].tokenizer, set()
    for seed in range(30):
        question = write_question(start[0], TASKS["tvg"], OPEN, np.random.default_rng(seed), alone=True)
        assert tokenizer.decode(question.ids).startswith("<|vision_end|>someone opens the box<|im_end|>\n")
        (jump,) = list(np.flatnonzero(np.diff(question.positions) != 1)) or [None]
        gap = question.positions[-1] - len(question.ids)
        far.add(gap)
        assert 0 <= gap <= matching.MAX_GAP and (gap == 0) == (jump is None)
        if jump is not None:
            assert tokenizer.decode(question.ids[int(jump) + 1 :]).startswith("<|im_end|>\n<|im_start|>assistant\n")
    assert len(far) > 12
    whole = write_question(start[0], TASKS["tvg"], OPEN, np.random.default_rng(0))
    assert len(whole.ids) - len(question.ids) <= matching.MAX_GAP


def test_each_question_is_answered_as_in_a_chat_of_its_own(world, start):
    rows, store = world
    processor, model = start
    clips = {row.video: [other for other in rows if other.video == row.video] for row in rows}
    first, second = list(clips.values())[:2]
    tower, rng = model.model.visual, np.random.default_rng(0)
    segment = TASKS["ar"].video(second[0])
    shown = [see(tower, processor, store.clip(ref)) for ref in (VideoRef(first[0].video), segment)]
    asked = [[(TASKS["tvg"], row) for row in first], [(TASKS[name], second[0]) for name in ("vc", "ar", "vd")]]
    pages = [
        Page(seen, [write_question(processor, task, row, rng) for task, row in these])
        for seen, these in zip(shown, asked, strict=True)
    ]
    spread = lay_out(model, opening_of(processor), pages)
    with torch.no_grad():
        together = model.model.language_model(
            inputs_embeds=spread.embeddings, position_ids=spread.positions, attention_mask=spread.mask, use_cache=False
        ).last_hidden_state
    encoder = PromptEncoder(processor)
    for number, (page, these, ref) in enumerate(zip(pages, asked, (VideoRef(first[0].video), segment), strict=True)):
        at = len(opening_of(processor)) + len(page.shown.features)
        for question, (task, row) in zip(page.questions, these, strict=True):
            prompt = encoder(messages(task, row), store.clip(ref))
            answer = [label for label in question.labels if label != IGNORED]
            ids = torch.tensor([[*prompt.input_ids, *answer]])
            positions, _ = trained_rope_index(
                model.model, ids, video_grid_thw=prompt.video_grid_thw, second_per_grid_ts=prompt.second_per_grid_ts
            )
            embeddings = model.get_input_embeddings()(ids).detach()
            embeddings[ids == model.config.video_token_id] = page.shown.features
            with torch.no_grad():
                alone = model.model.language_model(
                    inputs_embeds=embeddings, position_ids=positions, use_cache=False
                ).last_hidden_state
            length = len(question.ids)
            torch.testing.assert_close(together[number, at : at + length], alone[0, -length:], rtol=1e-4, atol=1e-4)
            assert spread.labels[number, at : at + length].tolist() == question.labels
            at += length


def test_it_learns_which_frames_each_question_about_a_clip_is_about(world, start, monkeypatch):
    monkeypatch.setattr(matching, "CLIPS", 1)
    monkeypatch.setattr(matching, "SEGMENTS", 0)
    processor, model = start
    rows, store = world
    rows = [row for row in rows if row.video == rows[0].video]
    everywhere = look_at(model.model.visual, processor, rows[0], store).shows.mean()
    assert everywhere < 0.3  # of the attention that lies on all tokens alike
    assert teach_matching(model, processor, rows, store, 100, 0, TASKS) > 0.8  # 0.65 if the asked verb is not told
