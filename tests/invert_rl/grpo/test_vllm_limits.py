"""An engine is made for the largest video of the frame settings: by arithmetic over all videos that there may be."""

from __future__ import annotations

import pytest

from invert_rl.grpo.vllm_limits import BATCHED, engine_limits
from invert_rl.video.budget import budget_of, largest_budget
from invert_rl.video.sampling import frame_count, frame_size
from invert_rl.video.settings import FrameSettings

SETTINGS = [
    FrameSettings(),
    FrameSettings(image_patch_size=16),
    FrameSettings(total_pixels=20_000 * 28 * 28),  # more than the 16,384 tokens beyond which vLLM refuses by itself
    FrameSettings(fps=4.0, max_frames=64, max_pixels=256 * 28 * 28),
    FrameSettings(min_frames=2, max_frames=9, min_pixels=56 * 56, max_pixels=56 * 56),
]
PICTURES = [(360, 640), (1080, 1920), (2160, 3840), (56, 56), (1000, 300), (719, 1281), (30, 40)]


def tokens(seconds: float, picture: tuple[int, int], settings: FrameSettings) -> int:
    """Video tokens by the library's own sampling and resizing."""
    count = frame_count(int(seconds * 30), seconds, settings)
    height, width = frame_size(*picture, count, settings, "v.mp4")
    return count // 2 * (height // settings.factor) * (width // settings.factor)


@pytest.mark.parametrize("settings", SETTINGS)
def test_no_video_has_more_tokens_than_reckoned(settings):
    largest, reached = largest_budget(settings), 0
    for seconds in (0.5, 1.0, 3.3, 4.0, 7.5, 12.0, 30.0, 61.7, 150.0, 384.0, 5000.0):
        for picture in PICTURES:
            found = tokens(seconds, picture, settings)
            assert found <= budget_of(seconds, settings).tokens <= largest.tokens, (seconds, picture)
            reached = max(reached, found)
    assert reached > 0.7 * largest.tokens  # and not much is set aside for nothing


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_largest_video_has_room_everywhere(settings):
    largest = largest_budget(settings).tokens
    limits = engine_limits(settings, answer_tokens=1024)
    video = limits["limit_mm_per_prompt"]["video"]
    profiled = (video["height"] // settings.factor) * (video["width"] // settings.factor) * video["num_frames"] // 2
    assert largest <= profiled <= 1.1 * largest + 200
    assert limits["max_num_batched_tokens"] >= max(BATCHED, largest)
    assert limits["max_model_len"] >= largest + 1024 + 300
    assert limits["limit_mm_per_prompt"]["image"] == 0


def test_lengths_that_are_given_are_heeded():
    settings = FrameSettings()
    assert engine_limits(settings, 128, positions=4096)["max_model_len"] == 4096
    assert engine_limits(settings, 128, max_prompt_length=1000)["max_model_len"] == 1280
    assert engine_limits(settings, 128)["max_model_len"] > engine_limits(settings, 128, 4000)["max_model_len"]


def test_any_number_of_frames_is_reckoned_at_once():
    """Above the pixel budget each further frame has the least size: a billion need not be tried one by one."""
    largest = largest_budget(FrameSettings(max_frames=10**9))
    assert largest.frames == 10**9 and largest.tokens == largest.steps * largest.frame_tokens
