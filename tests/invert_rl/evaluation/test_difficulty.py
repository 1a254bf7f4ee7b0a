"""The rating pass: rewards against the reward functions, restarts, batches, and the command from end to end."""

from __future__ import annotations

import json

import pytest
import torch

from data_prep.rows import Row, read_rows, write_rows
from invert_rl.cli import main
from invert_rl.encoding import prompt_limit
from invert_rl.evaluation.difficulty import Rater, rate_rows, read_ratings, sample_with, with_ratings
from invert_rl.evaluation.jobs import in_turn
from invert_rl.evaluation.parts import part_of
from invert_rl.models import load_model, load_processor
from invert_rl.task_data import TaskDataset
from invert_rl.tasks import TASKS
from invert_rl.video.prefetch import Prefetcher
from invert_rl.video.settings import FrameSettings
from invert_rl.video.store import FrameStore

FRAMES = ["--min-pixels", "3136", "--max-pixels", "6272", "--fps", "2"]


@pytest.fixture(scope="module")
def rater(world, tiny_qwen2_5) -> Rater:
    processor = load_processor(tiny_qwen2_5)
    settings = FrameSettings(min_pixels=3136, max_pixels=6272, image_patch_size=processor.video_processor.patch_size)
    store = FrameStore(world / "videos", settings)
    model = load_model(tiny_qwen2_5)
    sample = sample_with(model, processor, generations=3, max_new_tokens=4)
    limit = prompt_limit(model.config, 4)
    return Rater(sample, processor, Prefetcher(store, 0), limit, {"tvg": {"format": 1, "iou": 1}})


def test_answers_do_not_depend_on_the_batch(rater, rows, monkeypatch):
    """The texts of a row are the same alone and beside others, and differ from each other and between rows."""
    texts: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(rater, "_score", lambda task, row, found: texts.append((row.id, list(found))) or [0.0])
    jobs = [(TASKS["tvg"], row) for row in rows[:3]]
    rater(jobs)
    together = dict(texts)
    texts.clear()
    rater(jobs[2:])
    torch.manual_seed(1234)
    rater(jobs[:2][::-1])
    assert dict(texts) == together
    assert all(len(found) == 3 for found in together.values())
    assert len({text for found in together.values() for text in found}) > 3


def test_rewards_are_those_of_the_training_without_format(rater, rows):
    row = rows[0]
    start, end = row.window
    texts = [f"<think>x</think> <answer>{start} to {end}</answer>", f"{start} to {(start + end) / 2}", "no idea"]
    assert rater._score(TASKS["tvg"], row, texts) == pytest.approx([1.0, 0.5, 0.0])


def test_a_killed_rating_goes_on_where_it_was(tmp_path, rows):
    jobs = [(TASKS[task], row) for task in ("tvg", "ar") for row in rows[:5]]
    asked: list[str] = []

    def sample(batch, upcoming, stop_after=10**9):
        if len(asked) >= stop_after:
            raise KeyboardInterrupt
        assert len({task.name for task, _ in batch}) == 1
        asked.extend(f"{task.name} {row.id}" for task, row in batch)
        return [[len(row.id) / 100, 1.0] for _, row in batch]

    output = tmp_path / "rated.jsonl"
    with pytest.raises(KeyboardInterrupt):
        rate_rows(jobs, in_turn(lambda batch, upcoming: sample(batch, upcoming, stop_after=4)), output, batch_size=2)
    with part_of(output, 0).open("a") as part:
        part.write('{"task": "tvg", "id": "half')
    rate_rows(jobs, in_turn(sample), output, batch_size=2)
    assert len(asked) == len(set(asked)) == 10
    ratings = read_ratings(output)
    assert len(ratings) == 10
    assert ratings["ar", rows[4].id] == [len(rows[4].id) / 100, 1.0]


def test_ranks_share_the_rows(tmp_path, rows):
    jobs = [(TASKS["tvg"], row) for row in rows]
    output = tmp_path / "rated.jsonl"
    counts = []
    for rank in range(3):
        before = len(read_ratings(output))
        rate_rows(jobs, in_turn(lambda batch, upcoming: [[1.0]] * len(batch)), output, 2, rank, 3)
        counts.append(len(read_ratings(output)) - before)
    assert sum(counts) == len(rows)
    assert max(counts) - min(counts) <= 1


def test_ratings_become_columns():
    rows = [Row(name, "v.mp4", 9.0, "q", ((0.0, 1.0),), meta={"old": 1}) for name in ("a", "b")]
    ratings = {("tvg", "a"): [0.2, 0.5, 0.8, 0.1], ("vc", "a"): [1.0, 0.0], ("tvg", "b"): []}
    first, second = with_ratings(rows, ratings, 0.5, ("tvg", "vc"))
    assert first.meta["mean_reward"] == {"tvg": 0.4, "vc": 0.5}
    assert first.meta["solve_rate"] == {"tvg": 0.5, "vc": 0.5}
    assert second.meta["mean_reward"] == second.meta["solve_rate"] == {}
    assert first.meta["old"] == 1


def test_the_command_writes_rows_that_training_reads(tmp_path, world, tiny_qwen2_5, capsys):
    rows = read_rows(world / "train.jsonl")[:3]
    missing = Row(**{**rows[0].__dict__, "id": "gone", "video": "gone.mp4"})
    data = tmp_path / "train.jsonl"
    write_rows([*rows, missing], data)
    command = ["rate-difficulty", str(data), "--model", tiny_qwen2_5, "--videos", str(world / "videos"), *FRAMES]
    command += ["--tasks", "tvg", "vd", "--generations", "2", "--max-new-tokens", "4", "--cpu", "--json"]
    assert main(command) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["output"] == str(tmp_path / "train.rated.jsonl")
    assert result["tasks"]["tvg"]["rated"] == 3
    assert result["tasks"]["tvg"]["not_rated"] == 1
    rated = read_rows(tmp_path / "train.rated.jsonl")
    assert [row.id for row in rated] == [*(row.id for row in rows), "gone"]
    assert rated[0].meta["mean_reward"].keys() == rated[0].meta["solve_rate"].keys() == {"tvg", "vd"}
    assert rated[3].meta["mean_reward"] == {}
    assert rated[0].meta["verbs"] == rows[0].meta["verbs"]
    assert len(TaskDataset(rated, ("tvg",))) == 4
    # again: nothing is asked, another threshold is applied
    assert main([*command, "--threshold", "0"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"]["tvg"]["always_solved"] == 3
    # other settings are refused
    assert main([*command, "--temperature", "0.5"]) == 1
    assert "was begun with another temperature: 1.0, now it is 0.5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--generations", "0"], "--generations must be positive"),
        (["--videos", "/no/such"], "/no/such: no such video folder"),
        (["--model", "./no/such"], "--model ./no/such"),
    ],
)
def test_bad_arguments_are_told(tmp_path, world, tiny_qwen2_5, capsys, changed, message):
    command = ["rate-difficulty", str(world / "train.jsonl"), "--output", str(tmp_path / "out.jsonl"), "--cpu"]
    assert main([*command, "--model", tiny_qwen2_5, "--videos", str(world / "videos"), *changed]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_another_file_is_not_written_over(tmp_path, world, tiny_qwen2_5, capsys):
    output = tmp_path / "out.jsonl"
    output.write_text("mine")
    command = ["rate-difficulty", str(world / "train.jsonl"), "--output", str(output), "--cpu", "--model", tiny_qwen2_5]
    assert main([*command, "--videos", str(world / "videos"), *FRAMES, "--tasks", "tvg"]) == 1
    assert "is not of this command" in capsys.readouterr().err
    assert output.read_text() == "mine"
