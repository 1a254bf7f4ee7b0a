"""Intervals over seeds and clips: equal to scipy's bootstrap where it has one, and to the truth where that is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from invert_rl.ablation.clips import ClipReader, ClipSums, interval_over_clips
from invert_rl.ablation.decisions import Hypothesis, decide, decisions_markdown, over_clips
from invert_rl.ablation.table import Result, read_results, write_tables

CLIPS = 40


def one_row_each(values: np.ndarray) -> list[ClipSums]:
    return [ClipSums(np.asarray(values, dtype=float), np.ones(len(values), dtype=int))]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_pair_is_scipys_bootstrap_over_clips(seed):
    values = np.random.default_rng(seed).normal(60, 20, size=CLIPS)
    found = interval_over_clips([(one_row_each(values), one_row_each(np.full(CLIPS, 50.0)))], draws=20_000)
    rng = np.random.default_rng(seed + 10)
    expected = stats.bootstrap((values - 50,), np.mean, n_resamples=20_000, method="percentile", rng=rng)
    assert found == pytest.approx(tuple(expected.confidence_interval), abs=0.3)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_clips_that_are_all_alike_leave_scipys_bootstrap_over_pairs(seed):
    differences = np.random.default_rng(seed).normal(2, 1, size=8)
    pairs = [(one_row_each(np.full(CLIPS, 50 + d)), one_row_each(np.full(CLIPS, 50.0))) for d in differences]
    rng = np.random.default_rng(seed + 10)
    expected = stats.bootstrap((differences,), np.mean, n_resamples=20_000, method="percentile", rng=rng)
    assert interval_over_clips(pairs, draws=20_000) == pytest.approx(tuple(expected.confidence_interval), abs=0.03)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_clips_of_many_rows_are_drawn_whole(seed):
    """Rows of one clip that are all alike are one observation, not many, and a ratio's draws are those of scipy."""
    numbers = np.random.default_rng(seed)
    counts = numbers.integers(1, 6, size=CLIPS)
    sums = counts * numbers.normal(60, 20, size=CLIPS)
    mine, base = [ClipSums(sums, counts)], [ClipSums(50.0 * counts, counts)]
    expected = stats.bootstrap(
        (sums, counts),
        lambda s, c, axis=-1: s.sum(axis=axis) / c.sum(axis=axis) - 50,
        paired=True,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(seed + 10),
    )
    found = interval_over_clips([(mine, base)], draws=20_000)
    assert found == pytest.approx(tuple(expected.confidence_interval), abs=0.4)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_both_sides_share_of_a_clip_cancels(seed):
    hard = np.random.default_rng(seed).normal(50, 30, size=CLIPS)
    pairs = [(one_row_each(hard + 2), one_row_each(hard)) for _ in range(6)]
    assert interval_over_clips(pairs, draws=500) == pytest.approx((2.0, 2.0))


def test_a_mean_of_parts_weighs_them_alike():
    low, high = ClipSums(np.zeros(4), np.full(4, 9)), ClipSums(np.full(4, 90.0), np.ones(4, dtype=int))
    base = [ClipSums(np.zeros(4), np.ones(4, dtype=int))]
    assert interval_over_clips([([low, low, high], base)], draws=50) == pytest.approx((30.0, 30.0))


def test_no_pairs_are_refused():
    with pytest.raises(ValueError, match="no pairs"):
        interval_over_clips([])


def test_it_covers_a_start_that_was_lucky_with_its_clips():
    """One start, asked twice for nothing: after training each clip is answered anew. Drawn over seeds alone, the fall
    that this luck makes is certain; with clips anew the interval holds zero in about as many worlds as it should."""
    held, by_seeds = 0, 0
    worlds = 120
    for world in range(worlds):
        numbers = np.random.default_rng(world)
        start = numbers.normal(50, 20, size=CLIPS)
        drift = numbers.normal(0, 20, size=CLIPS)
        pairs = [
            (one_row_each(start + drift + numbers.normal(0, 3, size=CLIPS)), one_row_each(start)) for _ in range(8)
        ]
        low, high = interval_over_clips(pairs, draws=400, seed=world)
        held += low <= 0 <= high
        means = [float((arm[0].sums - base[0].sums).mean()) for arm, base in pairs]
        interval = stats.t.interval(0.95, 7, np.mean(means), stats.sem(means))
        by_seeds += interval[0] <= 0 <= interval[1]
    assert held >= 0.88 * worlds and by_seeds <= 0.4 * worlds


def world(folder: Path, rows: int = 12) -> Path:
    """Test rows of three clips, two events each; row n's event is the first or the second."""
    path = folder / "test.jsonl"
    with path.open("w", encoding="utf-8") as out:
        for number in range(rows):
            events = [["open", 0.0, 4.0], ["close", 6.0, 10.0]]
            span = events[number % 2][1:]
            meta = {"events": events, "verbs": ["open"], "masked_query": "the person [MASK] a door"}
            row = {"id": f"r{number}", "video": f"clip{number % 3}.mp4", "query": "the person opens a door"}
            out.write(json.dumps({**row, "duration": 12.0, "windows": [span], "meta": meta}) + "\n")
    return path


def run(folder: Path, name: str, seed: int, right: set[int], data: Path, rows: int = 12) -> Result:
    """A run whose answers after training are right for ``right`` and lie on the clip's other event else."""
    here = folder / name / f"seed_{seed}"
    here.mkdir(parents=True)
    for when, good in (("before", set(range(0, rows, 2))), ("after", right)):
        with (here / f"samples_{when}.jsonl").open("w", encoding="utf-8") as out:
            for number in range(rows):
                mine = [[0.0, 4.0], [6.0, 10.0]][number % 2 if number in good else 1 - number % 2]
                answer = {"id": f"r{number}", "task": "tvg", "windows": [mine], "text": "", "status": "ok"}
                out.write(json.dumps(answer) + "\n")
                for task in ("vc", "ar", "vd"):
                    score = float(number in good)
                    verb = {"id": f"r{number}", "task": task, "windows": [], "text": "opens", "status": "ok"}
                    out.write(json.dumps({**verb, "score": score}) + "\n")
    share = {"before": 50.0, "after": 100 * len(right) / rows}
    metrics = {
        when: {"mIoU": value, "wrong_event": 100 - value, **dict.fromkeys(("VC", "AR", "VD", "verbs"), value)}
        for when, value in share.items()
    }
    settings = {"eval_data": str(data), "eval_samples": None, "verb_pipeline": None}
    return Result(name, seed, metrics["before"], metrics["after"], 1.0, settings, folder=here)


@pytest.fixture
def five(tmp_path) -> list[Result]:
    data = world(tmp_path)
    return [run(tmp_path, "arm", seed, {*range(0, 12, 2), 1 + 2 * (seed % 3)}, data) for seed in range(5)]


@pytest.mark.parametrize("metric", ["mIoU", "wrong_event", "VD", "verbs"])
def test_answers_of_runs_are_read_by_clip(five, metric):
    reader = ClipReader()
    for one in five:
        for when, known in (("before", one.before), ("after", one.after)):
            parts = reader.read(one, metric, when)
            assert all(part.counts.tolist() == [4, 4, 4] for part in parts)
            mean = np.mean([part.sums.sum() / part.counts.sum() for part in parts])
            assert mean == pytest.approx(known[metric])
    against_start = over_clips(Hypothesis("h", "arm", "start", metric, "higher"), five, reader)
    sign = -1 if metric == "wrong_event" else 1
    low, high = sorted(sign * side for side in against_start)
    assert 0 <= low < 100 / 12 < high <= 25 + 1e-9


def test_answers_that_do_not_give_the_runs_number_are_not_used(five, tmp_path):
    hypothesis = Hypothesis("h", "arm", "start", "mIoU", "higher")
    assert over_clips(hypothesis, five, ClipReader()) is not None
    assert over_clips(hypothesis, five[:4], ClipReader()) is None  # four seeds
    path = five[2].folder / "samples_after.jsonl"
    good = path.read_text()
    path.write_text(good.replace('"windows": [[0.0, 4.0]]', '"windows": [[0.0, 3.0]]', 1))
    assert over_clips(hypothesis, five, ClipReader()) is None
    path.write_text(good[: len(good) // 2])
    assert over_clips(hypothesis, five, ClipReader()) is None
    path.unlink()
    assert over_clips(hypothesis, five, ClipReader()) is None
    path.write_text(good)
    assert over_clips(hypothesis, five, ClipReader()) is not None
    data = (tmp_path / "test.jsonl").read_text()
    (tmp_path / "test.jsonl").write_text(data.replace('"id": "r11"', '"id": "other"'))
    assert over_clips(hypothesis, five, ClipReader()) is None
    (tmp_path / "test.jsonl").unlink()
    assert over_clips(hypothesis, five, ClipReader()) is None


def test_runs_asked_about_other_rows_are_not_paired(five, tmp_path):
    (tmp_path / "less").mkdir()
    other = world(tmp_path / "less", rows=6)
    fewer = [run(tmp_path / "less", "base", seed, {0, 2, 4}, other, rows=6) for seed in range(5)]
    hypothesis = Hypothesis("h", "arm", "base", "mIoU", "higher")
    assert over_clips(hypothesis, [*five, *fewer], ClipReader()) is None


def test_decisions_show_it_and_decide_without_it(five, tmp_path):
    hypothesis = Hypothesis("h", "arm", "start", "mIoU", "higher")
    (one,) = decide([hypothesis], five, pairs=5)
    assert one.verdict == "supported" and one.over_clips[0] < one.difference.interval[0]
    text = decisions_markdown([one], 5)
    assert "| clips anew |" in text and "| [{:+.1f}, {:+.1f}] |".format(*one.over_clips) in text
    write_tables(tmp_path, {}, five, 5, "command")
    assert "folder" not in json.loads((tmp_path / "table.json").read_text())["results"][0]
    assert read_results([]) == []
