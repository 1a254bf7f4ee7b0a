"""Ground-truth injection: one completion of each group is the annotated answer (TempSamp-R1, arXiv 2509.18056).

The last completion of a group is replaced after sampling. What TempSamp-R1's released code does is done here: the
annotated answer takes part in the group's mean and standard deviation like any other completion, and its importance
ratio is taken against the policy's own log-probability before the update, so that it begins at 1 and is clipped
alike. It is off-policy all the same: a token that the policy finds unlikely is pushed up with its full advantage. An
engine's log-probabilities do not exist for it, so that no rollout correction applies (ratio 1). `soft_iou` among the
rewards is the non-linear reward that the paper pairs it with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from data_prep.errors import DataError
from invert_rl.schedule import Draw
from invert_rl.tasks import Preset
from invert_rl.tasks.base import THINK

Completion = tuple[list[int], list[float] | None]
"""Token ids and, from an engine, their log-probabilities."""


def check_injection(preset: Preset, tasks: Sequence[str]) -> None:
    """Refuse tasks without grounding and prompts for a thought, which annotations lack; raises `DataError`."""
    if not any(preset.tasks[name].forward for name in tasks):
        raise DataError(f"inject_truth: it is for grounding, and the tasks are {', '.join(tasks)}; leave it out")
    thinking = [name for name in tasks if preset.tasks[name].forward and preset.tasks[name].layout == THINK]
    if thinking:
        raise DataError(
            f"inject_truth: prompt preset {preset.name!r} asks {', '.join(thinking)} for a thought, and annotations "
            "have none; use --prompt no_think or spans_json"
        )


def inject_truth(
    completions: Sequence[Completion],
    draws: Sequence[Draw],
    first: int,
    generations: int,
    truth: Callable[[Draw], list[int] | None],
) -> list[Completion]:
    """The completions with the last one of each group replaced by ``truth`` of its draw, where that is not None.

    ``first`` is the place of this rank's first completion in the round, ``generations`` the size of a group.
    """
    injected = list(completions)
    for number, draw in enumerate(draws):
        if (first + number) % generations != generations - 1:
            continue
        ids = truth(draw)
        if ids is not None:
            scored = completions[number][1] is not None
            injected[number] = (ids, [float("nan")] * len(ids) if scored else None)
    return injected
