"""Predictions files: what they may hold, and the errors that name what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.cli import main
from invert_rl.evaluation.predictions import (
    Prediction,
    check_predictions,
    in_seconds,
    read_answer,
    read_predictions,
    write_predictions,
)
from invert_rl.tasks import TASKS

ROWS = [Row(f"r{n}", f"v{n}.mp4", 60.0, "a person opens the door", ((10.0, 20.0),), meta={"qid": n}) for n in range(6)]


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_round_trip(tmp_path: Path) -> None:
    predictions = [Prediction("r0", "tvg", [(1.0, 2.0)], "1 to 2"), Prediction("r1", "ar", text="open", score=1.0)]
    write_predictions(predictions, tmp_path / "p.jsonl")
    assert read_predictions(tmp_path / "p.jsonl", ROWS) == predictions


def test_other_forms(tmp_path: Path) -> None:
    path = write(
        tmp_path / "p.jsonl",
        {"id": "r0", "windows": [[1, 2, 0.5], [3, 4, 0.25]]},
        "",
        {"id": "r1", "text": "<think>at 3</think><answer>The event happens in 4.5 - 6 seconds</answer>"},
        {"id": "r2", "text": "no idea"},
        {"qid": 3, "pred_relevant_windows": [[5, 6, 0.5]], "pred_saliency_scores": [1, 2]},
    )
    first, second, third, fourth = read_predictions(path, ROWS)
    assert (first.windows, first.window_scores) == ([(1, 2), (3, 4)], [0.5, 0.25])
    assert (second.windows, second.status) == ([(4.5, 6)], "ok")
    assert (third.windows, third.status) == ([], "unparsable")
    assert (fourth.id, fourth.windows, fourth.saliency) == ("r3", [(5, 6)], [1, 2])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"windows": []}, r"p\.jsonl:2: field 'id'"),
        ({"id": "r1"}, "neither 'windows' nor 'text'"),
        ({"id": "r1", "task": "sing", "windows": []}, "unknown task 'sing'; the tasks are tvg, vc, ar, vd"),
        ({"id": "r1", "windows": [[1, 2, 3, 4]]}, r"p\.jsonl:2 \(id 'r1'\): window \[1, 2, 3, 4\] is not"),
        ({"id": "r1", "windows": [["1", 2]]}, "not a finite number"),
        ('{"id": "r1", "windows": [[NaN, 2]]}', "not a finite number"),
        ({"id": "r1", "windows": [[1, 2], [3, 4, 0.5]]}, "only some of the windows"),
        ({"id": "r1", "windows": 5}, "must be a list"),
        (["r1"], "expected a JSON object"),
        ('{"id": "r1", "win', "not valid JSON"),
    ],
)
def test_malformed_lines(tmp_path: Path, line: object, message: str) -> None:
    path = write(tmp_path / "p.jsonl", {"id": "r0", "windows": []}, line, {"id": "r2", "windows": []})
    with pytest.raises(DataError, match=message):
        read_predictions(path, ROWS)


def test_cut_off_file_says_how_much_is_there(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"id": "r0", "windows": []}\n{"id": "r1", "windows": []}\n{"id": "r2", "wind')
    with pytest.raises(DataError, match=r"p\.jsonl:3: the last line is cut off after 2 whole predictions.* 6 rows"):
        read_predictions(path, ROWS)
    assert [p.id for p in read_predictions(path, ROWS, unfinished=True)] == ["r0", "r1"]


def test_unknown_and_duplicate_ids_are_counted() -> None:
    unknown = [Prediction(name, "tvg") for name in ("r0", "x1", "x2", "x3", "x4")]
    with pytest.raises(DataError, match=r"4 of 5 predictions have an unknown id.*x1, x2, x3, … 1 more"):
        check_predictions(unknown, ROWS, "p.jsonl")
    twice = [Prediction("r0", "tvg"), Prediction("r0", "ar"), Prediction("r1", "tvg"), Prediction("r0", "tvg")]
    with pytest.raises(DataError, match=r"1 rows have duplicate predictions \(r0 \(tvg\)\), 4 predictions for 3"):
        check_predictions(twice, ROWS, "p.jsonl")


def ends(*values: float) -> list[Prediction]:
    return [Prediction(f"r{n}", "tvg", [(value / 2, value)]) for n, value in enumerate(values)]


def test_wrong_units_are_refused_and_converted_when_named() -> None:
    with pytest.raises(DataError, match=r"3 of 4 predicted windows end after 20 times.*--units milliseconds"):
        in_seconds(ends(20000, 30000, 15000, 900), ROWS, None, "p.jsonl")
    assert in_seconds(ends(20000, 30000), ROWS, "milliseconds", "p.jsonl")[0].windows == [(10, 20)]
    with pytest.raises(DataError, match=r"all 3 predicted windows end within the first second.*--units fractions"):
        in_seconds(ends(0.5, 0.9, 1.0), ROWS, None, "p.jsonl")
    assert in_seconds(ends(0.5, 1.0), ROWS, "fractions", "p.jsonl")[1].windows == [(30, 60)]
    assert in_seconds(ends(0.5, 0.9, 1.0), ROWS, "seconds", "p.jsonl")[0].windows == [(0.25, 0.5)]


def test_odd_windows_in_seconds_are_not_refused() -> None:
    assert len(in_seconds(ends(70, 20, 0.5, 5000), ROWS, None, "p.jsonl")) == 4


def test_answers_are_read_as_the_rewards_do() -> None:
    for text, windows in (
        ("<think>5 to 6</think> <answer>1.5 to 2.5</answer>", [(1.5, 2.5)]),
        ("from 3 to 4 seconds", [(3, 4)]),
        ("<answer>4 to 3</answer>", [(4, 3)]),
        ("<answer>3</answer>", []),
    ):
        prediction = Prediction("r0", "tvg")
        read_answer(prediction, text, TASKS["tvg"], ROWS[0])
        assert (prediction.windows, prediction.status) == (windows, "ok" if windows else "unparsable")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"id": "zzz", "windows": [[1, 2]]}], "1 of 1 predictions have an unknown id"),
        ([{"id": "r0", "windows": []}, {"id": "r0", "windows": []}], "1 rows have duplicate predictions"),
        ([{"id": f"r{n}", "windows": [[10000, 20000]]} for n in range(6)], "6 of 6 predicted windows end after"),
        ([], "the file is empty"),
    ],
)
def test_command_refuses_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lines: list, message: str
) -> None:
    data = write(tmp_path / "d.jsonl", *({**vars(row), "windows": [list(row.window)]} for row in ROWS))
    path = write(tmp_path / "p.jsonl", *lines)
    assert main(["evaluate", "--predictions", str(path), "--data", str(data), "--json"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err and captured.err.startswith("error: ") and captured.err.count("\n") == 1


def test_command_counts_missing_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "d.jsonl", *({**vars(row), "windows": [list(row.window)]} for row in ROWS))
    path = write(tmp_path / "p.jsonl", {"id": "r0", "windows": [[10, 20]]}, {"id": "r1", "windows": [[10, 200]]})
    assert main(["evaluate", "--predictions", str(path), "--data", str(data), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["n"], result["n_missing"], result["n_outside"]) == (6, 4, 1)
    assert result["R1@0.7"] == pytest.approx(100 / 6)
    assert main(["evaluate", "--predictions", str(path), "--data", str(data)]) == 0
    assert "TVG      2 ok, 4 missing, 1 outside of 6" in capsys.readouterr().out
