"""Features of a frozen vision tower on disk, from run to run: a safetensors file for each video, grid and precision."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

logger = logging.getLogger(__name__)


class FeatureFolder:
    """A folder of features of one tower, found again by the tower's weights and the video's content.

    Args:
        folder: where the features of any towers are; those of this one go to a folder in it, named by its weights.
        tower: the vision tower, whole (not sharded).
    """

    def __init__(self, folder: str | os.PathLike[str], tower: nn.Module) -> None:
        self.folder = Path(folder) / fingerprint(tower)
        self.folder.mkdir(parents=True, exist_ok=True)

    def load(self, digest: bytes, grid: Sequence[int], dtype: torch.dtype) -> tuple[torch.Tensor, ...] | None:
        """A video's features, None if they are not there or their file is broken, which a warning names."""
        path = self._path(digest, grid, dtype)
        if not path.exists():
            return None
        try:
            tensors = load_file(path)
        except SafetensorError as error:
            logger.warning("vision_store: %s cannot be read (%s) and is made anew", path, error)
            return None
        return tuple(tensors[str(number)] for number in range(len(tensors)))

    def save(self, digest: bytes, grid: Sequence[int], dtype: torch.dtype, features: Sequence[torch.Tensor]) -> None:
        """Write a video's features; the file is there whole or not at all."""
        path = self._path(digest, grid, dtype)
        part = path.with_suffix(f".{os.getpid()}.part")
        save_file({str(number): tensor.contiguous() for number, tensor in enumerate(features)}, part)
        part.replace(path)

    def _path(self, digest: bytes, grid: Sequence[int], dtype: torch.dtype) -> Path:
        shape = "x".join(str(side) for side in grid)
        return self.folder / f"{digest.hex()}-{shape}-{str(dtype).removeprefix('torch.')}.safetensors"


def fingerprint(tower: nn.Module) -> str:
    """Digest of a tower's weights and their names, 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tower.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
