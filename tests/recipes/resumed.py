"""What shows that a run was resumed, and resumed exactly: weights that move, and steps that were not made twice."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file


def assert_exact(straight: Path, resumed: Path, told: str, half: int = 2, steps: int = 4) -> None:
    """Two runs of ``steps``, the second resumed at ``half``, have equal weights.

    Neither of the two ways to pass without a restore is left open: that nothing moves after ``half``, and that the
    second run was made anew from its start. ``told`` is what it wrote to its standard output when it was resumed.
    """
    before, after = (load_file(straight / f"checkpoint-{step}" / "model.safetensors") for step in (half, steps))
    moved = [name for name in after if not torch.equal(before[name], after[name])]
    assert len(moved) > 0.5 * len(after), f"only {len(moved)} of {len(after)} tensors move after step {half}"
    assert f"step {half + 1}/{steps}" in told and f"step {half}/{steps}" not in told
    one, other = (load_file(folder / "model" / "model.safetensors") for folder in (straight, resumed))
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
