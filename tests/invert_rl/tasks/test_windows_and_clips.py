"""Rows with several windows and rows that are a part of a file: what is asked, taught, rewarded and counted."""

from __future__ import annotations

import pytest

from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.evaluation.predictions import Prediction, read_answer
from invert_rl.evaluation.scoring import metrics_of
from invert_rl.schedule import Draw
from invert_rl.task_data import TaskDataset
from invert_rl.tasks import load_preset, messages, video_of
from invert_rl.tasks.rewards import content_scores

TWO = Row(
    "a",
    "a.mp4",
    150.0,
    "a person opens it",
    ((10.0, 20.0), (100.0, 120.0)),
    meta={"verbs": ["open"], "masked_query": "a person [] it"},
)
ONE = Row("b", "b.mp4", 60.0, "a person shuts it", ((1.0, 5.0),), meta={"verbs": ["shut"], "masked_query": "[] it"})
PART = Row(
    "c", "c.mp4", 90.0, "he sits", ((42.0, 48.5),), meta={"verbs": ["sit"], "masked_query": "he []"}, clip=(40, 60)
)
TASKS = ("tvg", "vc", "ar", "vd")


def data(windows: str, rows: tuple[Row, ...] = (TWO, ONE)) -> TaskDataset:
    preset = load_preset("spans_json" if windows == "all" else "think", TASKS, windows)
    return TaskDataset(rows, {name: preset.tasks[name] for name in TASKS})


@pytest.mark.parametrize(
    ("windows", "grounding"), [("split", ["a#0", "a#1", "b"]), ("any", ["a", "b"]), ("all", ["a", "b"])]
)
def test_rows_of_each_task(windows, grounding):
    made = data(windows)
    ids = {name: [made.rows[index].id for index in made.usable_rows[name]] for name in TASKS}
    assert ids["tvg"] == grounding
    assert ids["vc"] == ids["ar"] == ids["vd"] == ["a#0", "a#1", "b"]
    for index in made.usable_rows["vd"]:
        row = made.rows[index]
        assert video_of(made[Draw("vd", index, 0, 0)]["prompt"]).start == row.window[0]


@pytest.mark.parametrize(
    ("windows", "answer", "rewards"),
    [
        ("split", "<answer>100 to 120</answer>", {"a#0": 0.0, "a#1": 1.0}),
        ("any", "<answer>100 to 120</answer>", {"a": 1.0}),
        ("any", "<answer>10 to 20, 100 to 120</answer>", {"a": 0.0}),  # naming both is hedging where one is asked
        ("all", "[[100, 120], [10, 20]]", {"a": 1.0}),
        ("all", "[[100, 120]]", {"a": 20 / 30}),
        ("all", "[[0, 150]]", {"a": 30 / 150}),
    ],
)
def test_rewards_and_metrics_agree(windows, answer, rewards):
    made = data(windows, (TWO,))
    task = made.tasks["tvg"]
    rows = [made.rows[index] for index in made.usable_rows["tvg"]]
    weights = task.default_rewards()
    found = content_scores(task, [answer] * len(rows), rows, weights, {})
    assert dict(zip([row.id for row in rows], found, strict=True)) == pytest.approx(rewards)
    predictions = [Prediction(row.id, "tvg") for row in rows]
    for prediction, row in zip(predictions, rows, strict=True):
        read_answer(prediction, answer, task, row)
    metrics = metrics_of(predictions, [TWO], tasks={"tvg": task})
    assert metrics["mIoU"] == pytest.approx(100 * sum(rewards.values()) / len(rewards))
    assert metrics["n"] == len(rewards)


@pytest.mark.parametrize("prompt", ["think", "no_think", "timelens"])
def test_all_windows_with_a_prompt_for_one_are_refused(prompt):
    with pytest.raises(DataError, match="asks tvg for one span; use --prompt spans_json"):
        load_preset(prompt, ("tvg",), "all")
    load_preset("think", ("vd",), "all")  # nothing of it is asked of a segment


def test_every_moment_is_taught():
    task = load_preset("spans_json", (), "all").tasks["tvg"]
    assert task.target(TWO) == "[[10.00, 20.00], [100.00, 120.00]]"


def test_a_part_of_a_file_is_seen_and_answered_in_its_own_time():
    made = data("split", (PART,))
    item = made[Draw("tvg", 0, 0, 0)]
    seen = video_of(item["prompt"])
    assert (seen.clip, seen.start, seen.end) == ((40.0, 60.0), None, None)
    assert item["windows"] == [[2.0, 8.5]]
    assert item["duration"] == 20.0
    segment = video_of(made[Draw("vd", 0, 0, 0)]["prompt"])
    assert (segment.clip, segment.start, segment.end) == ((40.0, 60.0), 2.0, 8.5)
    task = made.tasks["tvg"]
    assert task.answer(PART) == "2.00 to 8.50"
    assert content_scores(task, ["<answer>2 to 8.5</answer>"], [PART], {"iou": 1.0}, {}) == [1.0]
    prediction = Prediction("c", "tvg")
    read_answer(prediction, "<answer>2 to 8.5</answer>", task, PART)
    assert prediction.windows == [(42.0, 48.5)]
    assert metrics_of([prediction], [PART])["mIoU"] == 100.0


def test_qvhighlights_trains_on_its_rows():
    """7,218 queries, not 12,803 windows; counted from the file itself."""
    import gzip
    import json
    from pathlib import Path

    path = Path("../shared/data/qvhighlights/highlight_train_release.jsonl.gz")
    if not path.is_file():
        pytest.skip("../shared/data/qvhighlights is not there")
    with gzip.open(path, "rt") as lines:
        records = [json.loads(line) for line in lines]
    rows = [
        Row(str(r["qid"]), f"{r['vid']}.mp4", r["duration"], r["query"], tuple(map(tuple, r["relevant_windows"])))
        for r in records
    ]
    counts = {windows: len(load_preset("think", (), windows).tasks["tvg"].rows(rows)) for windows in ("split", "any")}
    assert counts == {"split": 12803, "any": 7218}


def test_text_before_the_video_and_the_template(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(
        '{"layout": "answer", "template": "{question}\\n{wanted}", "video": "last", "system": "Watch.",'
        ' "chat_template_kwargs": {"enable_thinking": false}}'
    )
    preset = load_preset(str(path), TASKS, chat_template_kwargs={"more": 1})
    assert preset.chat_template_kwargs == {"enable_thinking": False, "more": 1}
    chat = messages(preset.tasks["ar"], ONE)
    assert [message["role"] for message in chat] == ["system", "user"]
    assert [part["type"] for part in chat[1]["content"]] == ["text", "video"]
    assert video_of(chat).path == "b.mp4"
    assert preset.sha256 != load_preset(str(path), TASKS).sha256
