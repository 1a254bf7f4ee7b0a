"""TimeLens-Bench's submission form: written as its evaluation stores answers, and read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_prep.rows import Row, write_rows
from invert_rl.cli import main
from invert_rl.evaluation.predictions import read_predictions

PUBLISHED = {
    "v_BrgYIg6UXhU.mp4>>>A man wearing a blue jacket approaches a blue car>>>[0.0, 4.0]": {
        "timestamps": [[0.0, 5.0]],
        "answers": "The event happens in 0.0 - 5.0 seconds.",
    }
}
"""The one that TimeLens' README shows."""
CAR = Row(
    "a", "v_BrgYIg6UXhU.mp4", 3.9, " A man wearing a  blue jacket approaches a blue car.", ((0.0, 3.9),),
    meta={"annotated_windows": [[0.0, 4.0]]},
)  # fmt: skip
OTHERS = [
    Row("b", "x/3MSZA.mp4", 31.0, "he sits", ((24.0, 30.0),)),
    Row("c", "x/3MSZA.mp4", 31.0, "he sits", ((24.0, 30.0),)),  # the same query once more, as published
    Row("d", "x/3MSZA.mp4", 31.0, "he leaves", ((1.0, 24.0),)),
]


def run(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> Any:
    assert main([*map(str, arguments), "--json"]) == code
    told = capsys.readouterr()
    return told.err if code else json.loads(told.out)


@pytest.mark.parametrize("form", ["one line", "several lines", "json lines"])
def test_a_published_submission_is_scored(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, answers = tmp_path / "d.jsonl", tmp_path / "p.json"
    write_rows([CAR, *OTHERS], data)
    entries = {**PUBLISHED, "3MSZA.mp4>>>he sits>>>[24, 30.0]": {"timestamps": [[24.0, 27.0]]}}
    if form == "json lines":
        answers.write_text("".join(json.dumps({key: entry}) + "\n" for key, entry in entries.items()))
    else:
        answers.write_text(json.dumps(entries, indent=2 if form == "several lines" else None))
    told = run(capsys, "evaluate", "--predictions", answers, "--data", data, "--protocol", "timelens-bench/official")
    assert (told["n"], told["n_missing"]) == (3, 1)  # equal rows are one; nobody answered the last
    assert told["mIoU"] == pytest.approx(100 * (4 / 5 + 3 / 6 + 0) / 3)


def test_what_is_written_is_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, answers = tmp_path / "d.jsonl", tmp_path / "p.jsonl"
    write_rows([CAR, *OTHERS], data)
    said = [
        {"id": "a", "windows": [[0.5, 3.5]], "text": "The event happens in 0.5 - 3.5 seconds."},
        {"id": "b", "windows": [[1.0, 2.0]]},
        {"id": "c", "windows": [[24.2, 29.6]]},
        {"id": "d", "windows": [], "text": "Never.", "status": "unparsable"},
    ]
    answers.write_text("".join(json.dumps(line) + "\n" for line in said))
    given = ["--data", data, "--predictions"]
    official = ["--protocol", "timelens-bench/official"]
    first = run(capsys, "evaluate", *given, answers, *official)
    for name in ("s.json", "s.jsonl"):
        told = run(capsys, "timelens-submission", *given, answers, "--output", tmp_path / name)
        assert told == {"output": str(tmp_path / name), "rows": 4, "entries": 3}
        again = run(capsys, "evaluate", *given, tmp_path / name, *official)
        assert [again[key] for key in ("mIoU", "R1@0.3", "R1@0.7", "n")] == [
            first[key] for key in ("mIoU", "R1@0.3", "R1@0.7", "n")
        ]
    written = json.loads((tmp_path / "s.json").read_text())
    assert list(written)[0] == next(iter(PUBLISHED))
    assert [entry["timestamps"] for entry in written.values()] == [[[0.0, 4.0]], [[24.0, 30.0]], [[41.0, 51.0]]]
    assert written["3MSZA.mp4>>>he sits>>>[24.0, 30.0]"]["answers"] == "The event happens in 24.2 - 29.6 seconds."
    assert first["mIoU"] == pytest.approx(100 * (1 + 1 + 0) / 3)  # rounded to 0 and 4 (halves to even), 24 and 30


def test_what_is_wrong_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, answers = tmp_path / "d.jsonl", tmp_path / "p.json"
    write_rows([CAR], data)
    given = ["evaluate", "--data", data, "--predictions", answers]
    for content, problem in (
        ({"w.mp4>>>who?>>>[0.0, 4.0]": {"timestamps": [[0, 1]]}}, "unknown id"),
        ({"w.mp4>>>who?>>>[0.0]": {"timestamps": [[0, 1]]}}, "expected VIDEO>>>QUERY>>>"),
        ({next(iter(PUBLISHED)): {"answers": "x"}}, "an object with 'timestamps'"),
    ):
        answers.write_text(json.dumps(content))
        assert problem in run(capsys, *given, code=1)
    several = [Row("a", "x.mp4", 9.0, "q", ((0.0, 1.0), (2.0, 3.0)))]
    write_rows(several, data)
    answers.write_text('{"id": "a", "windows": [[0, 1]]}\n')
    submit = ["timelens-submission", "--data", data, "--predictions", answers, "--output"]
    assert "2 windows; TimeLens-Bench has one a query" in run(capsys, *submit, tmp_path / "s.json", code=1)
    assert "must end in .json or .jsonl" in run(capsys, *submit, tmp_path / "s.txt", code=1)
    assert read_predictions(answers, several)[0].id == "a"  # other files are not taken for a submission
