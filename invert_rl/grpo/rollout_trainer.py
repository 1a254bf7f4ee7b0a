"""The completions of a round of GRPO: by transformers or by vLLM, and the annotated one where it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from trl.models.utils import unwrap_model_for_generation

from data_prep.errors import DataError
from invert_rl.encoding import EncodedPrompt
from invert_rl.evaluation_mode import evaluation_mode
from invert_rl.grpo.inject import inject_truth
from invert_rl.grpo.prompt_trainer import PromptTrainer
from invert_rl.grpo.rollout import generate_completions
from invert_rl.grpo.sampling import request_seed, sampling_numbers
from invert_rl.grpo.vllm_rollout import generate_with_vllm, push_weights
from invert_rl.schedule import Draw
from invert_rl.tasks import Preset

Rollout = tuple[list[int], list[float] | None]
"""Token ids of a completion and, from vLLM, their log-probabilities."""


class RolloutTrainer(PromptTrainer):
    """Completes the prompts of a round; those of a group that is kept are not asked again."""

    preset: Preset
    banned_ids: list[int]
    """Never sampled."""
    _draws: list[Draw]
    """Of this rank's part of the round."""
    _finished: dict[int, Rollout]
    """Completions that are kept, by their place in that part."""
    _rollout: list[Rollout]
    """All of that part."""
    _last_loaded_step: int
    """Step of the weights that TRL last pushed to vLLM."""
    _policy_step: int
    """Step of the weights that made the completions of this round."""

    def _tokenize_prompts(self, prompts: list) -> tuple[list[list[int]], None, dict[str, Any]]:
        assert self._prompts is not None and len(self._prompts) == len(prompts)
        return [prompt.input_ids for prompt in self._prompts], None, {}

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], *args: Any, **kwargs: Any
    ) -> tuple[list[list[int]], list[list[float]] | None]:
        assert self._prompts is not None
        missing = [number for number in range(len(self._prompts)) if number not in self._finished]
        if any(gather_object([bool(missing)])):  # where ranks must go on together, all of them do
            asked = missing or [0]
            ids, logps = self._complete([self._prompts[number] for number in asked], asked)
            for number in missing:
                place = asked.index(number)
                self._finished[number] = (ids[place], None if logps is None else logps[place])
        self._rollout = [self._finished[number] for number in range(len(self._prompts))]
        if self.args.inject_truth:
            first = self.accelerator.process_index * len(self._draws)
            self._rollout = inject_truth(self._rollout, self._draws, first, self.num_generations, self._truth)
        self._finished = {}
        scored = [logps for _, logps in self._rollout if logps is not None]
        return [ids for ids, _ in self._rollout], scored or None

    def _truth(self, draw: Draw) -> list[int] | None:
        """Token ids of the annotated completion of a draw; None for tasks that get none."""
        task, row = self.preset.tasks[draw.task], self.train_dataset.rows[draw.row]
        if not task.forward or task.answer(row) is None:
            return None
        end = self._tokenizer.convert_tokens_to_ids("<|im_end|>")
        ids = [*self._tokenizer(task.target(row), add_special_tokens=False)["input_ids"], end]
        if len(ids) > self.max_completion_length:
            raise DataError(
                f"row {row.id}: the annotated answer has {len(ids)} tokens, more than max_completion_length "
                f"{self.max_completion_length}; raise it, or train without inject_truth"
            )
        return ids

    def _complete(
        self, prompts: Sequence[EncodedPrompt], places: Sequence[int]
    ) -> tuple[list[list[int]], list[list[float]] | None]:
        """One completion for each of ``prompts``, which stand at ``places`` of this rank's part of the round."""
        unique, index = self._unique(prompts)
        self._policy_step = self.state.global_step
        if self.use_vllm:
            self.load_weights_into_engine()
            seeds = self._seeds(self._draws, index) if self.args.rounds_ahead else None
            with self._part("rollout"):
                rollout = generate_with_vllm(
                    self.vllm_generation, unique, index, self.banned_ids, self.eos_token_ids, seeds=seeds
                )
            self._wait_for_ranks()
            return rollout
        unwrapped = unwrap_model_for_generation(
            self.model_wrapped,
            self.accelerator,
            gather_deepspeed3_params=self.args.ds3_gather_for_generation,
            generation_kwargs=self.generation_kwargs,
            gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
        )
        with (
            self._part("rollout"),
            unwrapped as model,
            evaluation_mode(model),
            self.accelerator.autocast(),
        ):
            completions = generate_completions(
                model,
                unique,
                index,
                self.generation_config,
                self._tokenizer.pad_token_id,
                self.eos_token_ids,
                self._sampling_numbers(places),
                self.vision.of,
            )
        self._wait_for_ranks()
        return completions, None

    def load_weights_into_engine(self) -> None:
        """Give vLLM the weights of this step, if it has older ones; all ranks call it."""
        if self.state.global_step != self._last_loaded_step:
            push_weights(self.vllm_generation)
            self._last_loaded_step = self.state.global_step

    def complete_greedily(self, prompts: Sequence[EncodedPrompt]) -> list[list[int]]:
        """One greedy completion by vLLM for each prompt, token ids up to and including the end token."""
        index = range(len(prompts))
        return generate_with_vllm(self.vllm_generation, prompts, index, self.banned_ids, self.eos_token_ids, True)[0]

    def _unique(self, prompts: Sequence[EncodedPrompt]) -> tuple[list[EncodedPrompt], list[int]]:
        """The different prompts, and which of them each of ``prompts`` is."""
        unique = list({id(prompt): prompt for prompt in prompts}.values())
        place = {id(prompt): number for number, prompt in enumerate(unique)}
        return unique, [place[id(prompt)] for prompt in prompts]

    def _seeds(self, draws: Sequence[Draw], index: Sequence[int]) -> list[int]:
        """A seed for each different prompt of this rank's part of a round, whose draws are ``draws``."""
        first = self.accelerator.process_index * len(draws)
        places = [list(index).index(number) for number in range(max(index) + 1)]
        return [request_seed(self.args.seed, draws[place], (first + place) % self.num_generations) for place in places]

    def _sampling_numbers(self, places: Sequence[int]) -> torch.Tensor | None:
        """The random numbers of this rank's completions at ``places``, or None if nothing is sampled."""
        if not self.generation_config.do_sample:
            return None
        first = self.accelerator.process_index * len(self._draws)
        numbers = sampling_numbers(self.args.seed, self._draws, first, self.num_generations, self.max_completion_length)
        return numbers[list(places)]
