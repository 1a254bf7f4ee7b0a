"""Matching against trying every assignment, and its costs by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from invert_rl.psftr.matching import match, matching_cost
from invert_rl.psftr.model import QueryOutputs
from tests.invert_rl.psftr.conftest import small_config


def random_outputs(seed: int, queries: int, classes: int) -> QueryOutputs:
    generator = torch.Generator().manual_seed(seed)
    return QueryOutputs(
        torch.randn(1, queries, classes, generator=generator),
        torch.rand(1, queries, 2, generator=generator),
        torch.randn(1, queries, generator=generator),
    )


@pytest.mark.parametrize("changes", [{}, {"class_loss": "ce"}, {"match_on": "actionness"}])
@pytest.mark.parametrize("count", [1, 3, 5])
def test_equals_brute_force(changes: dict, count: int) -> None:
    config = small_config(**changes)
    for seed in range(8):
        outputs = random_outputs(seed, 6, 4)
        generator = torch.Generator().manual_seed(100 + seed)
        segments, labels = torch.rand(count, 2, generator=generator), torch.randint(4, (count,), generator=generator)
        cost = matching_cost(outputs.logits[0], outputs.actionness[0], outputs.segments[0], segments, labels, config)
        best = min(
            sum(float(cost[query, target]) for target, query in enumerate(chosen))
            for chosen in itertools.permutations(range(6), count)
        )
        ((queries, targets),) = match(outputs, [segments], [labels], config)
        assert sorted(targets.tolist()) == list(range(count))
        assert float(cost[queries, targets].sum()) == pytest.approx(best, abs=1e-5)


def test_more_ground_truths_than_queries_and_none_at_all() -> None:
    outputs = random_outputs(0, 3, 4)
    ((queries, targets),) = match(outputs, [torch.rand(5, 2)], [torch.arange(5) % 4], small_config())
    assert sorted(queries.tolist()) == [0, 1, 2]
    assert len(set(targets.tolist())) == 3
    ((queries, targets),) = match(outputs, [torch.zeros(0, 2)], [torch.zeros(0, dtype=torch.long)], small_config())
    assert len(queries) == len(targets) == 0


def test_cost_by_hand() -> None:
    logits, actionness = torch.tensor([[0.5, -1.0]]), torch.tensor([0.3])
    predicted, segments, labels = torch.tensor([[0.5, 0.2]]), torch.tensor([[0.6, 0.4]]), torch.tensor([1])
    place = 5 * (0.1 + 0.2) - 2 * (0.2 / 0.4)  # [.4, .6] in [.4, .8]

    def gain(logit: torch.Tensor) -> float:
        hit, miss = (sigmoid_focal_loss(logit, torch.full_like(logit, target), 0.25, 2) for target in (1.0, 0.0))
        return float(hit - miss)

    def cost(**changes) -> float:
        return float(matching_cost(logits, actionness, predicted, segments, labels, small_config(**changes)))

    assert cost() == pytest.approx(2 * gain(logits[0, 1]) + place, abs=1e-5)
    assert cost(match_on="actionness") == pytest.approx(2 * gain(actionness[0]) + place, abs=1e-5)
    surprise = math.log(math.exp(0.5) + math.exp(-1.0)) + 1.0
    assert cost(class_loss="ce") == pytest.approx(2 * surprise + place, abs=1e-5)
    assert cost(iou_weight=0.0, l1_weight=1.0, class_weight=0.0) == pytest.approx(0.3, abs=1e-6)
