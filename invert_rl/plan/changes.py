"""The smallest change of settings that makes a run fit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from data_prep.errors import DataError
from invert_rl.plan.job import SHARDED, Job
from invert_rl.plan.memory import Memory
from invert_rl.plan.sizes import ModelSizes

LANGUAGE_LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj"]


@dataclass(frozen=True)
class Change:
    """One thing to do otherwise."""

    text: str
    """As it would be typed, and what it means."""
    job: Job


Kinds = tuple[Callable[[Job, ModelSizes], list[Change]], ...]


def smallest_change(
    job: Job, sizes: ModelSizes, measure: Callable[[Job], Memory], fits: Callable[[Memory], bool]
) -> list[str]:
    """The changes, fewest and mildest first found, with which ``fits`` holds; empty if none of these is enough.

    What leaves the update as it is comes first (memory for time, the batch in smaller pieces, sharding over the GPUs
    that there are), then 8-bit moments, then adapters in the place of full fine-tuning, then more GPUs.
    """
    sets: Iterator[Kinds] = itertools.chain(
        *(itertools.combinations(HERE, number) for number in (1, 2, 3)),
        ((*kinds, _more_gpus) for number in (0, 1, 2) for kinds in itertools.combinations(HERE, number)),
    )
    for kinds in sets:
        for texts, changed in _combined(job, sizes, kinds):
            try:
                if fits(measure(changed)):
                    return texts
            except DataError:  # a change that does not go with the model, such as targets it has not
                continue
    return []


def _combined(job: Job, sizes: ModelSizes, kinds: Kinds) -> Iterator[tuple[list[str], Job]]:
    if not kinds:
        yield [], job
        return
    for change in kinds[0](job, sizes):
        for texts, changed in _combined(change.job, sizes, kinds[1:]):
            yield [change.text, *texts], changed


def _checkpointing(job: Job, sizes: ModelSizes) -> list[Change]:
    if job.gradient_checkpointing:
        return []
    text = "--gradient_checkpointing true (each layer's forward once more in the backward pass)"
    return [Change(text, job.with_settings(gradient_checkpointing=True))]


def _engine(job: Job, sizes: ModelSizes) -> list[Change]:
    if not (job.use_vllm and job.vllm_mode == "colocate"):
        return []
    found = []
    if not job.vllm_enable_sleep_mode:
        text = "--vllm_enable_sleep_mode true (the engine gives its memory back during the update)"
        found.append(Change(text, job.with_settings(vllm_enable_sleep_mode=True)))
    for share in (0.4, 0.3, 0.2):
        if share < job.vllm_gpu_memory_utilization:
            text = f"--vllm_gpu_memory_utilization {share} (fewer completions at a time)"
            found.append(Change(text, job.with_settings(vllm_gpu_memory_utilization=share)))
    return found


def _smaller_pieces(job: Job, sizes: ModelSizes) -> list[Change]:
    batch, found = int(job.per_device_train_batch_size), []
    steps = int(job.gradient_accumulation_steps)
    for factor in (2, 4, 8, 16):
        if batch % factor == 0:
            size, times = batch // factor, steps * factor
            text = (
                f"--per_device_train_batch_size {size} --gradient_accumulation_steps {times} (the same batch in "
                "smaller pieces)"
            )
            found.append(
                Change(text, job.with_settings(per_device_train_batch_size=size, gradient_accumulation_steps=times))
            )
    return found


def _sharded(job: Job, sizes: ModelSizes) -> list[Change]:
    """FSDP2 over the GPUs that there are."""
    several = job.launch.processes > 1 and job.launch.kind not in SHARDED
    return _over(job, [job.launch.processes] if several else [])


def _more_gpus(job: Job, sizes: ModelSizes) -> list[Change]:
    """FSDP2 over more GPUs."""
    return _over(job, [processes for processes in (2, 4, 8, 16) if processes > job.launch.processes])


def _over(job: Job, numbers: list[int]) -> list[Change]:
    """FSDP2 over these numbers of GPUs, with the same number of completions a step."""
    launch, found = job.launch, []
    for processes in numbers:
        machines = max(launch.machines, -(-processes // 8))
        all_of_them = int(job.gradient_accumulation_steps) * launch.processes
        steps = max(1, all_of_them // processes)
        name = f"{f'{machines}x' if machines > 1 else ''}8gpu_fsdp2.yaml"
        text = f"--config_file recipes/configs/accelerate/{name} --num_processes {processes}"
        if steps != job.gradient_accumulation_steps:
            text += f" --gradient_accumulation_steps {steps}"
        text += f" (FSDP2: a {processes}th of the state on each GPU)"
        changed = replace(launch, kind="fsdp", processes=processes, machines=machines)
        found.append(Change(text, job.with_settings(launch=changed, gradient_accumulation_steps=steps)))
    return found


def _moments(job: Job, sizes: ModelSizes) -> list[Change]:
    optim = str(getattr(job.optim, "value", job.optim))
    if job.use_peft or "8bit" in optim or job.launch.kind in SHARDED:
        return []
    text = '--optim adamw_bnb_8bit (8-bit moments; pip install "invert-rl[quantization]")'
    return [Change(text, job.with_settings(optim="adamw_bnb_8bit"))]


def _adapters(job: Job, sizes: ModelSizes) -> list[Change]:
    if job.use_peft:
        return []
    targets = [name for name in LANGUAGE_LINEARS if sizes.names(name)]
    options = {"use_peft": True, "lora_r": 64, "lora_target_modules": targets, "freeze_vision": True}
    text = (
        f"--use_peft true --lora_r 64 --lora_alpha 128 --lora_target_modules {' '.join(targets)} --freeze_vision true "
        "(LoRA on the language model)"
    )
    return [Change(text, job.with_settings(**options))]


def _four_bits(job: Job, sizes: ModelSizes) -> list[Change]:
    if not job.use_peft or job.load_in_4bit or job.load_in_8bit or job.launch.kind in SHARDED:
        return []
    text = '--load_in_4bit true --bnb_4bit_quant_type nf4 (QLoRA; pip install "invert-rl[quantization]")'
    return [Change(text, job.with_settings(load_in_4bit=True))]


HERE: Kinds = (_checkpointing, _engine, _smaller_pieces, _sharded, _moments, _adapters, _four_bits)
"""What can be done on the GPUs that there are, mildest first; a combination takes at most one of each."""
