"""The one exception type of this library for things a user can repair."""

from __future__ import annotations


class RewardError(ValueError):
    """A reward cannot be computed as configured; the message names what is wrong and what to do."""
