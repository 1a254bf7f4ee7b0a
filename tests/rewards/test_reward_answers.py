"""The answer policy: which text is the answer, which span it names, and that nothing breaks it."""

import math
import random
import time

import pytest

from rewards.answers import answer_or_bare_text, completion_text, extract_answer, parse_span, parse_spans
from rewards.format import format_reward
from rewards.iou import (
    giou_reward,
    iou_reward,
    multi_window_iou_reward,
    timestamp_iou_reward,
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>x</think> <answer>open</answer>", "open"),
        ("<think>x</think><answer>\n open \n</answer>\n", "open"),
        ("<think>x</think><Answer>Open</ANSWER>", "Open"),
        ("<answer>close</answer><think>then</think>", "close"),
        ("<think>is it <answer>close</answer>?</think><answer>open</answer>", "open"),
        ("<think>is it <answer>close</answer>?</think>", None),
        ("<answer>close</answer> no <answer>open</answer>", "open"),
        ("<answer>close<answer>open</answer></answer>", "open"),
        ("thought</think><answer>open</answer>", "open"),
        ("is it <answer>close</answer>?</think><answer>open</answer>", "open"),
        ("<think>never closed <answer>open</answer>", "open"),
        ("<think>x</think><answer>cut o", "cut o"),
        ("<answer>open</answer><answer>cut o", "open"),
        ("<think>x</think><answer></answer>", ""),
        ("<think>x</think>open", None),
        ("open", None),
        ("", None),
        ("open</answer>", None),
        ("<answer ><think>", None),
        ("<an\u017fwer>open</an\u017fwer>", None),  # the long s is no letter of a tag
    ],
)
def test_which_answer_counts(text, answer):
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("open", "open"),
        ("<think>close</think>open", "open"),
        ("close</think>open", "open"),
        ("<think>close", ""),
        ("<think>a</think> open </answer>", "open"),
        ("<think>x</think><answer></answer> open", ""),
    ],
)
def test_without_an_answer_the_text_outside_thought_counts(text, bare):
    assert answer_or_bare_text(text) == bare


def test_completion_text_reads_strings_and_conversations():
    parts = [{"type": "text", "text": "12 to "}, {"type": "image"}, {"type": "text", "text": "17"}]
    assert completion_text("12 to 17") == "12 to 17"
    assert completion_text([{"role": "assistant", "content": "12 to 17"}]) == "12 to 17"
    assert completion_text([{"role": "assistant", "content": parts}]) == "12 to \n17"
    assert completion_text([{"role": "assistant", "content": None}]) == ""
    assert completion_text([]) == ""


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("12.5 to 17.8", (12.5, 17.8)),
        ("12.5s - 17.8s", (12.5, 17.8)),
        ("12.5 seconds to 17.8 seconds.", (12.5, 17.8)),
        ("0:12 to 0:17.8", (12.0, 17.8)),
        ("1:02:03 – 1:02:04.5", (3723.0, 3724.5)),
        ("from 2 to 5 s", (2.0, 5.0)),
        ("The event is between 2 and 5 seconds", (2.0, 5.0)),
        ("2-5", (2.0, 5.0)),
        ("8 to 4", (8.0, 4.0)),
        ("4 to 4", (4.0, 4.0)),
        ("2\n to \t5", (2.0, 5.0)),
        ("-5 to 5", None),
        ("5 to -3", None),
        ("+5 to 7", None),
        ("nan to 5", None),
        ("5 to inf", None),
        ("1e999 to 5", None),
        ("5 to 1e9", None),
        ("5 to 99999999", None),
        ("１２ to １７", None),
        ("12 to 17 (٣)", None),
        ("12 to 17 to 20", None),
        ("1 to 2, 5 to 9", None),
        ("1 to 2 or 7", None),
        (".5 to 2", None),
        ("12.5", None),
        ("", None),
    ],
)
def test_spans(text, span):
    assert parse_span(text) == span


def test_several_spans_are_kept_in_order():
    assert parse_spans("9 to 12, 1.5 to 2 and 0:05 - 0:06") == [(9.0, 12.0), (1.5, 2.0), (5.0, 6.0)]


FRAGMENTS = [
    *["<think>", "</think>", "<answer>", "</answer>", "<THINK>", "</Answer>", "<", ">", "</", "<answer", "think>"],
    *["12.5", "17.8", "0", "5", "007", "1e999", "-3", "nan", "inf", "-inf", "１２", "٣", "²", "0:12", "1:02:03", ":"],
    *[" to ", " - ", "–", "to", " and ", "s", " seconds", ".", ",", " ", "\n", "\t", "\u00a0", "\u200b", "\x00"],
    *["open", "Person", "ÄÖ", "打开", "🎬", "\ud800", "i̇", "9" * 400, " " * 200, "(" * 50, "a" * 60],
]


def fuzz_strings(count):
    rng = random.Random(20240607)
    for _ in range(count):
        body = "".join(rng.choices(FRAGMENTS, k=rng.randrange(1, 14)))
        yield body if rng.random() < 0.5 else f"<think>{body}</think> <answer>{body}</answer>"


def test_a_hundred_thousand_generated_strings_give_bounded_rewards():
    texts = list(fuzz_strings(100_000))
    columns = {
        "task": ["tvg"] * len(texts),
        "windows": [[[2.0, 12.0], [14.0, 20.0]]] * len(texts),
        "duration": [30.0] * len(texts),
    }
    seen = set()
    for reward in (
        format_reward,
        iou_reward,
        timestamp_iou_reward,
        giou_reward,
        multi_window_iou_reward,
    ):
        scores = reward(texts, **columns)
        assert len(scores) == len(texts)
        lowest = -1.0 if reward is giou_reward else 0.0
        assert all(isinstance(score, float) and lowest <= score <= 1.0 for score in scores)
        seen.add((reward.__name__, len(set(scores)) > 1))
    assert all(varied for _, varied in seen), "the strings must reach more than one value of every reward"
    assert all(math.isfinite(end) for text in texts[:20_000] for span in parse_spans(text) for end in span)


EVIL = {
    "digits": "9",
    "digits and dots": "9.",
    "spans": "1 to 2 ",
    "colons": "1:",
    "clocks": "1:02:03 ",
    "spaces": " ",
    "number then spaces": "5" + " " * 999,
    "minus": "-",
    "open tags": "<answer>",
    "close tags": "</think>",
    "pairs": "<think></think>",
    "angle": "<",
    "to": " to",
    "seconds": "1 second",
}


@pytest.mark.parametrize("name", EVIL)
def test_time_is_linear_in_the_length(name):
    def best_seconds(length):
        body = (EVIL[name] * length)[:length]
        texts = [body, f"<think>x</think><answer>{body}</answer>"]
        columns = {"task": ["tvg"] * 2, "windows": [[[2.0, 12.0]]] * 2}
        times = []
        for _ in range(5):
            start = time.process_time()
            format_reward(texts, **columns)
            iou_reward(texts, **columns)
            multi_window_iou_reward(texts, **columns)
            times.append(time.process_time() - start)
        return min(times)

    # Ten times the length: linear is a ratio of 10, quadratic one of 100.
    assert best_seconds(100_000) < 30 * max(best_seconds(10_000), 1e-4)
