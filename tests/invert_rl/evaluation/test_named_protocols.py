"""Named protocols: the numbers of other evaluators, and each rule on cases small enough to count by hand."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_prep.errors import DataError
from data_prep.rows import Row, read_rows, split_windows, write_rows
from invert_rl.cli import main
from invert_rl.evaluation.predictions import Prediction
from invert_rl.evaluation.protocols import named as named_protocols
from invert_rl.evaluation.protocols.conventions import leaked_rows
from invert_rl.evaluation.protocols.named import PROTOCOLS
from invert_rl.evaluation.protocols.readers import READERS
from invert_rl.evaluation.protocols.rules import Rules, annotated_windows
from invert_rl.evaluation.runs.settings import ValidationFields
from invert_rl.evaluation.scores import sets as set_scores
from invert_rl.tasks import load_preset

DATA = Path(__file__).resolve().parents[3] / ".." / "shared" / "data"
DOCS = (Path(__file__).resolve().parents[3] / "docs" / "evaluation.md").read_text(encoding="utf-8")


def needed(name: str) -> Path:
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"{path.name} is not here")
    return path


def evaluate(capsys: Any, *arguments: object) -> dict:
    assert main(["evaluate", "--json", *map(str, arguments)]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def row(number: int, windows: tuple = ((2.0, 6.0),), **fields: Any) -> Row:
    return Row(f"r{number}", f"{number}.mp4", 10.0, "a person sits.", windows, **fields)


def said(number: int, *windows: tuple, text: str = "x", status: str = "ok") -> Prediction:
    return Prediction(f"r{number}", "tvg", windows=list(windows), text=text, status=status)


# -- the whole Charades-STA test set -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def charades(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict]:
    """Rows as converted, with clipped windows; the golden file's answers; what the evaluators found."""
    folder = tmp_path_factory.mktemp("charades")
    golden = json.loads(needed("golden/charades_annotated.json").read_text())
    lengths = needed("charades/Charades_v1_test.csv.gz")
    arguments = ["--annotations", needed("charades/charades_sta_test.txt"), "--durations", lengths, "--split", "test"]
    assert main(["convert", "charades-sta", *map(str, arguments), "--output", str(folder / "test.jsonl")]) == 0
    with (folder / "answers.jsonl").open("w") as out:
        for line, *_, start, end in golden["rows"]:
            text = "" if start is None else f"<answer>{start} to {end}</answer>"
            out.write(json.dumps({"id": f"charades-sta-test-{line + 1}", "text": text}) + "\n")
    return folder / "test.jsonl", folder / "answers.jsonl", golden


def test_charades_sta_equals_four_evaluators(charades: tuple[Path, Path, dict], capsys: Any) -> None:
    rows, answers, golden = charades
    capsys.readouterr()
    expected = golden["expected"]["lmms_eval_percent"]
    for name in ("published", "videochat-r1"):
        found = evaluate(capsys, "--data", rows, "--predictions", answers, "--protocol", f"charades-sta/{name}")
        for metric, value in expected.items():
            assert found[metric] == pytest.approx(value, abs=1e-9), (name, metric)
        assert found["n"] == 3720
    clipped = golden["if_windows_were_cut_to_the_duration"]["videochat_r1"]
    for metric in ("mIoU", "R1@0.3", "R1@0.5", "R1@0.7"):
        assert found["conventions"]["windows clipped"][metric] == pytest.approx(100 * clipped[metric], abs=1e-9)
    found = evaluate(capsys, "--data", rows, "--predictions", answers, "--protocol", "charades-sta/time-r1")
    for metric, value in golden["expected"]["time_r1_percent"].items():
        assert found[metric] == pytest.approx(value, abs=1e-9)
    plain = evaluate(capsys, "--data", rows, "--predictions", answers)
    assert plain["R1@0.7"] == pytest.approx(100 * clipped["R1@0.7"], abs=1e-9)
    assert plain["conventions"]["windows annotated"]["R1@0.7"] == pytest.approx(expected["R1@0.7"], abs=1e-9)


def test_unequal_protocols_are_not_compared(charades: tuple[Path, Path, dict], capsys: Any, tmp_path: Path) -> None:
    rows, answers, _ = charades
    common = ["--data", rows, "--predictions", answers]
    earlier = evaluate(capsys, *common, "--protocol", "charades-sta/published")
    (tmp_path / "r.json").write_text(json.dumps(earlier))
    again = ["evaluate", *map(str, common), "--against", str(tmp_path / "r.json"), "--protocol"]
    assert main([*again, "charades-sta/published"]) == 0
    assert "R1@0.7" in capsys.readouterr().out
    for other in ("charades-sta/time-r1", "activitynet-captions/published"):
        assert main([*again, other]) == 1
        assert "the protocols differ" in capsys.readouterr().err
    assert main(again[:-1]) == 1


# -- VUE-TR ------------------------------------------------------------------------------------------------------------

VUE = (
    ("vue_tr", "VUE-TR", "Vidi", "Vidi", 1),
    ("vue_tr_v2", "VUE-TRv2", "Vidi2", "Vidi2", 2),
    ("vue_tr_v2", "VUE-TRv2", "GPT-5", "GPT-5", 2),
)
OVERALL = {"Vidi": (48.96, 52.51, 35.43), "Vidi2": (62.45, 64.93, 48.75), "GPT-5": (29.64, 26.63, 17.15)}


@pytest.mark.parametrize(("folder", "truth", "file", "method", "digits"), VUE)
def test_vue_tr_equals_the_published_tables(
    folder: str, truth: str, file: str, method: str, digits: int, capsys: Any, tmp_path: Path
) -> None:
    base = f"formats/{folder}"
    data, table = needed(f"{base}/{truth}_ground_truth.json.gz"), needed(f"{base}/results_table.csv")
    rows = tmp_path / "rows.jsonl"
    arguments = ["convert", "vue-tr", "--annotations", str(data), "--split", "test", "--output", str(rows)]
    assert main(arguments) == 0
    capsys.readouterr()
    answers = needed(f"{base}/results_{file}.json.gz")
    found = evaluate(capsys, "--data", rows, "--predictions", answers, "--protocol", "vue-tr/official")
    assert tuple(round(found[name], 2) for name in ("precision", "recall", "IoU")) == OVERALL[method]
    if method == "Vidi2":
        assert found["mIoU"] == pytest.approx(48.88, abs=0.005)
    # every row of the publisher's table, by attribute
    official = json.loads(gzip.decompress(answers.read_bytes()))
    answer_of = {str(record["query_id"]): [tuple(w) for w in record["answer"] if w] for record in official}
    rules = PROTOCOLS["vue-tr/official"].rules
    checked = 0
    for line in csv.DictReader(table.open()):
        if line["method"] != method or line["attribute"] == "overall":
            continue
        used = [r for r in read_rows(rows) if line["attribute"] in r.meta.values()]
        predictions = [Prediction(r.id, "tvg", answer_of[str(r.meta["query_id"])]) for r in used]
        metrics = rules.metrics(predictions, used)
        for name, column in (("precision", "precision"), ("recall", "recall"), ("IoU", "iou")):
            tolerance = 0.5 * 10**-digits + 1e-9
            assert metrics[name] == pytest.approx(float(line[column].rstrip("%")), abs=tolerance), line
        checked += 1
    assert checked >= 10


# -- one rule at a time ------------------------------------------------------------------------------------------------


def test_annotated_and_clipped_windows() -> None:
    beyond = row(0, ((8.0, 10.0),), meta={"annotated_windows": [[8.0, 12.0]]})
    answer = [said(0, (8.0, 12.0))]
    assert Rules().metrics(answer, Rules().asked([beyond]))["mIoU"] == 100
    clipped = Rules(windows="clipped")
    assert clipped.metrics(answer, clipped.asked([beyond]))["mIoU"] == 50
    with pytest.raises(DataError, match="2 annotated windows for 1"):
        annotated_windows(row(0, meta={"annotated_windows": [[1, 2], [3, 4]]}))


def test_parts_of_a_row_keep_their_own_annotated_window() -> None:
    both = row(0, ((1.0, 2.0), (8.0, 10.0)), meta={"annotated_windows": [[1.0, 2.0], [8.0, 12.0]]})
    assert [annotated_windows(part) for part in split_windows([both])] == [((1.0, 2.0),), ((8.0, 12.0),)]


def test_answers_that_leave_the_denominator() -> None:
    rows = [row(number) for number in range(4)]
    answers = [said(0, (2.0, 6.0)), said(1, status="unparsable"), None, said(3, status="missing_video")]
    assert Rules().metrics(answers, rows) == {"R1@0.3": 25, "R1@0.5": 25, "R1@0.7": 25, "mIoU": 25, "n": 4}
    assert Rules(missing="left out").metrics(answers, rows)["n"] == 2
    both = Rules(missing="left out", unparsable="left out").metrics(answers, rows)
    assert (both["n"], both["mIoU"]) == (1, 100)
    assert Rules(missing="left out").metrics([None] * 4, rows)["n"] == 0


def test_rounding_and_swapped_ends() -> None:
    rows = [row(0)]
    near = [said(0, (2.4, 6.5))]
    assert Rules().metrics(near, rows)["mIoU"] == pytest.approx(100 * 3.6 / 4.5)
    assert Rules(rounding="nearest").metrics(near, rows)["mIoU"] == 100  # 6.5 goes to the even 6
    assert Rules(rounding="outward").metrics(near, rows)["mIoU"] == pytest.approx(100 * 4 / 5)
    back = [said(0, (6.0, 2.0))]
    assert Rules().metrics(back, rows)["mIoU"] == 0
    assert Rules(swapped="ordered").metrics(back, rows)["mIoU"] == 100


def test_equal_rows_are_merged_and_the_last_answer_counts() -> None:
    rows = [row(0), replace(row(1), video="0.mp4"), replace(row(2), video="0.mp4", query=" a  person sits")]
    answers = [said(0, (0.0, 1.0)), said(1, (2.0, 6.0)), said(2, (0.0, 1.0))]
    assert Rules().metrics(answers, rows)["n"] == 3
    merged = Rules(duplicates="merged").metrics(answers, rows)
    assert (merged["n"], merged["mIoU"]) == (2, 50)
    cleaned = Rules(duplicates="merged, query cleaned").metrics(answers, rows)
    assert (cleaned["n"], cleaned["mIoU"]) == (1, 0)


def test_ranks_and_thresholds() -> None:
    metrics = Rules(thresholds=(0.1,), ranks=(1, 5)).metrics([said(0, (8.0, 9.0), (2.0, 6.0))], [row(0)])
    assert metrics == {"R1@0.1": 0, "R5@0.1": 100, "mIoU": 0, "n": 1}


def test_clips_that_a_published_reader_ignores() -> None:
    part = row(0, ((5.0, 7.0),), clip=(4.0, 8.0))
    rules = PROTOCOLS["tvgbench/published"].rules
    asked = rules.asked([part])
    assert asked[0].windows == ((1.0, 3.0),) and asked[0].clip is None
    assert rules.read("1 to 3", asked[0]) == [(1.0, 3.0)]
    assert PROTOCOLS["tvgbench/clips"].rules.read("1 to 3", part) == [(5.0, 7.0)]


def test_rows_that_no_answer_can_hit_are_in_the_denominator() -> None:
    rows = [row(number) for number in range(4)]
    answers = [said(number, (2.0, 6.0)) for number in range(4)]
    rules = Rules(unscorable=(1, 5))
    assert rules.metrics(answers, rows) == {"R1@0.3": 80, "R1@0.5": 80, "R1@0.7": 80, "mIoU": 80, "n": 5}
    assert rules.metrics(answers[:3], rows[:3])["n"] == 3  # a part of the data: nothing is known of its other rows


def test_intersection_over_prediction() -> None:
    metrics = set_scores.iop_metrics([[(3.0, 5.0)], [(4.0, 4.0)], []], [[(2.0, 6.0)]] * 3, (0.5,))
    assert metrics["mIoP"] == pytest.approx(200 / 3) and metrics["IoP@0.5"] == pytest.approx(200 / 3)
    assert metrics["R1@0.5"] == pytest.approx(100 / 3) and metrics["mIoU"] == pytest.approx(50 / 3)


def test_f1_of_several_spans() -> None:
    predicted, truth = [[(0.0, 2.0), (0.0, 2.0), (8.0, 9.0)], []], [[(0.0, 2.0), (4.0, 6.0)], [(0.0, 1.0)]]
    metrics = set_scores.f1_metrics(predicted, truth, (0.5,))
    assert metrics["F1@0.5"] == pytest.approx(100 * (2 * (2 / 3) * 0.5 / (2 / 3 + 0.5)) / 2)
    assert metrics["R1@0.5"] == 50


def test_refusals() -> None:
    no = {"meta": {"irrelevant": "action"}}
    rows = [row(0), row(1), row(2, (), **no), row(3, (), **no), row(4)]
    answers = [said(0, (2.0, 4.0)), said(1), said(2), said(3, (0.0, 1.0)), said(4, status="unparsable")]
    metrics = set_scores.refusal_metrics(answers, rows, (0.5,))
    assert metrics["RA_mIoU"] == pytest.approx(30) and metrics["RA_R1@0.5"] == 40
    assert metrics["relevance"] == 40
    assert (metrics["refused_precision"], metrics["refused_recall"]) == (50, 50)
    assert (metrics["relevant_precision"], metrics["relevant_recall"]) == (50, pytest.approx(100 / 3))


READ = [
    ("time_r1", "<think>1 to 2</think><answer>3.5 to 4</answer>", [(3.5, 4.0)]),
    ("time_r1", "3-4", []),
    ("timelens", "The event happens in 0:05 - 0:09 seconds, not 3 - 4", [(5.0, 9.0)]),
    ("timelens", "from 7 to 5", [(7.0, 5.0)]),
    ("timelens", "about 3, until 8.5", [(3.0, 8.5)]),
    ("lmms_eval", "1 - 2 is wrong!\nThe event happens in 9 to 7", [(7.0, 9.0)]),
    ("lmms_eval", "The start time is 3.\nThe end time is 5.", [(3.0, 5.0)]),
    ("lmms_eval", "nothing", []),
    ("museg", "<answer>[1, 2] and [4, 5]</answer>", [(1.0, 2.0), (4.0, 5.0)]),
    ("museg", "<answer>[1, 2] and [5, 4]</answer>", []),
    ("museg", "<answer>1, 2</answer><answer>3, 4</answer>", []),
    ("timelens2", "[[1, 2], [3, 4.5]]", [(1.0, 2.0), (3.0, 4.5)]),
    ("extreme_when", "5 - 6, or 90 ~ 80", [(80.0, 90.0)]),
    ("first_in_order", "9 to 7, 1 to 2", [(7.0, 9.0)]),
]


@pytest.mark.parametrize(("reader", "text", "spans"), READ)
def test_readers(reader: str, text: str, spans: list) -> None:
    assert READERS[reader](text) == spans


def test_texts_are_read_anew_where_the_protocol_has_a_reader(tmp_path: Path, capsys: Any) -> None:
    write_rows([row(0)], tmp_path / "d.jsonl")
    answer = {"id": "r0", "windows": [[0, 1]], "text": "It is 2 to 6 or so, 100 percent sure"}
    (tmp_path / "p.jsonl").write_text(json.dumps(answer))
    common = ["--data", tmp_path / "d.jsonl", "--predictions", tmp_path / "p.jsonl"]
    assert evaluate(capsys, *common)["mIoU"] == 0
    assert evaluate(capsys, *common, "--protocol", "charades-sta/time-r1")["mIoU"] == 100


# -- prompts, options, docs --------------------------------------------------------------------------------------------


def test_no_preset_of_a_protocol_holds_an_answer_of_charades_sta() -> None:
    rows = [
        Row(str(number), "a.mp4", 1e3, line.partition("##")[2], (tuple(map(float, line.split("##")[0].split()[1:])),))
        for number, line in enumerate(needed("charades/charades_sta_test.txt").read_text().splitlines())
    ]
    for name in {protocol.prompt for protocol in PROTOCOLS.values() if protocol.prompt} | {"think", "no_think"}:
        preset = load_preset(name)
        assert not leaked_rows([preset.tasks["tvg"]], rows), name
    leaking = "For example, The event 'person turn a light on' happens in the 24.3 - 30.4 seonds. {query}"
    assert leaked_rows([replace(load_preset("think").tasks["tvg"], prompt=leaking)], rows[:1]) == ["0"]


def test_every_protocol_fits_its_prompt_and_is_in_the_docs() -> None:
    for name, protocol in PROTOCOLS.items():
        if protocol.prompt:
            load_preset(protocol.prompt, ["tvg"], protocol.windows)
        assert protocol.rules.reader in ("", *READERS)
        assert f"| `{name}` |" in DOCS, name
        assert set(protocol.frame_settings(28)) == set(protocol.frames)
    with pytest.raises(DataError, match="charades-sta/published"):
        named_protocols.named_protocol("charades")


def test_options_that_contradict_a_protocol(tmp_path: Path, capsys: Any) -> None:
    write_rows([row(0)], tmp_path / "d.jsonl")
    (tmp_path / "p.jsonl").write_text('{"id": "r0", "windows": [[2, 6]]}')
    common = ["evaluate", "--data", str(tmp_path / "d.jsonl"), "--predictions", str(tmp_path / "p.jsonl")]
    for more in (["--strict"], ["--windows", "all"]):
        assert main([*common, "--protocol", "charades-sta/published", *more]) == 1
        assert "leave one of them out" in capsys.readouterr().err


def test_a_run_counts_by_the_protocol() -> None:
    preset = load_preset("think")
    scored = ValidationFields(protocol="charades-sta/published").scored(preset)
    beyond = row(0, ((8.0, 10.0),), meta={"annotated_windows": [[8.0, 12.0]]})
    task = scored.tasks["tvg"]
    assert task.metrics([said(0, (8.0, 12.0))], task.rows([beyond]))["mIoU"] == 100
    assert preset.tasks["tvg"].metrics([said(0, (8.0, 12.0))], [beyond])["mIoU"] == 50
    assert ValidationFields().scored(preset) is preset
    with pytest.raises(DataError, match="spans_json"):
        ValidationFields(protocol="vue-tr/official").scored(preset)


# -- rows without windows ----------------------------------------------------------------------------------------------


def test_rows_without_windows_are_told_and_not_scored(tmp_path: Path, capsys: Any) -> None:
    write_rows([row(0), row(1, ())], tmp_path / "d.jsonl")
    with pytest.raises(DataError, match="rows without are for predictions alone"):
        read_rows(tmp_path / "d.jsonl")
    answers = [{"id": f"r{number}", "windows": [[2, 6]]} for number in range(2)]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, answers)))
    common = ["--data", tmp_path / "d.jsonl", "--predictions", tmp_path / "p.jsonl"]
    found = evaluate(capsys, *common)
    assert (found["n"], found["n_unlabelled"], found["mIoU"]) == (1, 1, 100)
    write_rows([row(0, ()), row(1, ())], tmp_path / "d.jsonl")
    assert main(["evaluate", *map(str, common)]) == 1
    assert "nothing to score" in capsys.readouterr().err


def test_queries_to_be_refused_among_the_rows(tmp_path: Path, capsys: Any) -> None:
    no = {"meta": {"irrelevant": "action"}}
    write_rows([row(0, ((1.0, 2.0), (4.0, 6.0))), row(1, (), **no), row(2, (), **no), row(3)], tmp_path / "d.jsonl")
    assert len(read_rows(tmp_path / "d.jsonl")) == 4
    grounded = [{"id": "r0", "windows": [[4, 6]]}, {"id": "r3", "windows": [[2, 6]]}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, grounded)))
    common = ["--data", tmp_path / "d.jsonl", "--predictions", tmp_path / "p.jsonl"]
    found = evaluate(capsys, *common)
    assert (found["n"], found["mIoU"], found["per_window"]["n"]) == (2, 100, 3)
    texts = ["4 to 6", "not in the video", "1 to 2", "not in the video"]
    answers = [{"id": f"r{number}", "task": "refuse", "text": text} for number, text in enumerate(texts)]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, answers)))
    found = evaluate(capsys, *common, "--protocol", "ra-rft/published")
    assert (found["RA_mIoU"], found["relevance"], found["refused_recall"], found["n"]) == (50, 50, 50, 4)
    assert found["REFUSE_rejection"] == 50


def test_qvhighlights_submission(tmp_path: Path, capsys: Any) -> None:
    lines = [{"qid": 7, "query": "a dog", "vid": "v_60.0_210.0", "duration": 150}]
    test = [
        {"qid": 8, "query": "a cat", "vid": "w", "duration": 10},
        {"qid": 9, "query": "x", "vid": "w", "duration": 10},
    ]
    for name, content in (("val", lines), ("test", test)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, content)))
    (tmp_path / "p_val.jsonl").write_text('{"id": "7", "windows": [[4, 9.5], [20, 30]]}')
    answered = [{"id": "8", "windows": [[2, 4, 0.9]]}, {"id": "9", "windows": [], "status": "unparsable"}]
    (tmp_path / "p_test.jsonl").write_text("\n".join(map(json.dumps, answered)))
    arguments = ["qvhighlights-submission", "--output", str(tmp_path / "s.zip"), "--json"]
    for split in ("val", "test"):
        arguments += [f"--{split}-data", str(tmp_path / f"{split}.jsonl")]
        arguments += [f"--{split}-predictions", str(tmp_path / f"p_{split}.jsonl")]
    assert main(arguments) == 0, capsys.readouterr().err
    with zipfile.ZipFile(io.BytesIO((tmp_path / "s.zip").read_bytes())) as archive:
        assert sorted(archive.namelist()) == ["hl_test_submission.jsonl", "hl_val_submission.jsonl"]
        val = json.loads(archive.read("hl_val_submission.jsonl"))
        first, second = map(json.loads, archive.read("hl_test_submission.jsonl").splitlines())
    assert val["qid"] == 7 and val["pred_relevant_windows"] == [[4.0, 9.5, 1.0], [20.0, 30.0, 0.5]]
    assert len(val["pred_saliency_scores"]) == 75
    assert first["pred_relevant_windows"] == [[2.0, 4.0, 0.9]] and first["pred_saliency_scores"] == [0, 1, 0, 0, 0]
    assert second["pred_relevant_windows"] == [[0.0, 10.0, 0.0]]
    (tmp_path / "p_test.jsonl").write_text(json.dumps(answered[0]))
    assert main(arguments) == 1
    assert "1 of 2 queries have no prediction" in capsys.readouterr().err
