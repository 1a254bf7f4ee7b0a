"""Settings of supervised fine-tuning on the texts of the four tasks."""

from __future__ import annotations

from dataclasses import dataclass, field

from trl import SFTConfig

from invert_rl.evaluation.runs.settings import ValidationFields
from invert_rl.fingerprint import ResumeFields
from invert_rl.options import check_after
from invert_rl.schedule import TaskSchedule
from invert_rl.sft.options import check_sft
from invert_rl.tasks.settings import TaskFields
from invert_rl.video.config import FrameFields


@dataclass
class InvertSFTConfig(ResumeFields, TaskFields, FrameFields, ValidationFields, SFTConfig):
    """Everything of `trl.SFTConfig`, and the fields below."""

    output_dir: str = field(
        default="runs/sft_invert", metadata={"help": "Run folder; default: the next free runs/sft_invert_NNN."}
    )
    train_data: str | None = field(
        default=None,
        metadata={"help": "JSONL rows to train on (docs/data.md); default: the embedded toy world."},
    )
    video_root: str | None = field(
        default=None, metadata={"help": "Folder that the rows' video names are relative to."}
    )
    tasks: list[str] = field(
        default_factory=lambda: ["vd"],
        metadata={"help": "Tasks whose answers are taught; vd alone is the paper's Invert-SFT (appendix D)."},
    )
    tvg_probability: float = field(default=0.0, metadata={"help": "Probability that a batch is TVG."})
    tvg_from: int = field(default=0, metadata={"help": "First step that may be TVG: verbs are learned first."})
    tvg_only_from: int | None = field(
        default=None, metadata={"help": "First step from which on all steps are TVG; default: never."}
    )
    muon_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Learning rate of Muon, which then trains the hidden matrices; default: AdamW trains all."},
    )
    frame_store: str | None = field(
        default=None, metadata={"help": "Folder of frames decoded ahead by `invert-rl cache-frames`."}
    )
    frame_memory_mb: int = field(default=2048, metadata={"help": "Memory for decoded frames, MB."})
    trained_positions: bool = field(
        default=True,
        metadata={"help": "Qwen2.5-VL: position rule of the released weights; false: what transformers does."},
    )
    max_completion_length: int = field(default=256, metadata={"help": "Most tokens of an answer when evaluating."})
    eval_data: str | None = field(default=None, metadata={"help": "JSONL rows to evaluate before and after."})
    toy_train_clips: int = field(default=3000, metadata={"help": "Toy world only: training clips."})
    toy_test_clips: int = field(default=100, metadata={"help": "Toy world only: test clips."})

    toy_tower_steps: int = field(
        default=260, metadata={"help": "Toy world only: steps in which the vision tower learns to see, before the run."}
    )
    toy_caption_steps: int = field(
        default=400,
        metadata={
            "help": "Toy world only: steps after those in which the language model learns to find captions, or, with a "
            "preset without thoughts, which frames a question is about."
        },
    )

    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay false: columns make the prompts."})
    report_to: list[str] = field(
        default_factory=lambda: ["none"],
        metadata={"help": "Where the log goes beside log.jsonl: tensorboard, wandb, … or several of them."},
    )

    def __post_init__(self) -> None:
        self.schedule()
        self.frame_settings(image_patch_size=14)
        check_sft(self)
        self.check_validation()
        self._check_muon()
        self.dataset_kwargs = {"skip_prepare_dataset": True}
        super().__post_init__()
        check_after(self)

    def _check_muon(self) -> None:
        if self.muon_learning_rate is None:
            return
        if self.muon_learning_rate <= 0:
            raise ValueError(f"muon_learning_rate must be positive, found {self.muon_learning_rate}")
        optim = str(getattr(self.optim, "value", self.optim))
        if not optim.startswith("adamw_torch"):
            raise ValueError(f"muon_learning_rate makes Muon and AdamW the optimizer: leave out optim {optim}")

    def schedule(self) -> TaskSchedule:
        """Which task each batch has; raises `ValueError` for an unknown task or a probability outside [0, 1]."""
        return TaskSchedule(
            seed=self.seed if self.data_seed is None else self.data_seed,
            tvg_probability=self.tvg_probability,
            tasks=tuple(self.tasks),
            tvg_from=self.tvg_from,
            tvg_only_from=self.tvg_only_from,
        )
