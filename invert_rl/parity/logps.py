"""Log-probabilities of the same tokens by engine and trainer: how far apart, against which noise, and why.

What is compared is the mean absolute difference over a prompt's tokens, of the prompt where it is largest. Where it is
more than noise, the trainer computes once more in each way that is known to go wrong: the way that meets the engine is
the cause.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from invert_rl.encoding import EncodedPrompt
from invert_rl.parity.change import WeightChange
from invert_rl.parity.engines import Engine, Reply
from invert_rl.parity.reference import Completions, Reference, Variant

FLOOR = {"full": 1e-4, "half": 2e-3}
"""What passes where nothing shows noise. In float32 real engine and trainer differ by 1e-5 at most in the lab."""
NOISE_FACTOR = 3.0
"""How many times the measured noise passes."""
MET = 0.3
"""A way of going wrong is the cause if it leaves no more than this share of the difference."""
VISIBLE = 10.0
"""A change of weights must be this many times the limit, or what is stale would not be seen."""
LARGEST_CHANGE = 2.0
"""Noise on weights is doubled until it is `VISIBLE`, up to this share of a matrix's standard deviation."""

Scores = Sequence[torch.Tensor]


def of_reply(replies: Sequence[Reply]) -> list[torch.Tensor]:
    """An engine's log-probabilities by prompt, as `Reference.score` gives them."""
    return [torch.tensor([value for one in reply.logps for value in one]) for reply in replies]


def gap(scores: Scores, others: Scores) -> float:
    """Mean absolute difference over a prompt's tokens, of the prompt where it is largest; infinite if one is NaN."""
    apart = [(one - other).abs().nan_to_num(nan=torch.inf).mean() for one, other in zip(scores, others, strict=True)]
    return max(float(value) for value in apart)


def largest(scores: Scores, others: Scores) -> float:
    """Largest absolute difference of a token."""
    return max(float((one - other).abs().max()) for one, other in zip(scores, others, strict=True))


def noise_of(
    engine: Engine, reference: Reference, prompts: Sequence[EncodedPrompt], settings: dict[str, Any]
) -> dict[str, float]:
    """What rounding alone does, here and now.

    ``trainer``: the same rows in one batch, backwards and padded, against one prompt at a time. ``engine``: greedy
    answers to all prompts at once and to each alone, where they say the same. ``precision``: the trainer in half
    precision against float32. All are means over tokens, of the worst prompt.
    """
    greedy = {**settings, "n": 1, "temperature": 0.0}
    together = engine.complete(prompts, greedy)
    alone = [reply for prompt in prompts for reply in engine.complete([prompt], greedy)]
    answers = [reply.completions for reply in together]
    apart = []
    for one, other in zip(together, alone, strict=True):
        both = zip(*one.completions, *other.completions, strict=False)
        same = next((place for place, (a, b) in enumerate(both) if a != b), len(one.completions[0]))
        values = [torch.tensor(reply.logps[0][:same]) for reply in (one, other)]
        apart.append(float((values[0] - values[1]).abs().mean()) if same else 0.0)
    right = reference.score(prompts, answers)
    return {
        "trainer": gap(right, reference.score_together(prompts, answers)),
        "engine": max(apart),
        "precision": gap(right, reference.score(prompts, answers, Variant(other_precision=True))),
    }


def limit_of(noise: dict[str, float], half: bool) -> float:
    """The most that a difference may be: in half precision that kernels round otherwise counts as noise."""
    measured = [noise["trainer"], noise["engine"], *([noise["precision"]] if half else [])]
    return max(FLOOR["half" if half else "full"], NOISE_FACTOR * max(measured))


def cause_at_the_start(
    reference: Reference,
    prompts: Sequence[EncodedPrompt],
    answers: Sequence[Completions],
    theirs: Scores,
    limit: float,
    precision_noise: float,
) -> str | None:
    """Why log-probabilities differ before any change of weights; None where no way that is known meets the engine."""
    ways: dict[str, list[Variant]] = {
        "stock positions: the engine counts positions as transformers does, and not as Qwen2.5-VL was trained": [
            Variant(stock_positions=True)
        ],
        "banned tokens allowed: the engine's probabilities include the vision tokens that must not be sampled "
        "(logit_bias is not heeded)": [Variant(ban=False)],
        "raw log-probabilities, before temperature and ban: start it with --logprobs-mode processed_logprobs": [
            Variant(ban=False, temperature=False),
            Variant(temperature=False),
        ],
    }
    if prompts[0].second_per_grid_ts is not None:
        ways["wrong frame times: the engine takes the video for shorter or longer than it is"] = [
            *(Variant(seconds_factor=factor) for factor in (0.25, 0.5, 2.0, 4.0)),
            *(Variant(seconds=seconds) for seconds in (1.0, 2 / 24)),  # nothing told; the rate that is assumed
        ]
    apart = gap(reference.score(prompts, answers), theirs)
    met = {
        why: min(gap(reference.score(prompts, answers, variant), theirs) for variant in variants)
        for why, variants in ways.items()
    }
    why = min(met, key=lambda name: met[name])
    if met[why] <= limit:
        return why
    if apart <= 5 * precision_noise:
        return (
            "another precision: the difference is of the size that half precision makes in the trainer itself "
            f"({precision_noise:.2g}); build the engine in the trainer's dtype"
        )
    return f"{why} (most likely: {met[why]:.2g} is left)" if met[why] <= MET * apart else None


def visible_change(
    change: WeightChange,
    reference: Reference,
    prompts: Sequence[EncodedPrompt],
    answers: Sequence[Completions],
    limit: float,
) -> tuple[float, float, float]:
    """How large noise on language model and vision tower must be for the answers' scores to show each of them.

    Leaves the model with that noise. Returns the sizes for text and vision, and what leaving out the lesser of them
    would change.
    """
    change.apply()
    before = reference.score(prompts, answers)
    text, vision = 0.05, 0.05
    while True:
        change.apply(text=text)
        without_vision = reference.score(prompts, answers)
        change.apply(text=text, vision=vision)
        new = reference.score(prompts, answers)
        by_text, by_vision = gap(before, new), gap(without_vision, new)
        if min(by_text, by_vision) >= VISIBLE * limit or max(text, vision) >= LARGEST_CHANGE:
            return text, vision, min(by_text, by_vision)
        text = text if by_text >= VISIBLE * limit else 2 * text
        vision = vision if by_vision >= VISIBLE * limit else 2 * vision


def cause_after_a_change(
    change: WeightChange,
    sizes: tuple[float, float],
    reference: Reference,
    prompts: Sequence[EncodedPrompt],
    answers: Sequence[Completions],
    theirs: Scores,
    prefixes: Sequence[int],
) -> str | None:
    """Why log-probabilities differ once weights have changed; None where no way that is known meets the engine.

    ``prefixes``: how many tokens of each prompt a prefix cache keeps. The model has the new weights before and after.
    """
    text, vision = sizes
    apart = gap(reference.score(prompts, answers), theirs)
    change.apply()
    stale = gap(reference.score(prompts, answers), theirs)
    change.apply(text=text)
    old_vision = gap(reference.score(prompts, answers), theirs)
    change.apply(vision=vision)
    old_text = gap(reference.score(prompts, answers), theirs)
    change.apply()
    prefix = reference.score_after_prefix(prompts, answers, prefixes, lambda: change.apply(*sizes))
    met = {
        "stale weights: the engine still computes with the weights from before the change; the push does not "
        "reach it": stale,
        "stale vision features: the engine answers from what the old vision tower saw; empty its encoder cache after "
        "each push (reset_encoder_cache)": old_vision,
        "stale language model: only the vision tower took the new weights": old_text,
        "stale prefix cache: keys and values of the prompt are those of the old weights; empty the prefix cache after "
        "each push (reset_prefix_cache)": gap(prefix, theirs),
    }
    why = min(met, key=lambda name: met[name])
    return why if met[why] <= MET * apart else None
