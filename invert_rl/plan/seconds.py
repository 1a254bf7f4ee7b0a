"""Floating-point operations and an estimate of the seconds of an optimizer step, part by part, on each GPU."""

from __future__ import annotations

from dataclasses import dataclass

from invert_rl.plan.gpus import GPU
from invert_rl.plan.job import SHARDED, Job
from invert_rl.plan.memory import loaded_bytes, trained_parameters, trains_vision
from invert_rl.plan.sizes import ModelSizes

USED = 0.4
"""Share of the data sheet's speed that training reaches; an assumption, not measured here."""
LAUNCH = 0.8e-3
"""Seconds that transformers' `generate` spends on a layer of one token, whatever the layer's size; an assumption."""
ENGINE_STEP = 3e-3
"""Seconds that vLLM adds to a token of a batch beside reading weights and cache; an assumption."""
LINKS = (200e9, 25e9)
"""Bytes a second between the GPUs of a machine (NVLink) and of several (one network card each); assumptions."""


@dataclass(frozen=True)
class Work:
    """A step's work on one GPU."""

    tera_operations: dict[str, float]
    seconds: dict[str, float]
    """By part; with ``rounds_ahead`` one is below zero: what of the rollouts goes on during the other parts."""


def work_of(job: Job, sizes: ModelSizes, prompt: float, video: float, gpu: GPU) -> Work:
    """Work of one optimizer step for prompts of ``prompt`` tokens, ``video`` of them of the video.

    Completions count as long as they may be. A round that several steps share counts for each by its part.
    """
    length = int(job.max_completion_length)
    sequences = int(job.per_device_train_batch_size) * job.micro_batches
    prompts = job.micro_prompts * job.micro_batches if job.share_prompts else sequences
    forward = language_operations(sizes, prompts, prompt, sequences, length, copies=not job.share_prompts)
    tower = vision_operations(sizes, prompts * video)
    backward = 1.0 if job.use_peft else 2.0  # frozen weights take no gradient
    again = 1.0 if job.gradient_checkpointing else 0.0
    repeats = trains_vision(job, sizes) or job.launch.kind in SHARDED
    operations = {
        "update": forward * (1 + backward + again),
        "vision": tower * (1 + 2 + again if trains_vision(job, sizes) else 1),
    }
    several = job.use_vllm or job.num_iterations > 1 or (job.steps_per_generation or 0) > job.micro_batches
    scored = int(several) + int(job.beta > 0)
    if scored:
        operations["scoring"] = forward * scored
        operations["vision"] += tower * scored if repeats else 0.0
    unique = max(1.0, sequences / int(job.num_generations))
    operations["rollout"] = language_operations(sizes, unique, prompt, sequences, length, copies=False)
    if repeats or job.use_vllm:
        operations["vision"] += vision_operations(sizes, unique * video)
    share = 1 / max(1, int(job.num_iterations))
    operations["rollout"] *= share
    speed = gpu.tflops * 1e12 * USED
    seconds = {name: value / speed for name, value in operations.items()}
    seconds["rollout"] += share * _decoding(job, sizes, prompt, sequences, length, gpu)
    trained = trained_parameters(job, sizes)
    seconds["optimizer"] = 28.0 * trained / job.launch.shards / (gpu.bandwidth * 1e12)
    moved = _moved(job, sizes, trained)
    if moved:
        seconds["communication"] = moved / LINKS[job.launch.machines > 1]
    if job.use_vllm:
        seconds["weights_to_engine"] = 2.0 * sizes.parameters * share / (LINKS[0] if job.launch.shards > 1 else 1e12)
    if job.rounds_ahead:  # a server makes the next round meanwhile; of both the longer one counts
        rest = sum(seconds.values()) - seconds["rollout"] - seconds.get("weights_to_engine", 0.0)
        seconds["rollout_hidden"] = -min(seconds["rollout"], rest)
    return Work({name: value / 1e12 for name, value in operations.items()}, seconds)


def language_operations(
    sizes: ModelSizes, prompts: float, prompt: float, sequences: float, length: float, copies: bool
) -> float:
    """Operations of one forward of the language model: two for each active weight and token, and attention.

    The vocabulary is scored for completions alone. With ``copies`` each sequence has its own prompt, and ``prompts``
    is not looked at; attention is causal either way.
    """
    trunks = sequences if copies else prompts
    tokens = trunks * prompt + sequences * length
    pairs = trunks * prompt**2 / 2 + sequences * length * (prompt + length / 2)
    head = 2.0 * sizes.vocabulary * sizes.hidden * sequences * length
    return 2.0 * sizes.active * tokens + 4.0 * sizes.query * sizes.attention_layers * pairs + head


def vision_operations(sizes: ModelSizes, tokens: float, frame: float = 1024.0) -> float:
    """Operations of one forward of the vision tower for that many video tokens, of frames of ``frame`` patches."""
    patches = 4.0 * tokens
    pixels = 3 * 2 * sizes.patch**2
    merger = sum(line.inputs * line.outputs for line in sizes.linears if line.vision and ".blocks." not in line.name)
    blocks = sizes.vision_depth * sizes.vision_block + pixels * sizes.vision_hidden
    linear = 2.0 * (blocks * patches + merger * tokens)
    return linear + 4.0 * sizes.vision_hidden * sizes.vision_full * patches * frame


def _decoding(job: Job, sizes: ModelSizes, prompt: float, sequences: float, length: int, gpu: GPU) -> float:
    """Seconds of generating token after token: weights and cache are read once for each."""
    size = 2.0 if job.half or loaded_bytes(job, sizes) == 2 else 4.0
    together = min(float(job.generated_together), sequences)
    reads = size * sizes.active + size * sizes.cache_per_token * together * (prompt + length / 2)
    token = reads / (gpu.bandwidth * 1e12)
    if job.use_vllm:
        return length * (token + ENGINE_STEP) * sequences / together
    token = max(token, LAUNCH * sizes.layers)
    if job.launch.kind == "fsdp" or (job.launch.kind == "zero3" and not job.ds3_gather_for_generation):
        token += size * sizes.parameters / LINKS[job.launch.machines > 1]  # each token gathers all weights
    return length * token * sequences / together


def _moved(job: Job, sizes: ModelSizes, trained: int) -> float:
    """Bytes that a GPU exchanges with others in one optimizer step."""
    if job.launch.processes == 1:
        return 0.0
    if job.launch.kind == "fsdp" or job.launch.kind == "zero3":
        passes = 2 + bool(job.gradient_checkpointing) + int(job.beta > 0) + int(bool(job.use_vllm))
        return job.micro_batches * (2.0 * sizes.parameters * passes + 2.0 * trained)
    return 2 * 4.0 * trained
