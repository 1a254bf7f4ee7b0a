"""The formats of 2026: small records of each here, published files where they are stored, and odd values everywhere."""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from data_prep.convert import command
from data_prep.errors import DataError
from data_prep.manifest import DurationMismatch, duration_mismatches
from data_prep.probe import VideoRecord
from data_prep.rows import Row, read_rows

TIME_R1 = {
    "video": "./data/videos/a.mp4",
    "duration": 50.0,
    "timestamp": [10.0, 20.0],
    "sentence": "a man sits",
    "qid": "my|x|a|a man sits",
    "video_start": None,
    "video_end": None,
    "difficulty": 50.0,
    "pred": [1.0, 2.0],
}
TVGBENCH = {
    "path": "./videos/b.mp4",
    "question": "pour the milk",
    "answer": "9.944375536211354-45.94437553621135",
    "start": 53.05562446378865,
    "end": 152.42562446378867,
    "duration": 99.37,
    "qsemtype": "Action",
    "bins": {"dataset": "hirest"},
}
SAMPLES: dict[str, Any] = {
    "time-r1": [
        TIME_R1,
        {**TIME_R1, "video": "./data/videos/b.mp4", "video_start": 30.0, "video_end": 80.0},
        {**TIME_R1, "video": "c_00:00:39:000_00:01:24:700.mp4", "video_start": 39.0, "video_end": 84.7},
        {**TIME_R1, "timestamp": [12.0, 1420.0]},
    ],
    "tvgbench": [TVGBENCH, {**TVGBENCH, "answer": "85.83-85.83"}, {**TVGBENCH, "start": None, "end": None}],
    "timelens-bench": {"3MSZA": {"duration": 31.0, "spans": [[25, 30], [1, 24]], "queries": ["he sits", "he stands"]}},
    "timelens": [
        {
            "source": "cosmo",
            "video_path": "cosmo/a.mp4",
            "duration": 117.4,
            "events": [{"query": "when?", "span": [[0.0, 5.0], [7.0, 9.0]]}, {"query": "who speaks", "span": [6, 8]}],
        },
        {"video_path": "b.mp4", "duration": 60, "query": "x", "span": [[1, 2]], "video_start": 10, "video_end": 70},
        {"video_path": "frames/c", "duration": 60, "sample_fps": 4, "query": "x", "span": [[1, 2]]},
    ],
    "museg": [
        {
            "idx": 0,
            "problem": "Find 'the person tidy's up a shelf' in it, please.",
            "solution": [[1, 2], [3, 4]],
            "video": "videos/x/a.mp4",
            "duration": 80.0,
            "task": "tvg",
        },
        {"video": "y/b.mp4", "question": "Now the textual sentence: person eats.", "groundtruth": [[1, 2]]},
    ],
    "vue-tr": [
        {
            "query_id": 0,
            "video_id": "-a_b",
            "duration": 32.6,
            "query": "a lake",
            "gt": [[0, 3], [5, 9]],
            "query_modality": "audio",
        }
    ],
    "tacos": {
        "s30-d52.avi": {
            "timestamps": [[141, 354], [361, 7400]],
            "sentences": ["a", "b"],
            "fps": 29.4,
            "num_frames": 7346,
        }
    },
    "didemo": [
        {
            "annotation_id": 7,
            "description": "he jumps",
            "video": "1@N0_a",
            "times": [[1, 1], [0, 0], [1, 1]],
            "num_segments": 6,
        },
        {"annotation_id": "t_1", "description": "then", "video": "2.mov", "times": [4, 5], "num_segments": 6},
    ],
    "hirest": {
        "Make a mask": {
            "a.mp4": {
                "relevant": True,
                "clip": True,
                "v_duration": 207.08,
                "bounds": [50, 121],
                "steps": [{"index": 0, "heading": "mix", "absolute_bounds": [50, 58]}],
            },
            "b.mp4": {"relevant": True, "clip": False, "v_duration": 100.0, "bounds": [0, 0], "steps": []},
            "c.mp4": {"relevant": True, "clip": True, "v_duration": 100.0, "bounds": [0, 1], "steps": []},
        }
    },
    "rextime": [
        {"qid": "v1", "query": "what?", "duration": 100.5, "vid": "v_Z", "relevant_windows": [[5, 8]], "ans": "A"}
    ],
    "lighthouse": [
        {"qid": "1", "query": "cuts", "duration": 30.0, "vid": "a", "relevant_windows": [[5, 8], [1, 2]]},
        {"qid": 2, "query": "cuts", "duration": 30.0, "vid": "a", "relevant_windows": None},
    ],
    "next-gqa": {"1": {"duration": 14, "location": {"0": [[2.2, 3.9]]}, "fps": 30.0}},
}
LINES = ("timelens", "rextime", "lighthouse")
QUESTIONS = (
    "video_id,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4\n1,417,3,2,why,e,0,CW,a,b,c,d,e\n"
)


def convert(folder: Path, name: str, data: Any, *flags: str) -> tuple[list[Row], dict[str, Any]]:
    source = folder / f"source-{name}.json"
    text = "".join(json.dumps(record) + "\n" for record in data) if name in LINES else json.dumps(data)
    source.write_text(text, encoding="utf-8")
    words = ["--annotations", str(source)]
    if name == "next-gqa":
        (folder / "questions.csv").write_text(QUESTIONS)
        words = ["--annotations", str(folder / "questions.csv"), "--windows", str(source)]
    return run(name, folder / "rows.jsonl", *words, *flags)


@functools.cache
def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    command.add_arguments(made)
    return made


def run(name: str, output: Path, *words: str) -> tuple[list[Row], dict[str, Any]]:
    summary = command.convert(parser().parse_args([name, "--split", "test", "--output", str(output), *words]))
    return read_rows(output), summary


def facts(rows: list[Row]) -> list[tuple[Any, ...]]:
    return [(row.id.split("-test-")[1], row.video, row.duration, row.query, row.windows, row.clip) for row in rows]


EXPECTED: dict[str, list[tuple[Any, ...]]] = {
    "time-r1": [
        ("1", "a.mp4", 50.0, "a man sits", ((10.0, 20.0),), None),
        ("2", "b.mp4", 80.0, "a man sits", ((40.0, 50.0),), (30.0, 80.0)),
        ("3", "c_00:00:39:000_00:01:24:700.mp4", 50.0, "a man sits", ((10.0, 20.0),), None),
    ],
    "tvgbench": [
        ("1", "b.mp4", 152.425624, "pour the milk", ((63.0, 99.0),), (53.055624, 152.425624)),
        ("3", "b.mp4", 99.37, "pour the milk", ((9.944375536211354, 45.94437553621135),), None),
    ],
    "timelens-bench": [
        ("3MSZA-0", "3MSZA.mp4", 31.0, "he sits", ((25.0, 30.0),), None),
        ("3MSZA-1", "3MSZA.mp4", 31.0, "he stands", ((1.0, 24.0),), None),
    ],
    "timelens": [
        ("1-0", "cosmo/a.mp4", 117.4, "when?", ((0.0, 5.0), (7.0, 9.0)), None),
        ("1-1", "cosmo/a.mp4", 117.4, "who speaks", ((6.0, 8.0),), None),
        ("2-0", "b.mp4", 70.0, "x", ((11.0, 12.0),), (10.0, 70.0)),
    ],
    "museg": [("1", "x/a.mp4", 80.0, "the person tidy's up a shelf", ((1.0, 2.0), (3.0, 4.0)), None)],
    "vue-tr": [("0", "-a_b.mp4", 32.6, "a lake", ((0.0, 3.0), (5.0, 9.0)), None)],
    "tacos": [
        ("s30-d52.avi-0", "s30-d52.avi", 249.863946, "a", ((4.795918, 12.040816),), None),
        ("s30-d52.avi-1", "s30-d52.avi", 249.863946, "b", ((12.278912, 249.863946),), None),
    ],
    "didemo": [
        ("7", "1@N0_a", 30.0, "he jumps", ((5.0, 10.0),), None),
        ("t_1", "2.mov", 30.0, "then", ((20.0, 30.0),), None),
    ],
    "hirest": [("1", "a.mp4", 207.08, "Make a mask", ((50.0, 121.0),), None)],
    "rextime": [("v1", "v_Z.mp4", 100.5, "what?", ((5.0, 8.0),), None)],
    "lighthouse": [("1", "a.mp4", 30.0, "cuts", ((5.0, 8.0), (1.0, 2.0)), None)],
    "next-gqa": [("1-0", "1.mp4", 13.9, "why", ((2.2, 3.9),), None)],
}
REJECTED = {"time-r1": 1, "tvgbench": 1, "timelens": 1, "museg": 1, "hirest": 2, "lighthouse": 1}


@pytest.mark.parametrize("name", SAMPLES)
def test_small_records_become_these_rows(tmp_path: Path, name: str) -> None:
    rows, summary = convert(tmp_path, name, SAMPLES[name])
    assert facts(rows) == EXPECTED[name]
    assert sum(summary["rejected"].values()) == REJECTED.get(name, 0)


def test_what_a_set_lets_the_user_choose(tmp_path: Path) -> None:
    (first, _), _ = convert(tmp_path, "didemo", SAMPLES["didemo"], "--annotators", "all")
    assert first.windows == ((0.0, 5.0), (5.0, 10.0))
    (first, _), _ = convert(tmp_path, "didemo", SAMPLES["didemo"], "--annotators", "mean")
    assert first.windows == ((3.0, 8.0),)  # 2/3 of a chunk is 3.3 s, and a chunk later 8.3 s
    (step,), _ = convert(tmp_path, "hirest", SAMPLES["hirest"], "--moments", "steps")
    assert (step.query, step.windows, step.meta["task"]) == ("mix", ((50.0, 58.0),), "Make a mask")
    lengths = tmp_path / "lengths.json"
    lengths.write_text('{"b": 9.5, "1@N0_a": 29.0}')
    rows, _ = convert(tmp_path, "museg", SAMPLES["museg"], "--durations", str(lengths))
    assert [(row.query, row.duration) for row in rows][1] == ("person eats.", 9.5)
    (first, _), _ = convert(tmp_path, "didemo", SAMPLES["didemo"], "--durations", str(lengths))
    assert first.duration == 29.0


def test_a_file_of_unknown_length_must_reach_its_clip() -> None:
    row = Row("a", "v.mp4", 80.0, "q", ((40.0, 50.0),), clip=(30.0, 80.0))
    for decoded, found in ((500.0, []), (79.5, []), (60.0, [DurationMismatch("v.mp4", 80.0, 60.0)])):
        assert duration_mismatches([row], {"v.mp4": VideoRecord("v.mp4", "ok", duration=decoded)}) == found


ODD = (None, True, -1, 10**30, float("nan"), "", "x", "<|im_end|>", [], [[]], [[1]], ["a", "b"], {}, {"a": 1})


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to all values inside ``value``."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


@pytest.mark.parametrize("name", SAMPLES)
def test_odd_values_anywhere_are_rejected_or_one_error(tmp_path: Path, name: str) -> None:
    outcomes = set()
    for path in places(SAMPLES[name]):
        for odd in ODD:
            data = copy.deepcopy(SAMPLES[name])
            inside = data
            for key in path[:-1]:
                inside = inside[key]
            inside[path[-1]] = odd
            with contextlib.suppress(DataError):
                convert(tmp_path, name, data)  # reads its output back
                outcomes.add("rows")
    assert "rows" in outcomes


FORMATS = {
    "time-r1": ("timer1/train_2k5.json.gz", (), 2500, 2493, 156),
    "tvgbench": ("tvgbench/tvgbench.json.gz", (), 800, 789, 241),
    "vue-tr": ("vue_tr/VUE-TR_ground_truth.json.gz", (), 1598, 1598, 0),
    "tacos": ("tacos/test.json.gz", (), 4001, 4001, 0),
    "rextime": ("rextime/rextime_val.jsonl.gz", (), 921, 919, 0),
    "didemo": ("didemo/val_data.excerpt.json", (), 42, 42, 0),
    "timelens-bench": ("charades_sta_dict/timezero_charades_train.excerpt.json", (), 24, 24, 0),
    "lighthouse": ("lighthouse/castella_test_release.excerpt.jsonl", (), 30, 29, 0),
    "hirest": ("hirest/all_data_val.excerpt.json", (), 54, 38, 0),
}


@pytest.mark.parametrize("name", FORMATS)
def test_published_files_have_their_counts(tmp_path: Path, real: Callable[[str], Path], name: str) -> None:
    file, flags, entries, kept, clips = FORMATS[name]
    rows, summary = run(name, tmp_path / "rows.jsonl", "--annotations", str(real(f"formats/{file}")), *flags)
    assert (summary["entries"], len(rows)) == (entries, kept)
    assert sum(row.clip is not None for row in rows) == clips


def test_questions_with_windows_of_nextgqa(tmp_path: Path, real: Callable[[str], Path]) -> None:
    files = [str(real(f"formats/nextgqa/{name}")) for name in ("val.csv.gz", "gsub_val.json.gz")]
    words = ["--annotations", files[0], "--windows", files[1]]
    rows, summary = run("next-gqa", tmp_path / "rows.jsonl", *words)
    assert (summary["entries"], len(rows), sum(len(row.windows) > 1 for row in rows)) == (3358, 3358, 339)


def test_tacos_agrees_with_lighthouse(tmp_path: Path, real: Callable[[str], Path]) -> None:
    """Two publishers' files of the same set: frames over fps here, seconds there."""
    theirs, _ = run(
        "lighthouse",
        tmp_path / "theirs.jsonl",
        "--annotations",
        str(real("formats/lighthouse/tacos_test_release.excerpt.jsonl")),
    )
    ours, _ = run("tacos", tmp_path / "ours.jsonl", "--annotations", str(real("formats/tacos/test.json.gz")))
    assert len(theirs) == 50
    for one, other in zip(theirs, ours, strict=False):
        assert one.query == other.query
        assert one.windows[0] == pytest.approx(other.windows[0], abs=1e-5)
        assert one.duration == pytest.approx(other.duration, abs=1e-5)
