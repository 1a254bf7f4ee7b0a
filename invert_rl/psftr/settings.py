"""Settings of a PSFTR run beside those of the model: data, protocol, slices and optimizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from data_prep.errors import DataError
from invert_rl.psftr.data import GT_FILTERS
from invert_rl.psftr.text import DEFAULT_PROMPT, PROMPTS
from invert_rl.tal.feature_arguments import FeatureArguments
from invert_rl.tal.features import LAYOUTS
from invert_rl.tal.options import PSFTR


@dataclass
class PSFTRArguments(FeatureArguments):
    """Everything of `FeatureArguments` and the fields below; the defaults are the paper's for THUMOS14."""

    output_dir: str = field(
        default="runs/train_psftr", metadata={"help": "Run folder; default: the next free runs/train_psftr_NNN."}
    )
    annotations: str | None = field(
        default=None, metadata={"help": "As invert-rl convert writes them; default: generated data (planted)."}
    )
    text: str | None = field(default=None, metadata={"help": "Class texts that invert-rl extract-clip wrote."})
    prompt: str = field(
        default=DEFAULT_PROMPT, metadata={"help": "Prompt of the class texts (Table 4).", "choices": list(PROMPTS)}
    )
    feature_layout: str = field(
        default="thumos-clip",
        metadata={"help": "Published features whose numbers hold (docs/detection.md).", "choices": list(LAYOUTS)},
    )
    layout: str | None = field(default=None, metadata={"help": "Older name of feature_layout."})

    split_lists: str | None = field(
        default=None,
        metadata={"help": "Folder with train/ and test/ of split_N.list; default: seeded splits, written to the run."},
    )
    seen_share: float = field(default=0.75, metadata={"help": "Seen classes of seeded splits: 0.75 or 0.5."})
    split_seed: int = field(default=0, metadata={"help": "Of seeded splits."})
    splits: list[int] = field(
        default_factory=lambda: [0], metadata={"help": "Numbers of the splits, each a training of its own."}
    )
    gt_filter: str = field(
        default="none",
        metadata={"help": "Ground truth that is left out (docs/psftr.md).", "choices": list(GT_FILTERS)},
    )
    protocol: str = field(default="activitynet", metadata={"help": "Evaluator (docs/detection.md)."})
    thresholds: list[float] | None = field(
        default_factory=lambda: [0.3, 0.4, 0.5, 0.6, 0.7], metadata={"help": "tIoU; null: the evaluator's."}
    )
    evaluate_seen: bool = field(default=False, metadata={"help": "Also evaluate the seen classes on the test videos."})
    evaluate_epochs: float = field(
        default=0.0, metadata={"help": "Epochs between evaluations, the best of which is named beside; 0: none."}
    )

    rescale: int | None = field(
        default=None, metadata={"help": "Resize every video to so many rows, taking the nearest [R GAP]."}
    )
    slice_size: int | None = field(default=128, metadata={"help": "Rows of a slice; null: whole videos."})
    slice_overlap: float = field(default=0.75, metadata={"help": "Share that training slices overlap by."})
    inference_slice_overlap: float = field(default=0.25, metadata={"help": "The same of test slices."})
    fusion: float | None = field(
        default=0.4, metadata={"help": "tIoU from which detections of other slices are merged; null: not."}
    )
    class_subset: int | None = field(
        default=None, metadata={"help": "Least classes that a batch is given, those of its actions among them."}
    )
    planted_seed: int = field(
        default=0, metadata={"help": "World of generated data; --seed is of the model and the order of training."}
    )
    threads: int | None = field(
        default=None, metadata={"help": "Threads of PyTorch on a CPU; one is fastest for small models. Null: its own."}
    )
    evaluation_batch: int = field(default=32, metadata={"help": "Slices detected at a time."})

    max_steps: int = field(default=-1, metadata={"help": "Optimizer steps; -1: num_train_epochs of the slices."})
    num_train_epochs: float = field(default=30, metadata={"help": "Epochs (ActivityNet: 20)."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Slices of a batch."})
    learning_rate: float = field(default=1e-4, metadata={"help": "Of all but the next two (ActivityNet: 5e-5)."})
    conv_learning_rate: float = field(
        default=1e-5, metadata={"help": "Of the convolutions before the encoder: lr backbone (ActivityNet: 1e-2)."}
    )
    offset_factor: float = field(
        default=0.1, metadata={"help": "Learning rate of sampling offsets and references over that of the rest."}
    )
    weight_decay: float = field(default=1e-4, metadata={"help": "AdamW's, of all parameters."})
    max_grad_norm: float = field(default=0.1, metadata={"help": "Clipping of gradients [R GAP]."})
    lr_scheduler_type: str = field(
        default="constant", metadata={"help": "GAP's drop at epoch 40 is never reached, hence constant."}
    )

    OPTIONS = PSFTR
    planted = False
    """Whether data is generated."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layout is not None:
            self.feature_layout, self.layout = self.layout, None

    def set_threads(self) -> None:
        """Give PyTorch the threads of ``threads``."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)

    def check(self) -> None:
        """Raise `DataError` where fields do not go together."""
        needed = {"features": self.features, "text": self.text}
        missing = [name for name, value in needed.items() if value is None]
        if self.annotations is not None and missing:
            raise DataError(f"--annotations needs {' and '.join('--' + name for name in missing)} (docs/psftr.md)")
        if not self.splits or len(set(self.splits)) != len(self.splits):
            raise DataError(f"splits: expected different numbers, found {self.splits}")
        if len(self.splits) > 1 and Path(str(self.resume_from_checkpoint)).name.startswith(PREFIX_CHECKPOINT_DIR):
            raise DataError(
                f"{self.resume_from_checkpoint}: a checkpoint of one split, but splits are {self.splits}; resume all "
                "with 'latest', or one with --splits"
            )
        if self.slice_size is not None and self.rescale is not None and self.slice_size < self.rescale:
            raise DataError(
                f"rescale: videos of {self.rescale} rows would be cut into slices of {self.slice_size}; "
                "set slice_size to null or give a larger one"
            )
