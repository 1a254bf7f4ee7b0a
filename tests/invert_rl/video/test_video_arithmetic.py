"""Frame counts, frame choice, sizes, settings and the metadata that processors read."""

from __future__ import annotations

import json
import logging
import math
import pickle

import numpy as np
import pytest
import torch
from qwen_vl_utils.vision_process import smart_nframes, smart_resize

from invert_rl.video.clip import Clip
from invert_rl.video.errors import VideoError
from invert_rl.video.quarantine import Quarantine
from invert_rl.video.ref import VideoRef
from invert_rl.video.sampling import choose_frames, frame_count, frame_size, nearest, window_of
from invert_rl.video.settings import FrameSettings


@pytest.mark.parametrize("fps", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("rate", [10, 24, 25, 30, 60])
@pytest.mark.parametrize("seconds", [1, 2, 5, 12, 30, 31, 384, 900])
def test_frame_count_is_qwens_for_videos_of_whole_seconds(fps: float, rate: int, seconds: int) -> None:
    settings = FrameSettings(fps=fps)
    expected = smart_nframes({"fps": fps, "min_frames": 4, "max_frames": 768}, rate * seconds, rate)
    assert frame_count(rate * seconds, seconds, settings) == expected
    assert frame_count(rate * seconds, seconds - 0.001, settings) == expected  # rounded by Matroska


def test_targets_start_at_the_window_and_are_evenly_spaced() -> None:
    times = np.arange(0, 60, 1 / 25)
    chosen = times[choose_frames(times, 10.3, 20.3, FrameSettings(fps=2), "v")]
    assert len(chosen) == 20
    assert np.abs(chosen - (10.3 + np.arange(20) * 0.5)).max() <= 0.5 / 25 + 1e-9


def test_nearest_takes_the_earlier_of_two() -> None:
    times = np.array([0.0, 1.0, 2.0, 4.0])
    assert nearest(times, np.array([-5, 0.5, 0.51, 1.5, 3.0, 3.1, 9.0])).tolist() == [0, 0, 1, 1, 2, 3, 3]
    assert nearest(np.array([7.0]), np.array([0.0, 9.0])).tolist() == [0, 0]
    rng = np.random.default_rng(0)
    times, targets = np.sort(rng.random(50)), rng.random(200)
    brute = np.abs(targets[:, None] - times[None]).argmin(1)
    assert nearest(times, targets).tolist() == brute.tolist()


def test_windows() -> None:
    assert window_of(VideoRef("v"), 9.5) == (0.0, 9.5)
    assert window_of(VideoRef("v", 2), 9.5) == (2.0, 9.5)
    assert window_of(VideoRef("v", 2, 4), 9.5) == (2.0, 4.0)
    assert window_of(VideoRef("v", 2, math.inf), 9.5) == (2.0, 9.5)
    for start, end in ((9.5, 10), (4, 4), (5, 4), (-1, 4), (math.nan, 4), (1, math.nan)):
        with pytest.raises(VideoError):
            window_of(VideoRef("v", start, end), 9.5)


@pytest.mark.parametrize("count", [2, 4, 24, 60, 240, 768])
@pytest.mark.parametrize("shape", [(240, 426), (480, 640), (1080, 1920), (1, 1), (640, 360)])
@pytest.mark.parametrize("patch", [14, 16])
def test_frame_size_keeps_the_budget(count: int, shape: tuple[int, int], patch: int) -> None:
    settings = FrameSettings(image_patch_size=patch)
    height, width = frame_size(*shape, count, settings, "v")
    assert height % (2 * patch) == width % (2 * patch) == 0
    most = max(min(768 * 784, 3584 * 784 / count * 2), int(16 * 784 * 1.05))
    assert (height, width) == smart_resize(*shape, 2 * patch, 16 * 784, most)
    # The paper's 3,584 tokens of 28 x 28 pixels for pairs of frames, where min_pixels does not ask for more.
    if 3584 * 784 / count * 2 > 16 * 784 * 1.05:
        assert height * width * count / 2 <= 3584 * 784


def test_a_picture_like_a_line_is_an_error_of_the_video() -> None:
    with pytest.raises(VideoError, match="2000 x 2 pixels"):
        frame_size(2, 2000, 4, FrameSettings(), "line.mp4")
    with pytest.raises(VideoError, match="8 x 1500 pixels: too narrow"):
        frame_size(1500, 8, 4, FrameSettings(max_pixels=20_000, min_pixels=16 * 28 * 28), "line.mp4")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("fps", 0.0),
        ("fps", math.nan),
        ("fps", math.inf),
        ("min_frames", 0),
        ("max_frames", 1),
        ("max_frames", 3),
        ("total_pixels", -1),
        ("min_pixels", 2.5),
        ("max_pixels", 100),
        ("image_patch_size", True),
    ],
)
def test_settings_name_the_bad_field(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{field} "):
        FrameSettings(**{field: value})


def clip_of(times: list[float], start: float, end: float, side: int = 56) -> Clip:
    frames = torch.randint(0, 255, (len(times), 3, side, side), dtype=torch.uint8)
    return Clip(frames, np.array(times), start, end, "v.mp4")


def test_metadata_gives_transformers_the_true_times() -> None:
    from transformers.video_utils import VideoMetadata

    clip = clip_of([10.0, 10.533, 10.967, 11.5], 10.0, 12.0)
    metadata = VideoMetadata(**clip.metadata())
    assert metadata.timestamps == pytest.approx(clip.timestamps.tolist())
    assert metadata.sampled_fps == clip.sampled_fps == 2.0
    assert (metadata.height, metadata.width, metadata.duration) == (56, 56, 2.0)
    assert clip.second_per_grid() == 1.0
    assert clip.vllm_metadata() == {**clip.metadata(), "do_sample_frames": False}


def test_qwen_processors_read_the_times_from_it() -> None:
    """Qwen2.5-VL's seconds per grid step; Qwen3-VL's times as they stand in the prompt."""
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
    from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

    clip = clip_of([20.0, 20.41, 20.8, 21.21], 20.0, 21.6)
    processor = Qwen2VLVideoProcessor(size={"shortest_edge": 56 * 56, "longest_edge": 56 * 56 * 64})
    batch = processor(
        [clip.frames],
        video_metadata=[clip.metadata()],
        do_sample_frames=False,
        return_metadata=True,
        return_tensors="pt",
    )
    assert batch["video_grid_thw"].tolist() == [[2, 4, 4]]
    (metadata,) = batch["video_metadata"]
    assert processor.temporal_patch_size / metadata.sampled_fps == pytest.approx(clip.second_per_grid())
    times = Qwen3VLProcessor._calculate_timestamps(None, metadata.frames_indices, metadata.fps, 2)
    assert times == pytest.approx([20.205, 21.005])


def test_errors_travel_between_processes() -> None:
    error = pickle.loads(pickle.dumps(VideoError("a.mp4", "no such file")))
    assert (error.path, error.reason, str(error)) == ("a.mp4", "no such file", "a.mp4: no such file")


def test_quarantine_notes_each_video_once(tmp_path, caplog: pytest.LogCaptureFixture) -> None:
    quarantine = Quarantine()
    assert quarantine.summary() == "" and "a.mp4" not in quarantine
    with caplog.at_level(logging.WARNING):
        for name, reason in (
            ("a.mp4", "empty file"),
            ("b.mp4", "empty file"),
            ("a.mp4", "other"),
            ("ü.mp4", "x"),
        ):
            quarantine.add(VideoError(name, reason))
    assert [record.getMessage() for record in caplog.records] == [
        "video left out: a.mp4: empty file",
        "video left out: b.mp4: empty file",
        "video left out: ü.mp4: x",
    ]
    assert len(quarantine) == 3 and "a.mp4" in quarantine
    assert quarantine.summary() == "3 videos left out: 2 x empty file; 1 x x"
    quarantine.write(tmp_path / "run" / "quarantine.json")
    written = json.loads((tmp_path / "run" / "quarantine.json").read_text(encoding="utf-8"))
    assert written == {"a.mp4": "empty file", "b.mp4": "empty file", "ü.mp4": "x"}
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["quarantine.json"]
