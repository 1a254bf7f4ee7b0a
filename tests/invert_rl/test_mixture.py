"""Mixtures: the same list from the same files, weights and caps, and contamination that was planted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_prep.rows import Row, read_rows, write_rows
from invert_rl.cli import main
from invert_rl.mixture.config import read_mixture
from invert_rl.mixture.contamination import video_id
from invert_rl.tasks import TASKS, messages


def row(number: int, video: str, windows: tuple = ((1.0, 4.0),), **fields: Any) -> Row:
    return Row(f"r{number}", video, 60.0, f"a person does thing {number}", windows, **fields)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two sources of ten rows, a test set, and the videos' files."""
    write_rows([row(number, f"a{number}.mp4", split="train") for number in range(10)], tmp_path / "one.jsonl")
    write_rows(
        [row(100 + number, f"b{number}.mp4") for number in range(9)] + [row(109, "b9.mp4", ((1.0, 2.0), (5.0, 9.0)))],
        tmp_path / "two.jsonl",
    )
    write_rows([row(number, f"t{number}.mp4") for number in range(3)], tmp_path / "test.jsonl")
    for name, count in (("a", 10), ("b", 10), ("t", 3)):
        (tmp_path / "videos" / name).mkdir(parents=True)
        for number in range(count):
            (tmp_path / "videos" / name / f"{name}{number}.mp4").write_bytes(f"{name}{number}".encode() * 50)
    return tmp_path


BOTH: dict[str, Any] = {
    "video_root": "videos",
    "sources": [{"data": "one.jsonl", "folder": "a"}, {"data": "two.jsonl", "folder": "b"}],
    "test_sets": [{"data": "test.jsonl", "folder": "t"}],
}


def mix(folder: Path, content: dict[str, Any], *arguments: str, fails: bool = False) -> dict[str, Any]:
    (folder / "mix.yaml").write_text(yaml.safe_dump(content))
    output = folder / "out" / "train.jsonl"
    assert main(["mix", str(folder / "mix.yaml"), "--output", str(output), *arguments]) == int(fails)
    return {} if fails else json.loads(output.with_suffix(".mixture.json").read_text())


def rows_of(folder: Path) -> list[Row]:
    return read_rows(folder / "out" / "train.jsonl")


def rejected_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out" / "train.rejected.jsonl").read_text().splitlines()]


def test_rows_of_all_sources_with_a_manifest(folder: Path) -> None:
    manifest = mix(folder, BOTH)
    rows = rows_of(folder)
    assert manifest["rows"] == len(rows) == 21 and manifest["windows"] == "split"
    assert rows[0].video == "a/a0.mp4" and rows[0].meta["source_name"] == "one"
    assert [row.id for row in rows[-2:]] == ["r109#0", "r109#1"]
    one, two = manifest["sources"]
    assert (one["entries"], one["taken"], one["videos"], one["videos_found"]) == (10, 10, 10, 10)
    assert two["usable"] == 11 and len(two["sha256"]) == 16
    assert manifest["test_sets"][0]["files_hashed"] == 3
    before = (folder / "out" / "train.jsonl").read_bytes()
    assert mix(folder, BOTH)["sha256"] == manifest["sha256"]
    assert (folder / "out" / "train.jsonl").read_bytes() == before


def test_weights_and_caps_are_drawn_by_the_seed(folder: Path) -> None:
    def taken(seed: int, **source: Any) -> list[str]:
        mix(folder, {**BOTH, "seed": seed, "sources": [{"data": "one.jsonl", "folder": "a", **source}]})
        return [row.id for row in rows_of(folder)]

    half = taken(1, weight=0.5)
    assert len(half) == 5 and half == taken(1, weight=0.5) != taken(2, weight=0.5)
    assert len(taken(1, cap=3)) == 3 and len(taken(1, cap=4, weight=2.5)) == 10
    twice = taken(1, weight=2.3)
    assert len(twice) == 23 and sum(name.endswith("@2") for name in twice) == 10
    assert sum(name.endswith("@3") for name in twice) == 3
    assert len(taken(1, split="train")) == 10
    mix(folder, {**BOTH, "sources": [{"data": "one.jsonl", "split": "val"}]}, fails=True)


def test_contamination_by_id_is_refused_or_listed(folder: Path, capsys: Any) -> None:
    write_rows([row(0, "x/v_abcdefghijk.mkv"), row(1, "abcdefghijk_60.0_210.0.mp4")], folder / "one.jsonl")
    write_rows([row(0, "abcdefghijk.f399.mp4")], folder / "test.jsonl")
    content = {**BOTH, "sources": BOTH["sources"][:1]}
    mix(folder, content, fails=True)
    error = capsys.readouterr().err
    assert "2 rows have videos of test sets" in error and "abcdefghijk is in test.jsonl" in error
    assert not (folder / "out" / "train.jsonl").exists() and len(rejected_of(folder)) == 2
    mix(folder, {**content, "sources": BOTH["sources"]}, "--contamination", "drop")
    assert {record["kind"] for record in rejected_of(folder)} == {"in a test set"}
    assert all(row.video.startswith("b/") for row in rows_of(folder))


def test_contamination_by_content_under_another_name(folder: Path, capsys: Any) -> None:
    shutil.copy(folder / "videos" / "t" / "t1.mp4", folder / "videos" / "b" / "b3.mp4")
    assert mix(folder, {**BOTH, "contamination": "drop"})["contaminated"] == 1
    (record,) = rejected_of(folder)
    assert record["id"] == "r103" and "t1.mp4 of test.jsonl, byte for byte" in record["reason"]
    mix(folder, BOTH, fails=True)
    assert "r103 of two" in capsys.readouterr().err
    same_length = (folder / "videos" / "t" / "t1.mp4").read_bytes()[::-1]
    (folder / "videos" / "b" / "b3.mp4").write_bytes(same_length)
    assert mix(folder, BOTH)["contaminated"] == 0


def test_rows_that_two_sources_share_are_taken_once(folder: Path) -> None:
    shared = row(5, "other.mp4")
    write_rows([shared, row(6, "other.mp4")], folder / "one.jsonl")
    write_rows(
        [row(7, "other.webm"), Row("s", "other.webm", 60.0, f"{shared.query.upper()}.", ((1.0, 4.0),))],
        folder / "two.jsonl",
    )
    manifest = mix(folder, BOTH)
    assert manifest["sources"][1]["rejected"] == {"in an earlier source": 1}
    assert [row.id for row in rows_of(folder)] == ["r5", "r6", "r7"]


def test_a_source_keeps_its_own_prompt(folder: Path) -> None:
    content = {**BOTH, "sources": [BOTH["sources"][0], {**BOTH["sources"][1], "prompt": "timelens", "windows": "any"}]}
    assert mix(folder, content)["windows"] == "any"
    rows = rows_of(folder)
    plain, worded = TASKS["tvg"].text(rows[0]), TASKS["tvg"].text(rows[-1])
    assert "<think>" in plain and "visual event" in worded
    assert TASKS["tvg"].columns(rows[-1])["answer_format"] == "bare/span_text"
    assert TASKS["tvg"].target(rows[-1]).startswith("The event happens in 1.00 - 2.00")
    assert TASKS["tvg"].is_valid("The event happens in 1 - 2 seconds.", rows[-1])
    assert not TASKS["tvg"].is_valid("The event happens in 1 - 2 seconds.", rows[0])
    assert "<think>" in TASKS["ar"].text(rows[-1])  # which timelens does not word
    last = {**BOTH, "sources": [{**BOTH["sources"][0], "prompt": "videochat_r1"}]}
    mix(folder, last)
    assert [part["type"] for part in messages(TASKS["tvg"], rows_of(folder)[0])[0]["content"]] == ["text", "video"]


def test_ids_of_two_sources_must_differ(folder: Path, capsys: Any) -> None:
    write_rows([row(1, "z.mp4")], folder / "two.jsonl")
    mix(folder, BOTH, fails=True)
    assert "'r1' is in source 'one', too" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sources": []}, "sources must be a list"),
        ({"sources": [{"folder": "a"}]}, "data is missing"),
        ({"sources": [{"data": "one.jsonl", "wieght": 2}]}, "'wieght' is unknown"),
        ({"sources": [{"data": "one.jsonl", "weight": 0}]}, "weight must be"),
        ({"sources": [{"data": "one.jsonl", "cap": 1.5}]}, "cap must be"),
        ({"sources": [{"data": "one.jsonl", "prompt": "thinking"}]}, "no shipped preset"),
        ({"sources": [{"data": "one.jsonl", "folder": "../.."}]}, "relative path inside"),
        ({"sources": [{"data": "none.jsonl"}]}, "no such file"),
        ({"sources": [{"data": "one.jsonl"}, {"data": "one.jsonl"}]}, "two sources are called"),
        ({"contamination": "ignore"}, "refuse or drop"),
        ({"video_root": "nowhere"}, "is no folder"),
        ({"seed": "x"}, "seed must be"),
    ],
)
def test_mistakes(change: dict[str, Any], message: str, folder: Path, capsys: Any) -> None:
    mix(folder, {**BOTH, **change}, fails=True)
    assert message in capsys.readouterr().err
    assert not (folder / "out" / "train.jsonl").exists()


def test_what_names_of_one_video_have_in_common() -> None:
    same = [
        "a/v_BrgYIg6UXhU.mp4",
        "BrgYIg6UXhU_60.0_210.0.mkv",
        "BrgYIg6UXhU.f399.mp4",
        "BrgYIg6UXhU_00:01:00:000_00:02:30:500.mp4",
    ]
    assert {video_id(name) for name in same} == {"BrgYIg6UXhU"}
    didemo = ["a/81311832@N00_4578499646_6f.m2ts", "81311832@N00_4578499646_6f.", "81311832@N00_4578499646_6f.mp4"]
    assert {video_id(name) for name in didemo} == {"81311832@N00_4578499646_6f"}
    assert video_id("s30-d52-cam-002.mp4") == "s30-d52"
    assert (
        video_id("-0_a_1b.mp4") == "-0_a_1b" and video_id("s30-d52.avi") == "s30-d52" and video_id("v_12.mp4") == "v_12"
    )


def test_shipped_mixtures_are_read() -> None:
    shipped = sorted((Path(__file__).resolve().parents[2] / "mixtures").glob("*.yaml"))
    assert shipped and all(read_mixture(path).sources for path in shipped)
