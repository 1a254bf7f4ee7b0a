"""A run planned: its memory against the GPU's, its work, its prompts, and what to change where it does not fit."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.encoding import prompt_limit
from invert_rl.models import load_config
from invert_rl.plan.changes import smallest_change
from invert_rl.plan.gpus import GPU, gpu_named
from invert_rl.plan.job import Job, current_launch, job_of
from invert_rl.plan.memory import (
    GIB,
    RESERVE,
    Memory,
    engine_needs,
    host_memory,
    memory_of,
    trained_parameters,
)
from invert_rl.plan.seconds import Work, work_of
from invert_rl.plan.sizes import ModelSizes, sizes_of
from invert_rl.video.budget import VideoBudget, budget_of

TEXT_TOKENS = 300
"""Tokens of a prompt's words, taken for all tasks; the longest of the shipped ones has about 250."""
STEP_TOKENS = 10
"""Tokens that the families after Qwen2.5-VL spend on the time of each grid step."""
USUAL_SECONDS = 30.0
"""Length of a video where no rows are given, that of Charades-STA on average."""


@dataclass(frozen=True)
class Prompts:
    """Tokens of the rows' prompts, video included, in the size in which videos take most."""

    rows: int
    mean: float
    longest: int
    mean_video: float
    longest_video: int


@dataclass(frozen=True)
class Plan:
    """What a run takes, and whether a GPU has it."""

    job: Job
    sizes: ModelSizes
    memory: Memory
    work: Work
    prompts: Prompts
    host: dict[str, float]
    capacity: float
    problems: list[str]
    changes: list[str]

    @property
    def fits(self) -> bool:
        """Whether nothing stands against it."""
        return not self.problems

    def summary(self) -> str:
        """One line for people."""
        return (
            f"plan: about {self.memory.total / GIB:.1f} of {self.capacity / GIB:.1f} GiB on each GPU at the peak of "
            f"{self.memory.worst_phase} (invert-rl plan)"
        )

    def as_json(self) -> dict[str, Any]:
        """The plan as plain numbers: memory in GiB (2^30 bytes) and, beside it, in GB (10^9 bytes)."""
        memory, job = self.memory, self.job
        totals = {"state": memory.state, **memory.parts(), "total": memory.total, "available": self.capacity}
        seconds = self.work.seconds
        return {
            "fits": self.fits,
            "problems": self.problems,
            "changes": self.changes,
            "model": job.model,
            "family": self.sizes.family,
            "parameters": self.sizes.parameters,
            "trained_parameters": trained_parameters(job, self.sizes),
            "launch": {"kind": job.launch.kind, "processes": job.launch.processes, "machines": job.launch.machines},
            "peak_phase": memory.worst_phase,
            "per_gpu_gib": {name: round(value / GIB, 3) for name, value in totals.items()},
            "per_gpu_gb": {name: round(value / 1e9, 3) for name, value in totals.items()},
            "phases_gib": {name: round(sum(parts.values()) / GIB, 3) for name, parts in memory.phases.items()},
            "host_gib": {
                **{name: round(value / GIB, 2) for name, value in self.host.items()},
                "total": round(sum(self.host.values()) / GIB, 2),
            },
            "prompt_tokens": {
                "rows": self.prompts.rows,
                "mean": round(self.prompts.mean, 1),
                "longest": self.prompts.longest,
                "longest_video": self.prompts.longest_video,
            },
            "tera_operations": {name: round(value, 3) for name, value in self.work.tera_operations.items()},
            "step_seconds": {
                **{name: round(value, 3) for name, value in seconds.items()},
                "total": round(sum(seconds.values()), 3),
            },
        }


def plan_of(job: Job, gpu: GPU, rows: Iterable[Row] = (), capacity: float | None = None) -> Plan:
    """Plan a run on GPUs with ``capacity`` bytes (default: the data sheet's).

    Raises `DataError` or `CheckpointError` for a model whose configuration cannot be read or is of no known family.
    """
    config = load_config(job.model, job.revision)
    sizes = sizes_of(config)
    capacity = gpu.memory * GIB if capacity is None else capacity
    positions = prompt_limit(config, int(job.max_completion_length)).tokens
    prompts = prompts_of(job, sizes, rows)
    prompt = prompts.longest if job.max_prompt_length is None else min(prompts.longest, int(job.max_prompt_length))
    prompt = prompt if positions is None else min(prompt, positions)

    def measure(changed: Job) -> Memory:
        return memory_of(changed, sizes, prompt, prompts.longest_video, capacity)

    memory = measure(job)
    problems = _problems(job, sizes, memory, prompt, capacity)
    changes = []
    if memory.total > capacity * (1 - RESERVE):
        changes = smallest_change(job, sizes, measure, lambda found: found.total <= capacity * (1 - RESERVE))
        needed = memory.total / (1 - RESERVE) / GIB
        changes = changes or [f"GPUs of {needed:.0f} GiB, or a smaller model; no setting known here is enough"]
    work = work_of(job, sizes, prompts.mean, prompts.mean_video, gpu)
    host = host_memory(job, sizes, prompts.longest_video)
    return Plan(job, sizes, memory, work, prompts, host, capacity, problems, changes)


def prompts_of(job: Job, sizes: ModelSizes, rows: Iterable[Row] = ()) -> Prompts:
    """Prompt tokens of rows, whole videos; without rows those of one of `USUAL_SECONDS`."""
    frames = job.frames(sizes.patch)
    seconds = [row.shown_seconds for row in rows] or [USUAL_SECONDS]
    budgets = [budget_of(length, frames) for length in seconds]
    tokens = [_prompt_tokens(budget, sizes) for budget in budgets]
    videos = [budget.tokens for budget in budgets]
    return Prompts(len(seconds), statistics.fmean(tokens), max(tokens), statistics.fmean(videos), max(videos))


def _prompt_tokens(budget: VideoBudget, sizes: ModelSizes) -> int:
    times = 0 if sizes.family == "qwen2_5_vl" else STEP_TOKENS * budget.steps
    return TEXT_TOKENS + budget.tokens + times


def _problems(job: Job, sizes: ModelSizes, memory: Memory, prompt: int, capacity: float) -> list[str]:
    """What does not fit, each in one sentence."""
    problems = []
    room = capacity * (1 - RESERVE)
    if memory.total > room:
        largest = sorted(memory.parts().items(), key=lambda part: -part[1])[:3]
        problems.append(
            f"{memory.total / GIB:.1f} GiB at the peak of {memory.worst_phase} on a GPU of {capacity / GIB:.1f} GiB "
            f"({RESERVE:.0%} of it left to fragmentation); most of it: "
            + ", ".join(f"{name.replace('_', ' ')} {value / GIB:.1f}" for name, value in largest)
        )
    if job.use_vllm and job.vllm_mode == "colocate":
        needs = sum(engine_needs(job, sizes, prompt).values())
        given = float(job.vllm_gpu_memory_utilization) * capacity
        if needs > given:
            problems.append(
                f"vLLM needs {needs / GIB:.1f} GiB for its weights and the cache of one group, and "
                f"vllm_gpu_memory_utilization {job.vllm_gpu_memory_utilization:g} gives it {given / GIB:.1f}; raise it "
                f"to {needs / capacity:.2f}, or vllm_tensor_parallel_size"
            )
    sequences = int(job.per_device_train_batch_size) * job.launch.processes * job.micro_batches
    if job.generation_batch_size is None and sequences % int(job.num_generations):
        problems.append(
            f"a step has {sequences} completions, no multiple of num_generations {job.num_generations}: raise "
            "gradient_accumulation_steps"
        )
    return problems


def plan_here(args: Any, model_args: Any, model: str, rows: Iterable[Row]) -> Plan | None:
    """The plan of a recipe's run on the GPU of this process; None where there is no GPU or with ``skip_plan``.

    Raises `DataError` that says what does not fit and what to change.
    """
    if args.skip_plan or not torch.cuda.is_available():
        return None
    device = torch.cuda.get_device_properties(args.device)
    launch = current_launch(os.environ.get("ACCELERATE_MIXED_PRECISION", "no"))
    plan = plan_of(job_of(args, model_args, launch, model), gpu_named(device.name), rows, float(device.total_memory))
    if plan.fits:
        return plan
    changes = f"; smallest change: {' and '.join(plan.changes)}" if plan.changes else ""
    raise DataError(
        f"this run does not fit (invert-rl plan): {'; '.join(plan.problems)}{changes}; or start it all the same with "
        "--skip_plan true"
    )
