"""The format reward accepts exactly one think block, then exactly one answer block."""

import pytest

from rewards.format import format_reward


def score(text, task="vc"):
    return format_reward([text], task=[task], anything_else=[1])[0]


@pytest.mark.parametrize(
    "text",
    [
        "<think>I look.</think> <answer>opens</answer>",
        "<think>I look.</think><answer>opens</answer>",
        "\n<think>I\nlook.</think>\n\n<answer>\nopens\n</answer>\n",
        "<think>a < b</think><answer><verb>opens</verb></answer>",
    ],
)
def test_accepted(text):
    assert score(text) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "opens",
        "<answer>opens</answer>",
        "<think>x</think>opens",
        "<think>x</think><answer></answer>",
        "<think>x</think><answer> \n </answer>",
        "<think></think><answer>opens</answer>",
        "<answer>opens</answer><think>x</think>",
        "Sure! <think>x</think><answer>opens</answer>",
        "<think>x</think> so <answer>opens</answer>",
        "<think>x</think><answer>opens</answer> done",
        "<think>x</think><answer>opens",
        "<think>x<answer>opens</answer>",
        "<think>x</think><answer>opens</answer><answer>opens</answer>",
        "<think>x</think><think>y</think><answer>opens</answer>",
        "<think>x<think>y</think></think><answer>opens</answer>",
        "<think>x <answer>no</answer></think><answer>opens</answer>",
        "<think>x</think><answer>a<answer>opens</answer></answer>",
        "<Think>x</Think><Answer>opens</Answer>",
        "<think>x</think><answer>opens</ANSWER></answer>",
        "< think>x</think><answer>opens</answer>",
    ],
)
def test_refused(text):
    assert score(text) == 0.0


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("12.54 to 17.83", 1.0),
        (" 12 to 17 ", 1.0),
        ("17 to 12", 1.0),  # the form is right; its IoU is 0
        ("12.5s to 17.8s", 0.0),
        ("0:12 to 0:17", 0.0),
        ("12 - 17", 0.0),
        ("from 12 to 17", 0.0),
        ("12 to 17.", 0.0),
        ("-1 to 5", 0.0),
        ("nan to inf", 0.0),
        ("1e1 to 2e1", 0.0),
        ("１２ to １７", 0.0),
        ("12 to 17, 20 to 25", 0.0),
        ("12.", 0.0),
    ],
)
def test_a_grounding_answer_is_a_span(answer, expected):
    text = f"<think>x</think> <answer>{answer}</answer>"
    assert score(text, "tvg") == expected
    assert score(text, "vd") == 1.0


def test_conversational_completions():
    completion = [{"role": "assistant", "content": "<think>x</think> <answer>1 to 2</answer>"}]
    assert format_reward([completion, "no"], task=["tvg", "tvg"]) == [1.0, 0.0]
