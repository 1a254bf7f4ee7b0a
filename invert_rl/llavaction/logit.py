"""A conditional logit: which of several options is the true one, by a weighing of what is known of each."""

from __future__ import annotations

import numpy as np

PENALTY = 1.0
"""Of squared weights."""
STEPS = 25
"""Newton steps; it converges in fewer."""


def fit(table: np.ndarray, answers: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Weights of a conditional logit, (features,), by Newton's method.

    ``table`` is (questions, options, features), ``answers`` the places of the true options, ``there`` (questions,
    options) false where a question has fewer options than others.
    """
    width = table.shape[2]
    weights = np.zeros(width)
    if not len(table):
        return weights
    own = table[np.arange(len(table)), answers].sum(0)
    for _ in range(STEPS):
        chances = np.exp(log_softmax(np.where(there, table @ weights, -np.inf)))
        means = np.einsum("qk,qkf->qf", chances, table)
        gradient = own - means.sum(0) - PENALTY * weights
        flat = table.reshape(-1, width)
        curvature = (flat * chances.reshape(-1, 1)).T @ flat - means.T @ means + PENALTY * np.eye(width)
        step = np.linalg.solve(curvature, gradient)
        weights = weights + step
        if np.abs(step).max(initial=0.0) < 1e-6:
            break
    return weights


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithms of the shares that logits (…, options) give to each option."""
    logits = logits - logits.max(-1, keepdims=True)
    return np.asarray(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))
