"""Which values the entries of ``generation_kwargs`` take: what libraries find out at the first rollout, or never."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Check = tuple[Callable[[Any], bool], str]


def check_generation(given: Mapping[str, Any], most: int) -> None:
    """Raise `ValueError` for a value of the wrong kind; ``most`` is the longest completion, in tokens."""
    for name, value in given.items():
        fits, wanted = CHECKS[name]
        if not fits(value):
            raise ValueError(f"generation_kwargs.{name} must be {wanted}, found {value!r}")
        if name in ("min_new_tokens", "min_tokens") and value > most:
            raise ValueError(f"generation_kwargs.{name} ({value}) is above max_completion_length ({most})")


def check_tokens(given: Mapping[str, Any], vocabulary: int) -> None:
    """Raise `ValueError` for a token id that is not in a vocabulary of that size."""
    for name in ("suppress_tokens", "begin_suppress_tokens", "allowed_token_ids"):
        beyond = [token for token in given.get(name) or () if token >= vocabulary]
        if beyond:
            raise ValueError(f"generation_kwargs.{name}: the model has {vocabulary} tokens, no token {beyond[0]}")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _ids(value: Any) -> bool:
    return isinstance(value, list) and all(_whole(token) for token in value)


def _sequences(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_ids(one) and one for one in value)


def _biases(value: Any) -> bool:
    pairs = isinstance(value, list) and bool(value) and all(isinstance(one, list) and len(one) == 2 for one in value)
    return pairs and all(_ids(tokens) and tokens and isinstance(bias, float) for tokens, bias in value)


def _decay(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and _whole(value[0]) and _number(value[1])


def _penalty(value: Any) -> bool:
    return _number(value) and -2 <= value <= 2


CHECKS: dict[str, Check] = {
    "suppress_tokens": (_ids, "a list of token ids"),
    "begin_suppress_tokens": (_ids, "a list of token ids"),
    "bad_words_ids": (_sequences, "a list of lists of token ids"),
    "sequence_bias": (_biases, "a list of pairs, a list of token ids and a bias such as -2.0"),
    "no_repeat_ngram_size": (_whole, "a whole number"),
    "min_new_tokens": (_whole, "a whole number"),
    "min_length": (_whole, "a whole number"),
    "exponential_decay_length_penalty": (_decay, "a number of tokens and a factor, such as [100, 1.05]"),
    "do_sample": (lambda value: value is True, "true: greedy completions of one prompt are all the same"),
    "renormalize_logits": (lambda value: isinstance(value, bool), "true or false"),
    "remove_invalid_values": (lambda value: isinstance(value, bool), "true or false"),
    "presence_penalty": (_penalty, "a number from -2 to 2"),
    "frequency_penalty": (_penalty, "a number from -2 to 2"),
    "min_tokens": (_whole, "a whole number"),
    "bad_words": (lambda value: isinstance(value, list) and all(isinstance(w, str) for w in value), "a list of texts"),
    "allowed_token_ids": (lambda value: _ids(value) and bool(value), "a list of token ids"),
}
