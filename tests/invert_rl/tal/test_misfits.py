"""Feature folders as they really are: every misfit told at once, policies that do what they say, rows left on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep.errors import DataError
from invert_rl.cli import main
from invert_rl.tal.data import read_videos
from invert_rl.tal.features import Features, Layout
from invert_rl.tal.grid import resize
from invert_rl.tal.misfits import inspect_features

LAYOUT = Layout(6, 4, 16, prefix="v_")
DURATIONS = {f"video_{number:02d}": 20.0 + 3.7 * number for number in range(12)}


def frames(video: str) -> float:
    return DURATIONS[video] * (25.0 if video.endswith("3") else 30.0)


def rows_for(video: str) -> int:
    return int((frames(video) - 16) // 4 + 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve videos: one missing, one of another width, one of half the rows, one not finite, one of a broken file, one
    named in capitals, one without the prefix, one of two rows less."""
    database = {
        video: {
            "subset": "Training" if number % 2 else "validation",
            "duration": duration,
            "fps": frames(video) / duration,
            "annotations": [{"segment": [1.0, 4.0], "label": "jump"}, {"segment": [6.0, 9.0], "label": "wave"}],
        }
        for number, (video, duration) in enumerate(DURATIONS.items())
    }
    (tmp_path / "a.json").write_text(json.dumps({"database": database}))
    features = tmp_path / "features"
    features.mkdir()
    rng = np.random.default_rng(0)
    for video in DURATIONS:
        np.save(features / f"v_{video}.npy", rng.standard_normal((rows_for(video), 6)).astype(np.float32))
    (features / "v_video_00.npy").unlink()
    np.save(features / "v_video_01.npy", np.zeros((rows_for("video_01"), 7), np.float32))
    np.save(features / "v_video_02.npy", np.zeros((rows_for("video_02") // 2, 6), np.float32))
    np.save(features / "v_video_04.npy", np.full((rows_for("video_04"), 6), np.nan, np.float32))
    (features / "v_video_05.npy").write_bytes(b"broken")
    (features / "v_video_06.npy").rename(features / "V_VIDEO_06.npy")
    (features / "v_video_07.npy").rename(features / "video_07.npy")
    np.save(features / "v_video_08.npy", np.zeros((rows_for("video_08") - 2, 6), np.float32))
    return tmp_path


ODD = {"video_01": "expected 6 channels", "video_02": "rows, but", "video_04": "not finite", "video_05": "cannot read"}


def check(folder: Path, capsys: Any, *more: str) -> tuple[int, Any]:
    code = main(["check-features", str(folder / "a.json"), str(folder / "features"), "--json", *more])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    "given", [["--width", "6", "--stride", "4", "--clip", "16", "--prefix", "v_"], ["--prefix", "v_"]]
)
def test_check_features_lists_everything_at_once(folder: Path, given: list[str], capsys: Any) -> None:
    """Also without being told what the files are: most of them say so."""
    code, found = check(folder, capsys, *given)
    assert code == 1
    assert found["ok"] is False
    assert found["missing"] == ["video_00"]
    assert {entry["video"] for entry in found["odd"]} == set(ODD)
    for entry in found["odd"]:
        assert ODD[entry["video"]] in entry["why"]
    assert found["layout"]["width"] == 6
    assert found["layout"]["stride"] == pytest.approx(4, rel=0.01)


def test_check_features_by_subset_and_as_text(folder: Path, capsys: Any) -> None:
    code, found = check(folder, capsys, "--prefix", "v_", "--stride", "4", "--clip", "16", "--subset", "TRAINING")
    assert (code, found["missing"], found["videos"]) == (1, [], 6)
    command = ["check-features", str(folder / "a.json"), str(folder / "features"), "--prefix", "v_"]
    assert main(command) == 1
    told = capsys.readouterr().out
    assert "7 of 12 videos have features that fit" in told
    assert "1 missing: video_00" in told
    assert main([*command, "--subset", "test"]) == 1
    assert "subsets: Training, validation" in capsys.readouterr().err
    for video in ("video_01", "video_05"):
        np.save(folder / "features" / f"v_{video}.npy", np.zeros((rows_for(video), 6), np.float32))
    assert check(folder, capsys, "--prefix", "v_", "--stride", "4", "--clip", "16", "--subset", "training")[0] == 0


def test_features_that_are_resized_may_have_any_length(folder: Path, capsys: Any) -> None:
    given = ["--width", "6", "--stride", "4", "--clip", "16", "--prefix", "v_", "--resized"]
    found = check(folder, capsys, *given)[1]
    assert {entry["video"] for entry in found["odd"]} == set(ODD) - {"video_02"}
    assert [entry["video"] for entry in found["stretched"]] == ["video_02"]
    args = (folder / "a.json", Features(folder / "features", LAYOUT), "validation", None, 32)
    (video,) = [video for video in read_videos(*args, policy="skip") if video.video == "video_02"]
    # half the rows, spread over the whole of the video
    assert video.grid.seconds(-0.5) == pytest.approx(0.0)
    assert video.grid.seconds(31.5) == pytest.approx(video.duration)


@pytest.mark.parametrize(
    ("policy", "left"),
    [("skip", {"video_06", "video_08", "video_10"}), ("take", {"video_02", "video_06", "video_08", "video_10"})],
)
def test_policies(folder: Path, policy: str, left: set[str]) -> None:
    features = Features(folder / "features", LAYOUT)
    videos = read_videos(folder / "a.json", features, "validation", policy=policy)
    assert {video.video for video in videos} == left
    with pytest.raises(DataError) as caught:
        read_videos(folder / "a.json", features, "validation")
    told = str(caught.value)
    assert "of 1 videos are missing and of 2 do not fit" in told
    assert "missing: video_00" in told and "video_02" in told and "video_04" in told
    database = json.loads((folder / "a.json").read_text())["database"]
    summary = inspect_features(features, database, ["validation"]).summary(policy, database, "VALIDATION")
    assert summary["left_out"] == 6 - len(left)
    assert summary["ground_truth_without_features"] == 2 * (6 - len(left))


def test_nothing_left_is_an_error_under_every_policy(folder: Path) -> None:
    features = Features(folder / "features", Layout(9, 4, 16, prefix="v_"))
    for policy in ("skip", "take"):
        with pytest.raises(DataError, match="no video has features that can be used"):
            read_videos(folder / "a.json", features, "validation", policy=policy)


def test_lengths_fit_by_a_share_of_them(tmp_path: Path) -> None:
    """Five percent: a duration rounded up or a dropped last second is fine, 24 for 30 frames a second is not."""
    grid = Layout(6, 16, 16, 30.0).grid()
    expected = grid.length(600.0)
    grid.check_length(round(expected * 0.96), 600.0, "x")
    with pytest.raises(DataError, match="rows, but 600 s at 30 fps"):
        grid.check_length(round(expected * 24 / 30), 600.0, "x")
    grid.check_length(3, 2.6, "short")


def test_rows_stay_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window reads its own rows of an npy file, whatever their type; only resizing needs all."""
    rows = np.arange(600, dtype=np.float16).reshape(100, 6)
    np.save(tmp_path / "v_a.npy", rows)
    features = Features(tmp_path, LAYOUT)
    lazy = features.rows("a")
    assert (len(lazy), lazy.shape) == (100, (100, 6))
    asked: list[tuple[int, int]] = []
    read = Features.slice

    def watched(self: Features, video: str, first: int, last: int) -> np.ndarray:
        asked.append((first, last))
        return read(self, video, first, last)

    monkeypatch.setattr(Features, "slice", watched)
    assert lazy[10:14].dtype == torch.float32
    assert torch.equal(lazy[10:14], torch.from_numpy(rows[10:14]).float())
    assert torch.equal(lazy[:], torch.from_numpy(rows).float())
    assert asked == [(10, 14), (10, 14), (0, 100)]
    from dataclasses import replace

    resized = replace(lazy, size=32)
    assert torch.allclose(resized[4:8], resize(torch.from_numpy(rows).float(), 32)[4:8])
    assert torch.equal(replace(lazy, step=3)[:], torch.from_numpy(rows[::3]).float())
