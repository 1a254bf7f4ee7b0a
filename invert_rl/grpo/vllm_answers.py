"""What a vLLM server answers, read with suspicion: what cannot be an answer must not become a gradient."""

from __future__ import annotations

import math
from typing import Any

ROUNDING = 1e-4
"""A log-probability may be this much above 0 by rounding."""


def read_completions(
    answer: Any, sampling: dict[str, Any], vocabulary: int | None = None
) -> list[tuple[list[int], list[float]]]:
    """Token ids and log-probabilities of a server's answer to ``n`` of ``sampling``, in the order of their index.

    Raises `ValueError` unless there are n of them, each of 1 to ``max_tokens`` ids below ``vocabulary`` that are not
    banned (``logit_bias``), with one finite log-probability of at most 0 for each.
    """
    choices = answer.get("choices") if isinstance(answer, dict) else None
    wanted, longest = sampling["n"], sampling["max_tokens"]
    banned = {int(token) for token in sampling.get("logit_bias") or ()}
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise ValueError("it holds no completions")
    if sorted(map(str, (choice.get("index") for choice in choices))) != sorted(map(str, range(wanted))):
        raise ValueError(f"it gave {len(choices)} of {wanted} completions")
    found = []
    for choice in sorted(choices, key=lambda choice: choice["index"]):
        ids = choice.get("token_ids")
        entries = (choice.get("logprobs") or {}).get("content")
        if not isinstance(ids, list) or not 1 <= len(ids) <= longest:
            raise ValueError(
                f"a completion of {len(ids) if isinstance(ids, list) else 'no'} tokens, not 1 to {longest}"
            )
        below = math.inf if vocabulary is None else vocabulary
        odd = [token for token in ids if type(token) is not int or not 0 <= token < below or token in banned]
        if odd:
            raise ValueError(f"token {odd[0]!r}, which is banned or not one of the vocabulary's {vocabulary}")
        if not isinstance(entries, list) or len(entries) != len(ids):
            raise ValueError(f"{len(ids)} tokens with {len(entries or ())} log-probabilities")
        found.append((ids, [_log_probability(entry) for entry in entries]))
    return found


def _log_probability(entry: Any) -> float:
    value = entry.get("logprob") if isinstance(entry, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value > ROUNDING:
        raise ValueError(f"a log-probability of {value!r}")
    return min(0.0, float(value))
