"""Settings of a GRPO run with inverted tasks: TRL's `GRPOConfig` plus what this library adds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields

from trl import GRPOConfig

from invert_rl.evaluation.runs.settings import ValidationFields
from invert_rl.fingerprint import ResumeFields
from invert_rl.frame_budgets import FrameBudgets
from invert_rl.grpo.options import check_grpo
from invert_rl.options import check_after
from invert_rl.schedule import TaskSchedule
from invert_rl.tasks.settings import TaskFields
from invert_rl.video.config import FrameFields


@dataclass
class InvertGRPOConfig(ResumeFields, TaskFields, FrameFields, ValidationFields, GRPOConfig):
    """Everything of `trl.GRPOConfig`, and the fields below."""

    output_dir: str = field(
        default="runs/grpo_invert", metadata={"help": "Run folder; default: the next free runs/grpo_invert_NNN."}
    )
    train_data: str | None = field(
        default=None,
        metadata={"help": "JSONL rows to train on (docs/data.md); default: the embedded toy world."},
    )
    eval_data: str | None = field(
        default=None,
        metadata={"help": "JSONL rows to evaluate before and after; default with the toy world: its test set."},
    )
    video_root: str | None = field(
        default=None, metadata={"help": "Folder that the rows' video names are relative to."}
    )
    manifest: str | None = field(
        default=None, metadata={"help": "Manifest of `invert-rl check-videos`: rows with unusable videos are left out."}
    )
    eval_samples: int | None = field(
        default=None, metadata={"help": "Evaluate only the first N rows of eval_data; default: all."}
    )
    before_samples: str | None = field(
        default=None,
        metadata={
            "help": "samples_before.jsonl of a run with the same start model, eval_data and frames: taken as the "
            "answers before training instead of generating them again."
        },
    )
    rewards: list[str] | None = field(
        default=None,
        metadata={
            "help": "Rewards by task and weight, such as tvg=format:1,iou:1 vc=format:1,vc:1, or module:function; in "
            "YAML a mapping. Default: each task's own."
        },
    )
    tvg_probability: float = field(
        default=0.8,
        metadata={"help": "Probability p that a generation round is TVG (paper, eq. 13 and Fig. 5)."},
    )
    difficulty_range: list[float] | None = field(
        default=None,
        metadata={"help": "Train on rows whose rating by `invert-rl rate-difficulty` is in LOWEST HIGHEST."},
    )
    difficulty_outside: float = field(
        default=0.0, metadata={"help": "Weight of the rows outside difficulty_range; 0 leaves them out."}
    )
    difficulty_measure: str = field(
        default="mean_reward",
        metadata={"help": "Rating that difficulty_range is about.", "choices": ["mean_reward", "solve_rate"]},
    )
    verb_reward: str = field(
        default="binary", metadata={"help": "Verb reward (paper, Table 3).", "choices": ["binary", "cosine"]}
    )
    draw_max_frames: list[int] | None = field(
        default=None,
        metadata={
            "help": "Each training prompt's max_frames is drawn from these, by seed, round and row, for its whole "
            "group (ParaVT: 4 to 64); default: max_frames."
        },
    )
    draw_total_pixels: list[int] | None = field(
        default=None, metadata={"help": "The same for total_pixels, drawn by itself; default: total_pixels."}
    )
    frame_store: str | None = field(
        default=None, metadata={"help": "Folder of frames decoded ahead by `invert-rl cache-frames`."}
    )
    frame_memory_mb: int = field(default=1024, metadata={"help": "Memory for decoded frames kept in each process, MB."})
    max_prompt_length: int | None = field(
        default=None,
        metadata={
            "help": "A row whose prompt has more tokens, video included, is refused by id; never cut. Default: the "
            "model's positions less max_completion_length."
        },
    )
    blank_video: bool = field(
        default=False, metadata={"help": "Control: every frame is grey, so that only text and lengths are left."}
    )
    shuffle_videos: bool = field(
        default=False,
        metadata={"help": "Control: each training row is shown another clip of the same length (docs/proof.md)."},
    )
    placebo_segments: bool = field(
        default=False,
        metadata={"help": "Control: tasks on a segment are shown another row's: format without meaning."},
    )
    grey_control: bool = field(
        default=False,
        metadata={
            "help": "Before and after training also answer TVG with grey frames, after the thought on true ones."
        },
    )
    trained_positions: bool = field(
        default=True,
        metadata={"help": "Qwen2.5-VL: position rule of the released weights; false: what transformers does."},
    )
    share_prompts: bool = field(
        default=True,
        metadata={"help": "Forward each prompt once for all of its completions when scoring; false: G times, as TRL."},
    )
    check_shared_prompts: bool = field(
        default=True,
        metadata={"help": "On the first step compare log-probabilities by shared prompts with those by copies."},
    )
    keep_groups: bool = field(
        default=True,
        metadata={
            "help": "A prompt's completions stay together in micro-batches; false: shuffled one by one, as TRL does."
        },
    )
    online_difficulty: bool = field(
        default=False,
        metadata={
            "help": "Rows that the policy always or never solves come up less often, by what they earned so far."
        },
    )
    refill_groups: int = field(
        default=0,
        metadata={
            "help": "Up to this many extra draws a round for groups whose completions all earn the same: other rows "
            "take their place."
        },
    )
    keep_kl_of_equal_groups: bool = field(
        default=False,
        metadata={"help": "With refill_groups and beta: groups that are left equal still give their KL gradient."},
    )
    inject_truth: bool = field(
        default=False,
        metadata={
            "help": "One completion of each TVG group is the annotated answer, off-policy (TempSamp-R1; "
            "invert_rl/grpo/inject.py); needs a --prompt without a thought."
        },
    )
    rounds_ahead: int = field(
        default=0,
        metadata={
            "help": "Rounds that a vLLM server completes while another one is trained on, by weights of at most as "
            "many rounds ago: 0, 1 or 2 (docs/vllm.md)."
        },
    )
    freeze_vision: bool = field(
        default=False, metadata={"help": "Do not train the vision tower and its projector; each video is seen once."}
    )
    vision_memory_mb: int = field(
        default=0,
        metadata={"help": "Frozen vision tower: memory of each process for features kept from round to round, MB."},
    )
    vision_store: str | None = field(
        default=None,
        metadata={"help": "Frozen vision tower: folder in which features are kept from run to run."},
    )
    skip_plan: bool = field(
        default=False,
        metadata={"help": "On a GPU: start even what `invert-rl plan` finds too large for its memory."},
    )
    toy_train_clips: int = field(default=800, metadata={"help": "Toy world only: training clips."})
    toy_test_clips: int = field(default=200, metadata={"help": "Toy world only: test clips."})
    prompts_logged: int = field(default=0, metadata={"help": "Older name of num_completions_to_print, which wins."})
    num_completions_to_print: int | None = field(
        default=None, metadata={"help": "Sample completions printed at each logging step; default: prompts_logged, 0."}
    )
    num_generations_eval: int | None = field(
        default=1, metadata={"help": "Must stay 1: validation takes one greedy answer for each row."}
    )
    report_to: list[str] = field(
        default_factory=lambda: ["none"],
        metadata={"help": "Where the log goes beside log.jsonl: tensorboard, wandb, … or several of them."},
    )

    def __post_init__(self) -> None:
        check_grpo(self)
        self.check_validation()
        for item in fields(self):
            choices, value = item.metadata.get("choices"), getattr(self, item.name)
            if choices and isinstance(value, str) and value not in choices:  # argparse does not look at a YAML's
                raise ValueError(f"{item.name}: invalid choice: {value!r} (choose from {', '.join(choices)})")
        self.frame_budgets()  # a number out of range is refused before anything is loaded
        self.schedule()  # an unknown task or a p outside [0, 1] is refused before anything is loaded
        if self.num_completions_to_print is None:
            self.num_completions_to_print = self.prompts_logged
        super().__post_init__()
        check_after(self)
        rounds = self.steps_per_generation * self.num_iterations
        if rounds % self.gradient_accumulation_steps:
            raise ValueError(
                f"steps_per_generation * num_iterations ({rounds}) must be a multiple of gradient_accumulation_steps "
                f"({self.gradient_accumulation_steps}), or one optimizer step would mix tasks of several rounds"
            )
        if self.steps_per_round > 1 and str(self.save_strategy) in ("steps", "SaveStrategy.STEPS"):
            self._check_save_steps()

    @property
    def steps_per_round(self) -> int:
        """Optimizer steps that share one generation round."""
        return max(1, self.steps_per_generation * self.num_iterations // self.gradient_accumulation_steps)

    def frame_budgets(self) -> FrameBudgets:
        """The frame budgets of training prompts; raises `ValueError` for one that is out of range, naming its field."""
        for name in ("draw_max_frames", "draw_total_pixels"):
            if not isinstance(getattr(self, name), list | None):
                raise ValueError(f"{name} must be a list of whole numbers, found {getattr(self, name)!r}")
        budgets = FrameBudgets(self._seed, tuple(self.draw_max_frames or ()), tuple(self.draw_total_pixels or ()))
        budgets.check(self.frame_settings(image_patch_size=14))
        return budgets

    def _check_save_steps(self) -> None:
        steps = self.save_steps
        if steps < 1:
            if self.max_steps < 1:
                raise ValueError(
                    f"save_steps ({steps}) must be a multiple of the {self.steps_per_round} optimizer "
                    "steps that share one generation round: a share of the run is known only with max_steps"
                )
            steps = math.ceil(self.max_steps * steps)
        if int(steps) % self.steps_per_round:
            raise ValueError(
                f"save_steps ({int(steps)}) must be a multiple of the {self.steps_per_round} optimizer steps that "
                "share one generation round, or a resumed run would generate in the middle of a round"
            )

    def schedule(self) -> TaskSchedule:
        """The coin of this run; raises `ValueError` for an unknown task or a probability outside [0, 1]."""
        return TaskSchedule(seed=self._seed, tvg_probability=self.tvg_probability, tasks=tuple(self.tasks))

    @property
    def _seed(self) -> int:
        return self.seed if self.data_seed is None else self.data_seed
