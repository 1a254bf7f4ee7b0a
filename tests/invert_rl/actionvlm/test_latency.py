"""The benchmark of table 6 prints one object with all its times."""

from __future__ import annotations

import json

from benchmarks import actionvlm_latency


def test_one_object_with_times_of_all_three(capsys):
    small = ["--window", "64", "--width", "32", "--layers", "1", "--answer-tokens", "2", "--repeats", "1", "--json"]
    actionvlm_latency.main(small)
    found = json.loads(capsys.readouterr().out)
    assert set(found["training_ms"]) == {"vision", "actionvlm"}
    assert set(found["evaluation_ms"]) == {"vision", "actionvlm", "answering"}
    assert all(value > 0 for key in ("training_ms", "evaluation_ms") for value in found[key].values())
    assert found["training_over_vision"] > 1 and found["ratio"] > 0
