"""CO2-Net as a second base: its loss against a transcript of the released one, and what differs from DELU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from data_prep.errors import DataError
from invert_rl.wtal.co2net import Co2Net
from invert_rl.wtal.config import WtalArguments
from invert_rl.wtal.delu import Delu, DeluConfig, DeluWeights
from invert_rl.wtal.localizer import Activations
from invert_rl.wtal.model import SemanticLocalizer
from tests.invert_rl.wtal import small


def released(cas: Tensor, first: Tensor, second: Tensor, embedding: Tensor, labels: Tensor, pairs: Tensor) -> float:
    """CO2's criterion, video by video, with the released weights 1, 1, 1, 0.8, 0.8 and k = 7."""
    attention = (first + second) / 2
    total = 0.0
    for scores, weight, own in zip(cas, attention, labels, strict=True):
        least = scores.min(dim=1, keepdim=True).values
        for values, background in ((scores, 1.0), (weight[:, None] * (scores - least) + least, 0.0)):
            pooled = values.sort(dim=0, descending=True).values[: max(1, len(values) // 7)].mean(dim=0)
            target = torch.cat([own, torch.tensor([background])])
            target = target / (target.sum() + 1e-4)
            total += float(-(target * torch.log(torch.softmax(pooled, dim=0))).sum()) / len(cas)
    hinge, shared = 0.0, 0.0
    suppressed = attention[..., None] * (cas - cas.min(dim=-1, keepdim=True).values) + cas.min(-1, keepdim=True).values
    for i, j in pairs.tolist():
        for label in range(labels.shape[1]):
            if not labels[i, label] * labels[j, label]:
                continue
            weights = [torch.softmax(suppressed[video, :, label], dim=0) for video in (i, j)]
            high = [weight @ embedding[video] for weight, video in zip(weights, (i, j), strict=True)]
            low = [(1 - weight) / (len(weight) - 1) @ embedding[v] for weight, v in zip(weights, (i, j), strict=True)]
            near = 1 - float(F.cosine_similarity(high[0], high[1], dim=0))
            for one, other in ((high[0], low[1]), (high[1], low[0])):
                hinge += 0.5 * max(near - (1 - float(F.cosine_similarity(one, other, dim=0))) + 0.5, 0.0)
            shared += 1
    background = cas.softmax(dim=-1)[..., -1]
    guide = sum(float((1 - one - background).abs().mean()) for one in (attention, first, second)) / 3
    norm = sum(float(one.mean()) for one in (attention, first, second)) / 3
    mutual = float(((first - second) ** 2).mean())  # halved on each side
    return total + hinge / shared + mutual + 0.8 * norm + 0.8 * guide


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_the_released_one(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    cas = torch.randn(4, 21, 4, generator=generator)
    first, second = torch.rand(2, 4, 21, generator=generator)
    embedding = torch.randn(4, 21, 6, generator=generator)
    labels = torch.tensor([[1.0, 0, 1], [1, 0, 1], [0, 1, 0], [1, 1, 0]])
    pairs = torch.tensor([[0, 1], [2, 3]])
    base = Co2Net(DeluConfig(3, 4, 2, 8, 16, weights=DeluWeights(guide=0.8)))
    found = Activations(cas, (first + second) / 2, (first, second), embedding, embedding)
    losses = base.losses(found, labels, pairs, 0.3)
    assert set(losses) == {"mil", "mil_suppressed", "contrastive", "mutual", "norm", "guide"}
    wanted = released(cas, first, second, embedding, labels, pairs)
    assert float(sum(losses.values())) == pytest.approx(wanted, rel=1e-5)
    again = base.losses(found, labels, pairs, 0.9)
    assert all(torch.equal(losses[name], again[name]) for name in losses)  # nothing changes as training goes on


def test_hand_values() -> None:
    """One video of two snippets, two classes: attention 1 and 0, background certain where there is none."""
    cas = torch.tensor([[[2.0, 0.0, 0.0], [0.0, 0.0, 2.0]]])
    attention = torch.tensor([[1.0, 0.0]])
    base = Co2Net(DeluConfig(2, 4, 2, 8, 16, weights=DeluWeights(guide=0.8)))
    found = Activations(cas, attention, (attention, attention), torch.zeros(1, 2, 3), torch.zeros(1, 2, 3))
    losses = base.losses(found, torch.tensor([[1.0, 0.0]]), torch.zeros(0, 2, dtype=torch.long), 0.0)
    share = 2.718281828**2 / (2.718281828**2 + 2)  # of the winning one of three: 0.787
    assert float(losses["norm"]) == pytest.approx(0.8 * 0.5)
    # |1 - 1 - (1 - share) / 2| and |1 - 0 - share|, averaged
    assert float(losses["guide"]) == pytest.approx(0.8 * ((1 - share) / 2 + 1 - share) / 2, rel=1e-4)
    assert float(losses["mutual"]) == 0


def test_the_network_is_delus_and_the_branches_hold_on_to_it() -> None:
    torch.manual_seed(1)
    one = Delu(small.CONFIG).eval()
    torch.manual_seed(1)
    other = Co2Net(small.CONFIG).eval()
    batch = small.batch()
    assert torch.equal(one(batch["features"]).cas, other(batch["features"]).cas)
    full = small.model()
    whole = SemanticLocalizer(Co2Net(small.CONFIG), full.matching, full.reconstruction)
    losses = {name for phase in whole.phases for name in whole(**batch, phase=phase)}
    assert {"from_reconstruction", "alignment", "guide"} <= losses and "evidential" not in losses


def test_settings_of_the_other_base_are_refused(tmp_path: Path) -> None:
    args = WtalArguments(output_dir=str(tmp_path), base="co2net", use_cpu=True)
    assert args.guide_weight == 0.8 and args.proposals().thresholds == (0.1, 0.9, 10)
    delu = WtalArguments(output_dir=str(tmp_path), use_cpu=True)
    assert delu.guide_weight == 0.4 and delu.proposals().thresholds == (0.1, 0.9, 20)
    with pytest.raises(DataError, match="amplitude is DELU's"):
        WtalArguments(output_dir=str(tmp_path), base="co2net", amplitude=0.5, use_cpu=True)
    with pytest.raises(DataError, match="base must be one of delu, co2net"):
        WtalArguments(output_dir=str(tmp_path), base="hamnet", use_cpu=True)
