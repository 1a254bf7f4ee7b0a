"""ActionVLM as one module: vision, language, the advantage that weighs it, and the detection head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from invert_rl.actionvlm.advantage import (
    ClassMeans,
    advantage_loss,
    aggregate,
    frame_classes,
    frame_losses,
    language_weight,
)
from invert_rl.actionvlm.language import LanguageModel
from invert_rl.actionvlm.vision import VideoEncoder
from invert_rl.tal.detector import Detector, DetectorConfig, DetectorOutputs

STREAMS = ("both", "vision", "language")
SOURCES = ("advantage", "text")


@dataclass
class ActionVLMConfig:
    """What ActionVLM is and how its parts are weighed; the defaults are the paper's where it says."""

    detector: DetectorConfig
    """The head; its ``pyramid.input_width`` is the language model's width."""
    feature_width: int
    """Channels of the vision features."""
    evidence_width: int = 0
    """Last channels of the batch that only the language model gets, beside the features (see `ActionVLM`)."""
    streams: str = "both"
    """``both``; ``vision``, only F_vis; ``language``, only F_lang in place of eq. 5 (table 2)."""
    fixed_weight: float | None = None
    """A λ that replaces eq. 4 everywhere (table 4)."""
    weight_source: str = "advantage"
    """``advantage``, eq. 4; ``text``, what the language model writes (`LanguageModel.written`, table 4)."""
    text_weight: float = 0.1
    """λ_tg of eq. 9."""
    advantage_weight: float = 0.1
    """λ_adv of eq. 9; 0: λ is learned by the detection loss alone (tables 3 and 4)."""
    granularity: str = "frame"
    """Of the advantage: ``frame`` [S eq. 1] or ``sample`` [R]."""
    advantage_scale: float = 1.0
    """Times the targets A [C]."""
    advantage_bias: float = 1.0
    """Bias that the advantage's layer starts with [C]: at 0 the weight λ stays near 0, as A does while λ is small."""
    hold_epochs: int = 0
    """Epochs in which λ has its value at the start while Â already learns [C]: else it falls to 0, where it stays,
    before the language model has learned to help."""


@dataclass(frozen=True)
class Aggregated:
    """Features for the two heads, and what they were made of."""

    classify: Tensor
    """F_cls ``(B, L, D)``."""
    localize: Tensor
    """F_loc ``(B, L, D)``."""
    weight: Tensor
    """λ ``(B, L)``, 0 for vision alone."""
    advantage: Tensor | None
    """Â ``(B, L)``."""
    text_loss: Tensor | None


class ActionVLM(nn.Module):
    """Detector of actions whose features are vision plus weighed language (ActionVLM, section 3).

    ``language_evidence`` exists for generated data only. A real language model knows things that the features do not
    show; a model with random weights knows nothing. The map stands in for that knowledge: it adds further channels of
    the batch to the language model's input at the frames, and never to the vision stream.

    Checkpoints hold what is trained and all buffers; a frozen language model's weights stay in its own checkpoint.
    """

    def __init__(
        self, config: ActionVLMConfig, language: LanguageModel | None, vision: VideoEncoder | None = None
    ) -> None:
        """``language`` may be None for ``streams: vision``. ``vision`` encodes frames end to end; None: features.

        Raises `ValueError` where the widths do not fit or the streams are unknown.
        """
        super().__init__()
        width = config.detector.pyramid.input_width
        if config.streams not in STREAMS:
            raise ValueError(f"streams must be one of {STREAMS}, not {config.streams!r}")
        if (language is None) != (config.streams == "vision"):
            raise ValueError("a language model is needed for all streams but 'vision', and for that one it is not")
        if language is not None and language.width != width:
            raise ValueError(f"the head takes {width} channels, the language model has {language.width}")
        self.config = config
        self.vision = vision
        self.language = language
        self.projection = nn.Linear(config.feature_width, width, bias=False)
        self.detector = Detector(config.detector)
        self.means = ClassMeans(config.detector.num_classes)
        if language is not None:
            self.language_norm = nn.LayerNorm(width)  # hidden states of language models are long [C]
            self.advantage = nn.Linear(width, 1)
            nn.init.zeros_(self.advantage.weight)  # so that every frame starts with the same λ [C]
            nn.init.constant_(self.advantage.bias, config.advantage_bias)
            if config.evidence_width:
                self.language_evidence = nn.Linear(config.evidence_width, width, bias=False)
        self.register_state_dict_post_hook(_drop_not_saved)
        self.register_load_state_dict_post_hook(_forgive_not_saved)

    def not_saved(self) -> set[str]:
        """Names of the language model's weights that are not trained, or are another name of one that is."""
        if self.language is None:
            return set()
        names, met = set(), set()
        for name, value in self.language.llm.named_parameters(remove_duplicate=False):
            if not value.requires_grad or id(value) in met:
                names.add(f"language.llm.{name}")
            met.add(id(value))
        return names

    def activation_checkpointing_enable(self, **settings: Any) -> None:
        """Recompute the activations of the large parts; called by `transformers.Trainer`."""
        for part in self._large_parts():
            part.activation_checkpointing_enable(**settings)

    def gradient_checkpointing_enable(self, **settings: Any) -> None:
        """The same by its older name, which `Trainer` calls where the newer one does not exist yet."""
        for part in self._large_parts():
            part.gradient_checkpointing_enable(**settings)

    def _large_parts(self) -> list[PreTrainedModel]:
        found = [self.language.llm] if self.language is not None else []
        return [*found, self.vision.encoder] if self.vision is not None else found

    def features(
        self,
        batch: Tensor,
        mask: Tensor,
        answers: Sequence[Sequence[int]] | None = None,
        vision_only: bool = False,
        held: bool = False,
    ) -> Aggregated:
        """Features of a batch ``(B, L, D_in)`` (or frames, for ``vision``) with a mask ``(B, L)`` (eq. 2, 4, 5).

        ``held`` gives λ its value at the start.
        """
        config = self.config
        seen, read = self._frames(batch, mask)
        if vision_only or self.language is None:
            return Aggregated(seen, seen, torch.zeros_like(seen[..., 0]), None, None)
        found = self.language(read, mask, answers)
        classify, localize = self.language_norm(found.classify), self.language_norm(found.localize)
        advantage = self.advantage(found.advantage)[..., 0].float()
        if config.streams == "language":
            return Aggregated(classify, localize, torch.ones_like(advantage), advantage, found.text_loss)
        judged = torch.full_like(advantage, config.advantage_bias) if held else advantage
        weight = language_weight(judged)
        if config.weight_source == "text":
            weight = self.language.written(found.advantage)
        if config.fixed_weight is not None:
            weight = torch.full_like(weight, config.fixed_weight)
        spread = weight.to(seen.dtype)
        return Aggregated(
            aggregate(seen, classify, spread), aggregate(seen, localize, spread), weight, advantage, found.text_loss
        )

    def read(self, batch: Tensor, mask: Tensor) -> Tensor:
        """What the language model gets at the frames of a batch, ``(B, L, D)``."""
        return self._frames(batch, mask)[1]

    def _frames(self, batch: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """F_vis, and what the language model gets at the frames, ``(B, L, D)`` each."""
        frames = batch if self.vision is None else self.vision(batch, mask)
        seen = self.projection(frames[..., : self.config.feature_width])
        if self.language is None or not self.config.evidence_width:
            return seen, seen
        return seen, seen + self.language_evidence(frames[..., self.config.feature_width :])

    def detect(self, found: Aggregated, mask: Tensor) -> DetectorOutputs:
        """Outputs of the head: the pyramid runs on both streams, each head reads its own [R]."""
        pyramid = self.detector.pyramid
        if found.classify is found.localize:
            levels, masks = pyramid(found.classify, mask)
            return self.detector.heads(levels, levels, masks)
        levels, masks = pyramid(torch.cat([found.classify, found.localize]), torch.cat([mask, mask]))
        half = len(mask)
        return self.detector.heads(
            [level[:half] for level in levels], [level[half:] for level in levels], [rows[:half] for rows in masks]
        )

    def forward(
        self,
        features: Tensor,
        mask: Tensor,
        segments: Sequence[Tensor],
        labels: Sequence[Tensor],
        epoch: int,
        vision_only: bool,
        answers: Sequence[Sequence[int]] | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch by name, "loss" being eq. 9, or in a vision-only epoch eq. 6 alone.

        Segments ``(N, 2)`` in rows and class ids ``(N,)`` of each video; ``answers`` are token ids. Updates the class
        means in a vision-only epoch.
        """
        config = self.config
        judged = config.fixed_weight is None and config.weight_source == "advantage"
        learns_advantage = config.streams == "both" and judged and config.advantage_weight > 0
        taught = answers if config.text_weight > 0 else None
        found = self.features(features, mask, taught, vision_only, held=epoch < config.hold_epochs)
        outputs = self.detect(found, mask)
        losses = self.detector.losses(outputs, segments, labels)
        kind = "vision" if vision_only or config.streams == "vision" else "language"
        logged = {
            "loss": losses.total,
            f"{kind}/classification": losses.classification,
            f"{kind}/regression": losses.regression,
        }
        of_frames = frame_losses(
            outputs,
            losses,
            frame_classes(segments, labels, mask.shape[1]).to(mask.device),
            self.config.detector.regression_weight,
            config.granularity,
        )
        self.means.enter(epoch, vision_only)
        if vision_only:
            self.means.add(of_frames, per_sample=config.granularity == "sample")
            return logged
        logged[f"{kind}/weight"] = found.weight[mask.bool()].mean()
        if learns_advantage and found.advantage is not None:
            target, counts = self.means.advantage(of_frames, mask)
            logged[f"{kind}/advantage"] = advantage_loss(found.advantage, target * config.advantage_scale, counts)
            logged["loss"] = logged["loss"] + config.advantage_weight * logged[f"{kind}/advantage"]
        if found.text_loss is not None:
            logged[f"{kind}/text"] = found.text_loss
            logged["loss"] = logged["loss"] + config.text_weight * found.text_loss
        return logged


def _drop_not_saved(model: ActionVLM, state: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
    """Leave the weights out of a state that are in the language model's own checkpoint."""
    for name in model.not_saved():
        state.pop(f"{prefix}{name}", None)


def _forgive_not_saved(model: ActionVLM, keys: Any) -> None:
    """Weights that `_drop_not_saved` leaves out are not missing."""
    expected = model.not_saved()
    keys.missing_keys[:] = [name for name in keys.missing_keys if name not in expected]
