"""The fields by which a run's config says how videos are sampled and resized."""

from __future__ import annotations

from dataclasses import dataclass, field

from data_prep.workers import TIMEOUT_SECONDS
from invert_rl.video.settings import FrameSettings


@dataclass
class FrameFields:
    """Mixed into the configs of the trainers; rates and budgets are the paper's, the other defaults qwen-vl-utils'."""

    fps: float = field(default=2.0, metadata={"help": "Frames per second shown to the model (paper, 3.1)."})
    min_frames: int = field(default=4, metadata={"help": "At least this many frames, or what the clip has."})
    max_frames: int = field(default=768, metadata={"help": "At most this many frames."})
    total_pixels: int = field(default=3584 * 28 * 28, metadata={"help": "Pixel budget of a whole video (paper, 3.1)."})
    min_pixels: int = field(default=16 * 28 * 28, metadata={"help": "Least pixels of a frame."})
    max_pixels: int = field(default=768 * 28 * 28, metadata={"help": "Most pixels of a frame."})
    video_timeout: float = field(
        default=TIMEOUT_SECONDS,
        metadata={"help": "Seconds for decoding one video; one that takes longer is left out. 0: no limit."},
    )
    decode_in_process: bool = field(
        default=False,
        metadata={
            "help": "Without --dataloader_num_workers: decode in the training process itself and not in one beside it, "
            "which a file that crashes the decoder would take along. The generated videos are decoded so."
        },
    )

    def frame_settings(self, image_patch_size: int) -> FrameSettings:
        """How videos are sampled and resized, for a model with that patch size (14: Qwen2.5-VL, 16: Qwen3-VL)."""
        return FrameSettings(
            fps=self.fps,
            min_frames=self.min_frames,
            max_frames=self.max_frames,
            total_pixels=self.total_pixels,
            min_pixels=self.min_pixels,
            max_pixels=self.max_pixels,
            image_patch_size=image_patch_size,
        )
