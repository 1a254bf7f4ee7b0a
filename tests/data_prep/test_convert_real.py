"""The official files: counts as published, and every irregular row of the lists beside them accounted for."""

from __future__ import annotations

import csv
import gzip
import io
import json

import pytest

from data_prep.rows import read_rows

CLIPPED = "end after the video clipped to its duration"
REVERSED = "reversed window (end before start)"
EMPTY = "empty window (start equals end)"
OUTSIDE = "window starts after the end of the video"


def known_irregular(real, name: str) -> dict:
    return json.loads(real(f"anticases/{name}.json").read_text(encoding="utf-8"))


def raw_lines(path) -> list[str]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        return lines.read().splitlines()


def assert_balanced(done, entries: int) -> None:
    """Every input entry is in the output or in the rejected file, and the summary says so."""
    assert done.code == 0
    assert done.summary["entries"] == entries
    assert done.summary["accepted"] + len(done.rejected) == entries
    assert sum(done.summary["rejected"].values()) == len(done.rejected)


@pytest.mark.parametrize(("split", "published"), [("train", 12408), ("test", 3720)])
def test_charades_sta(real, convert, split: str, published: int) -> None:
    suffix = ".txt.gz" if split == "train" else ".txt"
    annotations = real(f"charades/charades_sta_{split}{suffix}")
    known = known_irregular(real, "tvg")["charades_sta"][split]
    done = convert(
        "charades-sta",
        annotations=annotations,
        durations=real(f"charades/Charades_v1_{split}.csv.gz"),
        split=split,
    )
    assert_balanced(done, published)
    assert known["rows"] == published
    lines = raw_lines(annotations)
    rejected = {record["line"]: record for record in done.rejected}
    assert len(rejected) == known["reversed"]["n"]
    assert {record["reason"] for record in done.rejected} <= {REVERSED}
    for example in known["reversed"]["ex"]:
        line = int(example.split(":")[0])
        assert rejected[line]["source"] == lines[line - 1]
    # Three of the four reversed lines also end after their clip; they are counted once, as rejected.
    beyond_and_reversed = sum(
        float(line.split()[2].split("##")[0]) > float(line.split("dur=")[1].rstrip("]"))
        for line in known["reversed"]["ex"]
        for line in [line.split(": ", 1)[1]]
    )
    assert done.count("repaired", CLIPPED) == known["end>dur"]["n"] - beyond_and_reversed
    assert done.count("repaired", "repeated spaces inside the query reduced to one") == known["double space"]["n"]
    assert done.count("notes", "query of fewer than 3 words") == known["query<3 words"]["n"]
    assert done.count("notes", "query with non-ASCII characters") == known["nonascii"]["n"]
    assert done.count("notes", "window covers the whole video") == known["whole video"]["n"]
    assert done.count("notes", "window shorter than 1 s") == known["short<1s"]["n"]
    rows = read_rows(done.output)
    by_line = {int(row.id.rsplit("-", 1)[1]): row for row in rows}
    assert sorted([*by_line, *rejected]) == list(range(1, published + 1))
    for number, row in by_line.items():
        head, query = lines[number - 1].split("##")
        video, start, end = head.split()
        assert (row.video, row.query) == (f"{video}.mp4", " ".join(query.split()))
        assert row.window == (float(start), min(float(end), row.duration))
        assert row.meta.get("annotated_windows", [list(row.window)]) == [[float(start), float(end)]]


@pytest.mark.parametrize(("split", "published"), [("train", 37421), ("val_1", 17505), ("val_2", 17031)])
def test_activitynet_captions(real, convert, split: str, published: int) -> None:
    annotations = real(f"activitynet_captions/{split}.json.gz")
    known = known_irregular(real, "tvg")["activitynet_captions"][split]
    done = convert("activitynet-captions", annotations=annotations, split=split)
    assert_balanced(done, published)
    assert done.summary["rejected"].get(REVERSED, 0) == known["reversed"]["n"]
    assert done.summary["rejected"].get(EMPTY, 0) == known["zero_len"]["n"]
    sources = [(record["source"]["video"], record["source"]["index"]) for record in done.rejected]
    for example in known["reversed"]["ex"] + known["zero_len"]["ex"]:
        video, index = example.removeprefix("('").split("', ")[0], int(example.split(", ")[1])
        assert (video, index) in sources
    assert done.count("repaired", CLIPPED) == known["end>dur"]["n"]
    assert done.count("repaired", "spaces around the query removed") == known["leading/trailing space"]["n"]
    assert (
        done.count("repaired", "line break or tab inside the query replaced by a space")
        == known["newline/tab in text"]["n"]
    )
    assert done.count("notes", "query with non-ASCII characters") == known["nonascii"]["n"]
    assert done.count("notes", "query of more than 60 words") == known[">60 words"]["n"]
    assert done.count("notes", "window covers the whole video") == known["whole video"]["n"]
    assert done.count("notes", "window shorter than 1 s") == known["short<1s"]["n"]
    # The list counts every member of a repeated pair, the summary every repetition.
    assert 2 * done.count("notes", "same video and query as an earlier entry") == known["same video+query"]["n"]
    rows = {row.id: row for row in read_rows(done.output)}
    database = json.loads("\n".join(raw_lines(annotations)))
    assert len(database) == known["videos"]
    for video, record in database.items():
        for index, (window, sentence) in enumerate(zip(record["timestamps"], record["sentences"], strict=True)):
            row = rows.pop(f"activitynet-captions-{split}-{video}-{index}", None)
            if row is None:
                assert (video, index) in sources
                continue
            assert row.video == f"{video}.mp4"
            assert row.query == " ".join(sentence.split())
            assert row.window == pytest.approx((window[0], min(window[1], record["duration"])), abs=1e-6)
            assert all(isinstance(time, float) for time in row.window)
    assert not rows


@pytest.mark.parametrize(("split", "published"), [("train", 7218), ("val", 1550)])
def test_qvhighlights(real, convert, split: str, published: int) -> None:
    annotations = real(f"qvhighlights/highlight_{split}_release.jsonl.gz")
    known = known_irregular(real, "tvg")["qvhighlights"][split]
    done = convert("qvhighlights", annotations=annotations, split=split)
    assert_balanced(done, published)
    assert done.count("notes", "query with several windows") == known["multi"]
    assert done.count("notes", "window covers the whole video") == known["whole"]
    assert done.count("notes", "query with non-ASCII characters") == known["nonascii_n"]
    rows = read_rows(done.output)
    windows_of = {json.loads(line)["qid"]: json.loads(line)["relevant_windows"] for line in raw_lines(annotations)}
    assert sum(len(row.windows) for row in rows) == known["total_windows"]
    if split == "train":
        assert len(rows) == known["total_windows"] and all(len(row.windows) == 1 for row in rows)
    else:
        assert len(rows) == published
    again: dict[int, list[list[float]]] = {}
    for row in rows:
        again.setdefault(row.meta["qid"], []).extend([list(window) for window in row.windows])
    assert again == windows_of


def test_qvhighlights_windows_can_be_kept_or_split(real, convert) -> None:
    annotations = real("qvhighlights/highlight_val_release.jsonl.gz")
    split = convert("qvhighlights", "--split-windows", annotations=annotations, split="val")
    assert split.summary["rows"] == 2803
    assert [row["id"] for row in split.rows[2:5]] == [f"qvhighlights-val-{split.rows[2]['meta']['qid']}#0"] + [
        f"qvhighlights-val-{split.rows[2]['meta']['qid']}#1",
        split.rows[4]["id"],
    ]
    kept = convert("qvhighlights", "--no-split-windows", annotations=annotations, split="train", name="kept.jsonl")
    assert kept.summary["rows"] == 1550


def test_qvhighlights_test_file_without_ground_truth_is_refused(real, convert, capsys) -> None:
    done = convert("qvhighlights", annotations=real("qvhighlights/highlight_test_release.jsonl"), split="test")
    assert done.code == 1 and not done.output.exists()
    assert len(done.rejected) == 1542
    assert "no ground truth" in capsys.readouterr().err


@pytest.mark.parametrize("subset", ["Test", "Validation"])
def test_thumos14(real, convert, subset: str) -> None:
    known = known_irregular(real, "tal")["thumos14"]
    annotations = real("thumos14/thumos14.json.gz")
    options = {"annotations": annotations, "split": subset.lower(), "name": "out.json"}
    done = convert("thumos14", **options)
    assert_balanced(done, known[subset]["inst"])
    assert done.summary["videos"] == known["subsets"][subset]
    assert done.summary["rejected"] == {OUTSIDE: known[subset]["n_over"]}
    outside = [[record["source"]["video"], record["source"]["segment"]] for record in done.rejected]
    assert all([video, segment] in outside for video, segment, _ in known[subset]["over"])
    assert done.count("notes", "segment shorter than 0.5 s") == known[subset]["short"]
    published = convert("thumos14", "--segments", "keep", **options)
    assert published.summary["accepted"] == known[subset]["inst"] and not published.rejected
    original = json.loads("\n".join(raw_lines(annotations)))["database"]
    for video, record in published.database.items():
        wanted = [(a["segment"], a["label"], a["label_id"]) for a in original[video]["annotations"]]
        assert [(a["segment"], a["label"], a["label_id"]) for a in record["annotations"]] == wanted


@pytest.mark.parametrize(("subset", "prefix", "ambiguous"), [("Test", "test", 99), ("Validation", "val", 89)])
def test_thumos14_csv_is_the_json(real, convert, subset: str, prefix: str, ambiguous: int) -> None:
    options = {"split": subset.lower(), "segments": "keep"}
    from_csv = convert(
        "thumos14",
        annotations=real(f"thumos14/{prefix}_Annotation.csv"),
        durations=real(f"thumos14/{prefix}_video_info.csv"),
        name="csv.json",
        **options,
    )
    assert from_csv.summary["rejected"] == {"Ambiguous: none of the 20 classes": ambiguous}
    from_json = convert("thumos14", annotations=real("thumos14/thumos14.json.gz"), name="json.json", **options)
    assert from_csv.database.keys() == from_json.database.keys()
    for video, record in from_json.database.items():
        other = from_csv.database[video]
        assert other["duration"] == pytest.approx(record["duration"], abs=0.2)

        def described(annotations: list[dict]) -> list:
            return sorted((a["label"], a["label_id"], *a["segment"]) for a in annotations)

        assert described(other["annotations"]) == described(record["annotations"])


def test_thumos14_times_written_as_text(real, convert) -> None:
    done = convert(
        "thumos14",
        annotations=real("thumos14/thumos_gt.json.gz"),
        durations=real("thumos14/test_video_info.csv"),
        split="test",
        name="out.json",
    )
    assert done.code == 0 and done.summary["videos"] == 210
    assert done.count("repaired", "time written as text turned into a number") == done.summary["entries"]


def test_activitynet13(real, convert) -> None:
    known = known_irregular(real, "tal")["anet13"]
    official = convert(
        "activitynet-1.3",
        annotations=real("activitynet13/activity_net.v1-3.DERIVED.min.json.gz"),
        name="official.json",
    )
    assert_balanced(official, known["inst"])
    assert official.summary["videos"] == known["videos"]
    assert official.summary["rejected"] == {EMPTY: known["zero"]}
    assert official.count("repaired", CLIPPED) == known["n_over"]
    assert official.count("notes", "video without annotations") == known["n_noann"]
    assert official.count("notes", "video with several classes") == known["multi_label"]
    subsets = [record["subset"] for record in official.database.values()]
    assert {name: subsets.count(name) for name in set(subsets)} == known["subsets"]
    bsn = convert(
        "activitynet-1.3",
        annotations=real("activitynet13/anet_anno_action.json.gz"),
        durations=real("activitynet13/video_info_new.csv.gz"),
        name="bsn.json",
    )
    assert bsn.database == official.database
    validation = convert(
        "activitynet-1.3",
        annotations=real("activitynet13/activity_net.v1-3.DERIVED.min.json.gz"),
        split="validation",
        segments="keep",
        name="validation.json",
    )
    assert validation.summary["accepted"] == known["inst_by_sub"]["validation"]
    assert validation.summary["videos"] == known["subsets"]["validation"]


def test_epic_kitchens_validation(real, convert) -> None:
    known = known_irregular(real, "tal")["epic100"]["val"]
    annotations = real("epic100/EPIC_100_validation.csv.gz")
    options = {
        "annotations": annotations,
        "durations": real("epic100/EPIC_100_video_info.csv"),
        "split": "validation",
    }
    verbs = convert("epic-kitchens-100", classes=real("epic100/EPIC_100_verb_classes.csv"), name="verb.json", **options)
    assert_balanced(verbs, known["rows"])
    assert verbs.summary["videos"] == known["videos"] and not verbs.rejected
    assert verbs.count("repaired", CLIPPED) == known["over"]
    assert verbs.count("notes", "several nouns, the first is the class") == known["multinoun"]
    without_time = len(raw_lines(real("epic100/EPIC_100_validation_missing_timestamp_narrations.csv"))) - 1
    assert verbs.count("notes", "no narration timestamp") == without_time
    segments = {a["narration_id"]: a for record in verbs.database.values() for a in record["annotations"]}
    assert len({a["label"] for a in segments.values()}) == known["verbs"]
    put_down = segments["P01_11_1"]
    assert put_down["segment"] == [1.56, 2.45]
    assert (put_down["label"], put_down["label_id"], put_down["noun_class"]) == ("put", 1, 2)
    assert put_down["narration"] == "put down plate"
    # The C2 challenge's csv has the same segments, counted in frames.
    c2 = convert(
        "epic-kitchens-100",
        annotations=real("epic100/c2_validation.csv.gz"),
        durations=real("epic100/c2_video_lengths.csv"),
        split="validation",
        label="action",
        name="action.json",
    )
    assert_balanced(c2, known["rows"])
    for record in c2.database.values():
        for annotation in record["annotations"]:
            official = segments[annotation["narration_id"]]
            assert annotation["segment"] == pytest.approx(official["segment"], abs=0.04)
            assert annotation["label"] == f"{official['verb_class']},{official['noun_class']}"


def test_epic_kitchens_train(real, convert) -> None:
    known = known_irregular(real, "tal")["epic100"]["c2_train"]
    annotations = real("epic100/c2_training.csv.gz")
    done = convert(
        "epic-kitchens-100",
        annotations=annotations,
        durations=real("epic100/c2_video_lengths.csv"),
        split="train",
        label="noun",
        name="noun.json",
    )
    assert_balanced(done, known["rows"])
    assert done.summary["videos"] == known["videos"] and not done.rejected
    labels = {a["label"] for record in done.database.values() for a in record["annotations"]}
    assert len(labels) == known["nouns"]
    table = csv.DictReader(io.StringIO("\n".join(raw_lines(annotations))))
    assert labels == {row["noun"] for row in table}


def test_epic_kitchens_test_set_has_no_classes(real, convert, capsys) -> None:
    done = convert(
        "epic-kitchens-100",
        annotations=real("epic100/EPIC_100_test_timestamps.csv.gz"),
        durations=real("epic100/EPIC_100_video_info.csv"),
        split="test",
    )
    assert done.code == 1
    assert "verb_class and noun_class" in capsys.readouterr().err


def test_clips(real, convert) -> None:
    annotations = real("videos/annotations.json")
    listed = json.loads(annotations.read_text(encoding="utf-8"))["annotations"]
    index = {entry["file"]: entry for entry in json.loads(real("videos/index.json").read_text(encoding="utf-8"))}
    done = convert("clips", annotations=annotations, videos=annotations.parent, split="train")
    assert_balanced(done, len(listed))
    negative = [number for number, entry in enumerate(listed, start=1) if not entry["windows"]]
    assert [record["line"] for record in done.rejected] == negative
    assert set(done.summary["rejected"]) == {"negative query: no window"}
    rows = read_rows(done.output)
    assert len(rows) == sum(len(entry["windows"]) for entry in listed)
    for row in rows:
        length = index[row.video]["probe_pyav18"]
        assert row.duration == pytest.approx(length["last"] + 1 / length["fps"], abs=0.05)


def test_rows_load_with_datasets(real, convert, tmp_path) -> None:
    datasets = pytest.importorskip("datasets")
    annotations = real("charades/charades_sta_test.txt")
    durations = real("charades/Charades_v1_test.csv.gz")
    options = {"annotations": annotations, "durations": durations, "split": "test"}
    lines = convert("charades-sta", **options)
    parquet = convert("charades-sta", format="parquet", name="out.parquet", **options)
    loaded = datasets.load_dataset(
        "json", data_files=str(lines.output), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(loaded) == 3720
    assert read_rows(parquet.output) == read_rows(lines.output)
    assert loaded[19]["windows"] == [[12.7, 18.58]]
    assert loaded[19]["meta"]["annotated_windows"] == [[12.7, 19.9]]
