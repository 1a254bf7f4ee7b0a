"""The end-to-end vision encoder: VideoMAE over chunks of 16 frames, one feature per frame."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import VideoMAEConfig, VideoMAEModel

from data_prep.errors import DataError
from invert_rl.loading import load_pretrained

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)


class VideoEncoder(nn.Module):
    """VideoMAE, the mean over space, and linear interpolation along time: a feature for each frame [R].

    VideoMAE makes one step of every two frames; the steps of all chunks behind each other are stretched to L.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, encoder: VideoMAEModel) -> None:
        """``encoder`` takes ``config.num_frames`` frames of ``config.image_size`` pixels."""
        super().__init__()
        self.encoder = encoder
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION)[:, None, None], persistent=False)

    @property
    def width(self) -> int:
        """Channels of the features."""
        return int(self.encoder.config.hidden_size)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Features ``(B, L, D)`` of frames ``(B, L, 3, H, W)`` uint8, 0 where the mask ``(B, L)`` is false.

        Raises `ValueError` where L is no whole number of chunks.
        """
        chunk = int(self.encoder.config.num_frames)
        batch, length = frames.shape[:2]
        if length % chunk:
            raise ValueError(f"{length} frames are not a multiple of {chunk}; change the window")
        pixels = (frames.to(self.encoder.dtype) / 255 - self.mean) / self.deviation
        hidden = self.encoder(pixels.flatten(0, 1).unflatten(0, (-1, chunk))).last_hidden_state  # (B L/16, S, D)
        steps = chunk // int(self.encoder.config.tubelet_size)
        features = hidden.unflatten(1, (steps, -1)).mean(dim=2).unflatten(0, (batch, -1)).flatten(1, 2)
        stretched = F.interpolate(features.transpose(1, 2), size=length, mode="linear", align_corners=False)
        return stretched.transpose(1, 2) * mask[..., None]


def load_video_encoder(name: str, size: int) -> VideoEncoder:
    """A VideoMAE by hub name or folder for frames of ``size`` pixels; raises `DataError` where it cannot be loaded.

    Its place embeddings are sines of the place, so that another size than the trained one needs no interpolation.
    """
    try:
        config = VideoMAEConfig.from_pretrained(name)
        config.image_size = size
        # what is left over is the head of another use of the encoder
        return VideoEncoder(load_pretrained(VideoMAEModel, name, unexpected=("",), config=config))
    except (OSError, ValueError) as error:
        raise DataError(f"vision_model {name!r}: cannot load it ({error}); give a VideoMAE of transformers") from error
