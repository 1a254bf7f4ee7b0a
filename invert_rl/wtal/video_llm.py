"""A video LLM of transformers that answers prompts, with or without a clip."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from invert_rl.described import description_of
from invert_rl.loading import CheckpointError, load_pretrained, readable
from invert_rl.models import check_source, load_model
from invert_rl.video.clip import Clip
from invert_rl.video.load import load_clip
from invert_rl.video.ref import VideoRef
from invert_rl.video.settings import FrameSettings


class VideoLLM:
    """Any image-text-to-text model of transformers whose processor has a chat template and takes videos."""

    def __init__(self, name: str, max_new_tokens: int = 64, device: str | None = None) -> None:
        """Load model and processor; raises `CheckpointError` where they cannot be used."""
        from transformers import AutoModelForImageTextToText, AutoProcessor

        check_source(name)
        with readable(name):
            self.processor: Any = AutoProcessor.from_pretrained(name)
        if getattr(self.processor, "chat_template", None) is None:
            raise CheckpointError(f"{name}: its processor has no chat template; use an instruction-tuned video LLM")
        place = device or ("cuda" if torch.cuda.is_available() else "cpu")
        described = description_of(name)
        if "trained_positions" in described:  # a model of this library, which is asked as it was trained
            model = load_model(name, trained_positions=described["trained_positions"], dtype="auto")
        else:
            model = load_pretrained(AutoModelForImageTextToText, name, dtype="auto")
        self.model = model.to(place).eval()
        self.max_new_tokens = max_new_tokens

    @torch.no_grad()
    def __call__(self, prompt: str, clip: Clip | None = None) -> str:
        """The model's answer, decoded greedily."""
        content = [{"type": "text", "text": prompt}]
        video: dict[str, Any] = {}
        if clip is not None:
            content.insert(0, {"type": "video"})
            video = {"videos": [clip.frames], "video_metadata": [clip.metadata()], "do_sample_frames": False}
        chat = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        inputs = self.processor(text=[chat], return_tensors="pt", **video).to(self.model.device)
        ids = self.model.generate(**inputs, max_new_tokens=self.max_new_tokens, do_sample=False)
        return self.processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]


def clip_loader(folder: Path, ending: str, frames: int) -> Callable[[str], Clip]:
    """Loads ``frames`` frames, evenly spaced, of a video id's file ``folder/<id><ending>``."""
    settings = FrameSettings(fps=1e-3, min_frames=frames, max_frames=frames)  # so slow that only the limits count
    return lambda video: load_clip(VideoRef(f"{video}{ending}"), settings, folder)
