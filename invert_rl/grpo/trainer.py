"""`GRPOTrainer` for video: inverted tasks, the video in rollouts and in every scoring forward, exact resume.

What a round does is told in order here; how is in a class for each part, one on top of the other: scoring forwards
(`scoring_trainer`), prompts (`prompt_trainer`), completions (`rollout_trainer`), rewards and logs (`reward_trainer`).
Each override calls TRL's own method and adds what TRL does not do for video. tests/invert_rl/grpo/test_signatures.py
fails when TRL changes one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from peft import PeftConfig, PeftModel
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, ProcessorMixin, TrainerCallback

from data_prep.rows import Row
from invert_rl.checkpoints import WholeCheckpoints
from invert_rl.determinism import deterministic_on_cpu
from invert_rl.encoding import PromptEncoder, prompt_limit
from invert_rl.evaluation.runs.validation import Validating
from invert_rl.grpo.config import InvertGRPOConfig
from invert_rl.grpo.equal_groups import without_rows
from invert_rl.grpo.inject import check_injection
from invert_rl.grpo.prompt_trainer import MAX_REPLACEMENTS
from invert_rl.grpo.reference import reference_of
from invert_rl.grpo.reward_faults import Prompt, RewardsFailed
from invert_rl.grpo.reward_trainer import RewardTrainer
from invert_rl.grpo.round_state import check_whole_round, load_round_state, save_round_state
from invert_rl.grpo.rounds_ahead import RoundsAhead
from invert_rl.grpo.scoring_trainer import PROMPTS
from invert_rl.grpo.vllm_rollout import (
    DIFFERENCE,
    SamplingAlarm,
    check_first_round,
    check_vllm_settings,
    connect_all_ranks,
    engine_length,
    video_engine,
)
from invert_rl.models import never_sampled_ids
from invert_rl.online_difficulty import OnlineRows, SolveRates
from invert_rl.policy import name_base_absolutely
from invert_rl.positions import use_trained_positions
from invert_rl.precision import keep_trained_in_float32, without_autocast_in_float32
from invert_rl.schedule import TaskSampler
from invert_rl.task_data import Lookahead, TaskDataset, rows_in_this_process
from invert_rl.tasks import Preset
from invert_rl.video.errors import VideoError
from invert_rl.video.prefetch import Prefetcher
from invert_rl.video.quarantine import Quarantine
from invert_rl.video.store import FrameStore
from rewards.errors import RewardError

MAX_SCORINGS = 5
"""Give up when rewards raise in this many generations of one round."""


class InvertGRPOTrainer(Validating, WholeCheckpoints, RewardTrainer):
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

    quarantine: Quarantine

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
            callbacks = [*(callbacks or []), SamplingAlarm(args.rounds_ahead)]
        else:
            given = args.generation_kwargs or {}
            banned = sorted({*self.banned_ids, *(given.get("suppress_tokens") or ())})
            args.generation_kwargs = {**given, "suppress_tokens": banned}
        with video_engine(args, model), reference_of(model):
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
        self._draws, self._finished, self._rollout = [], {}, []
        self._rewards = torch.zeros(0)
        self._refilled = 0
        self.ahead = RoundsAhead()
        self._round_seconds = None
        self._first_round = args.use_vllm and args.vllm_importance_sampling_correction

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

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self.vision.start_round()
        failed: dict[Prompt, VideoError] = {}
        refilled = scorings = 0
        started = self._seconds.get("rollout", 0.0)
        self._finished = {}
        load = self._begin_round
        while scorings < MAX_SCORINGS:
            inputs, prompts = load(inputs, failed)
            load = self._load_prompts
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
            if self._first_round:
                self._first_round = False
                if self._policy_step == self.state.global_step:  # else they differ by what was learned since
                    check_first_round(self._metrics["train"][DIFFERENCE][-1], self.args, self.model)
            self._task = inputs[0]["task"]
            self._log_round(self._task, output, len(failed), started)
            if self.args.refill_groups and self.beta and not self.args.keep_kl_of_equal_groups:
                without_rows(output, torch.tensor([bool(equal[draw.slot]) for draw in self._draws]))
            output[PROMPTS] = prompts
            return output
        raise RewardError(
            f"rewards raised in {MAX_SCORINGS} generations of one round, last for {next(reversed(failed.values()))}; "
            "the log has the traceback"
        )

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        if isinstance(resume_from_checkpoint, str):
            check_whole_round(Path(resume_from_checkpoint), self.args.steps_per_round, self.args.max_steps)
        self.ahead.forget()
        try:
            with deterministic_on_cpu(self.args.device), self.clips:
                return super().train(resume_from_checkpoint, **kwargs)
        finally:
            self.ahead.forget()

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        save_round_state(self, Path(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            load_round_state(self, Path(checkpoint))
