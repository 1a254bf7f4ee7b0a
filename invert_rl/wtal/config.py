"""Settings of weakly supervised localization: data, base, branches, proposals and evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

from data_prep.errors import DataError
from invert_rl.evaluation.detection.protocols import PROTOCOLS
from invert_rl.tal.feature_arguments import FeatureArguments
from invert_rl.tal.features import LAYOUTS
from invert_rl.tal.options import WTAL
from invert_rl.wtal.co2net import GUIDE_WEIGHT, THRESHOLDS, Co2Net
from invert_rl.wtal.delu import Delu, DeluConfig, DeluWeights
from invert_rl.wtal.losses import UNCERTAINTY_MODES
from invert_rl.wtal.model import SemanticWeights
from invert_rl.wtal.proposals import ProposalSettings
from invert_rl.wtal.text import HASHED

DEFAULT_OUTPUT = "runs/distill_wtal"
PLANTED = "planted"
"""Name of the descriptions of the generated world."""
PLANTED_VIDEOS = "planted_videos"
"""Texts of each of its videos, which say what happens when."""
COUNTED = ("all", "masked")
BASES = {"delu": Delu, "co2net": Co2Net}
ONLY_DELU = ("evidential_weight", "uncertainty_weight", "evidence_ratio", "amplitude", "uct_mode")
"""Fields of its evidence, without effect on another base."""


@dataclass
class WtalArguments(FeatureArguments):
    """Everything of `FeatureArguments` and the fields below; ``learning_rate`` and ``weight_decay`` are the
    localizer's. Defaults are DELU's on THUMOS14 and, for the semantics, the supplement's and its ancestor's.
    """

    output_dir: str = field(
        default=DEFAULT_OUTPUT, metadata={"help": "Run folder; default: the next free runs/distill_wtal_NNN."}
    )
    max_steps: int = field(default=5000, metadata={"help": "Iterations, each of up to three updates."})
    learning_rate: float = field(default=5e-5, metadata={"help": "Of the localizer; constant."})
    weight_decay: float = field(default=1e-3, metadata={"help": "Of the localizer, as Adam's L2 term."})
    max_grad_norm: float = field(default=0.0, metadata={"help": "Limit of the localizer's gradient; 0: none."})
    per_device_train_batch_size: int = field(default=10, metadata={"help": "Videos of a batch and rank."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "Only constant."})
    ddp_find_unused_parameters: bool | None = field(
        default=True, metadata={"help": "Needed: each update trains a part of the model."}
    )

    # data; without any features with planted actions are generated
    joint_features: str | None = field(
        default=None, metadata={"help": "Folder of <joint_name>-I3D-JOINTFeatures.npy and <joint_name>-Annotations."}
    )
    joint_name: str = field(default="Thumos14reduced", metadata={"help": "What these two names begin with."})
    allow_pickle: bool = field(
        default=False,
        metadata={"help": "Read that file, which is a pickle and can run any code; only if you trust it."},
    )
    annotations: str | None = field(default=None, metadata={"help": "Annotations as invert-rl convert writes them."})
    feature_layout: str = field(
        default="wtal-i3d",
        metadata={"help": "With annotations: published features whose numbers hold.", "choices": list(LAYOUTS)},
    )
    rgb_width: int = field(default=1024, metadata={"help": "Channels of RGB, the first of a snippet."})
    flow_width: int = field(default=1024, metadata={"help": "Channels of flow, the others."})
    snippets: int = field(default=320, metadata={"help": "Snippets drawn of each training video."})
    pairs: int = field(default=3, metadata={"help": "Pairs of a batch that share a class."})

    # base
    base: str = field(default="delu", metadata={"help": "Method that the branches are added to.", "choices": BASES})
    width: int = field(default=2048, metadata={"help": "Channels before the class scores."})
    attention_width: int = field(default=512, metadata={"help": "Channels of the attention."})
    dropout: float = field(default=0.7, metadata={"help": "Of fusion and scores."})
    gate_dropout: float = field(default=0.5, metadata={"help": "Of the attention."})
    pool: int = field(default=1, metadata={"help": "Snippets that scores are averaged over; ActivityNet: 13."})
    evidential_weight: float = field(default=1.3, metadata={"help": "Of the evidential loss."})
    uncertainty_weight: float = field(default=0.4, metadata={"help": "Of the uncertainty-guided loss."})
    contrastive_weight: float = field(default=1.0, metadata={"help": "Of the loss of pairs."})
    mutual_weight: float = field(default=1.0, metadata={"help": "Of the streams' agreement."})
    norm_weight: float = field(default=0.8, metadata={"help": "Of the attention's mean."})
    guide_weight: float | None = field(
        default=None, metadata={"help": "Of attention against background; null: the base's, 0.4 or CO2-Net's 0.8."}
    )
    pool_ratio: float = field(default=7.0, metadata={"help": "One in so many snippets is pooled."})
    evidence_ratio: float = field(default=9.0, metadata={"help": "One in so many snippets is evidence."})
    amplitude: float = field(default=0.7, metadata={"help": "Of the uncertainty curve."})
    uct_mode: str = field(
        default="released", metadata={"help": "Or rank: see docs/wtal.md.", "choices": UNCERTAINTY_MODES}
    )

    # semantics
    matching: bool = field(default=True, metadata={"help": "Key semantic matching."})
    reconstruction: bool = field(default=True, metadata={"help": "Complete semantic reconstruction."})
    distill: bool = field(default=True, metadata={"help": "Whether the two attentions learn from each other."})
    lambda1: float = field(default=1.5, metadata={"help": "Weight of the distillation."})
    lambda2: float = field(default=1.5, metadata={"help": "Weight of the alignment."})
    mu1: float = field(default=1.0, metadata={"help": "Weight of the completeness loss."})
    descriptions: str | None = field(
        default=None,
        metadata={
            "help": "JSON of invert-rl describe-actions; default: class names. Generated data: planted, planted_videos."
        },
    )
    text_encoder: str = field(default=HASHED, metadata={"help": "hashed, or a text encoder of the hub or a folder."})
    prompts: int = field(default=9, metadata={"help": "Learnable prompt vectors of a class."})
    text_heads: int = field(default=8, metadata={"help": "Heads of the layer that makes class vectors."})
    reconstruction_learning_rate: float = field(default=4e-4, metadata={"help": "Of the reconstruction branch."})
    reconstruction_warmup: int = field(default=400, metadata={"help": "Iterations before it falls as 1 / sqrt."})
    reconstruction_clip: float = field(default=10.0, metadata={"help": "Limit of that branch's gradients."})
    reconstruction_width: int = field(default=512, metadata={"help": "Channels of the reconstructor."})
    reconstruction_heads: int = field(default=4, metadata={"help": "Its heads."})
    reconstruction_layers: int = field(default=3, metadata={"help": "Its layers over snippets, and over words."})
    mask_words: bool = field(
        default=True, metadata={"help": "Hide a third of the words; the ancestor's code does not."}
    )
    counted_words: str = field(default="all", metadata={"help": "Words whose errors count.", "choices": COUNTED})
    max_words: int = field(default=60, metadata={"help": "Words of a description that are reconstructed."})

    # proposals and evaluation
    class_ratio: float = field(default=10.0, metadata={"help": "One in so many snippets gives a video's class score."})
    class_threshold: float = field(default=0.2, metadata={"help": "Least probability of a class that is proposed."})
    max_proposals: int = field(default=0, metadata={"help": "Most detections of a video; 0: all."})
    thresholds: list[float] = field(
        default_factory=lambda: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], metadata={"help": "tIoU."}
    )
    protocol: str = field(
        default="delu",
        metadata={"help": "Evaluator (docs/detection.md); delu counts whole snippets.", "choices": tuple(PROTOCOLS)},
    )
    round_truth: bool | None = field(
        default=None, metadata={"help": "Older name: true is protocol delu, false protocol activitynet."}
    )
    ambiguous: str | None = field(
        default=None, metadata={"help": "File of 'video start end' lines; detections that touch one do not count."}
    )
    evaluate_every: int = field(
        default=0, metadata={"help": "Iterations between tests; the best is only shown; 0: none."}
    )

    # the generated world
    planted_seed: int = field(
        default=0, metadata={"help": "World of generated data; --seed is of the model and the order of training."}
    )
    planted_train: int = field(default=48, metadata={"help": "Generated training videos."})
    planted_test: int = field(default=48, metadata={"help": "Generated test videos."})
    shuffled_control: bool = field(
        default=True, metadata={"help": "Generated data: train once more with labels shuffled among the videos."}
    )

    OPTIONS = WTAL

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_steps < 1:
            raise DataError(f"max_steps must be a positive whole number, found {self.max_steps}")
        if self.gradient_accumulation_steps != 1:
            raise DataError(
                "gradient_accumulation_steps must be 1: an iteration has updates that build on each other; raise "
                "per_device_train_batch_size instead"
            )
        if str(getattr(self.lr_scheduler_type, "value", self.lr_scheduler_type)) != "constant":
            raise DataError(f"lr_scheduler_type must be constant, not {self.lr_scheduler_type}")
        known = {"uct_mode": UNCERTAINTY_MODES, "counted_words": COUNTED, "protocol": PROTOCOLS, "base": BASES}
        for name, choices in known.items():
            if getattr(self, name) not in choices:
                raise DataError(f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}")
        defaults = {item.name: item.default for item in fields(self)}
        changed = [name for name in ONLY_DELU if getattr(self, name) != defaults[name]]
        if self.base != "delu" and changed:
            raise DataError(f"{changed[0]} is DELU's and has no effect with base {self.base}; leave it out")
        if self.guide_weight is None:
            self.guide_weight = DeluWeights().guide if self.base == "delu" else GUIDE_WEIGHT
        if self.descriptions == PLANTED_VIDEOS and not self.planted:
            raise DataError("descriptions planted_videos are of generated videos; give a file")
        if (self.annotations is None) != (self.features is None):
            raise DataError("annotations and features belong together; give both or neither")
        if self.annotations is not None and self.joint_features is not None:
            raise DataError("give either joint_features or annotations and features")
        if self.round_truth is not None:
            self.protocol, self.round_truth = ("delu" if self.round_truth else "activitynet"), None
        if self.counted_words == "masked" and not self.mask_words:
            raise DataError("counted_words masked needs mask_words: no word would count")

    @property
    def planted(self) -> bool:
        """Whether data is generated."""
        return self.annotations is None and self.joint_features is None

    def delu(self, classes: int) -> DeluConfig:
        """Settings of the base for so many classes."""
        weights = DeluWeights(
            evidential=self.evidential_weight,
            uncertainty=self.uncertainty_weight,
            contrastive=self.contrastive_weight,
            mutual=self.mutual_weight,
            norm=self.norm_weight,
            guide=DeluWeights().guide if self.guide_weight is None else self.guide_weight,
            pool_ratio=self.pool_ratio,
            evidence_ratio=self.evidence_ratio,
            amplitude=self.amplitude,
            uct_mode=self.uct_mode,
        )
        return DeluConfig(
            num_classes=classes,
            rgb_width=self.rgb_width,
            flow_width=self.flow_width,
            attention_width=self.attention_width,
            width=self.width,
            dropout=self.dropout,
            gate_dropout=self.gate_dropout,
            pool=self.pool,
            weights=weights,
        )

    def semantic_weights(self) -> SemanticWeights:
        """Weights of the branches."""
        return SemanticWeights(self.lambda1, self.lambda2, self.mu1, self.distill)

    def proposals(self) -> ProposalSettings:
        """How activations become segments."""
        chosen = ProposalSettings(
            class_ratio=self.class_ratio, class_threshold=self.class_threshold, most=self.max_proposals
        )
        return chosen if self.base == "delu" else replace(chosen, thresholds=THRESHOLDS)
