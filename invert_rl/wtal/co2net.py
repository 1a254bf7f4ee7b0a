"""CO2-Net: the network that DELU took over, with the losses that it had before [R MM2021-CO2-Net model.py]."""

from __future__ import annotations

import torch
from torch import Tensor

from invert_rl.wtal import losses as terms
from invert_rl.wtal.delu import Delu
from invert_rl.wtal.localizer import Activations

GUIDE_WEIGHT = 0.8
"""Released weight of the guide loss; DELU has half of it beside its weighted one."""
THRESHOLDS = (0.1, 0.9, 10)
"""First, last and number of the attention's thresholds for proposals; DELU has 20."""


class Co2Net(Delu):
    """DELU's network without its evidence: what another base is worth to the branches is shown by these two.

    Of its weights (`DeluWeights`) those of evidence and uncertainty are not used.
    """

    def losses(self, found: Activations, labels: Tensor, pairs: Tensor, progress: Tensor | float) -> dict[str, Tensor]:
        """Its six terms, weighted; the training's ``progress`` changes nothing [R CO2.criterion]."""
        weights = self.config.weights
        suppressed = terms.suppress_background(found.cas, found.attention)
        attentions = (found.attention, *found.stream_attention)
        return {
            "mil": weights.mil * terms.mil_loss(found.cas, labels, True, weights.pool_ratio),
            "mil_suppressed": weights.mil * terms.mil_loss(suppressed, labels, False, weights.pool_ratio),
            "contrastive": weights.contrastive * terms.contrastive_loss(found.embedding, suppressed, labels, pairs),
            "mutual": weights.mutual * terms.mutual_loss(*found.stream_attention),
            "norm": weights.norm * torch.stack([attention.mean() for attention in attentions]).mean(),
            "guide": weights.guide * terms.guide_errors(found.cas, attentions).mean(),
        }
