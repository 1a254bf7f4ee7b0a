"""Which of its option sets each clip takes: drawn against an attacker who knows all but the clip's pictures.

A set by itself says nothing about which of its options is true (`exchange`). Where a clip lies, how long it is and what
the questions around it ask and offer does. So the attacker, a conditional logit over all of this, is fitted to the
questions as they are drawn; each clip then turns towards those of its sets in which the attacker finds the truth less
likely, and the attacker is fitted again. Weights that grow with the attacker's gains, round by round, end where no such
attacker gains any more, as far as the sets allow (Freund and Schapire 1999, "Adaptive game playing using multiplicative
weights").
"""

from __future__ import annotations

import numpy as np

from data_prep.progress import progress
from invert_rl.llavaction.logit import fit, log_softmax
from invert_rl.llavaction.questions.context import Context
from invert_rl.llavaction.questions.pairs import Pairs

ROUNDS = 120
"""How often the attacker is fitted; on EPIC-KITCHENS-100 it gains little after 80."""
RATE = 2.0
"""How far a clip turns in a round: the exponent of the weights."""
REDRAWN = 0.5
"""Share of the clips that are drawn anew in a round, since what each offers changes the others' surroundings."""


def draw_sets(context: Context, sets: np.ndarray, there: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Which set each clip takes, int64 (clips,).

    ``sets`` (clips, sets, K) are the clips whose actions each set offers, the clip itself among them; ``there`` (clips,
    sets) says which sets are any, at least one for each clip.
    """
    total, _, count = sets.shape
    every = np.arange(total)
    pairs = Pairs(context, sets)
    own = (sets == every[:, None, None]).argmax(-1)
    known = even(pairs.known())
    losses = np.where(there, 0.0, np.inf)
    drawn = (losses - rng.gumbel(size=losses.shape)).argmin(1)
    for _ in progress(range(ROUNDS), "drawing options", total=ROUNDS):
        offered = even(pairs.offered(sets[every, drawn]))
        asked = np.concatenate([known[every, drawn], offered[every, drawn]], axis=-1)
        weights = fit(asked, own[every, drawn], np.ones((total, count), dtype=bool)).astype(np.float32)
        logits = known @ weights[: known.shape[-1]] + offered @ weights[known.shape[-1] :]
        chances = np.take_along_axis(log_softmax(logits), own[..., None], axis=-1)[..., 0]
        losses += RATE * (chances + np.log(count))
        again = (losses - rng.gumbel(size=losses.shape)).argmin(1)
        drawn = np.where(rng.random(total) < REDRAWN, again, drawn)
    return drawn


def even(features: np.ndarray) -> np.ndarray:
    """Features (…, options, features) less their mean over the options, with deviation 1, or 0 where all are equal.

    They are changed in place: there are gigabytes of them.
    """
    features -= features.mean(-2, keepdims=True)
    flat = features.reshape(-1, features.shape[-1])
    features /= np.maximum(np.sqrt(np.einsum("nf,nf->f", flat, flat) / len(flat)), 1e-6)
    return features
