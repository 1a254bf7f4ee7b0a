"""``convert jsonl --map``: the same rows from every kind of file, and every unit of time."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from data_prep.convert.paths import PathError, parse_path, places_of, value_at
from data_prep.errors import DataError
from data_prep.rows import read_rows
from invert_rl.cli import main

FORMATS = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "formats"
GROUPED = [
    {
        "v": "a.mp4",
        "len": 60,
        "events": [{"q": "a man sits", "s": [[1, 4]]}, {"q": "he stands", "s": [[5, 9], [20, 30]]}],
    },
    {"v": "b.mp4", "len": 20.5, "events": [{"q": "a dog runs", "s": [[0.5, 3]]}]},
]
MAP = ["video=v", "duration=len", "query=events[].q", "windows=events[].s"]
ROWS = [
    ("jsonl-test-1-0", "a.mp4", 60.0, "a man sits", ((1.0, 4.0),)),
    ("jsonl-test-1-1", "a.mp4", 60.0, "he stands", ((5.0, 9.0), (20.0, 30.0))),
    ("jsonl-test-2-0", "b.mp4", 20.5, "a dog runs", ((0.5, 3.0),)),
]


def convert(source: Path, output: Path, *arguments: str, fails: bool = False) -> Any:
    common = ["convert", "jsonl", "--annotations", str(source), "--split", "test", "--output", str(output), "--map"]
    assert main([*common, *arguments]) == int(fails)
    return None if fails else read_rows(output, unlabelled=True)


def told(rows: list) -> list:
    return [(row.id, row.video, row.duration, row.query, row.windows) for row in rows]


def write_jsonl(path: Path, records: list) -> Path:
    path.write_text("\n".join(map(json.dumps, records)))
    return path


def test_the_same_rows_from_every_kind_of_file(tmp_path: Path) -> None:
    import datasets
    import pyarrow
    import pyarrow.parquet

    output = tmp_path / "out" / "rows.jsonl"
    write_jsonl(tmp_path / "g.jsonl", GROUPED)
    (tmp_path / "g.json").write_text(json.dumps(GROUPED))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(GROUPED), tmp_path / "g.parquet")
    table = datasets.Dataset.from_list(GROUPED)
    table.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"test": table, "train": table.select([0])}).save_to_disk(tmp_path / "dict")
    (tmp_path / "hub" / "data").mkdir(parents=True)
    for split, part in (("test", GROUPED), ("train", GROUPED[:1])):
        path = tmp_path / "hub" / "data" / f"{split}-00000-of-00001.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(part), path)
    for name in ("g.jsonl", "g.json", "g.parquet", "saved", "dict", "hub"):
        assert told(convert(tmp_path / name, output, *MAP)) == ROWS, name
    with (tmp_path / "g.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["v", "len", "q", "from", "to", "list"])
        lines.writerow(["a.mp4", "60", "a man sits", "1", "4", "[[1, 4]]"])
        lines.writerow(["a.mp4", "60", "he, too", "0:05", "0:09", "[[5, 9], [20, 30]]"])
    rows = convert(tmp_path / "g.csv", output, "video=v", "duration=len", "query=q", "start=from", "end=to")
    assert [row.windows for row in rows] == [((1.0, 4.0),), ((5.0, 9.0),)]
    rows = convert(tmp_path / "g.csv", output, "video=v", "duration=len", "query=q", "windows=list")
    assert rows[1].windows == ((5.0, 9.0), (20.0, 30.0))
    assert (
        main(
            [
                "convert",
                "jsonl",
                "--annotations",
                str(tmp_path / "dict"),
                "--split",
                "val",
                "--output",
                str(output),
                "--map",
                *MAP,
            ]
        )
        == 1
    )


def test_a_shuffled_data_set_is_refused(tmp_path: Path, capsys: Any) -> None:
    import datasets

    datasets.Dataset.from_list(GROUPED).select([1, 0]).save_to_disk(tmp_path / "saved")
    if not list((tmp_path / "saved").glob("indices*")):
        rows = convert(tmp_path / "saved", tmp_path / "o.jsonl", *MAP)
        assert rows[0].video == "b.mp4"  # this version of `datasets` writes the rows in their order
    else:
        convert(tmp_path / "saved", tmp_path / "o.jsonl", *MAP, fails=True)
        assert "flatten_indices" in capsys.readouterr().err


def test_objects_by_key_and_parallel_lists(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_text(json.dumps({"v1": {"duration": 9.0, "timestamps": [[0, 1], [2, 3]], "sentences": ["one", "two"]}}))
    mapping = ["video=@key", "duration=duration", "query=sentences[]", "windows=timestamps[]"]
    rows = convert(path, tmp_path / "o.jsonl", *mapping, "--video-pattern", "{video}.mp4")
    assert told(rows) == [
        ("jsonl-test-1-0", "v1.mp4", 9.0, "one", ((0.0, 1.0),)),
        ("jsonl-test-1-1", "v1.mp4", 9.0, "two", ((2.0, 3.0),)),
    ]
    path.write_text(json.dumps({"v1": {"duration": 9.0, "timestamps": [[0, 1]], "sentences": ["one", "two"]}}))
    convert(path, tmp_path / "o.jsonl", *mapping, fails=True)
    rejected = (tmp_path / "o.rejected.jsonl").read_text().splitlines()
    assert len(rejected) == 2 and "has 1 entries where the queries have 2" in rejected[0]


UNITS = [
    (["--units", "frames", "--fps", "25"], [50, 100], (2.0, 4.0)),
    (["fps=fps", "--units", "frames"], [40, 80], (2.0, 4.0)),
    (["--units", "fractions"], [0.2, 0.4], (2.0, 4.0)),
    (["--units", "percent"], [20, 40], (2.0, 4.0)),
    (["--units", "milliseconds"], [2000, 4000], (2.0, 4.0)),
    (["--units", "chunks", "--chunk-seconds", "2"], [1, 1], (2.0, 4.0)),
    (["--units", "chunks", "--chunk-seconds", "2", "--chunk-end", "exclusive"], [1, 2], (2.0, 4.0)),
    ([], "2.0-4.0", (2.0, 4.0)),
    ([], "0:02 to 0:04", (2.0, 4.0)),
    ([], {"start": 2, "end": 4}, (2.0, 4.0)),
]


@pytest.mark.parametrize(("options", "window", "seconds"), UNITS)
def test_units(options: list[str], window: Any, seconds: tuple, tmp_path: Path) -> None:
    record = {"v": "a.mp4", "len": 10, "q": "a man sits", "w": window, "fps": 20}
    source = write_jsonl(tmp_path / "a.jsonl", [record])
    (row,) = convert(source, tmp_path / "o.jsonl", "video=v", "duration=len", "query=q", "windows=w", *options)
    assert row.windows == (seconds,)


def test_last_chunk_ends_with_the_video_and_frames_give_its_length(tmp_path: Path) -> None:
    record = {"v": "a.mp4", "n": 270, "f": 30, "q": "a man sits", "w": [1, 1]}
    source = write_jsonl(tmp_path / "a.jsonl", [record])
    mapping = ["video=v", "frames=n", "fps=f", "query=q", "windows=w", "--units", "chunks"]
    (row,) = convert(source, tmp_path / "o.jsonl", *mapping)
    assert row.duration == 9.0 and row.windows == ((5.0, 9.0),)


def test_clips_ids_and_meta(tmp_path: Path) -> None:
    record = {"v": "a.mp4", "q": "a man sits", "w": [2, 3], "from": 10, "to": 20, "name": "x", "kind": "egocentric"}
    source = write_jsonl(tmp_path / "a.jsonl", [record, {**record, "name": "y", "from": None, "to": None}])
    mapping = ["video=v", "query=q", "windows=w", "id=name", "meta.kind=kind", "clip_start=from", "clip_end=to"]
    (tmp_path / "d.json").write_text('{"a.mp4": 30}')
    more = ["--windows-from", "clip", "--durations", str(tmp_path / "d.json")]
    first, second = convert(source, tmp_path / "o.jsonl", *mapping, *more)
    assert (first.id, first.clip, first.windows) == ("jsonl-test-x", (10.0, 20.0), ((12.0, 13.0),))
    assert first.meta["kind"] == "egocentric"
    assert (second.clip, second.windows) == (None, ((2.0, 3.0),))
    more[1] = "file"
    (only,) = convert(source, tmp_path / "o.jsonl", *mapping, *more)
    assert only.id == "jsonl-test-y"
    (refused,) = map(json.loads, (tmp_path / "o.rejected.jsonl").read_text().splitlines())
    assert refused["reason"] == "window ends before the video starts"


def test_rows_without_windows_where_only_predictions_are_wanted(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", [{"v": "a.mp4", "len": 10, "q": "a man sits"}])
    mapping = ["video=v", "duration=len", "query=q"]
    convert(source, tmp_path / "o.jsonl", *mapping, fails=True)
    (row,) = convert(source, tmp_path / "o.jsonl", *mapping, "--unlabelled")
    assert row.windows == ()


def test_show_prints_rows_and_refusals_and_writes_nothing(tmp_path: Path, capsys: Any) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", [{"v": "z.mp4"}, *GROUPED])
    before = sorted(tmp_path.iterdir())
    assert (
        main(["convert", "jsonl", "--annotations", str(source), "--split", "test", "--show", "2", "--map", *MAP]) == 0
    )
    first, second, refused, *_ = capsys.readouterr().out.splitlines()
    assert json.loads(first)["query"] == "a man sits" and json.loads(second)["windows"] == [[5.0, 9.0], [20.0, 30.0]]
    assert refused.startswith(f"rejected at {source}:1") and "'events' is not there" in refused
    assert sorted(tmp_path.iterdir()) == before


def test_every_entry_is_in_the_output_or_rejected(tmp_path: Path) -> None:
    odd = [
        {"v": "a.mp4", "len": 10, "events": [{"q": "x y z", "s": [[3, 1]]}, {"q": "x y w", "s": [[1, 2]]}]},
        {"v": "b.mp4", "len": None, "events": [{"q": "x", "s": [[1, 2]]}]},
        {"v": "c.mp4", "len": 10, "events": "none"},
        {
            "v": "d.mp4",
            "len": 10,
            "events": [{"q": 5, "s": [[1, 2]]}, {"q": "long", "s": [["one", "two"]]}, {"q": "a b"}],
        },
    ]
    rows = convert(write_jsonl(tmp_path / "a.jsonl", odd), tmp_path / "o.jsonl", *MAP)
    assert [row.query for row in rows] == ["x y w"]
    reasons = [json.loads(line)["reason"] for line in (tmp_path / "o.rejected.jsonl").read_text().splitlines()]
    assert len(reasons) == 6


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (["video=v", "query=q"], "how long are the videos"),
        (["video=v", "duration=d"], "query=PATH is missing"),
        (["video=v", "query=q", "duration=d", "when=w"], "expected FIELD=PATH"),
        (["video=v", "query=q", "duration=d", "start=a"], "start=PATH and end=PATH"),
        (["video=v", "query=q..x", "duration=d"], "is no path"),
        (["video=v", "query=q", "duration=d", "clip=c"], "--windows-from"),
        (["video=v", "query=q", "duration=d", "--units", "frames"], "needs --fps"),
        (["video=v", "query=q", "duration=d", "--fps", "25"], "is for --units frames"),
    ],
)
def test_mistakes(mapping: list[str], message: str, tmp_path: Path, capsys: Any) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", GROUPED)
    convert(source, tmp_path / "o.jsonl", *mapping, fails=True)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o.jsonl").exists()


def test_paths() -> None:
    record = {"a": [{"b": [{"q": 1}, {"q": 2}]}, {"b": [{"q": 3}]}], "s": [[1, 2], [3, 4]]}
    path = parse_path("a[].b[].q")
    places = list(places_of(record, path))
    assert [value_at(record, path, each) for each in places] == [1, 2, 3]
    assert value_at(record, parse_path("s[1][0]")) == 3
    assert value_at(record, parse_path("s[]")) == [[1, 2], [3, 4]]
    with pytest.raises(PathError, match="is not there"):
        value_at(record, parse_path("a[0].c"))
    for wrong in ("", ".a", "a..b", "a[x]", "a]"):
        with pytest.raises(DataError, match="is no path"):
            parse_path(wrong)


def test_published_files_by_map_are_as_their_converters_have_them(tmp_path: Path) -> None:
    cases = [
        (
            "vue_tr/VUE-TR_ground_truth.json.gz",
            "vue-tr",
            ["video=video_id", "duration=duration", "query=query", "windows=gt"],
        ),
        (
            "rextime/rextime_val.jsonl.gz",
            "rextime",
            ["video=vid", "duration=duration", "query=query", "windows=relevant_windows"],
        ),
        (
            "tacos/test.json.gz",
            "tacos",
            [
                "video=@key",
                "frames=num_frames",
                "fps=fps",
                "query=sentences[]",
                "windows=timestamps[]",
                "--units",
                "frames",
            ],
        ),
    ]
    for name, converter, mapping in cases:
        if not (FORMATS / name).is_file():
            pytest.skip(f"{name} is not here")
        common = ["--annotations", str(FORMATS / name), "--split", "test", "--output", str(tmp_path / "own.jsonl")]
        assert main(["convert", converter, *common]) == 0
        mine = [(r.query, r.windows, r.duration) for r in convert(FORMATS / name, tmp_path / "o.jsonl", *mapping)]
        assert mine == [(r.query, r.windows, r.duration) for r in read_rows(tmp_path / "own.jsonl")], name
