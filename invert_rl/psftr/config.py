"""Sizes, ablations, losses and scores of one PSFTR model."""

from __future__ import annotations

from dataclasses import dataclass

SPDE_MODES = ("none", "linear", "residual", "mlp_residual", "concat_mlp")
CLASS_LOSSES = ("focal", "ce")
MATCHES = ("class", "actionness")
CLASS_SOURCES = ("mean", "roi", "query")


@dataclass
class PSFTRConfig:
    """One model; the defaults are the paper's for THUMOS14 (Table 5, section 4.1.2) unless a field says otherwise."""

    width: int = 512
    """d, channels of the CLIP features and of everything else."""
    heads: int = 8
    """Heads of every attention (Table 6: 1, 2, 4, 8, 16)."""
    points: int = 4
    """Samples of a head of deformable attention [R TadTR]."""
    conv_layers: int = 1
    """Convolutions before the encoder; the paper has "a 1D convolution"."""
    encoder_layers: int = 2
    """SSAE layers."""
    decoder_layers: int = 5
    """SGQG layers (ActivityNet: 2)."""
    queries: int = 40
    """N_q (ActivityNet: 30)."""
    feedforward: int = 2048
    """Hidden channels of the FFNs [R GAP]."""
    dropout: float = 0.1
    """Of attention outputs and FFNs [C]."""
    text_to_vision: bool = True
    """Table 2: text refines the video features (eq. 1)."""
    vision_to_text: bool = True
    """Table 2: video features refine the text (eq. 2)."""
    text_to_query: bool = True
    """Table 2: queries attend to the text (eq. 3)."""
    spde: str = "mlp_residual"
    """Table 3: ``none``, ``residual``, ``mlp_residual``, ``concat_mlp``; ``linear`` is eq. 6 as printed."""
    spde_scale: float | None = 100.0
    """Factor of the cosines in eq. 5's softmax [C]; None: dot products as printed."""
    logit_scale: float = 100.0
    """Factor of the cosines of class scores: CLIP's exp(logit_scale) [R GAP]."""
    refine: bool = True
    """Each decoder layer refines the segments of the one before [C]; if not, the last layer predicts them."""
    auxiliary: bool = False
    """Losses on the outputs of every decoder layer, not only of the last [R GAP: off]."""
    class_loss: str = "ce"
    """``ce``: cross-entropy of the matched queries, as eq. 7's text has it; Table 5's alpha and gamma are then eq. 9's.
    ``focal``: over all queries; at the scale of 100 it drowns the other losses (docs/psftr.md). For matching, too."""
    match_on: str = "class"
    """Class cost of the matching: ``class`` (eq. 7) or ``actionness``, which knows no class."""
    class_weight: float = 2.0
    """cls_loss_coef, in matching and loss."""
    l1_weight: float = 5.0
    """seg_loss_coef, in matching and loss."""
    iou_weight: float = 2.0
    """iou_loss_coef, in matching and loss."""
    actionness_weight: float = 3.0
    """actionness_loss_coef, eq. 11's λ1."""
    saliency_weight: float = 3.0
    """salient_loss_coef, eq. 11's λ2 (ActivityNet: 2)."""
    focal_alpha: float = 0.25
    """Weight of what is positive in focal losses."""
    focal_gamma: float = 2.0
    """Exponent of focal losses."""
    roi_bins: int = 16
    """ROIalign_size: parts of a segment whose CLIP features are averaged for its class."""
    class_source: str = "mean"
    """Class probabilities at test: ``roi`` (section 3.7.1), ``query`` (those that training fits), or their mean [C]."""
    top: int = 100
    """Detections kept of a slice, over queries and classes [R GAP]."""

    def __post_init__(self) -> None:
        """Raises `ValueError` naming the field that is out of range."""
        for name, choices in (
            ("spde", SPDE_MODES),
            ("class_loss", CLASS_LOSSES),
            ("match_on", MATCHES),
            ("class_source", CLASS_SOURCES),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}")
        for name in ("width", "heads", "points", "encoder_layers", "decoder_layers", "queries", "roi_bins", "top"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, not {getattr(self, name)}")
        if self.width % self.heads or self.width % 2:
            raise ValueError(f"width must be even and a multiple of heads: {self.width}, {self.heads}")
