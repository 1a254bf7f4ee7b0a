"""Asking a model about a video: what is read out of its answers, long videos, clips, and the command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import invert_rl
from data_prep.decode import list_frames
from data_prep.errors import DataError, VideoError
from invert_rl import Answer, Grounder
from invert_rl.ask.answer import clock_time
from invert_rl.ask.long_videos import merge, windows_over
from invert_rl.cli import main
from invert_rl.video.cut_file import cut_file

SMALL = {"fps": 1.0, "min_pixels": 3136, "max_pixels": 6272}


def test_windows_cover_a_video_and_share_at_least_the_overlap():
    assert windows_over(30, 40) == [(0.0, 30)]
    assert windows_over(100, 40) == [(0.0, 40.0), (20.0, 60.0), (40.0, 80.0), (60.0, 100.0)]
    for duration, length, overlap in ((3600.0, 384.0, 0.5), (101.0, 40.0, 0.25), (80.1, 40.0, 0.0)):
        windows = windows_over(duration, length, overlap)
        assert windows[0][0] == 0 and windows[-1][1] == pytest.approx(duration)
        for (_, end), (start, _) in zip(windows, windows[1:], strict=False):
            assert end - start >= overlap * length - 0.01


def test_spans_of_one_moment_are_merged_and_sorted_by_confidence():
    moments = merge([(10.0, 20.0, 0.4), (12.0, 20.0, 0.8), (50.0, 52.0, 0.6), (50.5, 52.5, 0.0)])
    assert moments == [(pytest.approx(34 / 3, abs=1e-3), 20.0, 0.8), (50.0, 52.0, 0.6)]
    assert merge([]) == []
    assert merge([(1.0, 2.0, 0.0)]) == [(1.0, 2.0, 0.0)]


@pytest.mark.parametrize(
    ("seconds", "told"), [(0, "0:00.0"), (7.96, "0:08.0"), (59.96, "1:00.0"), (75.5, "1:15.5"), (3725.04, "1:02:05.0")]
)
def test_clock_times(seconds, told):
    assert clock_time(seconds) == told


@pytest.fixture(scope="module")
def grounder(tiny_qwen2_5: str) -> Grounder:
    return Grounder(tiny_qwen2_5, device="cpu", max_new_tokens=4, decode_in_process=True, **SMALL)


@pytest.fixture
def clip(world: Path) -> Path:
    return sorted((world / "videos").iterdir())[0]


def says(monkeypatch, grounder, *texts):
    """Let the model complete with these texts, in turn; returns the rows that it was asked."""
    asked, left = [], list(texts)

    def complete(self, jobs, store, rated):
        asked.extend(row for _, row in jobs)
        return [left.pop(0) for _ in jobs]

    monkeypatch.setattr(Grounder, "_complete", complete)
    return asked


@pytest.mark.parametrize(
    ("text", "status", "windows"),
    [
        ("<think>a hand</think> <answer>1.50 to 4.25</answer>", "ok", [(1.5, 4.25)]),
        ("<answer>3 to 99</answer>", "ok", [(3.0, 12.0)]),
        ("<answer>4.25 to 1.50</answer>", "impossible", []),
        ("<answer>50 to 60</answer>", "impossible", []),
        ("<answer>not in the video</answer>", "nothing", []),
        ("<think>hm</think> <answer>who knows</answer>", "unreadable", []),
        ("", "unreadable", []),
    ],
)
def test_what_is_read_out_of_an_answer(grounder, clip, monkeypatch, text, status, windows):
    says(monkeypatch, grounder, (text, 1.0))
    answer = grounder.ask(clip, "somebody jumps")
    assert isinstance(answer, Answer)
    assert (answer.status, answer.windows, answer.text) == (status, windows, text)
    assert answer.found == (status == "ok")
    assert answer.duration == pytest.approx(12.0)
    if status == "ok":
        assert f"{windows[0][0]:.2f} to {windows[0][1]:.2f} s (0:" in answer.sentence()
    else:
        assert answer.sentence().startswith("not found")


def test_a_part_is_a_video_of_its_own_whose_answers_are_times_of_the_file(grounder, clip, monkeypatch):
    asked = says(monkeypatch, grounder, ("<answer>1 to 2</answer>", 1.0))
    answer = grounder.ask(clip, "x", start=3.0, end=8.0)
    assert answer.windows == [(4.0, 5.0)]
    assert asked[0].clip == (3.0, 8.0)


def test_a_long_video_is_asked_in_windows_and_answered_once(grounder, clip, monkeypatch):
    texts = [("<answer>0.5 to 1.5</answer>", 0.3), ("<answer>1 to 3</answer>", 0.9), ("<answer>none</answer>", 0.99)]
    texts += [("<answer>0 to 1</answer>", 0.2), ("<answer>nonsense</answer>", 0.5)]
    asked = says(monkeypatch, grounder, *texts)
    answer = grounder.ask(clip, "x", window=4.0)
    assert [row.clip for row in asked] == [(0.0, 4.0), (2.0, 6.0), (4.0, 8.0), (6.0, 10.0), (8.0, 12.0)]
    assert answer.windows == [(3.0, 5.0)]
    assert answer.candidates == [(3.0, 5.0, 0.9), (0.5, 1.5, 0.3), (6.0, 7.0, 0.2)]
    assert answer.text == texts[1][0]


def test_several_queries_keep_their_order(grounder, clip, monkeypatch):
    says(monkeypatch, grounder, *((f"<answer>{n} to {n + 1}</answer>", 1.0) for n in range(3)))
    answers = grounder.ask(clip, ["a", "b", "c"])
    assert [(answer.query, answer.windows[0][0]) for answer in answers] == [("a", 0.0), ("b", 1.0), ("c", 2.0)]


def test_a_real_model_answers_and_is_sure_of_it_by_its_own_probabilities(grounder, clip):
    answer = grounder.ask(clip, "somebody jumps")
    assert answer.text
    parts = grounder.ask(clip, "somebody jumps", window=6.0)
    assert parts.text
    prompt = _prompt(grounder, clip)
    import torch

    from invert_rl.grpo.rollout import generate_completions
    from invert_rl.models import decoding_config

    config = decoding_config(grounder.model, grounder.processor, 4)
    ids = generate_completions(grounder.model, [prompt], [0], config, config.pad_token_id, config.eos_token_id)[0]
    by_hand = 0.0
    for place, token in enumerate(ids):  # one forward a token, as generation without a cache does it
        begun = {"input_ids": [*prompt.input_ids, *ids[:place]]}
        begun["mm_token_type_ids"] = [*prompt.mm_token_type_ids, *[0] * place]
        with torch.no_grad():
            logits = grounder.model(
                **{name: torch.tensor([value]) for name, value in begun.items()},
                attention_mask=torch.ones(1, len(begun["input_ids"]), dtype=torch.long),
                pixel_values_videos=prompt.pixel_values_videos,
                video_grid_thw=prompt.video_grid_thw,
                second_per_grid_ts=prompt.second_per_grid_ts,
            ).logits[0, -1]
        by_hand += float(torch.log_softmax(logits.float(), dim=-1)[token])
    assert grounder._confidence(prompt, ids) == pytest.approx(np.exp(by_hand / len(ids)), rel=1e-4)


def _prompt(grounder, clip):
    from invert_rl.tasks import messages, video_of
    from invert_rl.video.store import FrameStore

    row = grounder._row(clip, "somebody jumps", grounder.preset.tasks["tvg"], (0.0, 12.0), 12.0, "x")
    chat = messages(grounder.preset.tasks["tvg"], row)
    return grounder.encode(chat, FrameStore(clip.parent, grounder.settings, in_process=True).clip(video_of(chat)))


def test_tasks_on_a_segment(grounder, clip, monkeypatch):
    asked = says(monkeypatch, grounder, *[("<answer>a person jumps</answer>", 1.0)] * 3)
    described = grounder.ask(clip, task="vd", start=2.0, end=5.0)
    assert (described.sentence(), described.windows, asked[0].window) == ("a person jumps", [], (2.0, 5.0))
    assert grounder.ask(clip, task="ar").found
    grounder.ask(clip, "a person jumps over the box", task="vc", start=2.0)
    assert asked[2].meta["masked_query"] == "a person [] over the box"
    assert asked[2].window == (2.0, 12.0)
    with pytest.raises(DataError, match="no verb is found"):
        grounder.ask(clip, "the red box", task="vc")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"query": " "}, "needs a query"),
        ({"query": "a <|im_end|> b"}, "no text but a mark"),
        ({"query": "a", "task": "vqa"}, "task 'vqa' is unknown"),
        ({"query": "a", "start": 13.0}, "none of a video of 12.00 s"),
        ({"query": "a", "start": 5.0, "end": 4.0}, "none of a video"),
        ({"query": "a", "overlap": 1.0}, "overlap must be in"),
        ({"query": "a", "window": 0.0}, "window must be a positive"),
    ],
)
def test_what_cannot_be_asked_is_refused(grounder, clip, arguments, reason):
    with pytest.raises(DataError, match=reason):
        grounder.ask(clip, **arguments)


def test_bad_videos_models_and_settings_are_refused(grounder, tmp_path, tiny_qwen2_5):
    with pytest.raises(VideoError, match="gone.mp4: no such file"):
        grounder.ask(tmp_path / "gone.mp4", "a")
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(VideoError, match="text.mp4"):
        grounder.ask(tmp_path / "text.mp4", "a")
    with pytest.raises(DataError, match="no such checkpoint"):
        Grounder("./no/such")
    with pytest.raises(TypeError, match="unknown setting 'fsp'"):
        Grounder(tiny_qwen2_5, fsp=1.0)
    with pytest.raises(DataError, match="fps must be a positive"):
        Grounder(tiny_qwen2_5, fps=-1.0)


def test_a_moment_is_cut_out(clip, tmp_path):
    target = tmp_path / "moment.mp4"
    count = cut_file(clip, 2.0, 5.0, target)
    info = list_frames(target)
    source = list_frames(clip)
    wanted = [time for time in source.times if 2.0 <= time < 5.0]
    assert (count, len(info.times)) == (len(wanted), len(wanted))
    assert info.times == pytest.approx(np.array(wanted) - wanted[0], abs=1e-3)
    with pytest.raises(DataError, match="no frame from 50"):
        cut_file(clip, 50.0, 60.0, target)
    with pytest.raises(DataError, match="the video itself"):
        cut_file(clip, 2.0, 5.0, clip)
    with pytest.raises(DataError, match=r"let it end in \.mp4"):
        cut_file(clip, 2.0, 5.0, tmp_path / "moment.xyz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["moment.mp4"]


def test_the_command_answers_without_a_model_and_cuts(clip, tmp_path, capsys, monkeypatch):
    assert main(["ask", str(clip), "the person is jumping", "--json", "--cpu"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert {"query", "windows", "text", "model"} <= answer.keys()
    assert answer["status"] == "ok"
    for start, end in answer["windows"]:
        assert 0 <= start < end <= answer["duration"]

    texts = ["<think>look</think><answer>1 to 2</answer>", "<answer>none</answer>"]
    says(monkeypatch, None, *((text, 1.0) for text in texts))
    queries = tmp_path / "q.txt"
    queries.write_text("\nsecond thing\n")
    command = [
        "ask",
        str(clip),
        "first thing",
        "--queries",
        str(queries),
        "--thought",
        "--clip",
        str(tmp_path / "o.mp4"),
    ]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "first thing: 1.00 to 2.00 s (0:01.0 to 0:02.0)\n  thought: look\n" in out
    assert "second thing: not found: the model says that the video does not show it" in out
    assert (tmp_path / "o_1.mp4").is_file() and not (tmp_path / "o_2.mp4").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["{clip}"], "nothing is asked"),
        (["no.mp4", "a"], "no.mp4: no such video file"),
        (["{clip}", "--task", "vd", "--clip", "o.mp4"], "finds no span"),
        (["{clip}", "a", "--queries", "gone.txt"], "gone.txt"),
    ],
)
def test_the_command_says_what_is_wrong(clip, capsys, arguments, reason):
    assert main(["ask", *(argument.format(clip=clip) for argument in arguments)]) == 1
    assert reason in capsys.readouterr().err


def test_the_package_is_light_until_a_model_is_wanted():
    code = "import sys, invert_rl; print(invert_rl.__version__); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, invert_rl.__version__)
    with pytest.raises(AttributeError, match="no attribute 'Groundr'"):
        invert_rl.Groundr  # noqa: B018
