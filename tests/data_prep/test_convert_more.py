"""Formats of which there is no sample, by records as they are described, and RA-RFT and Ego4D-NLQ by their samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_prep.rows import Row, is_irrelevant, read_rows
from invert_rl.cli import main

FORMATS = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "formats"


def convert(name: str, source: Path, *arguments: object, fails: bool = False) -> tuple[list[Row], dict[str, Any]]:
    output = source.parent / "out" / "rows.jsonl"
    common = ["convert", name, "--annotations", source, "--split", "test", "--output", output, *arguments]
    assert main(list(map(str, common))) == int(fails)
    if fails:
        return [], {}
    return read_rows(output, unlabelled=True), json.loads(output.with_suffix(".summary.json").read_text())


def written(folder: Path, content: Any, name: str = "a.json") -> Path:
    (folder / name).write_text(json.dumps(content))
    return folder / name


def sample(name: str, folder: Path) -> Path:
    path = FORMATS / name
    if not path.is_file():
        pytest.skip(f"{name} is not here")
    (folder / path.name).write_bytes(path.read_bytes())
    return folder / path.name


def test_ra_rft(tmp_path: Path) -> None:
    rows, summary = convert("ra-rft", sample("ra_rft/human_anno.json.gz", tmp_path))
    assert len(rows) == summary["entries"] == 200 and sum(map(is_irrelevant, rows)) == 100
    rows, summary = convert("ra-rft", sample("ra_rft/ss_vtg_charades.excerpt.json", tmp_path))
    assert summary["rejected"] == {"the file has no window for this relevant query": 9}
    assert (len(rows), sum(map(is_irrelevant, rows))) == (27, 13)
    rows, _ = convert("ra-rft", sample("ra_rft/hi_vtg_charades.excerpt.json", tmp_path))
    assert rows[0].windows == ((9.3, 14.4),) and rows[0].video == "E6DLK.mp4"
    assert rows[1].windows == () and rows[1].meta["irrelevant"].startswith("Action/FineGrainedAction, Object")
    assert rows[1].meta["difficulty"] == "easy"
    convert("ra-rft", sample("ra_rft/hi_vtg_tvgbench.excerpt.json", tmp_path), fails=True)  # no durations


def test_ego4d_nlq_conversations(tmp_path: Path) -> None:
    rows, summary = convert(
        "ego4d-nlq", sample("timelens2_sft/ego4d_nlq_train_v2_xtunerformat.excerpt.jsonl", tmp_path)
    )
    assert (len(rows), summary["entries"], summary["videos"]) == (233, 233, 25)
    assert rows[0].query == "what did I pick from the fridge?" and rows[0].duration == 480
    assert rows[0].video == "f06d1935-550f-4caa-909c-b2db4c28f599.mp4" and rows[0].windows == ((17.3, 27.3),)


def test_timelens_100k_conversations(tmp_path: Path) -> None:
    source = sample("timelens2_sft/timelens-100k_over180_1137_format2.excerpt.jsonl", tmp_path)
    rows, summary = convert("timelens", source)
    assert (len(rows), summary["entries"], summary["videos"], summary["rejected"]) == (200, 200, 40, {})
    assert not summary["repaired"] and all(1 <= row.windows[0][1] - row.windows[0][0] <= 200 for row in rows)
    assert rows[0].id == "timelens-test-1-0" and rows[0].duration == 180.5
    assert rows[0].video == "didemo/53819037@N00_8893941905_0a957d015a.mp4"
    assert rows[0].query == "When can we see a woman in a green jacket speaking into a megaphone?"
    assert rows[0].windows == ((169.0, 179.0),)
    clock = [row for row in rows if row.windows == ((98.0, 105.0),)]
    assert clock and "[[01:38, 01:45]]" in source.read_text()


@pytest.mark.parametrize(
    ("answer", "windows"),
    [
        ("Time intervals: 1.5 - 2.0, 3 - 4", ((1.5, 2.0), (3.0, 4.0))),
        ("Between 1 and 2 seconds, and between 3 and 4 seconds.", ((1.0, 2.0), (3.0, 4.0))),
        ("Start: 55.0s, End: 59.0s", ((55.0, 59.0),)),
        ("[[00:01:38.5, 00:01:45]]", ((98.5, 105.0),)),
        ("<1, 2>", ((1.0, 2.0),)),
        ("1.0-2.0", ((1.0, 2.0),)),
        ("It happens three times.", None),
        ("From 1 to 2, and at 5", None),
    ],
)
def test_forms_of_answers(tmp_path: Path, answer: str, windows: Any) -> None:
    video = {"url": "queryd/-a_b/", "processed_video_length": 481, "processed_fps": 4.0}
    asked = [
        {"type": "video_url", "video_url": video},
        {"type": "text", "text": "<VIDEO_CONTEXT>\nWhen?\nSay [start]."},
    ]
    turns = [
        {"role": "user", "content": asked},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": "And then?\nSay [start]."},
        {"role": "assistant", "content": "0.0, 9.0"},
    ]
    source = tmp_path / "a.jsonl"
    source.write_text(json.dumps({"id": 0, "messages": turns}) + "\n")
    rows, summary = convert("timelens", source)
    assert [row.windows for row in rows] == [*([windows] if windows else []), ((0.0, 9.0),)]
    assert sum(summary["rejected"].values()) == (windows is None) and rows[-1].id == "timelens-test-1-1"
    assert (rows[-1].video, rows[-1].duration) == ("queryd/-a_b.mp4", 120.25)
    source.write_text(json.dumps({"id": 0, "messages": turns[:3]}) + "\n")
    convert("timelens", source, fails=True)


def challenge(**query: Any) -> dict[str, Any]:
    whole = {
        "clip_start_sec": 2.0,
        "clip_end_sec": 4.0,
        "video_start_sec": 32.0,
        "video_end_sec": 34.0,
        "query": "what?",
    }
    annotation = {"annotation_uid": "n", "language_queries": [{**whole, **query}, {"query": None}]}
    clip = {"clip_uid": "c", "video_start_sec": 30.0, "video_end_sec": 510.0, "annotations": [annotation]}
    return {"version": "1", "videos": [{"video_uid": "v", "split": "val", "clips": [clip]}]}


def test_ego4d_nlq_of_the_challenge(tmp_path: Path) -> None:
    source = written(tmp_path, challenge(query="query text: what did I put in?", template="Objects: what"))
    (row,), summary = convert("ego4d-nlq", source)
    assert (row.id, row.video, row.duration) == ("ego4d-nlq-test-c-n-0", "c.mp4", 480.0)
    assert (row.query, row.windows, row.meta["template"]) == ("what did I put in?", ((2.0, 4.0),), "Objects: what")
    assert summary["rejected"] == {"the query is not text": 1}
    (row,), _ = convert("ego4d-nlq", source, "--shown", "videos")
    assert (row.video, row.clip, row.windows) == ("v.mp4", (30.0, 510.0), ((32.0, 34.0),))
    hidden = challenge(clip_start_sec=None, clip_end_sec=None)
    convert("ego4d-nlq", written(tmp_path, hidden), fails=True)
    (row,), _ = convert("ego4d-nlq", written(tmp_path, hidden), "--unlabelled")
    assert row.windows == ()
    flat = {
        "video_id": "c",
        "query_id": 3,
        "query": "what?",
        "duration": 480,
        "timestamps": [[1, 2]],
        "query_type": "x",
    }
    (row,), _ = convert("ego4d-nlq", written(tmp_path, flat, "b.jsonl"))
    assert row.meta["query_id"] == 3 and row.video == "c.mp4"


def test_momentseeker(tmp_path: Path) -> None:
    one = {
        "qry_text": "a man cooks",
        "qry_img_path": "",
        "qry_video_path": "",
        "src_video_path": "./videos/x.mp4",
        "task": "action",
        "answering_time_interval": [[3, 9], [20, 30]],
    }
    source = written(tmp_path, [one, {**one, "qry_img_path": "./i.jpg"}, {**one, "src_video_path": "./videos/y.mp4"}])
    lengths = written(tmp_path, {"x.mp4": 600}, "d.json")
    (row,), summary = convert("momentseeker", source, "--durations", lengths)
    assert (row.video, row.windows, row.meta["task"]) == ("x.mp4", ((3.0, 9.0), (20.0, 30.0)), "action")
    assert summary["rejected"] == {
        "an image or a video is a part of the query": 1,
        "no duration is known for the video": 1,
    }


def test_queryd(tmp_path: Path, capsys: Any) -> None:
    captions = written(tmp_path, {"video--a_b": [["A", "man"], ["sits", "down"]], "video-c": [["x", "y"]]})
    times = written(tmp_path, {"video--a_b": [[1, 2], [3, 3]], "video-c": [[0, 1]]}, "t.json")
    lengths = written(tmp_path, {"-a_b": 60, "c": 9}, "d.json")
    (tmp_path / "list.txt").write_text("video--a_b\n")
    options = ["--times", times, "--durations", lengths]
    (row,), summary = convert("queryd", captions, *options, "--videos-of-split", tmp_path / "list.txt")
    assert (row.id, row.video, row.query) == ("queryd-test--a_b-0", "-a_b.mp4", "A man")
    assert summary["rejected"] == {"empty window (start equals end)": 1}
    rows, _ = convert("queryd", captions, *options)
    assert len(rows) == 2
    (tmp_path / "a.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    convert("queryd", tmp_path / "a.pkl", *options, fails=True)
    assert "a pickle can run anything" in capsys.readouterr().err


TURNS = [
    {"from": "human", "value": "<video>\nDuring which frames can we see a dog running?"},
    {"from": "gpt", "value": "From <s0> to <e0>."},
    {"from": "human", "value": "What happens from <s1> to <e1>?"},
    {"from": "gpt", "value": "A cat sits."},
]


def test_vtimellm_and_internvid_vtime(tmp_path: Path) -> None:
    meta = {"split": [129.8, 184.0], "duration": 54.2, "token": {"<s0>": 0, "<e0>": 9.4, "<s1>": 1, "<e1>": 2}}
    record = {"source": "internvid", "id": "abcdefghijk", "conversations": TURNS, "meta": meta}
    source = written(tmp_path, [record, {**record, "meta": {"duration": 54.2, "token": {"<s0>": 3, "<e0>": 4}}}])
    for name in ("vtimellm", "internvid-vtime"):
        (first, second), summary = convert(name, source)
        assert (first.query, first.clip, first.windows) == ("a dog running", (129.8, 184.0), ((129.8, 139.2),))
        assert (second.clip, second.windows) == (None, ((3.0, 4.0),))
        assert first.dataset == name and summary["rejected"] == {"the turn does not ask for one moment": 2}
    line = {"vid": "abcdefghijk", "duration": 54.2, "query": "a dog", "span": [1.0, 2.5]}
    for name in ("videomind", "internvid-vtime"):
        (row,), _ = convert(name, written(tmp_path, line, "b.jsonl"))
        assert (row.dataset, row.windows, row.video) == (name, ((1.0, 2.5),), "abcdefghijk.mp4")
    del line["duration"]
    convert("videomind", written(tmp_path, line, "b.jsonl"), fails=True)
    (row,), _ = convert(
        "videomind", tmp_path / "b.jsonl", "--durations", written(tmp_path, {"abcdefghijk": 9}, "d.json")
    )
    assert row.duration == 9
