"""Small generated files: exact outputs, every kind of repair and refusal, and one clear error per damage."""

from __future__ import annotations

import gzip
import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

DURATIONS = "id,length,scene\nAAAAA,30.5,Kitchen\nBBBBB,12.0,Hall\n"
CHARADES = "AAAAA 0.0 6.9##a person is putting a book on a shelf.\nBBBBB 3.0 13.0##person  sits down.\n"


def charades(tmp_path: Path, text: str | bytes = CHARADES, durations: str | bytes = DURATIONS) -> dict:
    """Command-line options for a generated Charades-STA file."""
    files = {"annotations": ("sta.txt", text), "durations": ("lengths.csv", durations)}
    options: dict[str, object] = {"split": "train"}
    for option, (name, content) in files.items():
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        options[option] = path
    return options


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_golden_rows(tmp_path: Path, convert) -> None:
    done = convert("charades-sta", **charades(tmp_path))
    assert done.rows == [
        {
            "id": "charades-sta-train-1",
            "video": "AAAAA.mp4",
            "duration": 30.5,
            "query": "a person is putting a book on a shelf.",
            "windows": [[0.0, 6.9]],
            "dataset": "charades-sta",
            "split": "train",
            "meta": {"source": "sta.txt:1"},
        },
        {
            "id": "charades-sta-train-2",
            "video": "BBBBB.mp4",
            "duration": 12.0,
            "query": "person sits down.",
            "windows": [[3.0, 12.0]],
            "dataset": "charades-sta",
            "split": "train",
            "meta": {"source": "sta.txt:2", "annotated_windows": [[3.0, 13.0]]},
        },
    ]
    assert done.rejected == []


def test_gzip_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path: Path, convert) -> None:
    plain = convert("charades-sta", **charades(tmp_path)).rows
    odd = b"\xef\xbb\xbf" + CHARADES.replace("\n", "\r\n").encode()
    zipped = convert("charades-sta", **charades(tmp_path, gzip.compress(odd), gzip.compress(DURATIONS.encode())))
    assert zipped.rows == plain


def test_every_bad_line_is_rejected_with_its_reason(tmp_path: Path, convert) -> None:
    bad = {
        "AAAAA 8.0 7.0##reversed": "reversed window (end before start)",
        "AAAAA 8.0 8.0##empty": "empty window (start equals end)",
        "AAAAA 31 40##late": "window starts after the end of the video",
        "AAAAA -3 -1##early": "window ends before the video starts",
        "AAAAA nan 5##not a number": "a window is not [start, end] in seconds",
        "AAAAA one 5##not a number": "a window is not [start, end] in seconds",
        "CCCCC 1 2##unknown video": "no duration is known for the video",
        "AAAAA 1 2##  ": "the query is empty",
        "AAAAA 1 2## . ": "the query holds no word",
        "AAAAA 1 2## two ## marks": "the line has more than one '##'",
        "AAAAA 1 2 no marks": "the line is not 'VIDEO START END##query'",
    }
    text = "\n".join([*bad, "AAAAA 1 2##good"])
    done = convert("charades-sta", **charades(tmp_path, text))
    assert done.code == 0
    assert {record["line"]: record["reason"] for record in done.rejected} == dict(enumerate(bad.values(), start=1))
    assert [record["source"] for record in done.rejected] == list(bad)
    assert [row["query"] for row in done.rows] == ["good"]


def test_start_before_the_video_is_clipped(tmp_path: Path, convert) -> None:
    done = convert("charades-sta", **charades(tmp_path, "AAAAA -1.5 4##person sits down."))
    assert done.rows[0]["windows"] == [[0.0, 4.0]]
    assert done.count("repaired", "start before the video clipped to 0") == 1


@pytest.mark.parametrize("line", ["AAAAA 1 31##too long", "AAAAA 1 2## space", "AAAAA 3 2##reversed"])
def test_strict_refuses_repairs_and_writes_nothing(tmp_path: Path, convert, capsys, line: str) -> None:
    done = convert("charades-sta", "--strict", **charades(tmp_path, line + "\nAAAAA 1 2##good\n"))
    assert done.code == 1 and not done.output.exists()
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "sta.txt:1" in error
    clean = convert("charades-sta", "--strict", **charades(tmp_path, "AAAAA 1 2##good"), name="clean.jsonl")
    assert clean.code == 0


def test_a_failed_conversion_leaves_the_old_output(tmp_path: Path, convert) -> None:
    before = convert("charades-sta", **charades(tmp_path)).rows
    after = convert("charades-sta", "--strict", **charades(tmp_path, "AAAAA 1 99##long"))
    assert after.code == 1 and after.rows == before


@pytest.mark.parametrize(
    ("annotations", "durations", "message"),
    [
        ("", DURATIONS, "the file is empty"),
        ("hello\nworld\n", DURATIONS, "no line has the form"),
        (
            "../../etc/passwd 1 2##q",
            "id,length\n../../etc/passwd,30\n",
            "relative path inside the video folder",
        ),
        (CHARADES, "id,duration\nAAAAA,3\n", "column length not found"),
        (CHARADES, "id,length\nAAAAA,3,4\n", "lengths.csv:2: 3 fields, the header has 2"),
        (CHARADES, "id,length\nAAAAA,long\n", "lengths.csv:2: length 'long' of AAAAA"),
        (CHARADES, "id,length\nAAAAA,3\nAAAAA,4\n", "lengths.csv:3: AAAAA has two lengths"),
        (CHARADES, 'id,length\n"AAAAA,3\n', "malformed CSV"),
        (CHARADES.encode("utf-16"), DURATIONS, "not UTF-8"),
        ("AAAAA 1 2##caf\u00e9".encode("latin-1"), DURATIONS, "sta.txt:1: not UTF-8"),
        (gzip.compress(CHARADES.encode(), mtime=0)[:-9], DURATIONS, "damaged gzip"),
    ],
)
def test_charades_files_with_damage(tmp_path, convert, capsys, annotations, durations, message: str) -> None:
    done = convert("charades-sta", **charades(tmp_path, annotations, durations))
    assert_one_error(done, capsys, message)


def assert_one_error(done, capsys, message: str) -> None:
    """Exit code 1, nothing written, one line on stderr with ``message``, nothing on stdout."""
    said = capsys.readouterr()
    assert done.code == 1 and not done.output.exists() and said.out == ""
    assert said.err.startswith("error: ") and said.err.count("\n") == 1
    assert message in said.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"v_a": {"duration": 10, "timestamps": [[1, 2]], "sente', "the file seems cut off"),
        (
            '{"v_a": {"duration": 10,\n "timestamps": [[1, 2]] "sentences"}}',
            "captions.json:2: not valid JSON",
        ),
        ({"v_a": {"duration": 10, "timestamps": [[1, 2]]}}, "video 'v_a': expected the fields"),
        ({"v_a": {"duration": 10, "timestamps": [[1, 2]], "sentences": []}}, "lists of the same length"),
        ({"../v_a": {"duration": 10, "timestamps": [[1, 2]], "sentences": ["q"]}}, "inside the video folder"),
        ([1, 2], "expected an object of videos, found list"),
        ('{"v_a": {}, "v_a": {}}', "key 'v_a' occurs twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"v_a": {"duration": ' + "1" * 5000 + "}}", "a value that cannot be read"),
        ({"v_\ud83d": {"duration": 10, "timestamps": [[1, 2]], "sentences": ["q"]}}, "half of a character"),
    ],
)
def test_activitynet_captions_with_damage(tmp_path, convert, capsys, content, message: str) -> None:
    annotations = write(tmp_path / "captions.json", content)
    assert_one_error(convert("activitynet-captions", annotations=annotations, split="train"), capsys, message)


def test_activitynet_captions_bad_sentences_are_rejected(tmp_path, convert) -> None:
    record = {
        "duration": 10,
        "timestamps": [[1, 2], [0, 4], "soon", [1], [True, 5], [0, 10.4], [0, 10**400], [0, 1]],
        "sentences": [" A man\nruns. ", 7, "a", "b", "c", "They jump.", "d", "e \ud83d"],
    }
    endless = {"duration": "ten", "timestamps": [[1, 2]], "sentences": ["d"]}
    annotations = write(tmp_path / "c.json", {"v_a": record, "v_b": endless})
    done = convert("activitynet-captions", annotations=annotations, split="val")
    assert [(row["id"], row["query"], row["windows"]) for row in done.rows] == [
        ("activitynet-captions-val-v_a-0", "A man runs.", [[1.0, 2.0]]),
        ("activitynet-captions-val-v_a-5", "They jump.", [[0.0, 10.0]]),
    ]
    assert [record["line"] for record in done.rejected] == [2, 3, 4, 5, 7, 8, 9]
    assert done.rejected[0]["reason"] == "the query is not text"
    assert done.rejected[-1]["reason"] == "the duration is not a positive number"


QUERY = {
    "qid": 1,
    "query": "A dog runs.",
    "duration": 150,
    "vid": "x_0.0_150.0",
    "relevant_windows": [[0, 8]],
}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([QUERY, QUERY], "q.jsonl:2: id 'qvhighlights-val-1' is already used at"),
        ([QUERY, "{"], "q.jsonl:2: not valid JSON"),
        ([QUERY, [1]], "q.jsonl:2: expected a JSON object"),
        ([{"qid": 1, "query": "q"}], "q.jsonl:1: field 'duration' is missing"),
        ([QUERY | {"vid": "https://host/x"}], "inside the video folder"),
        ([QUERY | {"vid": 5}], "field 'vid' must be text"),
    ],
)
def test_qvhighlights_with_damage(tmp_path, convert, capsys, lines: list, message: str) -> None:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    done = convert("qvhighlights", annotations=write(tmp_path / "q.jsonl", text), split="val")
    assert_one_error(done, capsys, message)


def test_video_files_are_looked_up_whatever_their_ending(tmp_path, convert) -> None:
    folder = tmp_path / "videos"
    (folder / "part1").mkdir(parents=True)
    (folder / "part1" / "x_0.0_150.0.webm").touch()
    (folder / "part1" / "x_0.0_150.0.srt").touch()
    lines = json.dumps(QUERY) + "\n" + json.dumps(QUERY | {"qid": 2, "vid": "absent"})
    annotations = write(tmp_path / "q.jsonl", lines)
    done = convert("qvhighlights", annotations=annotations, split="val", videos=folder)
    assert [row["video"] for row in done.rows] == ["part1/x_0.0_150.0.webm", "absent.mp4"]
    assert done.summary["videos_without_file"] == ["absent"]
    named = convert("qvhighlights", annotations=annotations, split="val", video_pattern="clips/{video}.mkv")
    assert named.rows[0]["video"] == "clips/x_0.0_150.0.mkv"


def test_two_files_of_one_video_are_an_error(tmp_path, convert, capsys) -> None:
    for name in ("x_0.0_150.0.mp4", "x_0.0_150.0.mkv"):
        (tmp_path / name).touch()
    annotations = write(tmp_path / "q.jsonl", json.dumps(QUERY))
    done = convert("qvhighlights", annotations=annotations, split="val", videos=tmp_path)
    assert_one_error(done, capsys, "are both called x_0.0_150.0")


def thumos(*annotations: dict, **fields: object) -> dict:
    video = {"subset": "Test", "duration": 10.0, "fps": 25.0, "annotations": list(annotations)}
    return {"database": {"video_test_1": {**video, **fields}}}


def test_golden_detection(tmp_path, convert) -> None:
    content = thumos(
        {"segment": [1, 2.5], "label": "Diving"},
        {"segment": [9, 12], "label": "CliffDiving"},
        {"segment": ["3.5", "4"], "label": "Diving"},
        {"segment": [5, 5], "label": "Diving"},
        {"segment": [5, 6], "label": "Ambiguous"},
    )
    annotations = write(tmp_path / "t.json", content)
    done = convert("thumos14", annotations=annotations, name="out.json")
    assert json.loads(done.output.read_text()) == {
        "version": "thumos14",
        "database": {
            "video_test_1": {
                "subset": "test",
                "duration": 10.0,
                "fps": 25.0,
                "annotations": [
                    {"segment": [1.0, 2.5], "label": "Diving", "label_id": 7},
                    {"segment": [9.0, 10.0], "label": "CliffDiving", "label_id": 4},
                    {"segment": [3.5, 4.0], "label": "Diving", "label_id": 7},
                ],
                "published": [
                    {"segment": [1.0, 2.5], "label": "Diving", "label_id": 7},
                    {"segment": [9.0, 12.0], "label": "CliffDiving", "label_id": 4},
                    {"segment": [3.5, 4.0], "label": "Diving", "label_id": 7},
                    {"segment": [5.0, 5.0], "label": "Diving", "label_id": 7},
                ],
            }
        },
    }
    assert [record["line"] for record in done.rejected] == [4, 5]
    kept = convert("thumos14", annotations=annotations, segments="keep", name="kept.json").database
    segments = [annotation["segment"] for annotation in kept["video_test_1"]["annotations"]]
    assert segments == [[1, 2.5], [9, 12], [3.5, 4], [5, 5]]


@pytest.mark.parametrize(
    ("content", "split", "message"),
    [
        (thumos({"segment": [1, 2], "label": "Diving"}), "training", "the file has: Test"),
        (thumos({"segment": [1, 2], "label": "Dancing"}), "test", "'Dancing' is not a class of THUMOS14"),
        (thumos({"segment": [1, 2]}), "test", "annotation 0: expected the fields segment and label"),
        (thumos({"segment": [1, 2], "label": "Diving"}, duration=None), "test", "pass --durations"),
        ({"videos": {}}, "test", "expected an object with 'database'"),
        ('{"database": {"video_test_1": {"subset": "Test", "annot', "test", "cut off"),
    ],
)
def test_thumos14_with_damage(tmp_path, convert, capsys, content, split: str, message: str) -> None:
    done = convert("thumos14", annotations=write(tmp_path / "t.json", content), split=split, name="out.json")
    assert_one_error(done, capsys, message)


def test_thumos14_official_text_files(tmp_path, convert) -> None:
    folder = tmp_path / "annotation"
    folder.mkdir()
    write(folder / "Diving_val.txt", "video_validation_1  1.0 2.0\nvideo_validation_1  3.0 4.5\n")
    write(folder / "Ambiguous_val.txt", "video_validation_2  1.0 2.0\n")
    durations = write(tmp_path / "info.csv", "video,fps,count\nvideo_validation_1,25.0,250\n")
    done = convert("thumos14", annotations=folder, durations=durations, split="validation", name="out.json")
    assert list(done.database) == ["video_validation_1"]
    assert done.database["video_validation_1"]["duration"] == 10.0
    assert [a["segment"] for a in done.database["video_validation_1"]["annotations"]] == [[1, 2], [3, 4.5]]
    assert [record["source"] for record in done.rejected] == ["video_validation_2  1.0 2.0"]


EPIC_HEADER = "narration_id,video_id,start_timestamp,stop_timestamp,verb_class,noun_class\n"
EPIC_LENGTHS = "video_id,duration\nP01_01,100\n"


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        ("P01_01_0,P01_01,00:00:01.00,00:61:02.00,1,2", {}, "e.csv:2: '00:61:02.00' is not a time"),
        ("P01_01_0,P01_01,00:00:01.00,00:00:02.00,one,2", {}, "e.csv:2: invalid literal"),
        ("P01_01_0,P01_01,00:00:01.00,00:00:02.00,1", {}, "e.csv:2: 5 fields"),
        ("P01_01_0,../P01_01,00:00:01.00,00:00:02.00,1,2", {}, "inside the video folder"),
        (
            "P01_01_0,P01_01,00:00:01.00,00:00:02.00,1,2\nP01_01_0,P01_01,00:00:03.00,00:00:04.00,1,2",
            {},
            "e.csv:3: narration_id 'P01_01_0' is already used in line 2",
        ),
        ("P01_01_0,P01_01,00:00:01.00,00:00:02.00,7,2", {"classes": "id,key\n1,put\n"}, "class 7 of"),
    ],
)
def test_epic_kitchens_with_damage(tmp_path, convert, capsys, text: str, flags: dict, message: str) -> None:
    annotations = write(tmp_path / "e.csv", EPIC_HEADER + text + "\n")
    lengths = EPIC_LENGTHS + "../P01_01,5\n" if "../" in text else EPIC_LENGTHS
    options = {name: write(tmp_path / "classes.csv", content) for name, content in flags.items()}
    done = convert(
        "epic-kitchens-100",
        annotations=annotations,
        durations=write(tmp_path / "lengths.csv", lengths),
        split="train",
        name="out.json",
        **options,
    )
    assert_one_error(done, capsys, message)


def test_clips_with_damage(tmp_path, convert, capsys) -> None:
    for content, message in (
        ([], "expected a list of {video, query, windows}"),
        ([{"video": "a.mp4", "query": "q"}], "entry 1: expected an object with the fields"),
        ([{"video": "../a.mp4", "query": "q", "windows": [[0, 1]]}], "inside the video folder"),
        (
            [{"video": "a.mp4", "query": "q", "windows": [[0, 1]]}],
            "no entry can be used (1 x the video is missing)",
        ),
    ):
        annotations = write(tmp_path / "clips.json", content)
        done = convert("clips", annotations=annotations, videos=tmp_path, split="train")
        assert_one_error(done, capsys, message)


def test_missing_files_are_named(tmp_path, convert, capsys) -> None:
    done = convert("qvhighlights", annotations=tmp_path / "none.jsonl", split="val")
    assert_one_error(done, capsys, "none.jsonl: no such file")
    done = convert("qvhighlights", annotations=tmp_path, split="val")
    assert_one_error(done, capsys, "is a folder")


def test_output_must_not_be_an_input_and_parquet_is_called_so(tmp_path, convert, capsys) -> None:
    options = charades(tmp_path)
    for flags, message in (
        ({"output": options["annotations"]}, "--output is one of the files to read"),
        ({"format": "parquet"}, "must end in .parquet"),
    ):
        done = convert("charades-sta", **options, **flags)
        assert_one_error(done, capsys, message)
    assert options["annotations"].read_text() == CHARADES


def test_json_prints_the_saved_summary_and_nothing_else(tmp_path, convert, capsys) -> None:
    done = convert("charades-sta", "--json", **charades(tmp_path))
    said = capsys.readouterr()
    assert json.loads(said.out) == done.summary
    assert said.err == ""


def test_text_summary_names_repairs_with_counts(tmp_path, convert, capsys) -> None:
    convert("charades-sta", **charades(tmp_path))
    said = capsys.readouterr().out
    assert "2 entries -> 2 rows of 2 videos" in said
    assert "repaired      1  end after the video clipped to its duration" in said


def test_module_runs_and_help_lists_every_set() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "data_prep.convert", "--help"], capture_output=True, text=True, check=True
    )
    for name in (
        "charades-sta",
        "activitynet-captions",
        "qvhighlights",
        "clips",
        "thumos14",
        "activitynet-1.3",
        "epic-kitchens-100",
    ):
        assert name in done.stdout


def test_importing_data_prep_imports_neither_torch_nor_spacy_nor_av() -> None:
    code = (
        "import sys, data_prep, data_prep.convert.command, data_prep.check_videos, data_prep.verbs\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'spacy', 'av', 'datasets', 'pyarrow')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_full_disk_is_one_error_and_leaves_no_half_file(tmp_path: Path) -> None:
    """The file-size limit of the process stands for the end of the disk: a write beyond 64 kB fails."""
    lines = "".join(f"AAAAA 0.0 6.9##a person walks {number} steps.\n" for number in range(2000))
    options = charades(tmp_path, lines)
    output = tmp_path / "converted" / "out.jsonl"
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, "-m", "data_prep.convert", "charades-sta", "--output", str(output), *words],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, 65_536)),
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "File too large" in done.stderr
    assert list(output.parent.iterdir()) == []
