"""CO2-Net: the network that DELU took over, with the losses that it had before [R MM2021-CO2-Net model.py]."""

from __future__ import annotations

from torch import Tensor

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
        return self.shared_losses(found, labels, pairs)
