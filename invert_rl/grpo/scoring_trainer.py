"""`GRPOTrainer` whose scoring forwards see the video, each prompt once, and whose steps tell where their time goes."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from trl import GRPOTrainer

from invert_rl.encoding import EncodedPrompt, video_inputs
from invert_rl.evaluation_mode import evaluation_mode
from invert_rl.grpo.config import InvertGRPOConfig
from invert_rl.grpo.groups import order_by_group
from invert_rl.grpo.packed_layout import SharingNotSupportedError
from invert_rl.grpo.scoring import assert_video_is_seen, token_types
from invert_rl.grpo.self_check import CHECKED_ROWS, LONG, compare, floor
from invert_rl.grpo.shared_prompt import SharedPrompts, add_shared_prompts
from invert_rl.grpo.vision import VisionFeatures, freeze_tower, same_tower, tower_is_frozen
from invert_rl.models.segment_attention import attend_by_segments

logger = logging.getLogger(__name__)

PROMPTS = "encoded_prompts"
"""Key of the batch under which each sample's `EncodedPrompt` travels; samples of a group share one object."""


CLIP_RATIOS = ("clip_ratio/region_mean", "cispo_clip_ratio")
"""TRL's names of the share of clipped tokens, by loss."""


class ScoringTrainer(GRPOTrainer):
    """Loss, old and reference log-probabilities under the video; call `set_up_scoring` after ``__init__``."""

    args: InvertGRPOConfig
    _task: str  # of the current round
    _buffered_inputs: list[dict[str, Any]] | None  # TRL's micro-batches of the current round

    def set_up_scoring(self) -> None:
        """Share prompts and keep the features of a frozen vision tower, as the settings say."""
        args = self.args
        models = [self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model]
        if self.ref_model is not None:
            models.append(self.accelerator.unwrap_model(self.ref_model))
        for model in models:
            attend_by_segments(model)  # TRL loads a reference model by itself
        self.shares_prompts = args.share_prompts and self._can_share(models)
        if args.freeze_vision:
            freeze_tower(self.model)
        # With parameters in shards, every rank has to run the tower as often as all others do: nothing is kept there.
        keep = tower_is_frozen(self.model) and not (self.is_fsdp_enabled or self.is_deepspeed_enabled)
        if (args.vision_memory_mb or args.vision_store) and not keep:
            logger.warning(
                "vision_memory_mb and vision_store have no effect: features are kept only of a vision tower that is "
                "frozen on one or more whole copies of the model (freeze_vision, or LoRA on the language model; no "
                "FSDP or DeepSpeed)"
            )
        self.vision = VisionFeatures(args.vision_memory_mb, args.vision_store if keep else None)
        self.vision.serve(self.model, keep)
        if self.ref_model is not None:
            equal = keep and not args.sync_ref_model and same_tower(*models)
            self.vision.serve(self.ref_model, equal)
        self._prompts: list[EncodedPrompt] | None = None
        self._task = ""
        self._video_checked = False
        self._sharing_checked = not (self.shares_prompts and args.check_shared_prompts)
        self._seconds: dict[str, float] = {}

    # -- micro-batches --------------------------------------------------------------------------------------------

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        before = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        if self._buffered_inputs is None or self._buffered_inputs is before or not self.args.keep_groups:
            return inputs
        steps = self.args.steps_per_generation // min(
            self.args.gradient_accumulation_steps, self.args.steps_per_generation
        )
        self._buffered_inputs = order_by_group(self._buffered_inputs, PROMPTS, steps)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    # -- log-probabilities ----------------------------------------------------------------------------------------

    def _compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        with self._scoring(inputs.pop(PROMPTS)) as prompts:
            different = len({id(prompt) for prompt in prompts})
            self._metrics[self._mode]["score/unique_prompts"].append(different / len(prompts))
            try:
                loss = super()._compute_loss(model, inputs)
                for name in CLIP_RATIOS:
                    if self._metrics[self._mode].get(name):
                        self._metrics[self._mode][f"{self._task}/clip_ratio"].append(
                            self._metrics[self._mode][name][-1]
                        )
                return loss
            finally:
                inputs[PROMPTS] = prompts  # the buffered batch is used again when num_iterations > 1

    @contextmanager
    def _scoring(self, prompts: list[EncodedPrompt]) -> Iterator[list[EncodedPrompt]]:
        self._prompts = prompts
        try:
            yield prompts
        finally:
            self._prompts = None

    def _get_per_token_logps_and_entropies(
        self,
        model: torch.nn.Module,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        prompts = self._prompts
        if prompts is None or len(prompts) != len(input_ids):
            raise RuntimeError("a scoring forward was asked for without its videos")
        kwargs.pop("mm_token_type_ids", None)
        if not self._sharing_checked:
            self._sharing_checked = True
            self._check_sharing(model, prompts, input_ids, attention_mask, logits_to_keep)
        parts = []
        size = batch_size or len(prompts)
        watched = nullcontext() if self._video_checked else assert_video_is_seen(model, prompts)
        quiet = nullcontext() if torch.is_grad_enabled() else evaluation_mode(model)
        with watched, quiet, nullcontext() if torch.is_grad_enabled() else self._part("score"):
            for start in range(0, len(prompts), size):
                rows = slice(start, start + size)
                parts.append(
                    self._score(model, prompts[rows], input_ids[rows], attention_mask[rows], logits_to_keep, **kwargs)
                )
        self._video_checked = True
        logps = torch.cat([part[0] for part in parts])
        entropies = None if parts[0][1] is None else torch.cat([part[1] for part in parts])
        aux_losses = [part[2] for part in parts if part[2] is not None]
        return logps, entropies, torch.stack(aux_losses).mean() if aux_losses else None

    def _score(
        self,
        model: torch.nn.Module,
        prompts: list[EncodedPrompt],
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        completion_length: int,
        **kwargs: Any,
    ) -> Any:
        """TRL's scoring of one micro-batch with what it lacks: the video of each row, or the prompts to share."""
        extra = self._prompt_inputs(prompts, input_ids, completion_length)
        shown = extra["shared_prompts"].prompts if "shared_prompts" in extra else prompts
        with self.vision.of(shown):
            return super()._get_per_token_logps_and_entropies(
                partial(model, **extra), input_ids, attention_mask, completion_length, **kwargs
            )

    def _prompt_inputs(
        self, prompts: Sequence[EncodedPrompt], input_ids: torch.Tensor, completion_length: int
    ) -> dict[str, Any]:
        """What a scoring forward needs besides ids and mask: the prompts to share, or every row's video."""
        if self.shares_prompts:
            return {"shared_prompts": SharedPrompts(prompts, completion_length)}
        video = {name: value.to(input_ids.device) for name, value in video_inputs(prompts).items()}
        types = token_types(prompts, input_ids.shape[1], completion_length).to(input_ids.device)
        return {**video, "mm_token_type_ids": types}

    def _can_share(self, models: Sequence[torch.nn.Module]) -> bool:
        """Let the models share prompts; False, with a warning, if one has layers that cannot."""
        try:
            for model in models:
                add_shared_prompts(model)
        except SharingNotSupportedError as error:
            logger.warning("share_prompts is off: %s; each prompt is forwarded once for each of its completions", error)
            return False
        return True

    def _check_sharing(
        self,
        model: torch.nn.Module,
        prompts: list[EncodedPrompt],
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        completion_length: int,
    ) -> None:
        """Score a few rows with shared and with copied prompts; on a difference go on with copies, and say so.

        Every rank runs the same forwards, and all of them decide by the worst of them.
        """
        rows = sorted(range(len(prompts)), key=lambda row: prompts[row] is not prompts[0])
        lengths = self.accelerator.gather(torch.tensor([input_ids.shape[1]], device=input_ids.device))
        long = int(lengths.max()) > LONG  # on all ranks: they must run equally many forwards
        rows = rows[: 2 if long else CHECKED_ROWS]
        batch = {"input_ids": input_ids[rows], "attention_mask": attention_mask[rows]}

        def score(shares: bool, batch: dict[str, torch.Tensor], order: list[int], last: int) -> torch.Tensor:
            self.shares_prompts = shares
            theirs = [prompts[rows[number]] for number in order]
            return self._score(model, theirs, batch["input_ids"], batch["attention_mask"], last)[0]

        training = model.training
        model.eval()  # without dropout, or the two would differ by chance
        least = floor(next(model.parameters()).dtype, self.accelerator.mixed_precision)
        try:
            with torch.no_grad(), self._part("score"):
                verdict = compare(partial(score, False), partial(score, True), batch, completion_length, least, long)
        finally:
            model.train(training)
        found = torch.tensor([*verdict, verdict.excess], device=input_ids.device)
        error, leak, noise, limit, leak_limit, excess = self.accelerator.gather(found[None]).amax(dim=0).tolist()
        self._metrics[self._mode]["score/self_check"].append(max(error, leak))
        self._metrics[self._mode]["score/self_check_noise"].append(noise)
        self.shares_prompts = excess <= 0
        if not self.shares_prompts:
            logger.warning(
                "share_prompts is off: log-probabilities of the worst completion with shared prompts differ from those "
                "with copied prompts by %.3g on average, where %.3g may be rounding, and from themselves by %.3g when "
                "another completion changes, where %.3g may be; each prompt is forwarded once for each completion",
                error,
                limit,
                leak,
                leak_limit,
            )

    # -- time -----------------------------------------------------------------------------------------------------

    @property
    def _mode(self) -> str:
        return "train" if self.model.training else "eval"

    @contextmanager
    def _part(self, name: str) -> Iterator[None]:
        """Add the seconds inside, those in the vision tower left out, to a part of the step."""
        started, vision = time.perf_counter(), self.vision.seconds
        try:
            yield
        finally:
            self._wait_for_gpu()
            seconds = time.perf_counter() - started - (self.vision.seconds - vision)
            self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def _wait_for_gpu(self) -> None:
        """Let the GPU finish, so that its time is booked where it was caused; a few times a step, not per layer."""
        if self.accelerator.device.type == "cuda":
            torch.cuda.synchronize(self.accelerator.device)

    def _wait_for_ranks(self) -> None:
        """Meet the other ranks just before a collective operation, to see how long the slowest lets this one wait."""
        with self._part("wait"):
            self.accelerator.wait_for_everyone()

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: list[dict[str, Any]],
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        self._seconds.clear()
        started, vision = time.perf_counter(), self.vision.seconds
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._wait_for_gpu()
        self._seconds["vision"] = self.vision.seconds - vision
        self._seconds["update"] = time.perf_counter() - started - sum(self._seconds.values())
        for name, seconds in self._seconds.items():
            self._metrics["train"][f"time/{name}"].append(seconds)
        return loss
