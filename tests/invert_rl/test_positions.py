"""Positions against the golden cases made by Qwen's own code, and against one long forward."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from invert_rl.positions import trained_rope_index

GOLDEN = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "golden"


def golden_cases(name: str) -> tuple[dict, list[dict]]:
    path = GOLDEN / name
    if not path.exists():
        pytest.skip(f"the golden positions {name} are not in ../shared/data/golden")
    data = json.loads(path.read_text())
    return data, data["cases"]


def model_stub(data: dict) -> SimpleNamespace:
    vision = SimpleNamespace(
        spatial_merge_size=data["spatial_merge_size"], tokens_per_second=data.get("tokens_per_second", 1)
    )
    return SimpleNamespace(
        config=SimpleNamespace(vision_config=vision, image_token_id=-1, video_token_id=data["video_token_id"])
    )


def test_all_golden_qwen2_5_vl_cases():
    data, cases = golden_cases("mrope_qwen2_5_vl.json")
    assert len(cases) == 24
    for case in cases:
        ids = torch.tensor([case["input_ids"]])
        positions, delta = trained_rope_index(
            model_stub(data),
            ids,
            mm_token_type_ids=(ids == data["video_token_id"]).int() * 2,
            video_grid_thw=torch.tensor(case["video_grid_thw"]),
            second_per_grid_ts=torch.tensor(case["second_per_grid_ts"]),
        )
        assert positions[:, 0].tolist() == case["position_ids"]
        assert delta.item() == case["rope_delta"]


def test_hand_case_text_continues_after_the_largest_position():
    """Two text tokens, 3 frame groups of 1x1 token one second apart at 2 positions a second, two text tokens."""
    data = {"spatial_merge_size": 2, "tokens_per_second": 2, "video_token_id": 9}
    positions, delta = trained_rope_index(
        model_stub(data),
        torch.tensor([[1, 2, 9, 9, 9, 3, 4]]),
        video_grid_thw=torch.tensor([[3, 2, 2]]),
        second_per_grid_ts=torch.tensor([1.0]),
    )
    assert positions[0, 0].tolist() == [0, 1, 2, 4, 6, 7, 8]
    assert positions[1, 0].tolist() == [0, 1, 2, 2, 2, 7, 8]
    assert delta.item() == 9 - 7


def test_left_padding_shifts_nothing():
    data = {"spatial_merge_size": 2, "tokens_per_second": 2, "video_token_id": 9}
    ids = torch.tensor([[0, 0, 1, 9, 9, 3], [1, 2, 9, 9, 3, 4]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    positions, delta = trained_rope_index(
        model_stub(data),
        ids,
        video_grid_thw=torch.tensor([[2, 2, 2], [2, 2, 2]]),
        second_per_grid_ts=torch.tensor([0.5, 2.0]),
        attention_mask=mask,
    )
    assert positions[0].tolist() == [[0, 0, 0, 1, 2, 3], [0, 1, 2, 6, 7, 8]]
    assert delta.flatten().tolist() == [0, 3]
