"""Asking a model: sequential and structured prediction, appended classes, and attention."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch.nn import functional

from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.llavaction.answers.answer import (
    Answer,
    QuestionAnswerer,
    question_sample,
    read_answer,
    sequential_answers,
)
from invert_rl.llavaction.answers.appending import AppendingScorer
from invert_rl.llavaction.answers.attention import TokenAttention, attention_summary, token_attention
from invert_rl.llavaction.answers.choices import Choice
from invert_rl.llavaction.answers.class_beam import ClassBeam
from invert_rl.llavaction.answers.structured import structured_metrics
from invert_rl.llavaction.data import Classes, SampleEncoder
from invert_rl.llavaction.questions.mqa import QuestionBuilder, question_row
from invert_rl.llavaction.questions.specialist import RandomClasses, ScoreArrays
from invert_rl.llavaction.segments import ClassMap
from invert_rl.llavaction.views import ViewSettings
from invert_rl.video.errors import VideoError
from invert_rl.video.settings import FrameSettings
from tests.invert_rl.llavaction.conftest import make_clip
from tests.invert_rl.llavaction.kitchen import NOUNS, VERBS, make_segments, write_scores

OPTIONS = ["open the box", "sit down", "jump up and down", "wave a hand", "spin around"]


class RandomClips:
    """In place of a store: a random clip per video name."""

    settings = FrameSettings()

    def clip(self, ref):
        if ref.path == "missing.mp4":
            raise VideoError(ref.path, "no such file")
        return make_clip(int(ref.path.removesuffix(".mp4")))


def make_row(number: int, priors: Sequence[str] = (), video: str | None = None) -> Row:
    meta = {"options": OPTIONS, "answer": "ABCDE"[number % 5], "option_classes": ["0:0", "1:1", "2:2", "3:3", "4:4"]}
    if priors:
        meta["priors"] = [{"id": name, "narration": "x", "offset": 2.0 - n} for n, name in enumerate(priors)]
    return Row(f"r{number}", video or f"{number}.mp4", 9.0, "open the box", ((0.0, 2.0),), meta=meta)


@pytest.fixture
def ask(load, checkpoint):
    model, encoder = load(checkpoint)
    encode = SampleEncoder(encoder, RandomClips(), ViewSettings("none", False), Classes(6, 7, ["0:0"]))
    return QuestionAnswerer(model, encode, batch_size=3, max_new_tokens=5)


def test_answers_do_not_depend_on_the_batch(ask):
    rows = [make_row(number) for number in range(4)]
    rows.append(make_row(9, video="missing.mp4"))
    together = ask(rows)
    assert together["r9"].status == "missing_video"
    for row in rows[:4]:
        assert ask([row])[row.id] == together[row.id]
    assert set(together) == {row.id for row in rows}


def test_sequential_prediction_names_what_the_model_said(ask, monkeypatch):
    rows = [make_row(0), make_row(1), make_row(2, ["r0", "r1"]), make_row(3, ["r1", "r2"]), make_row(4, ["r2", "zz"])]
    first = {
        row.id: read_answer(row, letter)
        for row, letter in zip(rows, ("B", "E. spin around", "?", "A", "C"), strict=True)
    }
    seen = {}

    def answer(batch, texts):
        for row in batch:
            seen[row.id] = question_sample(row, ask.encode.settings, texts).prompt
        return [Answer(row.id, "D", Choice(3, "letter"), OPTIONS[3]) for row in batch]

    monkeypatch.setattr(ask, "_batch", answer)
    answers, again = sequential_answers(ask, rows, first)
    # r2 was unreadable, so r3 lacks a prediction before it; zz is in no question
    assert (again, set(seen)) == (1, {"r2"})
    assert (
        "2.00 seconds ago, you started an action sit down. 1.00 seconds ago, you started an action spin around."
        in seen["r2"]
    )
    assert {name: answer.choice.place for name, answer in answers.items()} == {
        "r0": 1,
        "r1": 4,
        "r2": 3,
        "r3": 0,
        "r4": 2,
    }


def test_appended_classes_have_the_loss_of_a_full_forward(ask):
    """Text by text without a cache, at each chunk size; the texts' lengths differ."""
    texts = ["sit down", "jump up and down on the spot", "x", "open the box"]
    row = make_row(1)
    sample = question_sample(row, ask.encode.settings)
    encode, model = ask.encode, ask.model
    expected = []
    for text in texts:
        item = encode.encoder(sample.prompt, make_clip(1), text)
        batch = encode.encoder.batch([item])
        inputs = {name: value for name, value in batch.items() if not name.endswith("_labels")}
        with torch.no_grad():
            logits = model(**inputs).logits
        expected.append(functional.cross_entropy(logits[0, :-1], batch["answer_labels"][0, 1:], ignore_index=-100))
    for chunk in (1, 3, 64):
        found = AppendingScorer(model, encode, texts, chunk).losses(sample, row)
        assert found.tolist() == pytest.approx([value.item() for value in expected], abs=2e-5)


def structured_rows(tmp_path, count: int) -> tuple[list[Row], np.ndarray, list[str]]:
    segments = make_segments(300)
    path, scores, keys = write_scores(tmp_path / "scores.npz", segments)
    classes = ClassMap(segments, dict(enumerate(VERBS)), dict(enumerate(NOUNS)))
    builder = QuestionBuilder(classes, ScoreArrays(path, segments, classes), count, "structured", "label")
    return (
        [question_row(q, builder.true_text(q.segment), 99.0, "v.mp4") for q in builder.questions(segments)],
        scores,
        keys,
    )


@pytest.mark.parametrize("count", [5, 10, 20])
def test_structured_questions_have_the_best_classes_and_their_bound(tmp_path, count):
    rows, scores, keys = structured_rows(tmp_path, count)
    assert len(rows) == 300
    inside = best = 0
    for row, own in zip(rows, scores, strict=True):
        ranked = [keys[column] for column in np.argsort(-own)]
        assert set(row.meta["option_classes"]) == set(ranked[:count])
        assert row.meta["first"] == ranked[0]
        truth = f"{row.meta['verb_class']}:{row.meta['noun_class']}"
        inside += truth in ranked[:count]
        best += truth == ranked[0]
        assert (row.meta["answer"] is None) == (truth not in ranked[:count])
    perfect = {
        row.id: Choice(row.meta["option_classes"].index(f"{row.meta['verb_class']}:{row.meta['noun_class']}"), "letter")
        for row in rows
        if row.meta["answer"] is not None
    }
    found = structured_metrics(perfect, rows)
    # what is not among the options falls back to the specialist's best class, which is not it either
    assert found["action"] == found["upper_bound"] == pytest.approx(100 * inside / 300)
    nothing = structured_metrics({}, rows)
    assert nothing["action"] == nothing["specialist"] == pytest.approx(100 * best / 300)
    assert nothing["unparsable"] == 100.0
    assert nothing["verb"] >= nothing["action"]


def test_structured_questions_need_a_specialist_that_saw_the_clip():
    classes = ClassMap(make_segments(100))
    with pytest.raises(DataError, match="does not know the true class"):
        QuestionBuilder(classes, RandomClasses(classes, 0), mode="structured")


def test_attention_is_the_largest_over_the_text_of_the_mean(load, checkpoint):
    """Against the attention of each layer and head, one by one."""
    from invert_rl.llavaction.model import load_action_model, load_action_processor

    processor = load_action_processor(checkpoint)
    model = load_action_model(checkpoint, processor, (1, 1, 1), attn_implementation="eager").eval()
    _, encoder = load(checkpoint)
    item = encoder("A. open the box\nB. sit down", make_clip())
    found = token_attention(model, encoder, item)
    with torch.no_grad():
        layers = model(**encoder.batch([item], labels=False), output_attentions=True, use_cache=False).attentions
    ids = item.ids
    visual = [place for place, token in enumerate(ids) if token in encoder.placeholders]
    action = ids.index(encoder.token_id)
    text = [place for place in range(visual[-1] + 1, len(ids)) if place != action]
    heads = [head for layer in layers for head in layer[0]]
    for place, value in zip([*visual[:3], action], [*found.visual[:3], found.action], strict=True):
        assert value == pytest.approx(max(float(np.mean([head[t, place] for head in heads])) for t in text), rel=1e-4)
    assert len(found.visual) == len(visual)


def test_attention_summary_by_hand():
    prompts = [TokenAttention(np.array([0.1, 0.3]), 0.2), TokenAttention(np.array([0.5, 0.1]), 0.4)]
    found = attention_summary(prompts)
    assert found["text_visual_mean"] == pytest.approx(0.25)
    assert found["text_visual_p90"] == pytest.approx(np.percentile([0.1, 0.3, 0.5, 0.1], 90))
    assert found["text_action_mean"] == pytest.approx(0.3)
    assert found["visual_below_action"] == 50.0
    assert "text_action_mean" not in attention_summary([TokenAttention(np.array([0.1]), None)])


def test_a_wide_beam_ranks_all_classes_by_their_probability(ask):
    """Against the appended losses, times the texts' lengths; two classes of one text stand side by side."""
    texts = ["sit down", "jump up and down on the spot", "x", "open the box", "sit", "sit down"]
    row = make_row(1)
    sample = question_sample(row, ask.encode.settings)
    tokenizer = ask.encode.encoder.tokenizer
    lengths = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) + 1 for text in texts]
    losses = AppendingScorer(ask.model, ask.encode, texts).losses(sample, row).tolist()
    expected = [-loss * length for loss, length in zip(losses, lengths, strict=True)]
    found = ClassBeam(ask.model, ask.encode, texts, beam=len(texts))(sample, row)
    assert sorted(place for place, _ in found) == list(range(len(texts)))
    for place, score in found:
        assert score == pytest.approx(expected[place], abs=1e-4)
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)
    narrow = ClassBeam(ask.model, ask.encode, texts, beam=1)(sample, row)
    assert {place for place, _ in narrow} < set(range(len(texts)))
