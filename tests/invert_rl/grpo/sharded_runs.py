"""What every way of sharding a model must show: the run of one rank, and a resume that is exact."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.invert_rl.grpo import two_ranks
from tests.invert_rl.grpo.torchrun import Rank, distance, read_ranks

SAVING = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "max_completion_length": 12}
SAVING |= {"generation_kwargs": {"exponential_decay_length_penalty": [2, 4.0]}}  # the end comes early, now and then

PLAIN = {"optim": "sgd", "learning_rate": 0.1}


def check_equal_and_moved(ranks: Sequence[Rank], wrapped: str) -> None:
    """Both ranks hold the same weights, which are wrapped as they should be and have moved."""
    first, second = ranks
    assert first.wrapped.startswith(wrapped)
    assert distance(first.end, second.end) == 0
    assert distance(first.start, first.end) > 1e-4


def check_run_of_one_rank(ranks: Sequence[Rank], checkpoint: str, world: Path, folder: Path) -> None:
    """The two ranks' run with `PLAIN` is that of one rank with twice the batch, which is made here."""
    job = {"checkpoint": checkpoint, "world": str(world), "output": str(folder)}
    two_ranks.main({**job, "settings": {**PLAIN, "per_device_train_batch_size": 4}})
    (alone,) = read_ranks(folder, 1)
    first, second = ranks
    for a, b, both in zip(first.rounds, second.rounds, alone.rounds, strict=True):
        assert a["completions"] + b["completions"] == both["completions"]
        assert a["rewards"] + b["rewards"] == both["rewards"]
    assert distance(first.end, alone.end) < 1e-6
    assert distance(alone.start, alone.end) > 1e-3


def check_exact_resume(straight: Rank, resumed: Rank) -> None:
    """A run resumed from step 2 makes the later rounds of the straight one, and ends in its weights."""
    assert resumed.rounds == straight.rounds[2:]
    assert distance(straight.end, resumed.end) == 0
    assert distance(straight.start, straight.end) > 1e-4
