"""The examination: the same rows by processor, transformers and an engine, before and after a change of weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from transformers import ProcessorMixin

from invert_rl.encoding import EncodedPrompt
from invert_rl.grpo.vllm_rollout import BAN
from invert_rl.models import never_sampled_ids
from invert_rl.parity.change import WeightChange
from invert_rl.parity.checks import Check, position_checks, prompt_checks
from invert_rl.parity.engines import Engine, Reply
from invert_rl.parity.logps import (
    VISIBLE,
    cause_after_a_change,
    cause_at_the_start,
    gap,
    largest,
    limit_of,
    noise_of,
    of_reply,
    visible_change,
)
from invert_rl.parity.reference import Reference

PROBES = 8
"""Completions, of one token, that are asked for where vision tokens are all but forced."""


@dataclass
class Findings:
    """What was found; ``left_out`` says which checks were not made, and why."""

    checks: list[Check] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    noise: dict[str, float] = field(default_factory=dict)
    logps: dict[str, float] = field(default_factory=dict)
    """Differences by state of the weights, mean of the worst prompt and largest of a token."""

    @property
    def verdict(self) -> str:
        """One sentence: the first cause, or that all is well."""
        first = next((check for check in self.checks if not check.ok), None)
        if first is not None:
            return f"{first.name}: {first.cause}"
        return "engine and trainer agree in all that was compared"


class Doctor:
    """Compares an engine with the trainer's forward on some prompts.

    Args:
        engine: what answers.
        reference: the trainer's side; its model is the one that the engine takes weights from.
        processor: of the checkpoint.
        prompts: with their videos.
        completions: sampled for each prompt.
        length: most tokens of each.
    """

    def __init__(
        self,
        engine: Engine,
        reference: Reference,
        processor: ProcessorMixin,
        prompts: Sequence[EncodedPrompt],
        completions: int,
        length: int,
        seed: int = 0,
    ) -> None:
        self.engine, self.reference, self.processor, self.prompts = engine, reference, processor, list(prompts)
        self.vision_tokens = vision_tokens(reference, processor)
        self.settings = {
            "n": completions,
            "temperature": reference.temperature,
            "max_tokens": length,
            "logprobs": 0,
            "logit_bias": dict.fromkeys(reference.banned, BAN),
            "stop_token_ids": [processor.tokenizer.convert_tokens_to_ids("<|im_end|>")],
            "seed": seed,
        }
        self.found = Findings()

    def examine(self, change_weights: bool = True) -> Findings:
        """All checks, those that explain others first."""
        found = self.found
        replies = self.engine.complete(self.prompts, self.settings)
        found.checks += prompt_checks(self.processor, self.prompts, replies)
        found.checks += position_checks(self.engine, self.reference, self.prompts)
        if "positions" not in {check.name for check in found.checks}:
            found.left_out["positions"] = "the engine's model cannot be looked at; log-probabilities tell"
        if replies[0].prompt_ids is None:
            found.checks = [check for check in found.checks if check.name not in ("placeholders", "token_ids")]
            told = "the server is given the expanded prompt and the patches themselves"
            found.left_out |= {"placeholders": told, "token_ids": told}
        found.checks += [self._precision(), self._ban(replies)]
        other = any(reply.prompt_ids not in (None, p.input_ids) for p, reply in zip(self.prompts, replies, strict=True))
        if other:
            told = "the engine answers other prompts than the trainer's"
            found.left_out |= {"logps": told, "weights": told, "restored": told}
            return found
        limit = self._at_the_start(replies, change_weights)
        if not change_weights:
            found.left_out |= dict.fromkeys(("weights", "restored"), "--keep-weights")
        elif not found.checks[-1].ok:
            told = "log-probabilities differ already before a change of weights"
            found.left_out |= {"weights": told, "restored": told}
        else:
            self._after_a_change(replies, limit)
        return found

    def _precision(self) -> Check:
        ours, theirs = str(self.reference.dtype).removeprefix("torch."), self.engine.about["dtype"]
        cause = f"another precision: the engine computes in {theirs}, the trainer in {ours}; start it with {ours}"
        return Check("precision", ours == theirs, None, None, None if ours == theirs else cause)

    def _ban(self, replies: Sequence[Reply]) -> Check:
        """Are vision tokens sampled, in the answers or where hardly anything else is allowed?"""
        missing = sorted(self.vision_tokens - set(self.reference.banned))
        spare = self.reference.unlikeliest(self.prompts[0], len(self.processor.tokenizer))
        probe = {
            **self.settings,
            "n": PROBES,
            "max_tokens": 1,  # a vision token that was read on from would have no features
            "temperature": 1.0,
            "stop_token_ids": [],
            "allowed_token_ids": sorted({*self.vision_tokens, spare}),
        }
        sampled = sum(
            token in self.vision_tokens
            for reply in [*replies, *self.engine.complete(self.prompts[:1], probe)]
            for one in reply.completions
            for token in one
        )
        cause = None
        if missing:
            cause = f"the list of banned tokens lacks {missing} of the model's vision tokens"
        elif sampled:
            cause = (
                f"banned tokens allowed: {sampled} vision tokens were sampled, which have no features and crash or "
                "blind the update; the engine does not heed logit_bias"
            )
        return Check("banned_tokens", cause is None, sampled, 0, cause)

    def _at_the_start(self, replies: Sequence[Reply], may_push: bool) -> float:
        """The check ``logps``; returns its limit."""
        noise = noise_of(self.engine, self.reference, self.prompts, self.settings)
        limit = limit_of(noise, self.reference.dtype != torch.float32)
        self.found.noise = noise
        answers, theirs = [reply.completions for reply in replies], of_reply(replies)
        ours = self.reference.score(self.prompts, answers)
        value = gap(ours, theirs)
        self.found.logps |= {"before": value, "before_largest": largest(ours, theirs)}
        cause = None
        if not value <= limit:
            why = cause_at_the_start(self.reference, self.prompts, answers, theirs, limit, noise["precision"])
            if why is None and may_push:
                why = self._after_a_first_push(limit)
            cause = why or "no fault that is known explains it: look at quantization, adapters, logits processors"
        self.found.checks.append(Check("logps", cause is None, value, limit, cause))
        return limit

    def _after_a_first_push(self, limit: float) -> str | None:
        """Does a push mend it? Then the engine began with other weights."""
        self.engine.push()
        replies = self.engine.complete(self.prompts, self.settings)
        ours = self.reference.score(self.prompts, [reply.completions for reply in replies])
        if gap(ours, of_reply(replies)) <= limit:
            return "other weights: the engine was not started with this checkpoint (after a push they agree)"
        return None

    def _after_a_change(self, replies: Sequence[Reply], limit: float) -> None:
        """The checks ``weights``, with other weights than before, and ``restored``, with the first ones again."""
        answers = [reply.completions for reply in replies]
        change = WeightChange(self.reference.model)
        try:
            text, vision, visible = visible_change(change, self.reference, self.prompts, answers, limit)
            self.found.logps["visible"] = visible
            self.engine.push()
            new = self.engine.complete(self.prompts, self.settings)
            said, theirs = [reply.completions for reply in new], of_reply(new)
            ours = self.reference.score(self.prompts, said)
            value = gap(ours, theirs)
            self.found.logps |= {"changed": value, "changed_largest": largest(ours, theirs)}
            cause = None
            if not value <= limit:
                prefixes = [self.engine.prefix_length(prompt) for prompt in self.prompts]
                cause = cause_after_a_change(
                    change, (text, vision), self.reference, self.prompts, said, theirs, prefixes
                )
                cause = cause or "weights arrive in part, or in other precision: no fault that is known explains it"
            elif visible < VISIBLE * limit:
                self.found.left_out["weights"] = f"a change of weights shows too little ({visible:.2g}) to tell"
            if "weights" not in self.found.left_out:
                self.found.checks.append(Check("weights", cause is None, value, limit, cause))
        finally:
            change.apply()
            self.engine.push()
        again = self.engine.complete(self.prompts, self.settings)
        ours = self.reference.score(self.prompts, [reply.completions for reply in again])
        value = gap(ours, of_reply(again))
        cause = None if value <= limit else "the engine does not have its first weights back; start it again"
        self.found.logps["restored"] = value
        self.found.checks.append(Check("restored", cause is None, value, limit, cause))


def vision_tokens(reference: Reference, processor: ProcessorMixin) -> set[int]:
    """Token ids that stand for pictures or begin and end them, by the model's own configuration and by name."""
    config = reference.model.config
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    told = {getattr(config, name) for name in names if getattr(config, name, None) is not None}
    return told | set(never_sampled_ids(processor))
