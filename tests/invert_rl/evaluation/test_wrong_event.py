"""Answers that lie on another event of the video than the one that was asked for, by hand."""

from __future__ import annotations

import pytest

from data_prep.rows import Row
from invert_rl.evaluation.predictions import Prediction
from invert_rl.evaluation.scores.thought_spans import thought_metrics
from invert_rl.evaluation.scores.wrong_event import on_another_event, wrong_event_rate
from invert_rl.evaluation.scoring import metrics_of

EVENTS = [["open", 1.0, 3.0], ["wave", 4.0, 6.0], ["close", 8.0, 10.0]]


def row(number: int, **meta) -> Row:
    _, start, end = EVENTS[number]
    return Row(f"r{number}", "v.mp4", 12.0, "q", ((start, end),), meta=meta)


KNOWN = [row(number, events=EVENTS) for number in range(3)]


@pytest.mark.parametrize(
    ("window", "wrong"),
    [
        ((1.0, 3.0), False),
        ((4.0, 6.0), True),
        ((3.2, 3.8), False),  # on no event: wrong, but not on another one
        ((2.0, 5.0), False),  # as much on both, by IoU: the asked one counts
        ((2.0, 5.2), True),
        ((0.0, 12.0), False),  # over all of them
        ((6.0, 4.0), False),  # reversed: overlaps nothing
    ],
)
def test_the_event_with_the_largest_iou_counts(window, wrong):
    assert on_another_event(window, KNOWN[0]) is wrong


def test_the_rate_counts_every_row_that_knows_its_events():
    answers = [[(4.0, 6.0)], [(4.0, 6.0)], []]
    assert wrong_event_rate(answers, KNOWN) == pytest.approx(100 / 3)
    unknown = [row(0), row(1, events="two"), row(2, events=[[1.0, 3.0]])]
    assert wrong_event_rate(answers, unknown) is None
    assert wrong_event_rate([*answers, [(4.0, 6.0)]], [*KNOWN, row(0)]) == pytest.approx(100 / 3)


def test_metrics_of_grounding_hold_it_where_events_are_known():
    answers = [Prediction(r.id, "tvg", [(4.0, 6.0)], text="<answer>4.00 to 6.00</answer>", status="ok") for r in KNOWN]
    assert metrics_of(answers, KNOWN)["wrong_event"] == pytest.approx(200 / 3)
    assert "wrong_event" not in metrics_of(answers, [row(number) for number in range(3)])


def test_spans_of_thoughts_are_found_and_scored():
    texts = [
        "<think> open: 0.50 to 2.00 jump, 1.00 to 3.00 open</think> <answer>0.00 to 1.00</answer>",
        "<think>from 4.0s to 5.0 s</think> <answer>4.00 to 6.00</answer>",
        "<think> close: open, close</think> <answer>8.00 to 10.00</answer>",
    ]
    answers = [Prediction(r.id, "tvg", [], text=text) for r, text in zip(KNOWN, texts, strict=True)]
    assert thought_metrics(answers, KNOWN) == pytest.approx({"thought_span": 200 / 3, "thought_mIoU": 50.0})
    none = [Prediction(r.id, "tvg", [], text="<answer>4.00 to 6.00</answer>") for r in KNOWN]
    assert thought_metrics(none, KNOWN) == {}
