"""For ms-swift: ``--external_plugins examples/ms_swift_plugin.py --reward_funcs tvg_iou tvg_format``.

Each reward is a class of ms-swift's that is called with the completions and the columns of the data set.
"""

from __future__ import annotations

from typing import Any

from invert_rl.rewards import get_reward

try:
    from swift.rewards import ORM, orms  # ms-swift 4
except ImportError:
    from swift.plugin import ORM, orms  # ms-swift 3


def as_orm(name: str) -> type:
    """A class of ms-swift's for the reward ``name``; rows that it cannot score earn 0, as ms-swift knows no None."""

    class Reward(ORM):
        def __call__(self, completions: list[str], **columns: Any) -> list[float]:
            return [value or 0.0 for value in get_reward(name)(completions, **columns)]

    return Reward


for reward, swift_name in (("iou", "tvg_iou"), ("format", "tvg_format"), ("vd", "vd_verbs"), ("ar", "ar_verb")):
    orms[swift_name] = as_orm(reward)
