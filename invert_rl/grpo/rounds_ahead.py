"""Rounds that are completed while another one is trained on: one after the other, in one thread.

Nothing here depends on timing. Which weights complete a round is settled when it is started, and the engine gets new
ones only while the thread does nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from invert_rl.encoding import EncodedPrompt
from invert_rl.grpo.reward_faults import Prompt
from invert_rl.schedule import Draw
from invert_rl.video.errors import VideoError

Completion = tuple[list[int], list[float]]
"""Token ids, and the log-probability that the engine gave each of them."""


@dataclass
class AheadRound:
    """This rank's part of a round: what is asked, by which weights, and what came back."""

    number: int
    policy_step: int
    """Optimizer steps that the weights have seen which complete it."""
    asked: list[Draw]
    """As the schedule has it."""
    draws: list[Draw]
    """What is shown: other rows stand in for those that cannot be used."""
    items: list[dict[str, Any]] = field(default_factory=list)
    """What the draws turn into; empty, as ``prompts``, in a round that was read from a checkpoint."""
    prompts: list[EncodedPrompt] = field(default_factory=list)
    failed: dict[Prompt, VideoError] = field(default_factory=dict)
    """Rows that could not be used."""
    completions: list[Completion] | None = None
    """One for each draw, once it is done."""
    error: Exception | None = None
    """Why there are none."""
    seconds: float = 0.0
    """That it took to complete it."""


class RoundsAhead:
    """The rounds that were started and not taken yet, by number, and the thread that completes them."""

    def __init__(self) -> None:
        self.rounds: dict[int, AheadRound] = {}
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()

    def start(self, rounds: Iterable[AheadRound], complete: Callable[[AheadRound], list[Completion]]) -> None:
        """Complete these in a thread, in their order; after an error none that follows is tried.

        The thread is a daemon: a process that ends does not wait for the engine.
        """
        self.wait()
        started = list(rounds)
        self.rounds |= {round_.number: round_ for round_ in started}
        self._thread = threading.Thread(target=self._run, args=(started, complete), name="rounds ahead", daemon=True)
        self._thread.start()

    def take(self, number: int) -> AheadRound | None:
        """The round of that number, waiting until it is done; None if it was not started."""
        round_ = self.rounds.pop(number, None)
        if round_ is None:
            return None
        with self._changed:
            while round_.completions is None and round_.error is None:
                self._changed.wait()
        return round_

    def wait(self) -> None:
        """Wait until all that was started is done, or given up."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def forget(self) -> None:
        """Take no more of what was started; what is under way is not waited for."""
        self.rounds = {}

    def _run(self, rounds: list[AheadRound], complete: Callable[[AheadRound], list[Completion]]) -> None:
        error: Exception | None = None
        for round_ in rounds:
            started = time.perf_counter()
            completions = None
            if error is None:
                try:
                    completions = complete(round_)
                except Exception as trouble:  # raised where the round is taken
                    error = trouble
            with self._changed:
                round_.seconds = time.perf_counter() - started
                round_.completions, round_.error = completions, error if completions is None else None
                self._changed.notify_all()
