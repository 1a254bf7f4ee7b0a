"""Rotary positions of Qwen2.5-VL by the rule its released weights were trained with.

After a video (or image) the text continues at the largest position of that video plus one. transformers 5.x
continues at ``start + max(height, width) // 2`` instead, which overlaps with the video's own time axis as soon as
the video is longer than it is wide. `generate` and a full forward of transformers agree with each other, so the
error is silent; vLLM and the released weights hold the rule implemented here. Qwen3-VL needs no repair.
"""

from __future__ import annotations

import itertools
import logging
import types

import torch
from torch import nn

logger = logging.getLogger(__name__)

TEXT, IMAGE, VIDEO = 0, 1, 2


def grid_positions(
    start: int, grid_thw: torch.Tensor, merge_size: int, seconds_per_grid: float, tokens_per_second: float
) -> torch.Tensor:
    """Positions of one video's tokens, shape ``(3, t * h/merge * w/merge)`` for time, height and width.

    Frame group ``i`` lies at ``start + int(i * seconds_per_grid * tokens_per_second)`` (seconds; truncated per group
    as in Qwen's own code, in float32).
    """
    frames, height, width = (int(value) for value in grid_thw)
    height, width = height // merge_size, width // merge_size
    times = (torch.arange(frames, dtype=torch.float32) * seconds_per_grid * tokens_per_second).long()
    axes = torch.meshgrid(times, torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([axis.reshape(-1) for axis in axes]) + start


def trained_rope_index(
    self: nn.Module,
    input_ids: torch.Tensor,
    mm_token_type_ids: torch.Tensor | None = None,
    image_grid_thw: torch.Tensor | None = None,
    video_grid_thw: torch.Tensor | None = None,
    second_per_grid_ts: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    **kwargs: object,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Drop-in for `Qwen2_5_VLModel.get_rope_index`: position ids ``(3, batch, length)`` and deltas ``(batch, 1)``.

    Padding gets position 0. A delta is the next text position minus the number of unpadded tokens, so continuing
    from a cache with it gives the positions of one long forward.
    """
    config = self.config
    merge_size = config.vision_config.spatial_merge_size
    tokens_per_second = config.vision_config.tokens_per_second
    ids = input_ids.cpu()
    if mm_token_type_ids is None:
        kinds = torch.zeros_like(ids)
        kinds[ids == config.image_token_id] = IMAGE
        kinds[ids == config.video_token_id] = VIDEO
    else:
        kinds = mm_token_type_ids.cpu()
    mask = torch.ones_like(ids, dtype=torch.bool) if attention_mask is None else attention_mask.cpu().bool()
    image_grids = iter([] if image_grid_thw is None else image_grid_thw.cpu())
    video_grids = [] if video_grid_thw is None else list(video_grid_thw.cpu())
    seconds = [1.0] * len(video_grids) if second_per_grid_ts is None else [float(s) for s in second_per_grid_ts]
    videos = iter(zip(video_grids, seconds, strict=True))

    position_ids = torch.zeros(3, *ids.shape, dtype=torch.long)
    deltas = []
    for row in range(ids.shape[0]):
        parts: list[torch.Tensor] = []
        start = 0
        for kind, run in itertools.groupby(kinds[row][mask[row]].tolist()):
            left = len(list(run))
            while left:  # two videos without text between them are one run of placeholders
                if kind == TEXT:
                    part = torch.arange(left).expand(3, -1) + start
                elif kind == IMAGE:
                    part = grid_positions(start, next(image_grids), merge_size, 0.0, tokens_per_second)
                else:
                    grid, seconds_per_grid = next(videos)
                    part = grid_positions(start, grid, merge_size, seconds_per_grid, tokens_per_second)
                parts.append(part)
                left -= part.shape[1]
                start = int(part.max()) + 1
                if left < 0:
                    raise ValueError(f"row {row}: a video has {-left} more features than placeholder tokens")
        position_ids[:, row, mask[row]] = torch.cat(parts, dim=1)
        deltas.append(start - int(mask[row].sum()))
    device = input_ids.device
    return position_ids.to(device), torch.tensor(deltas, device=device).unsqueeze(1)


def use_trained_positions(model: nn.Module) -> bool:
    """Make a Qwen2.5-VL model (bare, PEFT-wrapped or with a head) compute positions by the trained rule.

    Returns whether anything was changed: other architectures are left alone.
    """
    changed = False
    for module in model.modules():
        if type(module).__name__ == "Qwen2_5_VLModel":
            module.get_rope_index = types.MethodType(trained_rope_index, module)
            changed = True
    if changed:
        logger.info("Qwen2.5-VL positions: the rule of the released weights (opt out with trained_positions: false)")
    return changed
