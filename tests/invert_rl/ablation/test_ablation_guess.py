"""What can be answered without looking, on rows where the best guess is known."""

from __future__ import annotations

import pytest

from data_prep.rows import Row
from invert_rl.ablation.guess import text_only_guess


def row(number: int, verb: str, window: tuple[float, float], masked: str = "person [] it") -> Row:
    meta = {"verbs": [verb], "masked_query": masked}
    return Row(f"r{number}", "v.mp4", 24.0, f"person {verb}s it", (window,), meta=meta)


def test_windows_and_verbs_are_those_of_the_majority():
    train = [row(n, "open", (0.0, 6.0)) for n in range(10)] + [row(20 + n, "close", (12.0, 24.0)) for n in range(6)]
    test = [row(40, "open", (0.0, 6.0)), row(41, "close", (12.0, 24.0)), row(42, "jump", (0.0, 12.0))]
    guess = text_only_guess(train, test)
    assert guess["mIoU"] == pytest.approx(100 * (1 + 1 + 0.5) / 3)  # an unknown verb gets the window of all rows
    assert guess["R1@0.7"] == pytest.approx(100 * 2 / 3)
    assert guess["AR"] == guess["VC"] == pytest.approx(100 / 3)
    assert guess["VD"] == pytest.approx(100 * 2 / 3)  # a description may hold both verbs: one is free


def test_vc_may_use_the_rest_of_the_query():
    train = [row(n, "open", (0.0, 6.0), "person [] the door") for n in range(6)]
    train += [row(10 + n, "sit", (0.0, 6.0), "person [] down") for n in range(7)]
    test = [row(30, "open", (0.0, 6.0), "person [] the door"), row(31, "sit", (0.0, 6.0), "person [] down")]
    guess = text_only_guess(train, test)
    assert guess["VC"] == 100.0
    assert guess["AR"] == 50.0
