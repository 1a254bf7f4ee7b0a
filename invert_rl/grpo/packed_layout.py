"""Where prompts and completions lie in a packed sequence.

A packed sequence holds, for each different prompt, its tokens once (the trunk) and after them the tokens of all of its
completions (the branches), without any padding. A branch continues its trunk, and knows nothing of other branches.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch

LEAST_CHUNK = 256
"""Branches of at least so many tokens are masked at a time, even if their trunk is shorter."""


class SharingNotSupportedError(ValueError):
    """A model whose layers cannot work on packed sequences; the message names what stands in the way."""


class Tree(NamedTuple):
    """One prompt and its completions."""

    trunk: slice
    """Place of the prompt in the sequence."""
    branches: slice
    """Place of all of its completions."""
    lengths: list[int]
    """Tokens of each completion that has any."""


class PackedLayout:
    """Where trunks and branches lie in a packed sequence.

    Not a dataclass: wrappers such as FSDP walk through dataclasses among a module's inputs and cast what they find.

    Args:
        trees: for each prompt the length of its trunk and the lengths of its branches, tokens.
        device: where the sequence is.
    """

    def __init__(self, trees: Sequence[tuple[int, Sequence[int]]], device: torch.device) -> None:
        self.device = device
        self.trees: list[Tree] = []
        start = 0
        for trunk, lengths in trees:
            kept = [length for length in lengths if length]
            first = start + trunk
            self.trees.append(Tree(slice(start, first), slice(first, first + sum(kept)), kept))
            start = first + sum(kept)
        self.length = start
        """Tokens of the whole sequence."""

    @cached_property
    def branch_places(self) -> torch.Tensor:
        """Places of each branch's tokens, ``(branches, longest)``, at least two columns.

        A shorter branch repeats its last place: what follows a token changes nothing for a causal layer.
        """
        longest = max([2, *(length for tree in self.trees for length in tree.lengths)])
        steps = torch.arange(longest)
        rows = []
        for tree in self.trees:
            start = tree.branches.start
            for length in tree.lengths:
                rows.append(start + steps.clamp(max=length - 1))
                start += length
        return (torch.stack(rows) if rows else torch.zeros(0, longest, dtype=torch.long)).to(self.device)

    @cached_property
    def branch_trees(self) -> torch.Tensor:
        """For each branch the number of its tree, ``(branches,)``."""
        numbers = [number for number, tree in enumerate(self.trees) for _ in tree.lengths]
        return torch.tensor(numbers, dtype=torch.long, device=self.device)

    @cached_property
    def branch_tokens(self) -> torch.Tensor:
        """Which of `branch_places`, laid out flat, are a branch's own tokens, in the order of the sequence."""
        longest = self.branch_places.shape[1]
        lengths = [length for tree in self.trees for length in tree.lengths]
        places = [row * longest + torch.arange(length) for row, length in enumerate(lengths)]
        return (torch.cat(places) if places else torch.zeros(0, dtype=torch.long)).to(self.device)

    @cached_property
    def tree_branches(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """For each tree the same two, of its own branches alone and counted from the first of them."""
        return [
            (layout.branch_places, layout.branch_tokens)
            for layout in (PackedLayout([(0, tree.lengths)], self.device) for tree in self.trees)
        ]

    @cached_property
    def order(self) -> torch.Tensor:
        """Where each token of the sequence is among all trunks followed by all branches, ``(length,)``."""
        trunks = [torch.arange(tree.trunk.start, tree.trunk.stop) for tree in self.trees]
        branches = [torch.arange(tree.branches.start, tree.branches.stop) for tree in self.trees]
        return torch.argsort(torch.cat([*trunks, *branches])).to(self.device)

    @cached_property
    def masked_chunks(self) -> list[list[tuple[slice, torch.Tensor]]]:
        """For each tree its branches a few at a time: place, and a bool mask ``(tokens, trunk + tokens)``."""
        result = []
        for tree in self.trees:
            trunk, start, chunks = tree.trunk.stop - tree.trunk.start, tree.branches.start, []
            for lengths in _chunks(tree.lengths, max(trunk, LEAST_CHUNK)):
                chunks.append((slice(start, start + sum(lengths)), _branch_mask(trunk, lengths, self.device)))
                start += sum(lengths)
            result.append(chunks)
        return result


def _chunks(branches: Sequence[int], limit: int) -> list[list[int]]:
    """Neighbouring branches in lists of at most ``limit`` tokens, or of one branch if that is longer."""
    chunks: list[list[int]] = []
    for length in branches:
        if chunks and sum(chunks[-1]) + length <= limit:
            chunks[-1].append(length)
        else:
            chunks.append([length])
    return chunks


def _branch_mask(trunk: int, lengths: Sequence[int], device: torch.device) -> torch.Tensor:
    blocks = [torch.ones(length, length, dtype=torch.bool, device=device).tril() for length in lengths]
    branches = torch.block_diag(*blocks).bool()
    return torch.cat([branches.new_ones(len(branches), trunk), branches], dim=1)
