"""DiDeMo's scores by hand, and against its published function on whole rankings."""

from __future__ import annotations

import json
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
import pytest

from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.cli import main
from invert_rl.evaluation.chunk_scores import didemo_metrics, ranked_moments

SAMPLE = Path(__file__).resolve().parents[3] / ".." / "shared" / "data" / "formats" / "didemo" / "val_data.excerpt.json"


def row(times: list, count: int = 6, duration: float = 30.0) -> Row:
    meta = {"times": times, "num_segments": count}
    return Row("r", "v.mp4", duration, "a dog runs", ((0.0, 5.0),), meta=meta)


@pytest.mark.parametrize(
    ("times", "windows", "wanted"),
    [
        ([[1, 1], [1, 1], [1, 1], [0, 0]], [(5.0, 10.0)], (100.0, 100.0, 100.0)),  # the odd annotator is left out
        ([[1, 1], [1, 1], [1, 1], [0, 0]], [(5.0, 15.0)], (0.0, 0.0, 50.0)),
        ([[1, 1], [1, 1], [1, 1], [0, 0]], [(5.0, 15.0), (5.0, 10.0)], (0.0, 100.0, 50.0)),
        ([[2, 3], [2, 2], [2, 3]], [(10.0, 20.0), (10.0, 15.0)], (0.0, 100.0, 100 * 2.5 / 3)),  # mean rank 4/3
        ([[2, 3], [2, 2], [2, 3]], [(10.0, 20.0)], (0.0, 0.0, 100 * 2.5 / 3)),  # (1 + 1 + 21) / 3
        ([[0, 5]], [], (0.0, 0.0, 0.0)),
        ([[0, 0]], [(40.0, 50.0), (0.4, 5.9)], (100.0, 100.0, 100.0)),  # outside of all chunks; the nearest chunk
    ],
)
def test_by_hand(times: list, windows: list, wanted: tuple) -> None:
    found = didemo_metrics([windows], [row(times)])
    assert (found["R@1"], found["R@5"], found["mIoU"]) == pytest.approx(wanted) and found["n"] == 1


def test_windows_become_moments() -> None:
    assert ranked_moments([(20.0, 24.0), (19.0, 24.0), (0.0, 24.0)], 5, 24.0) == [(4, 4), (0, 4)]  # each moment once
    assert ranked_moments([(25.0, 30.0)], 6, 97.0) == [(5, 5)]  # a video goes on behind its chunks


def published(segments: list, times: list) -> tuple[float, float, float]:
    """``eval_predictions`` of LocalizingMoments, utils/eval.py, in Python 3."""

    def iou(gt, pred):
        intersection = max(0, min(gt[1], pred[1]) + 1 - max(gt[0], pred[0]))
        union = max(gt[1], pred[1]) + 1 - min(gt[0], pred[0])
        return float(intersection) / union

    average_ranks, average_iou = [], []
    for s, d in zip(segments, times, strict=True):
        average_iou.append(np.mean(np.sort([iou(s[0], t) for t in d])[-3:]))
        average_ranks.append(np.mean(np.sort([s.index(tuple(t)) + 1 for t in d])[:3]))
    ranks = np.array(average_ranks)
    return float(np.mean(ranks <= 1)), float(np.mean(ranks <= 5)), float(np.mean(average_iou))


def test_whole_rankings_as_the_published_function() -> None:
    draw = np.random.default_rng(0)
    segments, times, rows = [], [], []
    for number in range(300):
        count = 5 + number % 2
        moments = list(combinations_with_replacement(range(count), 2))
        true = [list(moments[draw.integers(len(moments))]) for _ in range(2)]
        times.append([true[draw.random() < 0.3] for _ in range(draw.integers(3, 8))])
        order = [moments[place] for place in draw.permutation(len(moments))]
        if number % 3:
            order.insert(0, order.pop(order.index(tuple(true[0]))))
        segments.append(order)
        rows.append(row(times[-1], count, 5.0 * count))
    windows = [[(5.0 * first, 5.0 * (last + 1)) for first, last in order] for order in segments]
    found = didemo_metrics(windows, rows)
    wanted = published(segments, times)
    assert 0.2 < wanted[0] < wanted[1] < 0.9
    assert [found["R@1"] / 100, found["R@5"] / 100, found["mIoU"] / 100] == pytest.approx(wanted, abs=1e-12)


def test_converted_rows_are_scored_and_others_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not SAMPLE.is_file():
        pytest.skip(f"{SAMPLE.name} is not here")
    data, answers = tmp_path / "val.jsonl", tmp_path / "p.jsonl"
    assert main(["convert", "didemo", "--annotations", str(SAMPLE), "--split", "val", "--output", str(data)]) == 0
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    lines = [{"id": row["id"], "task": "tvg", "windows": row["windows"]} for row in rows]
    answers.write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = [
        "evaluate",
        "--predictions",
        str(answers),
        "--data",
        str(data),
        "--protocol",
        "didemo/official",
        "--json",
    ]
    capsys.readouterr()
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out)
    agreed = [max(row["meta"]["times"].count(pair) for pair in row["meta"]["times"]) >= 3 for row in rows]
    assert told["n"] == len(rows) and told["R@1"] == pytest.approx(100 * sum(agreed) / len(rows))
    assert "didemo/official" in told["protocol_line"]
    del rows[0]["meta"]["times"]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(command) == 1
    assert "val.jsonl:1): no times and num_segments in meta" in capsys.readouterr().err


def test_rows_without_chunks() -> None:
    with pytest.raises(DataError, match="convert the data with"):
        didemo_metrics([[]], [Row("r", "v.mp4", 9.0, "q", ((0.0, 5.0),))])
