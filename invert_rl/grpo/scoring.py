"""Log-probabilities of completions under a video: what every scoring forward of the trainer must be given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from invert_rl.encoding import EncodedPrompt
from invert_rl.models import vision_language_model


def token_types(prompts: Sequence[EncodedPrompt], length: int, completion_length: int) -> torch.Tensor:
    """Token types ``(batch, length)`` of left-padded prompts followed by ``completion_length`` text tokens."""
    types = torch.zeros(len(prompts), length, dtype=torch.long)
    prompt_end = length - completion_length
    for row, prompt in enumerate(prompts):
        types[row, prompt_end - len(prompt.mm_token_type_ids) : prompt_end] = torch.tensor(prompt.mm_token_type_ids)
    return types


class BlindScoringError(RuntimeError):
    """A scoring forward ran without the video it should have seen."""


@contextmanager
def assert_video_is_seen(model: nn.Module, prompts: Sequence[EncodedPrompt]) -> Iterator[None]:
    """Check that what runs inside gives the vision tower every patch of ``prompts`` at least once.

    Raises `BlindScoringError` otherwise. Used on the first scoring forward of a run: stock TRL passes images only and
    trains on video without seeing it.
    """
    seen: list[torch.Tensor] = []
    visual = vision_language_model(model).visual
    handle = visual.register_forward_pre_hook(
        lambda _module, args, kwargs: seen.append(kwargs["grid_thw"] if "grid_thw" in kwargs else args[1]),
        with_kwargs=True,
    )
    try:
        yield
    finally:
        handle.remove()
    expected = {tuple(grid) for prompt in prompts for grid in prompt.video_grid_thw.tolist()}
    got = {tuple(grid) for grids in seen for grid in grids.tolist()}
    if not expected <= got:
        raise BlindScoringError(
            f"scoring saw {len(got)} of {len(expected)} video shapes: the log-probabilities ignore the video; "
            "this version of trl or transformers drops the video inputs"
        )
