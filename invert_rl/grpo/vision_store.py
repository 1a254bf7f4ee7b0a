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
        self.writes = True
        """Whether features are still written: not after the disk has once refused."""

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
        """Write a video's features; the file is there whole or not at all.

        Where it cannot be written (full disk, no permission) the log says so once and nothing more is written.
        """
        if not self.writes:
            return
        path = self._path(digest, grid, dtype)
        part = path.with_suffix(f".{os.getpid()}.part")
        try:
            save_file({str(number): tensor.contiguous() for number, tensor in enumerate(features)}, part)
            part.replace(path)
        except (OSError, SafetensorError) as error:
            self.writes = False
            part.unlink(missing_ok=True)
            logger.warning("vision_store: features are no longer kept in %s: %s", self.folder, error)

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
