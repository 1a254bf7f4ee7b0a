"""Settings of LLaVAction's training."""

from __future__ import annotations

from dataclasses import dataclass, field

from data_prep.errors import DataError
from invert_rl.llavaction.model import LAYERS, WEIGHTS
from invert_rl.llavaction.prompts import PERSPECTIVES, STYLES
from invert_rl.llavaction.views import ANSWER_FORMATS, PADDING, PRIOR_PROBABILITY, VIEWS, ViewSettings
from invert_rl.tal.training import SupervisedArguments
from invert_rl.video.config import FrameFields

DEFAULT_OUTPUT = "runs/train_llavaction"


@dataclass
class LLaVActionConfig(FrameFields, SupervisedArguments):
    """Everything of `SupervisedArguments`, and the fields below."""

    output_dir: str = field(
        default=DEFAULT_OUTPUT, metadata={"help": "Run folder; default: the next free runs/train_llavaction_NNN."}
    )
    max_steps: int = field(
        default=-1, metadata={"help": "Optimizer steps; -1: as many as num_train_epochs passes over the data need."}
    )
    train_data: list[str] | None = field(
        default=None,
        metadata={"help": "JSONL files of `invert-rl build-mqa --mode train`; default: the embedded toy world."},
    )
    eval_data: str | None = field(
        default=None, metadata={"help": "JSONL of `invert-rl build-mqa` to answer before and after."}
    )
    classes: str | None = field(
        default=None, metadata={"help": "The .classes.json of build-mqa; default: the one beside the first train_data."}
    )
    reformulated: str | None = field(
        default=None,
        metadata={"help": "JSONL of captions and questions about the training clips (docs/llavaction.md)."},
    )
    replay: list[str] | None = field(
        default=None,
        metadata={
            "help": "Files of LLaVA-Video-178K, whose questions join the open ones; videos are in video_root too."
        },
    )
    keep_disagreeing: bool = field(
        default=True, metadata={"help": "Keep captions whose writer disagrees with the annotation."}
    )
    video_root: str | None = field(
        default=None, metadata={"help": "Folder that the rows' video names are relative to."}
    )
    mqa_weight: float = field(default=1.0, metadata={"help": "How often an epoch has each multiple-choice question."})
    temporal_weight: float = field(default=1.0, metadata={"help": "The same of temporal detection; 0 leaves it out."})
    direct_weight: float = field(default=1.0, metadata={"help": "The same of direct prediction."})
    caption_weight: float = field(default=1.0, metadata={"help": "The same of captions, if there are any."})
    qa_weight: float = field(default=1.0, metadata={"help": "The same of open questions, if there are any."})
    action_token: bool = field(default=True, metadata={"help": "The action token and its three heads."})
    action_tokens: int = field(
        default=1, metadata={"help": "1, or 3: one for each head (Table 10).", "choices": [1, 3]}
    )
    action_layer: str = field(
        default="last", metadata={"help": "Layer whose state the heads see (Table 10).", "choices": list(LAYERS)}
    )
    verb_loss_weight: float = field(default=WEIGHTS[0], metadata={"help": "Weight of the verb head's loss."})
    noun_loss_weight: float = field(default=WEIGHTS[1], metadata={"help": "Weight of the noun head's loss."})
    action_loss_weight: float = field(default=WEIGHTS[2], metadata={"help": "Weight of the action head's loss."})
    perspective: str = field(
        default="egocentric", metadata={"help": "Wording of the question.", "choices": list(PERSPECTIVES)}
    )
    prompt_style: str = field(
        default="paper",
        metadata={"help": "Wording of the paper, or of the released code.", "choices": list(STYLES)},
    )
    answer_format: str = field(
        default="letter",
        metadata={
            "help": "What a multiple-choice answer is: 'C. open door', or 'text', the true option without its letter.",
            "choices": list(ANSWER_FORMATS),
        },
    )
    time_instruction: bool = field(
        default=True, metadata={"help": "Prompts begin with the clip's length and number of frames."}
    )
    padding: float = field(default=PADDING, metadata={"help": "Seconds around an action in temporal detection."})
    prior_probability: float = field(
        default=PRIOR_PROBABILITY, metadata={"help": "Share of questions that name the two actions before."}
    )
    vision_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the vision encoder; default: that of the rest."}
    )
    max_length: int | None = field(
        default=None,
        metadata={
            "help": "Most tokens of prompt and answer; longer rows are replaced, never cut. Default: the model's own."
        },
    )
    trained_positions: bool = field(
        default=True,
        metadata={"help": "Qwen2.5-VL: position rule of the released weights; false: what transformers does."},
    )
    video_timeout: float = field(
        default=60.0, metadata={"help": "Seconds for decoding a clip; one that takes longer is left out, 0: no limit."}
    )
    frame_store: str | None = field(default=None, metadata={"help": "Folder to keep decoded frames in."})
    frame_memory_mb: int = field(default=2048, metadata={"help": "Memory for decoded frames, MB."})
    eval_batch_size: int = field(default=32, metadata={"help": "Questions answered at a time."})
    likeliest: bool = field(
        default=False,
        metadata={"help": "Answer tests with the option that the model finds likeliest instead of generating one."},
    )
    max_new_tokens: int = field(default=32, metadata={"help": "Most tokens of an answer."})
    sap: bool = field(
        default=False, metadata={"help": "Also answer with the model's own predictions of the two actions before."}
    )
    distractors: str = field(
        default="hard",
        metadata={"help": "Toy world only: wrong options of the training questions.", "choices": ["hard", "random"]},
    )
    compare_random: bool = field(
        default=False,
        metadata={"help": "Toy world only: train once more with random distractors and test on hard ones, too."},
    )
    toy_train_clips: int = field(default=800, metadata={"help": "Toy world only: training clips."})
    toy_test_clips: int = field(default=200, metadata={"help": "Toy world only: test clips."})

    def __post_init__(self) -> None:
        for name, value in [*self.mixture().items(), *zip(("verb", "noun", "action"), self.head_weights, strict=True)]:
            if value < 0:
                raise DataError(f"the weight of {name!r} must not be negative, found {value}")
        if self.train_data is not None and self.video_root is None:
            raise DataError("--train_data needs --video_root, the folder that holds its videos")
        if self.action_tokens not in (1, 3):
            raise DataError(f"action_tokens must be 1 or 3, found {self.action_tokens}")
        if not self.action_token and (self.action_tokens, self.action_layer) != (1, "last"):
            raise DataError("action_tokens and action_layer have no effect with --action_token false; leave them out")
        if self.action_layer not in LAYERS:
            raise DataError(f"action_layer must be one of {', '.join(LAYERS)}, found {self.action_layer!r}")
        self.views()
        super().__post_init__()

    def mixture(self) -> dict[str, float]:
        """How often an epoch has each item of a view; the paper's data are a concatenation, 1 each."""
        return {view: getattr(self, f"{view}_weight") for view in VIEWS}

    @property
    def head_weights(self) -> tuple[float, float, float]:
        """Weights of the verb, noun and action head's losses."""
        return self.verb_loss_weight, self.noun_loss_weight, self.action_loss_weight

    def views(self) -> ViewSettings:
        """How views are made of rows."""
        return ViewSettings(
            self.perspective,
            self.time_instruction,
            self.padding,
            self.prior_probability,
            self.answer_format,
            self.prompt_style,
        )
