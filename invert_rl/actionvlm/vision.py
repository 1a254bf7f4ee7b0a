"""The end-to-end vision encoder: a video transformer over chunks of frames, one feature per frame."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PretrainedConfig, PreTrainedModel, VideoMAEModel

from data_prep.errors import DataError
from invert_rl.actionvlm.internvideo2 import InternVideo2
from invert_rl.actionvlm.official_encoders import official_encoder
from invert_rl.loading import load_pretrained

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)


class VideoEncoder(nn.Module):
    """A video transformer, the mean over space, and linear interpolation along time: a feature for each frame [R].

    VideoMAE makes one step of every two frames, InternVideo2 one of each; the steps of all chunks behind each other are
    stretched to L.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, encoder: PreTrainedModel) -> None:
        """``encoder``, a VideoMAE or `InternVideo2`, takes ``config.num_frames`` frames at a time."""
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
    """An encoder for frames of ``size`` pixels: a VideoMAE of transformers by hub name or folder, or VideoMAEv2's or
    InternVideo2's own checkpoint (see `official_encoder`).

    Raises `DataError` where it cannot be loaded, or ``size`` is no whole number of its patches.
    """
    try:
        if Path(name).is_file() or PretrainedConfig.get_config_dict(name)[0].get("model_type") != "videomae":
            encoder = official_encoder(name)
        else:
            # what is left over is the head of another use of the encoder
            encoder = load_pretrained(VideoMAEModel, name, unexpected=("",))
    except DataError:
        raise
    except (OSError, ValueError) as error:
        raise DataError(
            f"vision_model {name!r}: cannot load it ({error}); give a VideoMAE of transformers, or a checkpoint of "
            "VideoMAEv2 or InternVideo2"
        ) from error
    patch = int(encoder.config.patch_size)
    if size % patch:
        raise DataError(f"frame_size {size}: {name} has patches of {patch} pixels; take {size // patch * patch}")
    set_frame_size(encoder, size)
    return VideoEncoder(encoder)


def set_frame_size(encoder: PreTrainedModel, size: int) -> None:
    """Let a VideoMAE or `InternVideo2` take frames of ``size`` pixels, in place: its places are interpolated.

    Places are counted through row by row, also VideoMAE's sines: for another number of patches their table says
    something else than in the pretraining, so that it is resized as a picture, bicubically [R OpenTAD vit.py].
    """
    config = encoder.config
    before, after = int(config.image_size) // int(config.patch_size), size // int(config.patch_size)
    if isinstance(encoder, InternVideo2):
        places = encoder.places.detach()
        resized = torch.cat([places[:, :1], _resized(places[:, 1:], before, after)], dim=1)
        encoder.places = nn.Parameter(resized)
    else:
        embeddings = encoder.embeddings
        embeddings.position_embeddings = _resized(embeddings.position_embeddings, before, after)
        embeddings.patch_embeddings.image_size = (size, size)
        embeddings.num_patches = embeddings.patch_embeddings.num_patches = embeddings.position_embeddings.shape[1]
    config.image_size = size


def _resized(places: Tensor, before: int, after: int) -> Tensor:
    """Places ``(1, steps * before^2, D)`` for squares of ``after`` patches a side."""
    if before == after:
        return places
    grids = places[0].unflatten(0, (-1, before, before)).permute(0, 3, 1, 2)  # (steps, D, before, before)
    scaled = F.interpolate(grids, size=(after, after), mode="bicubic", align_corners=False)
    return scaled.permute(0, 2, 3, 1).flatten(0, 2)[None]
