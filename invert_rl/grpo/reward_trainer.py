"""The rewards of a round of GRPO, what a group of them teaches, and what the log says of both."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from accelerate.utils import gather_object

from invert_rl.grpo.ahead_trainer import AheadTrainer
from invert_rl.grpo.completion_log import readable_prompt
from invert_rl.grpo.equal_groups import equal_groups, weighted_rewards
from invert_rl.grpo.reward_faults import Prompt, RewardsFailed, note_failures
from invert_rl.online_difficulty import SolveRates
from invert_rl.schedule import Draw
from invert_rl.tasks.rewards import TaskReward
from invert_rl.video.errors import VideoError
from rewards.answers import completion_text

SOLVED = 0.5
"""Mean reward from which on a completion counts as solving its row, for ``online_difficulty``."""

FORMAT_REWARDS = ("format", "format_reward")
"""Rewards that say nothing of the content."""


class RewardTrainer(AheadTrainer):
    """Scores the completions of a round, each by its task's rewards."""

    reward_funcs: list[Callable[..., Any]]
    solve_rates: SolveRates
    _rewards: torch.Tensor
    """Of all ranks, from the last scoring, shape ``(completions, functions)``."""
    _refilled: int
    """Groups of this round that were drawn anew."""

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

    def _equal_groups(self) -> torch.Tensor:
        """Which groups of the round, by slot, have equal rewards; the same on all ranks."""
        aggregation = self.args.multi_objective_aggregation
        return equal_groups(self._rewards, self.reward_weights, self.num_generations, aggregation).cpu()

    def _note_solve_rates(self) -> None:
        """Note which share of each group's completions solved its row: a mean reward, format aside, of at least 0.5."""
        rows = dict(gather_object([(draw.slot, draw.row) for draw in self._draws]))
        content = [place for place, name in enumerate(self.reward_func_names) if name not in FORMAT_REWARDS]
        task, at = self._draws[0].task, self._draws[0].round
        own = self._rewards[self._sampled(task, len(self._rewards))]
        scores = own[:, content or list(range(len(self.reward_func_names)))].nanmean(dim=1)
        solved = (scores.nan_to_num(0.0) >= SOLVED).double().view(len(rows), -1).mean(dim=1).tolist()
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

    def _log_round(self, task: str, output: dict[str, Any], replaced: int, rollout_before: float) -> None:
        """Log what became of a round, by what the policy made itself."""
        metrics = self._metrics["train"]
        metrics["data/replaced"].append(float(replaced))
        sampled = self._sampled(task, len(self._rewards))
        size = self.num_generations * int(sampled.sum()) // len(sampled)
        aggregation = self.args.multi_objective_aggregation
        equal = equal_groups(self._rewards[sampled], self.reward_weights, size, aggregation)
        metrics[f"{task}/zero_variance"].append(equal.double().mean().item())
        if self.args.refill_groups:
            metrics["data/refilled"].append(float(self._refilled))
            metrics[f"{task}/refilled"].append(float(self._refilled))
        self._refilled = 0
        lengths = self.accelerator.gather(output["completion_mask"].sum(dim=1))
        tokens = lengths[sampled].sum().item()
        seconds = self._seconds.get("rollout", 0.0) - rollout_before
        if self._round_seconds is not None:
            seconds = self._round_seconds
        if seconds > 0:
            metrics[f"{task}/tokens_per_second"].append(tokens / seconds)
        self._log_weights()
        if self.accelerator.device.type == "cuda":
            metrics[f"{task}/gpu_memory_gib"].append(torch.cuda.max_memory_allocated(self.accelerator.device) / 2**30)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        metrics = self._metrics["train" if self.model.training else "eval"]
        for name in [name for name, values in metrics.items() if all(math.isnan(value) for value in values)]:
            del metrics[name]  # rewards of tasks that did not come up, which TRL would log as None
        prompts = self._logs["prompt"]
        self._logs["prompt"] = deque(map(readable_prompt, prompts), maxlen=prompts.maxlen)
        super().log(logs, start_time)
