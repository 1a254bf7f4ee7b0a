"""Bytes that a GRPO run takes on each GPU and in each machine, part by part.

What stays (weights, gradients, optimizer, reference, engine) is exact arithmetic of `ModelSizes`; what comes and goes
(states, one layer's recompute, vision, logits) is counted from the tensors that autograd keeps, and checked against
them by the tests. Fragmentation is not counted: `RESERVE` is left free for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from invert_rl.plan.job import Job
from invert_rl.plan.sizes import ModelSizes

GIB = 2**30
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

CONTEXT = 1.0 * GIB
"""CUDA's context, kernels and workspaces of cuBLAS and NCCL."""

RESERVE = 0.04
"""Share of a GPU that is left to fragmentation."""

OPTIMIZERS = {
    "adamw_torch": 8.0,
    "adamw_torch_fused": 8.0,
    "adamw_apex_fused": 8.0,
    "adamw_torch_4bit": 1.0,
    "adamw_torch_8bit": 2.0,
    "adamw_bnb_8bit": 2.0,
    "adamw_8bit": 2.0,
    "paged_adamw_8bit": 2.0,
    "paged_adamw_32bit": 8.0,
    "ademamix": 12.0,
    "ademamix_8bit": 3.0,
    "lion_32bit": 4.0,
    "lion_8bit": 1.0,
    "paged_lion_32bit": 4.0,
    "paged_lion_8bit": 1.0,
    "rmsprop": 4.0,
    "rmsprop_bnb_8bit": 1.0,
    "adafactor": 0.1,
    "adagrad": 4.0,
    "sgd": 0.0,
}
"""Bytes of state for each trained parameter; others are taken for AdamW."""

QUANTIZED = {"load_in_4bit": 0.5 + 4 / 64, "load_in_8bit": 1.0}
"""Bytes of a quantized weight: 4 bits with a float32 scale for each 64, or 8."""
NESTED = 0.5 + 1 / 64 + 4 / (64 * 256)
"""With ``use_bnb_nested_quant`` the scales have 8 bits themselves."""

LIVE = 1_000_000_000
"""Parameters that ZeRO-3 keeps gathered at most (``stage3_max_live_parameters``)."""

TILE = 4096 * 1024 * 4
"""Bytes of a tile of the head's scores: TRL's log-probabilities are computed tile by tile."""

ENGINE_CONTEXT = 1.5 * GIB
"""What a sleeping engine keeps: CUDA graphs and buffers."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU: what is there all the time, and what each phase adds."""

    resident: dict[str, float]
    phases: dict[str, dict[str, float]]

    @property
    def worst_phase(self) -> str:
        """The phase with the highest peak."""
        return max(self.phases, key=lambda phase: sum(self.phases[phase].values()))

    @property
    def total(self) -> float:
        """Peak of a step."""
        return sum(self.resident.values()) + sum(self.phases[self.worst_phase].values())

    @property
    def state(self) -> float:
        """Weights, gradients, optimizer state and buckets: what training as such holds."""
        return sum(self.resident.get(name, 0.0) for name in ("weights", "gradients", "optimizer", "buckets"))

    def parts(self) -> dict[str, float]:
        """Each part once: what stays, and the largest that any phase adds of the others."""
        found = dict(self.resident)
        for phase in self.phases.values():
            for name, value in phase.items():
                found[name] = max(found.get(name, 0.0), value)
        return found


def memory_of(job: Job, sizes: ModelSizes, prompt: int, video: int, capacity: float) -> Memory:
    """Memory of a GPU of ``capacity`` bytes.

    ``prompt`` is the longest prompt in tokens, ``video`` those of them that are of the video.
    """
    trained = trained_parameters(job, sizes)
    resident = _state(job, sizes, trained)
    sharded = job.launch.shards > 1
    if job.has_reference:
        resident["reference"] = sizes.parameters * loaded_bytes(job, sizes) / job.launch.shards
    if job.half and not sharded and not job.use_peft:
        resident["half_precision_copies"] = 2.0 * (trained - min(trained, sizes.vectors) - _only_embedding(sizes))
    if job.launch.offload:
        for name in ("weights", "gradients", "optimizer"):
            resident[name] = 0.0
    resident["context"] = CONTEXT
    phases = {
        "rollout": _rollout(job, sizes, prompt, capacity),
        "scoring": _forward(job, sizes, prompt, video, keeps=False),
        "update": _forward(job, sizes, prompt, video, keeps=True),
    }
    if sharded:
        for name, phase in phases.items():
            phase["gathered"] = _gathered(job, sizes, with_gradients=name == "update")
    if job.use_vllm and job.vllm_mode == "colocate":
        engine = _engine(job, sizes, capacity)
        if job.vllm_enable_sleep_mode:
            resident["engine_asleep"] = ENGINE_CONTEXT
            phases["rollout"]["engine"] = max(0.0, engine - ENGINE_CONTEXT)
        else:
            resident["engine"] = engine
    return Memory(resident, phases)


def trained_parameters(job: Job, sizes: ModelSizes) -> int:
    """How many parameters get gradients."""
    if job.use_peft:
        rank, targets = int(job.lora_r), job.lora_target_modules
        return sizes.adapters(rank, targets, job.freeze_vision)
    return sizes.parameters - (sizes.vision if job.freeze_vision else 0)


def trains_vision(job: Job, sizes: ModelSizes) -> bool:
    """Whether the vision tower keeps activations for a backward pass."""
    if job.freeze_vision:
        return False
    return not job.use_peft or sizes.adapts_vision(job.lora_target_modules)


def loaded_bytes(job: Job, sizes: ModelSizes) -> float:
    """Bytes of a parameter as it is loaded: the reference's, and of what is frozen."""
    if not job.half and not job.use_peft:
        return 4.0
    dtype = job.dtype or "float32"
    return BYTES.get(sizes.dtype if dtype == "auto" else dtype, 4)


def _state(job: Job, sizes: ModelSizes, trained: int) -> dict[str, float]:
    """Weights, gradients, optimizer state and, by DDP, the buckets in which gradients are summed up."""
    frozen_bytes = loaded_bytes(job, sizes)
    base = sizes.parameters if job.use_peft else sizes.parameters - trained
    frozen = base * frozen_bytes
    for option, size in QUANTIZED.items():
        if getattr(job, option):
            size = NESTED if option == "load_in_4bit" and job.use_bnb_nested_quant else size
            frozen -= sizes.quantizable() * (frozen_bytes - size)
    optimizer = OPTIMIZERS.get(str(getattr(job.optim, "value", job.optim)), 8.0)
    parts = {"weights": frozen, "gradients": 0.0, "optimizer": 0.0}
    shards = job.launch.shards
    if job.launch.kind.startswith("zero"):  # weights in half precision, float32 masters beside the moments
        ranks = job.launch.processes
        parts["weights"] = (frozen + 2.0 * trained) / shards
        parts["gradients"] = 2.0 * trained / ranks
        parts["optimizer"] = (4.0 + optimizer) * trained / ranks
        return parts
    parts["weights"] = frozen / shards if shards > 1 else frozen
    if job.use_peft:
        parts["adapters"] = 4.0 * trained / shards
    else:
        parts["weights"] += 4.0 * trained / shards
    parts["gradients"] = 4.0 * trained / shards
    parts["optimizer"] = optimizer * trained / shards
    if job.launch.kind == "ddp":
        parts["buckets"] = 4.0 * trained
    return parts


def _only_embedding(sizes: ModelSizes) -> int:
    """Parameters that are looked up and never multiplied: the embedding, where the head is another matrix."""
    return sizes.embedding if sizes.head else 0


def _gathered(job: Job, sizes: ModelSizes, with_gradients: bool) -> float:
    """What sharding puts together for a while, in half precision: two layers, and all that is in no layer."""
    size = 2.0 if job.half else 4.0
    if job.launch.kind == "zero3":
        return size * min(LIVE, sizes.parameters)
    root = sizes.parameters - sizes.layers * sizes.layer - sizes.vision_depth * sizes.vision_block
    together = 2 * max(sizes.layer, sizes.vision_block) + max(0, root)
    return size * together * (2.0 if with_gradients else 1.0)


def _forward(job: Job, sizes: ModelSizes, prompt: int, video: int, keeps: bool) -> dict[str, float]:
    """One micro-batch through the model; ``keeps`` what a backward pass needs."""
    sequences, length = int(job.per_device_train_batch_size), int(job.max_completion_length)
    prompts = job.micro_prompts
    tokens = prompts * prompt + sequences * length if job.share_prompts else sequences * (prompt + length)
    wide = _stream_bytes(job, sizes)
    half = 2.0 if job.half or loaded_bytes(job, sizes) == 2 else 4.0
    layer = tokens * (layer_bytes if keeps else passing_bytes)(sizes, wide, half)
    states = tokens * sizes.hidden * wide
    checkpoints = bool(job.gradient_checkpointing)
    parts = {
        "states": states * (sizes.layers if keeps and checkpoints else 2),
        "one_layer" if checkpoints or not keeps else "layers": layer
        * (1 if checkpoints or not keeps else sizes.layers),
        "logits": 2.0 * min(TILE, sequences * length * 1024 * 4) + 3 * sequences * length * sizes.hidden * half,
    }
    patches = prompts * video * 4
    block = patches * vision_block_bytes(sizes, wide, half)
    state = patches * sizes.vision_hidden * wide
    if keeps and trains_vision(job, sizes):
        depth = sizes.vision_depth
        parts["vision"] = depth * state + block if checkpoints else depth * block
    else:
        parts["vision"] = 2 * state + block / 2
    return parts


def layer_bytes(sizes: ModelSizes, wide: float, half: float) -> float:
    """Bytes that autograd keeps of one decoder layer for each token.

    ``wide`` is the size of a number between layers, ``half`` that of one inside matrix products. Two norms keep their
    input in float32, normalized and in the product's precision; attention its queries, keys, values (before and after
    rotation) and output; the feed-forward part gate, its activation, up and their product.
    """
    norms = 2 * sizes.hidden * (2 * wide + 4 + half)
    attention = (4 * sizes.query + 3 * sizes.key) * half + sizes.hidden * half
    return norms + attention + 4 * sizes.inner * half + sizes.hidden * half


def passing_bytes(sizes: ModelSizes, wide: float, half: float) -> float:
    """Bytes for each token in a decoder layer of which nothing is kept: the feed-forward part is widest."""
    return sizes.hidden * (wide + 4 + half) + 3 * sizes.inner * half


def vision_block_bytes(sizes: ModelSizes, wide: float, half: float) -> float:
    """The same of one block of the vision tower for each patch."""
    norms = 2 * sizes.vision_hidden * (2 * wide + 4 + half)
    return norms + 8 * sizes.vision_hidden * half + 4 * sizes.vision_inner * half


def _stream_bytes(job: Job, sizes: ModelSizes) -> float:
    """Size of a number between layers: the embedding's, which autocast does not touch; sharding casts it."""
    if job.launch.shards > 1 and job.half:
        return 2.0
    return loaded_bytes(job, sizes) if job.use_peft or job.launch.kind == "zero2" else 4.0


def _rollout(job: Job, sizes: ModelSizes, prompt: int, capacity: float) -> dict[str, float]:
    """Generation by transformers: one cache for each completion, and the prompts' forward."""
    if job.use_vllm:
        return {}
    length, together = int(job.max_completion_length), job.generated_together
    unique = -(-together // int(job.num_generations))
    half = 2.0 if job.half or loaded_bytes(job, sizes) == 2 else 4.0
    tokens = together * (prompt + length)
    # The cache grows by one token with each token, by a new one beside the old, layer by layer.
    cache = sizes.cache_per_token * half * tokens * (1 + 1 / max(1, sizes.attention_layers))
    prefill = unique * prompt * passing_bytes(sizes, _stream_bytes(job, sizes), half)
    return {
        "key_value_cache": cache,
        "one_layer": prefill,
        "logits": together * sizes.vocabulary * (half + 8.0),
    }


def _engine(job: Job, sizes: ModelSizes, capacity: float) -> float:
    """What vLLM takes for itself in the trainer's process."""
    return float(job.vllm_gpu_memory_utilization) * capacity


def engine_needs(job: Job, sizes: ModelSizes, prompt: int) -> dict[str, float]:
    """What vLLM needs at least on one GPU: weights, and the cache of one group."""
    size = 2.0 if job.half or loaded_bytes(job, sizes) == 2 else 4.0
    parallel = max(1, int(job.vllm_tensor_parallel_size))
    tokens = prompt + int(job.num_generations) * int(job.max_completion_length)
    return {
        "engine_weights": sizes.parameters * size / parallel,
        "engine_cache": sizes.cache_per_token * size * tokens / parallel,
        "engine_context": ENGINE_CONTEXT,
    }


def host_memory(job: Job, sizes: ModelSizes, video: int) -> dict[str, float]:
    """Bytes of host memory of one machine: decoded frames, features, worker processes, and loading."""
    processes = job.launch.per_machine
    workers = int(job.dataloader_num_workers)
    merged = (2 * sizes.patch) ** 2
    frames = 2.0 * video * merged * 3  # of one video: two frames a grid step, a byte a colour
    round_prompts = -(-job.generated_together // int(job.num_generations))
    size = 4.0 if not job.use_peft else loaded_bytes(job, sizes)
    loading = sizes.parameters * size * (1 if job.launch.kind == "fsdp" else processes)
    if job.has_reference:
        loading += sizes.parameters * loaded_bytes(job, sizes) * (1 if job.launch.kind == "fsdp" else processes)
    parts = {
        "python": processes * 3.0 * GIB,
        "decoder_processes": processes * workers * (0.5 * GIB + frames),
        "frame_cache": processes * float(job.frame_memory_mb) * 1e6,
        "patches_of_a_round": processes * round_prompts * frames * 4,
        "features": processes * float(job.vision_memory_mb) * 1e6,
        "loading": loading,
    }
    if job.use_vllm and job.vllm_mode == "colocate":
        parts["engine_frames"] = processes * 4.0 * GIB  # vLLM's mm_processor_cache_gb
    if job.launch.offload:
        trained = trained_parameters(job, sizes)
        parts["offloaded"] = 16.0 * trained / job.launch.processes * processes
    return parts
