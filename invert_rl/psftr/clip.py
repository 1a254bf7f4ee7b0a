"""CLIP (any checkpoint of transformers): features of frames and embeddings of class texts, both not normalised."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from invert_rl.loading import CheckpointError, load_pretrained
from invert_rl.models import check_source


class Clip:
    """A CLIP model with its preprocessing."""

    def __init__(self, name: str, revision: str | None = None, device: str = "cpu") -> None:
        """Load a checkpoint of the hub or a folder; raises `CheckpointError` where it is no CLIP or lacks parts."""
        from transformers import AutoConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

        check_source(name)
        try:
            kind = AutoConfig.from_pretrained(name, revision=revision).model_type
            if kind != "clip":
                raise CheckpointError(f"{name}: a checkpoint of type {kind!r}; a CLIP with image and text is needed")
            self.model = load_pretrained(CLIPModel, name, revision=revision).eval().to(device)
            self.images = CLIPImageProcessor.from_pretrained(name, revision=revision)
            self.tokenizer = CLIPTokenizer.from_pretrained(name, revision=revision)
        except OSError as error:
            raise CheckpointError(f"{name}: cannot be loaded ({error})") from error
        self.name, self.device = name, device

    @property
    def width(self) -> int:
        """d, channels of features and texts."""
        return self.model.config.projection_dim

    @property
    def side(self) -> int:
        """Height and width of the pictures that the model sees, in pixels."""
        return self.model.config.vision_config.image_size

    @property
    def logit_scale(self) -> float:
        """exp(logit_scale), the factor of cosines."""
        return float(self.model.logit_scale.detach().exp())

    @torch.inference_mode()
    def frames(self, frames: Tensor, batch: int = 64) -> Tensor:
        """Features ``(T, d)`` of uint8 frames ``(T, 3, H, W)``, ``batch`` at a time."""
        found = []
        for part in frames.split(batch):
            pixels = self.images(list(part), return_tensors="pt")["pixel_values"].to(self.device)
            found.append(self.model.get_image_features(pixel_values=pixels).pooler_output.float().cpu())
        return torch.cat(found)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str], batch: int = 64) -> Tensor:
        """Embeddings ``(K, d)``; a text longer than the model's context is cut."""
        found = []
        for first in range(0, len(texts), batch):
            part = list(texts[first : first + batch])
            tokens = self.tokenizer(part, padding=True, truncation=True, return_tensors="pt").to(self.device)
            found.append(self.model.get_text_features(**tokens).pooler_output.float().cpu())
        return torch.cat(found)
