"""Groups whose completions all earn the same: they have no advantages, and teach nothing."""

from __future__ import annotations

from typing import Any

import torch


def weighted_rewards(rewards: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The reward of each completion as the advantage sees it, shape ``(completions,)``.

    ``rewards``: ``(completions, functions)``, NaN where a function returned None. A completion that no function scored
    is NaN.
    """
    total = (rewards * weights.to(rewards)).nansum(dim=1)
    total[torch.isnan(rewards).all(dim=1)] = torch.nan
    return total


def equal_groups(
    rewards: torch.Tensor, weights: torch.Tensor, num_generations: int, aggregation: str = "sum_then_normalize"
) -> torch.Tensor:
    """Which groups of ``num_generations`` neighbours have no differences in reward, shape ``(groups,)``.

    Under ``normalize_then_sum`` each function is normalised by itself: a group is equal if every function is, whatever
    their sums. Completions that nothing scored make no difference.
    """
    if aggregation == "normalize_then_sum":
        columns = rewards * (weights != 0).to(rewards)
    else:
        columns = weighted_rewards(rewards, weights)[:, None]
    grouped = columns.view(-1, num_generations, columns.shape[1])
    highest = grouped.nan_to_num(nan=-torch.inf).amax(dim=1)
    lowest = grouped.nan_to_num(nan=torch.inf).amin(dim=1)
    scale = grouped.nan_to_num().abs().amax(dim=1).clamp(min=1.0)
    return ((highest - lowest) <= 1e-6 * scale).all(dim=1)  # of nothing at all: -inf


def without_rows(output: dict[str, Any], rows: torch.Tensor) -> None:
    """Take rows of a scored round out of the loss, in place: they keep their place but have no tokens, and no KL.

    ``rows`` is boolean, one for each completion of this rank.
    """
    output["completion_mask"] = output["completion_mask"] * (~rows).to(output["completion_mask"])[:, None]
