"""Settings of ActionVLM's recipe: data, model, and the choices of the paper's ablations."""

from __future__ import annotations

from dataclasses import dataclass, field

from invert_rl.actionvlm.advantage import GRANULARITIES
from invert_rl.actionvlm.language import LAYOUTS, TOKENS
from invert_rl.actionvlm.llm import TINY
from invert_rl.actionvlm.model import SOURCES, STREAMS
from invert_rl.actionvlm.prompt import ANSWER_STYLES, POSITIONS
from invert_rl.tal.feature_arguments import FeatureArguments
from invert_rl.tal.features import LAYOUTS as FEATURE_LAYOUTS
from invert_rl.tal.options import ACTIONVLM

DEFAULT_OUTPUT = "runs/train_actionvlm"
RANGE_SETS = ("actionformer", "epic")


@dataclass
class ActionVLMArguments(FeatureArguments):
    """Everything of `FeatureArguments` and the fields below; ``learning_rate`` and ``weight_decay`` are the head's.

    Defaults are the paper's for THUMOS14 where it says.
    """

    output_dir: str = field(
        default=DEFAULT_OUTPUT, metadata={"help": "Run folder; default: the next free runs/train_actionvlm_NNN."}
    )
    learning_rate: float = field(default=1e-4, metadata={"help": "Of the head and all that is new."})
    weight_decay: float = field(default=0.05, metadata={"help": "Of the head's matrices."})
    ddp_find_unused_parameters: bool | None = field(
        default=True, metadata={"help": "Vision-only epochs skip the language model."}
    )

    num_train_epochs: float = field(default=120, metadata={"help": "Epochs, both kinds counted, if max_steps is -1."})

    # data; without train_annotations features with planted actions are generated
    train_annotations: str | None = field(
        default=None, metadata={"help": "Annotations as invert-rl convert writes them; default: generated data."}
    )
    test_annotations: str | None = field(default=None, metadata={"help": "Default: train_annotations."})
    feature_layout: str = field(
        default="thumos-videomaev2-g",
        metadata={
            "help": "Published features whose numbers hold (docs/detection.md).",
            "choices": list(FEATURE_LAYOUTS),
        },
    )
    resize: int | None = field(default=None, metadata={"help": "Rows that every video is resized to; default: none."})
    video_root: str | None = field(default=None, metadata={"help": "Folder of videos to train on end to end."})
    video_ending: str = field(default=".mp4", metadata={"help": "End to end: what follows a video's id."})
    frame_rate: float = field(default=7.5, metadata={"help": "End to end: rows a second; THUMOS14: 30 / 4."})
    frame_size: int = field(default=160, metadata={"help": "End to end: height and width, pixels."})
    frame_store: str | None = field(
        default=None,
        metadata={"help": "End to end: folder that keeps the frames of whole videos, each decoded once; null: no."},
    )
    augment: bool = field(
        default=True, metadata={"help": "End to end: random crops, mirrors and colours in training, as released."}
    )
    window: int = field(default=768, metadata={"help": "Rows of a window, L; a multiple of 2^(levels-1)."})
    overlap: float | None = field(
        default=0.5, metadata={"help": "Share of a window that test windows overlap by; null: whole videos."}
    )
    protocol: str = field(default="actionformer", metadata={"help": "Evaluator (docs/detection.md)."})
    thresholds: list[float] | None = field(default=None, metadata={"help": "tIoU; default: the evaluator's."})

    # vision and head
    vision_model: str | None = field(
        default=None,
        metadata={"help": "End to end: a VideoMAE, or a checkpoint of VideoMAEv2 or InternVideo2; default: features."},
    )
    vision_learning_rate: float = field(default=5e-6, metadata={"help": "Of the vision encoder."})
    head_width: int = field(default=512, metadata={"help": "Channels of the pyramid; ActivityNet: 256."})
    head_heads: int = field(default=4, metadata={"help": "Attention heads of the pyramid."})
    head_levels: int = field(default=6, metadata={"help": "Levels of the pyramid."})
    attention_window: int = field(default=0, metadata={"help": "Rows that a row of the pyramid sees; 0: all."})
    regression_ranges: str = field(default="actionformer", metadata={"help": "Or 'epic'.", "choices": RANGE_SETS})
    regression_weight: float = field(default=1.0, metadata={"help": "lambda_loc of eq. 6."})
    label_smoothing: float = field(default=0.0, metadata={"help": "ActionFormer's ActivityNet recipe has 0.1."})
    initial_positives: float = field(
        default=100.0, metadata={"help": "Start of the running M of eq. 6; ActivityNet 200, EPIC-KITCHENS 250."}
    )
    nms_sigma: float = field(default=0.7, metadata={"help": "Of the Gaussian suppression."})
    nms_per_class: bool = field(default=True, metadata={"help": "Whether classes are suppressed apart."})

    # language
    llm: str = field(
        default=TINY, metadata={"help": "A causal or vision-language model of the hub or a folder; tiny: random."}
    )
    llm_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit."})
    llm_dtype: str = field(default="auto", metadata={"help": "Data type of its weights."})
    llm_learning_rate: float = field(default=5e-6, metadata={"help": "Of what is trained in it."})
    llm_weight_decay: float = field(default=0.01, metadata={"help": "Of what is trained in it."})
    tiny_width: int = field(default=64, metadata={"help": "Channels of the tiny model."})
    tiny_layers: int = field(default=1, metadata={"help": "Layers of the tiny model."})
    lora_rank: int = field(default=128, metadata={"help": "0: the whole model is trained."})
    lora_alpha: int = field(default=256, metadata={"help": "Scale of the adapters times their rank."})
    lora_dropout: float = field(default=0.05, metadata={"help": "Before the adapters."})
    token_layout: str = field(
        default="interleaved", metadata={"help": "Or 'blocks', the released code's.", "choices": LAYOUTS}
    )
    prompt_position: str = field(
        default="before", metadata={"help": "Of the text; 'after': the released code's.", "choices": POSITIONS}
    )
    descriptions: str | None = field(
        default=None,
        metadata={"help": "JSON of texts by class, or thumos14; default: names alone (table 9 a)."},
    )
    answer_style: str = field(
        default="proposals", metadata={"help": "What the model is taught to write.", "choices": ANSWER_STYLES}
    )
    text_tokens: int = field(
        default=0, metadata={"help": "Generate so many tokens of each test answer for the hallucination rates."}
    )

    # the paper's ablations
    streams: str = field(default="both", metadata={"help": "Or one of F_vis and F_lang (table 2).", "choices": STREAMS})
    feature_tokens: str = field(default="separate", metadata={"help": "Special tokens (table 9 b).", "choices": TOKENS})
    fixed_lambda: float | None = field(default=None, metadata={"help": "Weight of language everywhere (table 4)."})
    lambda_source: str = field(
        default="advantage",
        metadata={"help": "Or 'text': the language model writes its weight (table 4).", "choices": SOURCES},
    )
    advantage_weight: float = field(default=0.1, metadata={"help": "lambda_adv; 0: without L_adv (tables 3, 4)."})
    text_weight: float = field(default=0.1, metadata={"help": "lambda_tg; 0: without L_tg (table 9 c)."})
    advantage_granularity: str = field(
        default="frame", metadata={"help": "Or 'sample', the released code's.", "choices": GRANULARITIES}
    )
    advantage_bias: float = field(default=1.0, metadata={"help": "Start of the advantage; at 0 lambda stays small."})
    advantage_hold_epochs: int = field(
        default=10, metadata={"help": "First epochs in which lambda is held where the bias puts it."}
    )
    advantage_scale: float = field(default=1.0, metadata={"help": "Times the target of the advantage."})
    alternate: bool = field(default=True, metadata={"help": "Whether vision-only epochs take turns."})
    language_warmup_epochs: int = field(default=0, metadata={"help": "Vision-only epochs before the turns begin."})

    planted_seed: int = field(
        default=0, metadata={"help": "World of generated data; --seed is of the model and the order of training."}
    )

    # reports
    evaluate_every: int = field(
        default=0, metadata={"help": "Steps between tests, which are logged; the best is only shown; 0: none."}
    )
    shuffled_control: bool = field(
        default=False, metadata={"help": "Generated data: train once more on shuffled labels."}
    )
    lap: bool = field(default=True, metadata={"help": "Test with exchanged descriptions, too (section 4.3)."})
    class_groups: str | None = field(
        default=None, metadata={"help": "JSON of class lists by name, or thumos14, for mAP and mLA of each (table 3)."}
    )
    ambiguous_clips: str | None = field(
        default=None, metadata={"help": "JSON of clips for mConf, mLen and acc@mLen (table 5)."}
    )

    OPTIONS = ACTIONVLM

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window % 2 ** (self.head_levels - 1):
            raise ValueError(f"window {self.window} is not a multiple of {2 ** (self.head_levels - 1)}")
        if self.video_root is not None and (self.vision_model is None or self.window % 16):
            raise ValueError("video_root needs vision_model, and a window that is a multiple of 16 frames")
        if self.frame_store is not None and (self.video_root is None or self.resize is not None):
            raise ValueError("frame_store needs video_root, and rows at frame_rate: leave resize out")
        if self.fixed_lambda is not None and not 0 <= self.fixed_lambda <= 1:
            raise ValueError(f"fixed_lambda must be in [0, 1]: {self.fixed_lambda}")
        if self.answer_style == "descriptions" and self.descriptions is None:
            raise ValueError("answer_style descriptions needs descriptions")
        if self.lambda_source == "text":
            if self.fixed_lambda is not None or self.streams != "both":
                raise ValueError("lambda_source text needs streams both and no fixed_lambda")
            if self.advantage_weight or self.advantage_hold_epochs:
                raise ValueError(
                    "lambda_source text is without L_adv: set advantage_weight and advantage_hold_epochs to 0"
                )
        judged = self.streams == "both" and self.fixed_lambda is None and self.advantage_weight > 0
        if judged and not self.alternate:
            raise ValueError("without turns there is no loss of vision alone: set advantage_weight to 0, too")
