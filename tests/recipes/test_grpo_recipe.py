"""The main recipe as a user runs it, in miniature: what it writes, and what it says about bad input."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from data_prep.rows import Row, write_rows
from invert_rl.cli import main
from invert_rl.toy.make import make_world
from invert_rl.video.store import FrameStore

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--toy_train_clips", "6", "--toy_test_clips", "2", "--per_device_train_batch_size", "8"]
SMALL += ["--num_generations", "4", "--max_completion_length", "6", "--logging_steps", "1", "--report_to", "none"]


def test_a_run_leaves_everything_it_promises(run_recipe, tiny, tmp_path):
    run_recipe("grpo_invert.py", *SMALL, "--model_name_or_path", tiny, "--max_steps", "3", "--save_steps", "2")
    run = tmp_path / "runs" / "grpo_invert_001"
    summary = json.loads((run / "summary.json").read_text())
    assert summary.keys() == {"before", "after", "controls", "seconds", "peak_rss_gib", "settings"}
    assert {"mIoU", "wrong_event", "VC", "AR", "VD"} <= summary["controls"]["blind"].keys()
    for when in ("before", "after"):
        assert {"R1@0.3", "R1@0.7", "mIoU", "wrong_event", "VC", "AR", "VD", "unparsable", "n"} <= summary[when].keys()
        samples = [json.loads(line) for line in (run / f"samples_{when}.jsonl").read_text().splitlines()]
        assert len(samples) == 4 * summary[when]["n"]
    assert summary["settings"]["tvg_probability"] == 0.8
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log[:3]] == [1, 2, 3]
    assert (run / "model" / "model.safetensors").is_file()
    assert (run / "checkpoint-2").is_dir()
    assert len(list((run / "completions").glob("*.parquet"))) == 3
    assert json.loads((run / "quarantine.json").read_text()) == {}
    assert not (run / "README.md").exists()  # TRL's draft


def test_the_model_explains_itself_and_scores_the_same_elsewhere(run_recipe, tiny, tmp_path, capsys):
    common = [*SMALL, "--model_name_or_path", tiny, "--max_steps", "1", "--save_strategy", "no"]
    run_recipe("grpo_invert.py", *common, "--output_dir", "out", "--trained_positions", "false", "--verb_guard", "none")
    run = tmp_path / "out"
    summary = json.loads((run / "summary.json").read_text())
    about = json.loads((run / "model" / "invert_rl.json").read_text())
    assert about["results"]["after"] == summary["after"]
    assert about["protocol"]["decoding"]["positions"] == "transformers"
    assert about["run"]["rewards"]["tvg"] == {"format": 1.0, "iou": 1.0}
    assert about["run"]["settings"]["num_generations"] == 4

    card = (run / "model" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "transformers"
    for metric in ("mIoU", "R1@0.7", "VC"):
        assert f"| {metric} | {summary['controls']['blind'].get(metric, 0):.1f} |" in card or metric == "R1@0.7"
        assert f" {summary['before'][metric]:.1f} | {summary['after'][metric]:.1f} |" in card
    assert "protocol " in card and "sha256" in card and "generated clips" in card
    assert "None" not in card
    assert str(tmp_path) not in card + json.dumps(about)

    # in place, moved, and as a push would hand it on
    staged = tmp_path / "staged"
    assert main(["push", str(run / "model"), "--repo", "me/tiny", "--dry-run", str(staged)]) == 0
    shutil.copytree(run / "model", tmp_path / "far" / "away")
    results = []
    test = summary["settings"]
    for place in (run / "model", tmp_path / "far" / "away", staged):
        capsys.readouterr()
        command = ["evaluate", "--model", str(place), "--data", test["eval_data"], "--videos", test["video_root"]]
        command += ["--tasks", "tvg", "vc", "ar", "vd", "--max-new-tokens", "6", "--cpu", "--windows", "split"]
        assert main([*command, "--output", str(tmp_path / f"{len(results)}.jsonl"), "--json"]) == 0
        results.append(json.loads(capsys.readouterr().out))
    names = ("mIoU", "R1@0.3", "VC", "AR", "VD")
    first = {name: results[0][name] for name in names}
    assert [{name: result[name] for name in names} for result in results] == [first] * 3
    assert first == pytest.approx({name: summary["after"][name] for name in names})
    assert {result["protocol_line"].split(":")[0] for result in results} == {
        next(line for line in card.splitlines() if line.startswith("protocol ")).split(":")[0]
    }


def test_default_runs_get_new_folders_and_named_ones_are_not_overwritten(run_recipe, tiny, tmp_path, capsys):
    common = [*SMALL, "--model_name_or_path", tiny, "--max_steps", "1", "--toy_test_clips", "1"]
    for number in ("001", "002"):
        run_recipe("grpo_invert.py", *common)
        assert (tmp_path / "runs" / f"grpo_invert_{number}" / "summary.json").is_file()
    with pytest.raises(SystemExit) as stop:
        run_recipe("grpo_invert.py", *common, "--output_dir", "runs/grpo_invert_001")
    assert stop.value.code == 1
    assert "holds another run" in capsys.readouterr().err


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    make_world(folder, seed=5, n_train=2, n_validation=0, n_test=0)
    return folder


def good_line(clips: Path) -> dict:
    return json.loads((clips / "train.jsonl").read_text().splitlines()[0])


BAD = {
    "empty file": ("", [], "holds no rows"),
    "malformed line": ("GOOD\n{not json\n", [], "bad.jsonl:2: not valid JSON"),
    "span outside": ({"windows": [[3.0, 99.0]]}, [], "window .3.0, 99.0. does not satisfy"),
    "reversed span": ({"windows": [[5.0, 3.0]]}, [], "does not satisfy 0 <= start < end"),
    "name that leaves the folder": ({"video": "../../secret.mp4"}, [], "must be a relative path inside the video"),
    "no video there": ({"video": "gone.mp4"}, [], "holds none of the 1 videos"),
    "query without a verb": ({"query": "a red door", "meta": {}}, [], "needs verbs, but none of the 1 rows"),
    "unknown task": ("GOOD\n", ["--tasks", "tvg", "vqa"], "unknown task 'vqa'"),
    "p above 1": ("GOOD\n", ["--tvg_probability", "1.5"], "must be in .0, 1., found 1.5"),
    "no such checkpoint": ("GOOD\n", ["--model_name_or_path", "./no/such"], "no such checkpoint folder"),
    "no such pipeline": ("GOOD\n", ["--verb_pipeline", "en_core_web_xx"], "'en_core_web_xx' cannot be loaded"),
    "no such file": (None, [], "bad.jsonl: no such file"),
    "no such config": ("GOOD\n", ["--config", "missing.yaml"], "missing.yaml"),
    "no such resume": ("GOOD\n", ["--resume_from_checkpoint", "./checkpoint-9"], "no such checkpoint"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_with_one_message_and_leaves_nothing(run_recipe, clips, tiny, tmp_path, capsys, case):
    content, options, message = BAD[case]
    data = tmp_path / "bad.jsonl"
    good = json.dumps(good_line(clips))
    if isinstance(content, dict):
        content = json.dumps({**good_line(clips), **content})
    if content is not None:
        data.write_text(content.replace("GOOD", good))
    arguments = ["--train_data", str(data), "--video_root", str(clips / "videos"), "--output_dir", "out"]
    if "--model_name_or_path" not in options:
        arguments += ["--model_name_or_path", tiny]
    with pytest.raises(SystemExit) as stop:
        run_recipe("grpo_invert.py", *SMALL, *arguments, *options)
    assert stop.value.code == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert re.search(message, error), error
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_without_the_vision_tokens_is_refused(run_recipe, tiny, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(tiny, broken)
    tokenizer = (broken / "tokenizer.json").read_text()
    (broken / "tokenizer.json").write_text(tokenizer.replace("<|video_pad|>", "<|audio_pad|>"))
    settings = (broken / "tokenizer_config.json").read_text()
    (broken / "tokenizer_config.json").write_text(settings.replace("<|video_pad|>", "<|audio_pad|>"))
    with pytest.raises(SystemExit):
        run_recipe("grpo_invert.py", *SMALL, "--model_name_or_path", str(broken), "--output_dir", "out")
    assert "the tokenizer lacks <|video_pad|>" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_broken_videos_are_named_at_the_end(run_recipe, clips, tiny, tmp_path, capsys):
    rows = [json.loads(line) for line in (clips / "train.jsonl").read_text().splitlines()]
    videos = tmp_path / "videos"
    shutil.copytree(clips / "videos", videos)
    (videos / "text.mp4").write_text("not a video")
    (videos / "zero.webm").touch()
    broken = [{**rows[0], "id": name, "video": name} for name in ("text.mp4", "zero.webm", "missing.mp4")]
    write_rows([Row(**{**row, "windows": row["windows"]}) for row in rows + broken], tmp_path / "rows.jsonl")
    run_recipe(
        *("grpo_invert.py", *SMALL, "--model_name_or_path", tiny, "--output_dir", "out", "--max_steps", "8"),
        *("--train_data", str(tmp_path / "rows.jsonl"), "--video_root", str(videos), "--tasks", "tvg"),
    )
    left_out = json.loads((tmp_path / "out" / "quarantine.json").read_text())
    assert left_out.keys() == {"text.mp4", "zero.webm", "missing.mp4"}
    out = capsys.readouterr().out
    for name, reason in left_out.items():
        assert f"left out: {name}: {reason}" in out


def test_controls_take_the_video_away_and_are_reported(run_recipe, tiny, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        FrameStore, "clip", lambda self, ref, clip=FrameStore.clip: (seen.append(ref), clip(self, ref))[1]
    )
    common = [*SMALL, "--model_name_or_path", tiny, "--max_steps", "1", "--toy_test_clips", "1"]
    common += ["--shuffle_videos", "true", "--placebo_segments", "true", "--grey_control", "true"]
    run_recipe("grpo_invert.py", *common, "--output_dir", "out", "--tvg_probability", "0")
    controls = json.loads((tmp_path / "out" / "summary.json").read_text())["controls"]
    assert controls.keys() == {"blind", "grey_before", "grey_after"}
    assert "mIoU" in controls["grey_after"] and "VC" not in controls["grey_after"]
    grey = [json.loads(line) for line in (tmp_path / "out" / "samples_after_grey.jsonl").read_text().splitlines()]
    assert {sample["task"] for sample in grey} == {"tvg"}
    settings = json.loads((tmp_path / "out" / "summary.json").read_text())["settings"]
    lines = Path(settings["train_data"]).read_text().splitlines()
    windows = {(row["video"], *row["windows"][0]) for row in map(json.loads, lines)}
    segments = {(ref.path, ref.start, ref.end) for ref in seen if ref.start is not None and "train" in ref.path}
    assert segments and not segments <= windows  # what is shown is no annotated segment of its own video
