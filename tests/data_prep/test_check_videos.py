"""Probing, the manifest and `check-videos` on generated files, and on the real ones where they are stored."""

from __future__ import annotations

import argparse
import functools
import json
import os
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from data_prep import check_videos
from data_prep.errors import DataError
from data_prep.manifest import (
    DurationMismatch,
    duration_mismatches,
    open_manifest,
    read_manifest,
    split_usable,
)
from data_prep.probe import STATUSES, VideoRecord, probe
from data_prep.rows import Row, write_rows

SECONDS = 2
LARGER_STREAM = {"files/torchcodec_nasa_13013.mp4": (390, "h264", 480, 270)}
"""Of a file with two video streams, what FFmpeg takes; the index tells of the first one, 325 frames of 320 x 180."""


def write_video(path: Path, frames: int = 10 * SECONDS, fps: int = 10) -> Path:
    """A 64x48 video of ``frames`` pictures of noise."""
    noise = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width, stream.height = 64, 48
        stream.time_base = Fraction(1, fps)
        for _ in range(frames):
            picture = noise.integers(0, 256, (48, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One good video and one of each kind that must not stop a run."""
    folder = tmp_path / "videos"
    folder.mkdir()
    good = write_video(folder / "good.mp4").read_bytes()
    whole = write_video(folder / "whole.mkv").read_bytes()
    (folder / "cut.mp4").write_bytes(good[: len(good) // 2])
    (folder / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    (folder / "text.mp4").write_text("This is no video.")
    (folder / "empty.mp4").touch()
    (folder / "folder.mp4").mkdir()
    os.mkfifo(folder / "pipe.mp4")
    (folder / "device.mp4").symlink_to("/dev/zero")
    (folder / "broken_link.mp4").symlink_to("nowhere")
    (folder / "loop.mp4").symlink_to("loop.mp4")
    write_video(tmp_path / "outside.mp4")
    (folder / "link_out.mp4").symlink_to("../outside.mp4")
    (folder / "link.mp4").symlink_to("good.mp4")
    return folder


EXPECTED = {
    "good.mp4": "ok",
    "whole.mkv": "ok",
    "cut.mp4": "unreadable",
    "cut.mkv": "truncated",
    "text.mp4": "unreadable",
    "empty.mp4": "empty",
    "folder.mp4": "not_a_file",
    "pipe.mp4": "not_a_file",
    "device.mp4": "not_a_file",
    "broken_link.mp4": "missing",
    "absent.mp4": "missing",
    "loop.mp4": "unreadable",
    "link_out.mp4": "unreadable",  # training refuses it, too
    "link.mp4": "ok",
}


def rows_for(videos: list[str], duration: float = float(SECONDS)) -> list[Row]:
    return [Row(f"row-{video}", video, duration, "a query", ((0.0, 1.0),)) for video in videos]


@pytest.fixture
def check(tmp_path: Path, folder: Path, capsys) -> Callable[..., tuple[int, dict, str]]:
    """Run the command on rows and give back exit code, the JSON summary and stderr."""

    def run(rows: list[Row], *flags: str) -> tuple[int, dict, str]:
        data = tmp_path / "data.jsonl"
        write_rows(rows, data)
        parser = argparse.ArgumentParser()
        check_videos.add_arguments(parser)
        words = [str(data), "--videos", str(folder), "--workers", "1", "--json", *flags]
        code = check_videos.run(parser.parse_args(words))
        said = capsys.readouterr()
        return code, json.loads(said.out) if said.out else {}, said.err

    return run


def test_every_kind_of_file_gets_a_status_and_a_reason(folder: Path) -> None:
    records = {name: probe(folder, name) for name in EXPECTED}
    assert {name: record.status for name, record in records.items()} == EXPECTED
    assert all(bool(record.reason) == (record.status != "ok") for record in records.values())
    good = records["good.mp4"]
    info = (folder / "good.mp4").stat()
    assert good == VideoRecord(
        "good.mp4",
        "ok",
        duration=float(SECONDS),
        start=0.0,
        fps=10.0,
        frames=10 * SECONDS,
        rotation=0,
        codec="mpeg4",
        width=64,
        height=48,
        bytes=info.st_size,
        mtime=info.st_mtime_ns,
    )


def test_real_videos_are_read_as_the_index_says(real) -> None:
    index = json.loads(real("videos/index.json").read_text(encoding="utf-8"))
    for entry in index:
        known = entry["probe_pyav18"]
        record = probe(real("videos"), entry["file"])
        assert record.status in STATUSES
        if "open_error" in known:
            assert record.status in ("unreadable", "empty"), entry["file"]
            continue
        if known["nvideo"] == 0:
            assert record.status == "no_video"
            continue
        found = (record.frames, record.codec, record.width, record.height)
        if entry["file"] in LARGER_STREAM:
            assert found == LARGER_STREAM[entry["file"]]
            continue
        assert found == (known["frames"], known["codec"], known["w"], known["h"]), entry["file"]
        if known["frames"]:
            assert record.rotation == known["rotation"][0]
            assert record.start == pytest.approx(known["first"], abs=1e-3)
        if known["decode_error"] or not known["frames"]:
            assert record.status == "decode_error", entry["file"]
        elif "truncated" not in entry["file"]:
            assert record.status == "ok", (entry["file"], record.reason)
            length = known["stream_duration"] or known["container_duration"]
            if length:
                assert record.duration == pytest.approx(length, abs=0.06), entry["file"]
    truncated = probe(real("videos"), "files/derived_asl_help_truncated_60kB.mkv")
    assert truncated.status == "truncated" and "1.933 s" in truncated.reason


def test_a_cover_picture_before_the_film_is_not_the_film(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "cover.mkv"), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 320, 240, "yuvj420p"
        film = container.add_stream("mpeg4", rate=10)
        film.width, film.height = 64, 48
        for stream, count in ((cover, 1), (film, 10 * SECONDS)):
            for _ in range(count):
                picture = np.zeros((stream.height, stream.width, 3), dtype=np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
    with av.open(str(tmp_path / "cover.mkv")) as container:
        assert [stream.codec_context.name for stream in container.streams] == ["mjpeg", "mpeg4"]
    record = probe(tmp_path, "cover.mkv")
    assert (record.status, record.codec, record.frames, record.width) == ("ok", "mpeg4", 10 * SECONDS, 64)
    assert record.duration == pytest.approx(SECONDS)


def test_check_reports_all_and_fails(check) -> None:
    code, summary, _ = check(rows_for(list(EXPECTED)))
    assert code == 1
    assert (summary["videos"], summary["ok"]) == (len(EXPECTED), 3)
    found = {entry["video"]: status for status, entries in summary["broken"].items() for entry in entries}
    assert found == {name: status for name, status in EXPECTED.items() if status != "ok"}
    manifest = read_manifest(summary["manifest"])
    assert {name: record.status for name, record in manifest.items()} == EXPECTED


def test_only_needed_videos_count(check) -> None:
    code, summary, _ = check(rows_for(["good.mp4"]))
    assert (code, summary["videos"], summary["broken"]) == (0, 1, {})


def test_resume_skips_unchanged_files_only(check, folder: Path) -> None:
    names = ["good.mp4", "whole.mkv", "text.mp4", "absent.mp4"]
    _, first, _ = check(rows_for(names))
    assert (first["checked"], first["reused"]) == (4, 0)
    _, again, _ = check(rows_for(names))
    assert (again["checked"], again["reused"]) == (1, 3), "a missing file is looked for again"
    assert again["broken"] == first["broken"]
    write_video(folder / "text.mp4")
    write_video(folder / "absent.mp4")
    os.utime(folder / "whole.mkv", ns=(1, 1))
    code, repaired, _ = check(rows_for(names))
    assert (code, repaired["checked"], repaired["reused"]) == (0, 3, 1)
    _, all_again, _ = check(rows_for(names), "--recheck")
    assert all_again["checked"] == 4


def test_a_torn_last_line_is_repaired(check, tmp_path: Path) -> None:
    _, first, _ = check(rows_for(["good.mp4", "whole.mkv"]))
    path = Path(first["manifest"])
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[1][:20])
    _, again, _ = check(rows_for(["good.mp4", "whole.mkv"]))
    assert (again["checked"], again["reused"]) == (1, 1)
    assert path.read_text().splitlines(keepends=True) == lines


def test_duration_that_disagrees_fails_loudly(check) -> None:
    code, summary, _ = check(rows_for(["good.mp4"], duration=7.5))
    assert code == 1 and summary["broken"] == {}
    assert summary["duration_mismatches"] == [{"video": "good.mp4", "annotated": 7.5, "decoded": 2.0}]
    code, summary, _ = check(rows_for(["good.mp4"], duration=7.5), "--duration-tolerance", "6")
    assert code == 0 and summary["duration_mismatches"] == []


def stall(folder: str, video: str) -> VideoRecord:
    """Stands for a decoder that never comes back on one file."""
    if video == "good.mp4":
        time.sleep(3600)
    return probe(folder, video)


def test_a_stuck_decoder_is_killed_and_tried_again_next_time(check, monkeypatch) -> None:
    monkeypatch.setattr(check_videos, "probe", stall)
    began = time.monotonic()
    code, summary, _ = check(rows_for(["good.mp4", "whole.mkv"]), "--timeout", "2")
    assert time.monotonic() - began < 60
    assert code == 1 and summary["ok"] == 1
    assert summary["broken"] == {
        "timeout": [{"video": "good.mp4", "reason": "decoding: stopped after the limit of 2 s"}]
    }
    monkeypatch.undo()
    code, summary, _ = check(rows_for(["good.mp4", "whole.mkv"]))
    assert (code, summary["checked"], summary["reused"]) == (0, 1, 1)


def test_text_output_names_what_is_wrong(tmp_path: Path, folder: Path, capsys) -> None:
    data = tmp_path / "data.jsonl"
    write_rows(rows_for(["good.mp4", "text.mp4"], duration=9.0), data)
    parser = argparse.ArgumentParser()
    check_videos.add_arguments(parser)
    assert check_videos.run(parser.parse_args([str(data), "--videos", str(folder), "--workers", "1"])) == 1
    said = capsys.readouterr().out
    assert "1 of 2 videos ok" in said
    assert "BROKEN, unreadable: 1" in said and "text.mp4: not a video or damaged from the start" in said
    assert "LENGTH DISAGREES" in said and "annotated 9.00 s, decoded 2.00 s" in said


@pytest.mark.parametrize("flags", [["--workers", "0"], ["--timeout", "-1"], ["--timeout", "nan"]])
def test_wrong_numbers_are_usage_errors(tmp_path: Path, flags: list[str], capsys) -> None:
    parser = argparse.ArgumentParser()
    check_videos.add_arguments(parser)
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(["data.jsonl", "--videos", str(tmp_path), *flags])
    assert stopped.value.code == 2


def test_unreadable_data_is_one_error(check, tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    check_videos.add_arguments(parser)
    assert check_videos.run(parser.parse_args([str(tmp_path / "none.jsonl"), "--videos", str(tmp_path)])) == 2
    code, _, error = check(rows_for(["good.mp4"]), "--videos", str(tmp_path / "nowhere"))
    assert code == 2 and "no such video folder" in error


OK = functools.partial(VideoRecord, status="ok")


def test_rows_are_left_out_by_the_manifest_with_a_reason() -> None:
    manifest = {
        "a": OK(video="a", duration=10.0),
        "b": VideoRecord("b", "timeout", "decoding: stopped"),
        "short": OK(video="short", duration=0.9),
    }
    rows = [
        Row("1", "a", 10.0, "q", ((0.0, 1.0),)),
        Row("2", "b", 10.0, "q", ((0.0, 1.0),)),
        Row("3", "c", 10.0, "q", ((0.0, 1.0),)),
        Row("4", "short", 10.0, "q", ((0.0, 0.5), (0.95, 2.0))),
        Row("5", "short", 10.0, "q", ((0.5, 2.0),)),
    ]
    usable, left_out = split_usable(rows, manifest)
    assert [row.id for row in usable] == ["1", "5"]
    assert list(left_out) == ["2", "3", "4"]
    assert "timeout (decoding: stopped)" in left_out["2"]
    assert "not in the manifest" in left_out["3"]
    assert "starts after the end" in left_out["4"]
    assert duration_mismatches(rows, manifest) == [DurationMismatch("short", 10.0, 0.9)]


def test_malformed_manifests_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    with pytest.raises(DataError, match="check-videos"):
        read_manifest(path)
    for line, message in (
        ("{", "m.jsonl:1: not valid JSON"),
        ('{"id": 1}', "is it a manifest"),
        ('{"video": "a", "status": "fine"}', "unknown status 'fine'"),
    ):
        path.write_text(line + "\n")
        with pytest.raises(DataError, match=message):
            read_manifest(path)


def test_a_later_line_replaces_an_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    with open_manifest(path) as out:
        out.write('{"video": "a", "status": "timeout"}\n{"video": "a", "status": "ok"}\n')
    assert read_manifest(path) == {"a": VideoRecord("a", "ok")}
