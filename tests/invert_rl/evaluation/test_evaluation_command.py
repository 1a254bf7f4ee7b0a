"""``invert-rl evaluate`` with a tiny random model on the toy world, and without torch for predictions."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.errors import DataError
from data_prep.rows import read_rows, write_rows
from invert_rl.cli import main
from invert_rl.evaluation.decoding_options import add_decoding_arguments
from invert_rl.evaluation.model import default_output
from invert_rl.evaluation.ray_options import check_engine
from invert_rl.video.options import frame_options

FRAMES = ["--min-pixels", "3136", "--max-pixels", "6272", "--max-new-tokens", "8", "--cpu"]


def evaluate(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    assert main(["evaluate", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def data(world: Path, tmp_path: Path) -> Path:
    """Three rows of the toy world; the video of the last one is not there."""
    rows = read_rows(world / "test.jsonl")[:3]
    rows[2] = type(rows[2])(**{**vars(rows[2]), "video": "gone.mp4"})
    write_rows(rows, tmp_path / "d.jsonl")
    return tmp_path / "d.jsonl"


def test_model_then_predictions_give_the_same(
    world: Path, data: Path, tiny_checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out" / "p.jsonl"
    arguments = ["--data", data, "--videos", world / "videos", "--output", output, "--tasks", "tvg", "ar", *FRAMES]
    result = evaluate(capsys, "--model", tiny_checkpoint, *arguments, "--batch-size", "2")
    assert result["n"] == 3
    assert result["counts"]["tvg"]["missing_video"] == result["counts"]["ar"]["missing_video"] == 1
    assert result["n_missing_video"] == 2 and result["n_missing"] == 0
    assert set(result) >= {"mIoU", "R1@0.3", "R1@0.5", "R1@0.7", "AR"}
    written = output.read_text()
    assert len(written.splitlines()) == 6
    scored = evaluate(capsys, "--predictions", output, "--data", data)
    assert {name: scored[name] for name in scored if name[:2] in ("R1", "mI", "AR", "n_")} == {
        name: result[name] for name in result if name[:2] in ("R1", "mI", "AR", "n_")
    }
    made = ("model", "prompt", "frames", "decoding", "data")
    assert {name: scored["protocol"][name] for name in made} == {name: result["protocol"][name] for name in made}
    assert scored["protocol"]["model"]["sha256"] in scored["protocol_line"]
    again = evaluate(capsys, "--model", tiny_checkpoint, *arguments)
    assert again["counts"] == result["counts"] and output.read_text() == written
    command = ["evaluate", "--model", tiny_checkpoint, *map(str, arguments), "--prompt", "no_think"]
    assert main(command) == 1
    assert "was begun with another prompt:" in capsys.readouterr().err


def test_workers_that_decode_ahead_change_no_answer(
    world: Path, data: Path, tiny_qwen2_5: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", tiny_qwen2_5, "--data", data, "--videos", world / "videos", "--tasks", "tvg", "ar", *FRAMES]
    answers = []
    for workers in ("0", "2"):
        output = tmp_path / f"p{workers}.jsonl"
        evaluate(capsys, *arguments, "--batch-size", "1", "--output", output, "--decode-workers", workers)
        answers.append(output.read_text())
    assert answers[0] == answers[1]
    assert answers[0].count("missing_video") == 2


def test_manifest_says_which_videos_are_not_tried(
    world: Path, data: Path, tiny_qwen2_5: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {row.video: "ok" for row in read_rows(data)}
    first, *_ = names
    names[first] = "decode_error"
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("".join(json.dumps({"video": n, "status": s, "reason": "x"}) + "\n" for n, s in names.items()))
    result = evaluate(
        capsys, "--model", tiny_qwen2_5, "--data", data, "--videos", world / "videos", "--manifest", manifest,
        "--output", tmp_path / "p.jsonl", *FRAMES,
    )  # fmt: skip
    assert result["n_missing_video"] == 3  # both rows of the first video, and the one that is not there


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "shout"], "no prompt preset 'shout'"),
        (["--prompt", "timelens", "--tasks", "vc"], "no prompt for vc"),
        (["--model", "./nothing"], "no such checkpoint folder"),
        (["--videos", "./nothing"], "no such video folder"),
        (["--fps", "0"], "fps must be a positive number"),
        (["--manifest", "./nothing"], "no such manifest"),
    ],
)
def test_what_cannot_be_evaluated(
    world: Path,
    tiny_qwen2_5: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    defaults = {"--model": tiny_qwen2_5, "--videos": str(world / "videos"), "--output": str(tmp_path / "p.jsonl")}
    defaults = {name: value for name, value in defaults.items() if name not in arguments}
    command = ["evaluate", "--data", str(world / "test.jsonl"), *(x for pair in defaults.items() for x in pair)]
    assert main([*command, *arguments]) == 1
    assert message in capsys.readouterr().err


def test_scoring_predictions_needs_no_torch(world: Path, tmp_path: Path) -> None:
    rows = read_rows(world / "test.jsonl")
    lines = [json.dumps({"id": row.id, "windows": [list(row.window)]}) + "\n" for row in rows]
    (tmp_path / "p.jsonl").write_text("".join(lines))
    code = (
        "import sys; from invert_rl.cli import main; "
        f"code = main(['evaluate', '--predictions', {str(tmp_path / 'p.jsonl')!r}, '--data', "
        f"{str(world / 'test.jsonl')!r}, '--json']); assert 'torch' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["mIoU"] == 100


def test_limit_takes_the_first_rows(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = read_rows(world / "train.jsonl")
    right = [json.dumps({"id": row.id, "windows": [list(row.window)]}) + "\n" for row in rows[:2]]
    wrong = [json.dumps({"id": row.id, "windows": []}) + "\n" for row in rows[2:]]
    (tmp_path / "p.jsonl").write_text("".join(right + wrong))
    paths = ["--predictions", tmp_path / "p.jsonl", "--data", world / "train.jsonl"]
    assert evaluate(capsys, *paths, "--limit", "2")["mIoU"] == 100
    assert evaluate(capsys, *paths)["mIoU"] == pytest.approx(200 / len(rows))


def test_frames_of_the_training_run_are_the_default(tiny_qwen2_5: str, tmp_path: Path) -> None:
    from argparse import Namespace

    (tmp_path / "model").mkdir()
    given = dict.fromkeys(("fps", "min_frames", "max_frames", "total_pixels", "min_pixels", "max_pixels"))
    args = Namespace(model=str(tmp_path / "model"), **{**given, "fps": 3.0})
    assert frame_options(args)["max_pixels"] == 768 * 28 * 28
    (tmp_path / "summary.json").write_text(json.dumps({"settings": {"fps": 1.0, "max_pixels": 6272}}))
    options = frame_options(args)
    assert (options["fps"], options["max_pixels"], options["max_frames"]) == (3.0, 6272, 768)
    assert default_output(str(tmp_path / "model"), Path("x/test.jsonl")) == Path(
        f"runs/evaluate/{tmp_path.name}-test.jsonl"
    )


def test_workers_belong_to_the_ray_engine() -> None:
    with pytest.raises(DataError, match="--workers is of --engine ray"):
        check_engine(argparse.Namespace(engine="local", workers=2), 1)
    with pytest.raises(DataError, match="start it without accelerate launch"):
        check_engine(argparse.Namespace(engine="ray", workers=None), 2)


@pytest.mark.parametrize("given", ["-1", "nan", "inf", "soon"])
def test_a_time_limit_is_a_number_of_seconds(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_decoding_arguments(parser)
    assert parser.parse_args(["--video-timeout", "0"]).video_timeout == 0
    with pytest.raises(SystemExit):
        parser.parse_args(["--video-timeout", given])
    assert "--video-timeout" in capsys.readouterr().err
