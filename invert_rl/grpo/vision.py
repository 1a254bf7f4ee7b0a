"""A frozen vision tower's output, computed once per video and kept for every later pass.

A round's videos go through the tower for rollouts, old and reference log-probabilities and each update. While no
parameter of the tower is trained, all of these passes get the same features: they are kept in host memory, for the
round, and across rounds as far as a budget allows.
"""

from __future__ import annotations

import hashlib
import time
import types
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from invert_rl.encoding import EncodedPrompt
from invert_rl.grpo.vision_store import FeatureFolder
from invert_rl.models import vision_language_model

MB = 1_000_000

Key = tuple[bytes, tuple[int, ...], torch.dtype]
"""Digest of a video, its patch grid, and the precision that its features were computed in."""


def tower_is_frozen(model: nn.Module) -> bool:
    """Whether no parameter of the model's vision tower is trained, adapters on it included."""
    return not any(parameter.requires_grad for parameter in vision_language_model(model).visual.parameters())


def freeze_tower(model: nn.Module) -> None:
    """Take the vision tower, its projector to the language model included, out of training."""
    vision_language_model(model).visual.requires_grad_(False)


def same_tower(model: nn.Module, other: nn.Module) -> bool:
    """Whether the vision towers of two models have the same weights, so that they can share their features."""
    towers = [dict(vision_language_model(each).visual.named_parameters()) for each in (model, other)]
    return towers[0].keys() == towers[1].keys() and all(
        torch.equal(parameter.to(towers[1][name].device), towers[1][name]) for name, parameter in towers[0].items()
    )


class VisionFeatures:
    """Features of videos, least recently used ones dropped first.

    Args:
        budget_mb: host memory for features that outlive their round, MB; those of the round itself always stay.
        folder: where features are kept on disk from run to run; default: nowhere.
    """

    def __init__(self, budget_mb: int = 0, folder: str | None = None) -> None:
        self.budget = budget_mb * MB
        self.folder = folder
        self._store: FeatureFolder | None = None
        self._output_type: Any = None  # of the tower; the first video of a run is computed to learn it
        self.seconds = 0.0
        """Time in the tower since the start, forward passes only."""
        self.calls = 0
        """Videos that went through the tower since the start."""
        self._features: OrderedDict[Key, tuple[torch.Tensor, ...]] = OrderedDict()
        self._digests: dict[int, tuple[EncodedPrompt, bytes]] = {}  # holds the prompt, so that its id stays its own
        self._prompts: Sequence[EncodedPrompt] = ()

    def start_round(self) -> None:
        """Drop what is over the budget; the features of the round that begins are kept until the next call."""
        self._digests.clear()
        size = self.nbytes
        while size > self.budget:
            _, dropped = self._features.popitem(last=False)
            size -= sum(tensor.nbytes for tensor in dropped)

    @property
    def nbytes(self) -> int:
        """Bytes of all features that are kept."""
        return sum(tensor.nbytes for kept in self._features.values() for tensor in kept)

    @contextmanager
    def of(self, prompts: Sequence[EncodedPrompt]) -> Iterator[None]:
        """Say whose videos the forwards inside get, one for each of ``prompts`` and in their order."""
        before, self._prompts = self._prompts, prompts
        try:
            yield
        finally:
            self._prompts = before

    def serve(self, model: nn.Module, keep: bool = True) -> None:
        """Let the vision tower of ``model`` look here first; towers of several models must have equal weights.

        ``keep=False`` only measures the time in the tower: for one that is trained, or unlike the others.
        """
        visual = vision_language_model(model).visual
        tower = visual.forward
        if keep and self.folder is not None and self._store is None:
            self._store = FeatureFolder(self.folder, visual)

        def forward(module: nn.Module, pixels: torch.Tensor, grid_thw: torch.Tensor, **kwargs: Any) -> Any:
            if keep and [prompt.video_grid_thw.tolist() for prompt in self._prompts] == [
                [g] for g in grid_thw.tolist()
            ]:
                return self._forward(tower, module.spatial_merge_size**2, pixels, grid_thw, kwargs)
            return self._timed(tower, pixels, grid_thw, kwargs)

        visual.forward = types.MethodType(forward, visual)

    def _forward(
        self, tower: Any, merge: int, pixels: torch.Tensor, grid_thw: torch.Tensor, kwargs: dict[str, Any]
    ) -> Any:
        device = pixels.device
        dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else pixels.dtype
        keys = [
            (self._digest(prompt), tuple(grid), dtype)
            for prompt, grid in zip(self._prompts, grid_thw.tolist(), strict=True)
        ]
        missing = {key: place for place, key in enumerate(keys) if key not in self._features}
        if self._store is not None and self._output_type is not None:
            for key in list(missing):
                kept = self._store.load(*key)
                if kept is not None:
                    self._features[key] = kept
                    del missing[key]
        if missing:
            patches = pixels.split(grid_thw.prod(dim=1).tolist())
            chosen = list(missing.values())
            with torch.no_grad():
                output = self._timed(tower, torch.cat([patches[i] for i in chosen]), grid_thw[chosen], kwargs)
            self._output_type = type(output)
            fields = [output.pooler_output, *(getattr(output, "deepstack_features", None) or [])]
            sizes = (grid_thw[chosen].prod(dim=1) // merge).tolist()
            for key, *parts in zip(missing, *(field.split(sizes) for field in fields), strict=True):
                self._features[key] = tuple(part.detach().to("cpu", copy=True) for part in parts)
                if self._store is not None:
                    digest, grid, precision = key
                    self._store.save(digest, grid, precision, self._features[key])
        for key in keys:
            self._features.move_to_end(key)
        pooled, *deep = (
            torch.cat(parts).to(device) for parts in zip(*(self._features[key] for key in keys), strict=True)
        )
        return self._output_type(pooler_output=pooled, **({"deepstack_features": deep} if deep else {}))

    def _timed(self, tower: Any, pixels: torch.Tensor, grid_thw: torch.Tensor, kwargs: dict[str, Any]) -> Any:
        """Run the tower; on a GPU wait for it, which costs little next to what the tower takes."""
        on_gpu = pixels.device.type == "cuda"
        if on_gpu:
            torch.cuda.synchronize(pixels.device)
        started = time.perf_counter()
        output = tower(pixels, grid_thw=grid_thw, **kwargs)
        if on_gpu:
            torch.cuda.synchronize(pixels.device)
        self.seconds += time.perf_counter() - started
        self.calls += len(grid_thw)
        return output

    def _digest(self, prompt: EncodedPrompt) -> bytes:
        """Digest of a video: of its frames where they are known, otherwise of the patches made of them."""
        known = self._digests.get(id(prompt))
        if known is not None:
            return known[1]
        content = prompt.pixel_values_videos if prompt.clip is None else prompt.clip.frames
        digest = hashlib.blake2b(content.contiguous().numpy(), digest_size=16).digest()
        self._digests[id(prompt)] = (prompt, digest)
        return digest
