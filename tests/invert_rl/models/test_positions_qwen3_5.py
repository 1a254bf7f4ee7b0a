"""Positions of the families that write times into the text, against a second implementation: token by token."""

from __future__ import annotations

import random

import pytest
import torch

from invert_rl.models import load_model, vision_language_model
from tests.invert_rl.grpo.scoring_batches import encode

MERGE = 2


def by_walking(ids: list[int], video_token: int, grids: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Time, row and column of each token by walking along the prompt, as Qwen3-VL's report puts it in words.

    Text counts on by one in all three. Each time step of a video is a picture of its own: all of its tokens have the
    time at which it begins, row and column count from there, and what follows begins after the largest of them.
    """
    pictures = [(height // MERGE, width // MERGE) for steps, height, width in grids for _ in range(steps)]
    found, next_free, place = [], 0, 0
    while place < len(ids):
        if ids[place] != video_token:
            found.append((next_free, next_free, next_free))
            next_free += 1
            place += 1
            continue
        height, width = pictures.pop(0)
        for row in range(height):
            for column in range(width):
                found.append((next_free, next_free + row, next_free + column))
        next_free += max(height, width)
        place += height * width
    assert not pictures
    return found


@pytest.fixture
def inner(family_checkpoint):
    if "qwen2_5" in family_checkpoint:
        pytest.skip("Qwen2.5-VL counts seconds: tests/invert_rl/test_positions.py")
    return vision_language_model(load_model(family_checkpoint))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_layouts(inner, seed):
    """Videos of unequal grids between texts of unequal length, with padding on the left."""
    rng = random.Random(seed)
    video = inner.config.video_token_id
    rows, grids = [], []
    for _ in range(3):
        ids, own = [], []
        for _ in range(rng.randint(1, 2)):
            grid = (rng.randint(1, 5), MERGE * rng.randint(1, 5), MERGE * rng.randint(1, 5))
            ids += [100] * rng.randint(1, 7)
            for _ in range(grid[0]):  # "<0.5 seconds>", the start token, the step, the end token
                ids += [100] * rng.randint(2, 4) + [video] * (grid[1] * grid[2] // MERGE**2) + [100]
            own.append(grid)
        rows.append((ids + [100] * rng.randint(1, 9), own))
        grids += own
    longest = max(len(ids) for ids, _ in rows) + 3
    ids = torch.tensor([[0] * (longest - len(ids)) + ids for ids, _ in rows])
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids, _ in rows])
    positions, deltas = inner.get_rope_index(
        input_ids=ids,
        mm_token_type_ids=(ids == video).int() * 2,
        video_grid_thw=torch.tensor(grids),
        attention_mask=mask,
    )
    for number, (own_ids, own_grids) in enumerate(rows):
        expected = by_walking(own_ids, video, own_grids)
        assert positions[:, number, -len(own_ids) :].T.tolist() == [list(axes) for axes in expected]
        assert deltas[number].item() == expected[-1][0] + 1 - len(own_ids)


def test_a_real_prompt(inner, family_checkpoint, world, rows):
    """What the processor makes of a clip and its question; a different video moves all text behind it."""
    (prompt,) = encode(family_checkpoint, world, [("tvg", rows[0])])
    arguments = {"video_grid_thw": prompt.video_grid_thw, "attention_mask": torch.ones(1, len(prompt.input_ids))}
    positions, _ = inner.get_rope_index(
        input_ids=torch.tensor([prompt.input_ids]),
        mm_token_type_ids=torch.tensor([prompt.mm_token_type_ids]),
        **arguments,
    )
    grid = tuple(prompt.video_grid_thw[0].tolist())
    expected = by_walking(prompt.input_ids, inner.config.video_token_id, [grid])
    assert positions[:, 0].T.tolist() == [list(axes) for axes in expected]
    assert expected[-1][0] + 1 < len(prompt.input_ids)  # a picture takes fewer positions than it has tokens
