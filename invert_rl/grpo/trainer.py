"""`GRPOTrainer` for video: inverted tasks, the video in rollouts and in every scoring forward, exact resume.

Each override calls TRL's own method and adds what TRL does not do for video. tests/invert_rl/grpo/test_signatures.py
fails when TRL changes one of them.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate.utils import gather_object
from peft import PeftConfig, PeftModel
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, ProcessorMixin, TrainerCallback
from trl.models.utils import unwrap_model_for_generation
from trl.trainer import grpo_trainer as trl_grpo

from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.checkpoints import WholeCheckpoints
from invert_rl.determinism import deterministic_on_cpu
from invert_rl.encoding import EncodedPrompt, PromptEncoder, prompt_limit
from invert_rl.evaluation.validation import Validating
from invert_rl.evaluation_mode import evaluation_mode
from invert_rl.grpo.completion_log import readable_prompt
from invert_rl.grpo.config import InvertGRPOConfig
from invert_rl.grpo.equal_groups import equal_groups, weighted_rewards, without_rows
from invert_rl.grpo.inject import check_injection, inject_truth
from invert_rl.grpo.reward_faults import Prompt, RewardsFailed, note_failures
from invert_rl.grpo.rollout import generate_completions
from invert_rl.grpo.round_state import check_whole_round, load_round_state, save_round_state
from invert_rl.grpo.sampling import sampling_numbers
from invert_rl.grpo.scoring_trainer import PROMPTS, ScoringTrainer
from invert_rl.grpo.vllm_rollout import (
    SamplingAlarm,
    check_vllm_settings,
    connect_all_ranks,
    engine_length,
    generate_with_vllm,
    push_weights,
    video_engine,
)
from invert_rl.models import never_sampled_ids
from invert_rl.online_difficulty import OnlineRows, SolveRates
from invert_rl.policy import name_base_absolutely
from invert_rl.positions import use_trained_positions
from invert_rl.precision import keep_trained_in_float32, without_autocast_in_float32
from invert_rl.schedule import Draw, TaskSampler, replacement
from invert_rl.task_data import Lookahead, TaskDataset, rows_in_this_process
from invert_rl.tasks import Preset, video_of
from invert_rl.tasks.rewards import TaskReward
from invert_rl.video.errors import VideoError
from invert_rl.video.prefetch import Prefetcher
from invert_rl.video.quarantine import Quarantine
from invert_rl.video.store import FrameStore
from rewards.answers import completion_text
from rewards.errors import RewardError

logger = logging.getLogger(__name__)

MAX_REPLACEMENTS = 100
"""Give up when this many rows in a row have no usable video."""

SOLVED = 0.5
"""Mean reward from which on a completion counts as solving its row, for ``online_difficulty``."""

FORMAT_REWARDS = ("format", "format_reward")
"""Rewards that say nothing of the content."""

MAX_SCORINGS = 5
"""Give up when rewards raise in this many generations of one round."""


Rollout = tuple[list[int], list[float] | None]
"""Token ids of a completion and, from vLLM, their log-probabilities."""


class InvertGRPOTrainer(Validating, WholeCheckpoints, ScoringTrainer):
    """GRPO on TVG, VC, AR and VD for Qwen2.5-VL and Qwen3-VL (paper, algorithm 1).

    Args:
        model: the policy, from `invert_rl.models.load_model`.
        rows: the data; tasks that need them find ``verbs`` and ``masked_query`` in their ``meta``.
        reward_funcs: TRL reward functions; each gets the columns of `Task.columns` and returns None for tasks that are
            not its own (`invert_rl.grpo.rewards.reward_functions`).
        args: settings.
        processing_class: the checkpoint's processor.
        store: where decoded videos come from; ``dataloader_num_workers`` processes decode those of the next round.
        quarantine: collects broken videos and refused rows.
        preset: the tasks as they are worded; default: what ``args`` say.
    """

    reward_funcs: list[Callable[..., Any]]
    quarantine: Quarantine
    _last_loaded_step: int  # of the weights that TRL last pushed to vLLM

    def __init__(
        self,
        model: PreTrainedModel,
        rows: Sequence[Row],
        reward_funcs: Sequence[Callable[..., Sequence[float | None]]],
        args: InvertGRPOConfig,
        processing_class: ProcessorMixin,
        store: FrameStore,
        quarantine: Quarantine | None = None,
        peft_config: PeftConfig | None = None,
        callbacks: list[TrainerCallback] | None = None,
        preset: Preset | None = None,
    ) -> None:
        self.preset = args.preset() if preset is None else preset
        if args.inject_truth:
            check_injection(self.preset, args.tasks)
        tasks = {name: self.preset.tasks[name] for name in args.schedule().possible}
        task_data = TaskDataset(rows, tasks, args.frame_budgets())
        if peft_config is None and not isinstance(model, PeftModel):
            without_autocast_in_float32(model, args)
        self.banned_ids = never_sampled_ids(processing_class)
        if args.use_vllm:
            check_vllm_settings(args, model)
            callbacks = [*(callbacks or []), SamplingAlarm()]
        else:
            given = args.generation_kwargs or {}
            banned = sorted({*self.banned_ids, *(given.get("suppress_tokens") or ())})
            args.generation_kwargs = {**given, "suppress_tokens": banned}
        with video_engine(args, model), reference_of(model, args):
            super().__init__(
                model=model,
                reward_funcs=list(reward_funcs),
                args=args,
                train_dataset=datasets.Dataset.from_dict({"prompt": [row.id for row in task_data.rows]}),
                eval_dataset=None if args.eval_strategy == "no" else datasets.Dataset.from_dict({"prompt": ["unused"]}),
                processing_class=processing_class,
                peft_config=peft_config,
                callbacks=callbacks,
            )
        if args.use_vllm:
            connect_all_ranks(self.vllm_generation, args, model)
        self.solve_rates = SolveRates()
        if args.online_difficulty:
            task_data.usable_rows = {
                task: OnlineRows(usable, self.solve_rates, task) for task, usable in task_data.usable_rows.items()
            }
        self.train_dataset = task_data  # TRL insists on a `Dataset` above; this one is indexed by the sampler's draws
        self.steps_per_round = args.steps_per_round
        self.schedule = args.schedule()
        self.encoder = PromptEncoder(processing_class, self.preset.chat_template_kwargs)
        answer_tokens = args.max_completion_length or 0
        self.prompt_limit = prompt_limit(
            self.model.config, answer_tokens, args.max_prompt_length, engine_length(args, model)
        )
        self.store = store
        self.clips = Prefetcher(store, args.dataloader_num_workers)
        self.lookahead = Lookahead(
            task_data, self._get_train_sampler(), self.accelerator.process_index, self.accelerator.num_processes
        )
        self.quarantine = Quarantine() if quarantine is None else quarantine
        if self.ref_model is not None and args.trained_positions:
            use_trained_positions(self.ref_model)
        self.set_up_scoring()
        keep_trained_in_float32(self)
        name_base_absolutely(self.model)
        self._draws: list[Draw] = []
        self._rewards = torch.zeros(0)  # of all ranks, from the last scoring
        self._finished: dict[int, Rollout] = {}
        self._rollout: list[Rollout] = []
        self._refilled = 0

    # -- which prompts ------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader:
        with rows_in_this_process(self.args):
            return super().get_train_dataloader()

    def _get_train_sampler(self, dataset: datasets.Dataset | None = None) -> TaskSampler:
        data = self.train_dataset if dataset is None else dataset
        return TaskSampler(
            self.schedule,
            data.usable_rows,
            prompts_per_round=self.args.generation_batch_size // self.num_generations,
            num_generations=self.num_generations,
            repeats=self.num_iterations * self.args.steps_per_generation,
        )

    def _load_prompts(
        self, inputs: list[dict[str, Any]], failed: dict[Prompt, VideoError]
    ) -> tuple[list[dict[str, Any]], list[EncodedPrompt]]:
        """Decode and encode the prompts of a round, putting other rows in the place of those that cannot be used.

        ``failed``, the same on all ranks, has those that are known to be such and gets the others. All ranks learn of
        each other's failures and draw the same replacement, so that a group which is spread over ranks stays one group.
        """
        encoded: dict[Prompt, EncodedPrompt] = {}
        upcoming = self.lookahead.after(inputs[0]["draw"].round)
        self.clips.asked = self.clips.waited = 0
        for attempt in range(MAX_REPLACEMENTS):
            refs = [video_of(item["prompt"]) for item in inputs if item["draw"][:2] not in encoded]
            self.clips.want(ref for ref in [*refs, *upcoming] if ref.path not in self.quarantine)
            broken: dict[Prompt, VideoError] = {}
            for item in inputs:
                task, row, *_ = item["draw"]
                if (task, row) in failed:
                    broken[task, row] = failed[task, row]
                elif (task, row) not in encoded and (task, row) not in broken:
                    try:
                        encoded[task, row] = self._encode(task, self.train_dataset.rows[row], item["prompt"])
                    except VideoError as error:
                        broken[task, row] = error
            self._wait_for_ranks()
            everywhere = gather_object(list(broken.items()))
            if not everywhere:
                self._metrics["train"]["data/waited"].append(self.clips.waited / max(1, self.clips.asked))
                return inputs, [encoded[item["draw"].task, item["draw"].row] for item in inputs]
            for key, trouble in everywhere:
                failed[key] = trouble
                self.quarantine.add(trouble)
            inputs = [self._replace(item, attempt) if item["draw"][:2] in failed else item for item in inputs]
        raise DataError(
            f"no usable video after {MAX_REPLACEMENTS} replacements in one generation round; "
            f"{self.quarantine.summary()}; run `invert-rl check-videos` on the data"
        )

    def _replace(self, item: dict[str, Any], attempt: int) -> dict[str, Any]:
        draw = item["draw"]
        return self.train_dataset[replacement(self.schedule, self.train_dataset.usable_rows[draw.task], draw, attempt)]

    def _encode(self, task: str, row: Row, chat: list[dict[str, Any]]) -> EncodedPrompt:
        """One prompt with its video; raises `VideoError` for a video or a row that is to be left out."""
        if row.video in self.quarantine:
            raise VideoError(row.video, self.quarantine.videos[row.video])
        with self._part("decode"):
            clip = self.clips.clip(video_of(chat))
        with self._part("encode"):
            prompt = self.encoder(chat, clip)
        self.prompt_limit.check(len(prompt.input_ids), row, task)
        return prompt

    # -- rollouts -------------------------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self.vision.start_round()
        failed: dict[Prompt, VideoError] = {}
        refilled = scorings = 0
        started = self._seconds.get("rollout", 0.0)
        self._finished = {}
        while scorings < MAX_SCORINGS:
            inputs, prompts = self._load_prompts(inputs, failed)
            self._prompts = prompts
            self._draws = [item["draw"] for item in inputs]
            counted = self._counts()
            try:
                output = super()._generate_and_score_completions(inputs)
            except RewardsFailed as trouble:
                failed.update(self._unscored(trouble))
                self._finished = {}
                scorings += 1
                continue
            finally:
                self._prompts = None
            equal = self._equal_groups()
            if self.args.online_difficulty:
                self._note_solve_rates()
            if equal.any() and refilled < self.args.refill_groups:
                # The groups that teach keep their completions; the others are drawn anew, by all ranks alike.
                refilled += 1
                self._finished = {n: ids for n, ids in enumerate(self._rollout) if not equal[inputs[n]["draw"].slot]}
                self._refilled += int(equal.sum())
                inputs = [
                    self._replace(item, MAX_REPLACEMENTS + refilled) if equal[item["draw"].slot] else item
                    for item in inputs
                ]
                self._forget_since(counted)
                continue
            self._task = inputs[0]["task"]
            self._log_round(self._task, output, equal, len(failed), started)
            if self.args.refill_groups and self.beta and not self.args.keep_kl_of_equal_groups:
                without_rows(output, torch.tensor([bool(equal[draw.slot]) for draw in self._draws]))
            output[PROMPTS] = prompts
            return output
        raise RewardError(
            f"rewards raised in {MAX_SCORINGS} generations of one round, last for {next(reversed(failed.values()))}; "
            "the log has the traceback"
        )

    def _equal_groups(self) -> torch.Tensor:
        """Which groups of the round, by slot, have equal rewards; the same on all ranks."""
        found = equal_groups(
            self._rewards, self.reward_weights, self.num_generations, self.args.multi_objective_aggregation
        )
        return found.cpu()

    def _note_solve_rates(self) -> None:
        """Note which share of each group's completions solved its row: a mean reward, format aside, of at least 0.5."""
        rows = dict(gather_object([(draw.slot, draw.row) for draw in self._draws]))
        content = [place for place, name in enumerate(self.reward_func_names) if name not in FORMAT_REWARDS]
        scores = self._rewards[:, content or list(range(len(self.reward_func_names)))].nanmean(dim=1)
        solved = (scores.nan_to_num(0.0) >= SOLVED).double().view(-1, self.num_generations).mean(dim=1).tolist()
        task, at = self._draws[0].task, self._draws[0].round
        self.solve_rates.add((at, task, rows[slot], rate) for slot, rate in enumerate(solved))
        self._metrics["train"][f"{task}/solve_rate"].append(sum(solved) / len(solved))

    def _counts(self) -> tuple[dict[str, int], int, int]:
        """How much has been logged so far, for `_forget_since`."""
        logged = {name: len(values) for name, values in self._metrics["train"].items()}
        return logged, self._total_train_tokens, self.state.num_input_tokens_seen

    def _forget_since(self, counts: tuple[dict[str, int], int, int]) -> None:
        """Take back what a scoring logged that was not the round's last one."""
        logged, self._total_train_tokens, self.state.num_input_tokens_seen = counts
        metrics = self._metrics["train"]
        for name in list(metrics):
            del metrics[name][logged.get(name, 0) :]
            if not metrics[name]:
                del metrics[name]

    def _log_round(
        self, task: str, output: dict[str, Any], equal: torch.Tensor, replaced: int, rollout_before: float
    ) -> None:
        metrics = self._metrics["train"]
        metrics["data/replaced"].append(float(replaced))
        metrics[f"{task}/zero_variance"].append(equal.double().mean().item())
        if self.args.refill_groups:
            metrics["data/refilled"].append(float(self._refilled))
            metrics[f"{task}/refilled"].append(float(self._refilled))
        self._refilled = 0
        tokens = self.accelerator.gather(output["completion_mask"].sum()).sum().item()
        seconds = self._seconds.get("rollout", 0.0) - rollout_before
        if seconds > 0:
            metrics[f"{task}/tokens_per_second"].append(tokens / seconds)
        if self.accelerator.device.type == "cuda":
            metrics[f"{task}/gpu_memory_gib"].append(torch.cuda.max_memory_allocated(self.accelerator.device) / 2**30)

    def _unscored(self, trouble: RewardsFailed) -> dict[Prompt, VideoError]:
        """The rows whose reward raised, noted like those whose video cannot be used; forgets what they logged."""
        self._pending_extra_logs.clear()
        self._pending_metrics.clear()
        failed = {}
        for (task, number), reason in trouble.failures.items():
            row = self.train_dataset.rows[number]
            failed[task, number] = VideoError(f"{row.video} (row {row.id}, {task})", reason)
            self.quarantine.add(failed[task, number])
        return failed

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
        unique = list({id(prompt): prompt for prompt in prompts}.values())
        place = {id(prompt): number for number, prompt in enumerate(unique)}
        index = [place[id(prompt)] for prompt in prompts]
        if self.use_vllm:
            self.load_weights_into_engine()
            with self._part("rollout"):
                rollout = generate_with_vllm(self.vllm_generation, unique, index, self.banned_ids, self.eos_token_ids)
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
            self.vision.of(unique),
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

    def _sampling_numbers(self, places: Sequence[int]) -> torch.Tensor | None:
        """The random numbers of this rank's completions at ``places``, or None if nothing is sampled."""
        if not self.generation_config.do_sample:
            return None
        first = self.accelerator.process_index * len(self._draws)
        numbers = sampling_numbers(self.args.seed, self._draws, first, self.num_generations, self.max_completion_length)
        return numbers[list(places)]

    # -- rewards and logs -----------------------------------------------------------------------------------------

    def _calculate_rewards(
        self,
        inputs: list[dict[str, Any]],
        prompts: list,
        completions: list,
        completion_ids_list: list[list[int]],
    ) -> torch.Tensor:
        with self._part("reward"):
            rewards = self._rewards_of_all(inputs, prompts, completions, completion_ids_list)
        task = inputs[0]["task"]
        self.reward_weights = self._weights_of(task)
        pairs = zip(inputs, completions, strict=True)
        valid = torch.tensor([float(self._is_valid(item["draw"], completion)) for item, completion in pairs])
        metrics = self._metrics["train" if self.model.training else "eval"]
        sampled = rewards[self._sampled(task, len(rewards))]
        for name, column in zip(self.reward_func_names, sampled.unbind(dim=1), strict=True):
            if not torch.isnan(column).all():
                metrics[f"{task}/{name}"].append(torch.nanmean(column).item())
        total = weighted_rewards(sampled, self.reward_weights)
        if not torch.isnan(total).all():
            metrics[f"{task}/reward"].append(torch.nanmean(total).item())
        self._rewards = rewards
        valid = self.accelerator.gather(valid.to(self.accelerator.device))
        metrics[f"{task}/valid_answers"].append(valid[self._sampled(task, len(valid))].mean().item())
        return rewards

    def _sampled(self, task: str, count: int) -> torch.Tensor:
        """Which completions of a round of ``count`` on all ranks the policy made itself."""
        injected = self.args.inject_truth and self.preset.tasks[task].forward
        places = torch.arange(count, device=self.accelerator.device) % self.num_generations
        return places != (self.num_generations - 1 if injected else -1)

    def _weights_of(self, task: str) -> torch.Tensor:
        """Weight of each reward function for a task: that of the run's ``rewards`` times TRL's ``reward_weights``."""
        given = self.args.reward_weights or [1.0] * len(self.reward_funcs)
        own = [reward.weights.get(task, 0.0) if isinstance(reward, TaskReward) else 1.0 for reward in self.reward_funcs]
        return torch.tensor([weight * factor for weight, factor in zip(given, own, strict=True)], dtype=torch.float32)

    def _is_valid(self, draw: Draw, completion: Any) -> bool:
        """Whether a completion holds an answer of its task's kind."""
        return self.preset.tasks[draw.task].is_valid(completion_text(completion), self.train_dataset.rows[draw.row])

    def _rewards_of_all(self, inputs: list[dict[str, Any]], *args: Any) -> torch.Tensor:
        """TRL's rewards of all ranks; raises `RewardsFailed` on all of them if a reward raised on one."""
        failures: dict[Prompt, str] = {}
        drawn = [(item["draw"].task, item["draw"].row) for item in inputs]
        given = self.reward_funcs
        self.reward_funcs = [
            note_failures(reward, name, drawn, failures)
            for reward, name in zip(given, self.reward_func_names, strict=True)
        ]
        try:
            rewards = super()._calculate_rewards(inputs, *args)
        finally:
            self.reward_funcs = given
        everywhere = dict(gather_object(list(failures.items())))
        if everywhere:
            raise RewardsFailed(everywhere)
        return rewards

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        metrics = self._metrics["train" if self.model.training else "eval"]
        for name in [name for name, values in metrics.items() if all(math.isnan(value) for value in values)]:
            del metrics[name]  # rewards of tasks that did not come up, which TRL would log as None
        prompts = self._logs["prompt"]
        self._logs["prompt"] = deque(map(readable_prompt, prompts), maxlen=prompts.maxlen)
        super().log(logs, start_time)

    # -- resume ---------------------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        if isinstance(resume_from_checkpoint, str):
            check_whole_round(Path(resume_from_checkpoint), self.args.steps_per_round, self.args.max_steps)
        with deterministic_on_cpu(self.args.device), self.clips:
            return super().train(resume_from_checkpoint, **kwargs)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        save_round_state(self, Path(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            load_round_state(self, Path(checkpoint))


@contextmanager
def reference_of(model: PreTrainedModel, args: InvertGRPOConfig) -> Iterator[None]:
    """Have TRL, where it loads the reference model inside this context, load the revision that ``model`` has."""
    revision = getattr(model, "loaded_revision", None)
    loads = trl_grpo.create_model_from_path
    trl_grpo.create_model_from_path = partial(loads, revision=revision) if revision else loads
    try:
        yield
    finally:
        trl_grpo.create_model_from_path = loads
