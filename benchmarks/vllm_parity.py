"""Do a real vLLM engine and the trainer give the same log-probabilities for the same video?

    make vllm-lab                     # once: an environment with vLLM for CPUs, .venv-vllm
    .venv-vllm/bin/python benchmarks/vllm_parity.py [--server] [--json]

For a tiny Qwen2.5-VL and a tiny Qwen3-VL with random weights, large enough to feel a wrong position, it samples
completions with vLLM as the trainer does, at several frame rates, scores them with the trainer's own scoring forward,
and reports the largest difference of a token's log-probability. Then it trains for a few steps on vLLM's rollouts and
reports that difference with the weights of the step before and with the pushed ones. With --server the engine is a
vLLM server in a process of its own, asked by HTTP. docs/vllm.md explains the numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

# benchmarks/rewards.py bears the name of a package, which would otherwise not be found.
sys.path[0] = str(Path(__file__).resolve().parents[1])

if TYPE_CHECKING:
    from invert_rl.encoding import EncodedPrompt
    from invert_rl.grpo.trainer import InvertGRPOTrainer

KINDS = ("qwen2_5_vl", "qwen3_vl")
LIMIT = 0.02
"""Largest difference of log-probabilities with which a run passes."""
FPS = (0.5, 1.0, 2.0, 4.0, 8.0)
SCALE = 8.0
"""Factor on all random weight matrices: a model with small weights says the same whatever it sees."""
COMPLETIONS = 4
LENGTH = 12
STEPS = 3
PIXELS = 64 * 64
LONGEST = 2048
"""Tokens of a prompt and its completion together at most."""
PORT = 8766
START = 900
"""Seconds that a server may take to start."""
LAB = Path(__file__).resolve().parent / "vllm_lab"
ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join([str(LAB), *filter(None, [os.environ.get("PYTHONPATH")])]),
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "HF_HUB_OFFLINE": "1",
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": "3000",
}
"""Settings of the process with the engine: one thread, 1 GiB of cache, no network."""


def save_model(folder: Path, kind: str) -> str:
    """A tiny checkpoint of ``kind`` whose answers depend on the video and on positions."""
    from invert_rl.models import never_sampled_ids
    from invert_rl.models.family import family_named
    from invert_rl.models.tiny import build_model, save_checkpoint
    from invert_rl.toy.tiny_tokenizer import build_tokenizer, toy_texts

    tokenizer = build_tokenizer(toy_texts())
    family = family_named(kind)
    processor = family.tiny_processor(tokenizer)
    model = build_model(family.tiny_config(tokenizer, hidden=64, layers=2, vision_blocks=2), seed=1)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data *= SCALE
    # A trained model gives the tokens that must not be sampled next to no probability; these weights would give them
    # several percent, which the engine shares among the other tokens and the trainer does not.
    model.get_input_embeddings().weight.data[never_sampled_ids(processor)] = 0
    return str(save_checkpoint(model, processor, folder / kind))


def even_tokens(completion_ids: list[list[int]], **columns: Any) -> list[float]:
    """A reward with variance on random weights: the share of even token ids."""
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]


@contextmanager
def serve(checkpoint: str) -> Iterator[str]:
    """A vLLM server of the checkpoint, as docs/vllm.md says to start it but for a CPU; gives its address."""
    options = {
        "model": checkpoint,
        "host": "127.0.0.1",
        "port": str(PORT),
        "dtype": "float32",
        "logprobs-mode": "processed_logprobs",
        "max-model-len": str(LONGEST),
        "worker-extension-cls": "cpu_worker.TakesWeights",
    }
    # vllm-cpu lacks the metadata that the command `vllm serve` reads its version from; this is what it runs.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--enforce-eager", "--enable-scale-out", "--no-mm-device-do-normalize"]
    command += [part for name, value in options.items() for part in (f"--{name}", value)]
    url = f"http://127.0.0.1:{PORT}"
    server = subprocess.Popen(command, stdout=sys.stderr)
    try:
        for _ in range(START):
            try:
                urllib.request.urlopen(f"{url}/health")
                break
            except urllib.error.URLError:
                if server.poll() is not None:
                    raise RuntimeError(f"the server ended with {server.returncode}; see its messages above") from None
                time.sleep(1)
        yield url
    finally:
        server.terminate()
        server.wait()


def build_trainer(checkpoint: str, world: Path, run: Path, url: str | None = None) -> InvertGRPOTrainer:
    """The GRPO trainer on a toy world, its vLLM engine in this process or at ``url``."""
    from data_prep.rows import read_rows
    from invert_rl.grpo import vllm_rollout, vllm_server
    from invert_rl.grpo.config import InvertGRPOConfig
    from invert_rl.grpo.trainer import InvertGRPOTrainer
    from invert_rl.models import load_model, load_processor
    from invert_rl.video.store import FrameStore

    vllm_rollout.ENGINE_ARGUMENTS["enforce_eager"] = True  # compiling would take longer than all the rest
    vllm_server.RELOAD = "reload_and_pack"
    args = InvertGRPOConfig(
        output_dir=str(run),
        use_vllm=True,
        vllm_mode="server" if url else "colocate",
        vllm_server_base_url=url,
        vllm_gpu_memory_utilization=0.1,
        vllm_max_model_length=LONGEST,
        per_device_train_batch_size=COMPLETIONS,
        num_generations=COMPLETIONS,
        max_completion_length=LENGTH,
        max_steps=STEPS,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        min_pixels=PIXELS,
        tasks=["tvg", "ar"],
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to=["none"],
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        seed=3,
    )
    processor = load_processor(checkpoint)
    trainer = InvertGRPOTrainer(
        model=load_model(checkpoint),
        rows=read_rows(world / "train.jsonl"),
        reward_funcs=[even_tokens],
        args=args,
        processing_class=processor,
        store=FrameStore(world / "videos", args.frame_settings(processor.video_processor.patch_size)),
    )
    if url is None:
        trainer.vllm_generation.sync_weights = lambda: load_into_cpu_engine(trainer)
    return trainer


def load_into_cpu_engine(trainer: InvertGRPOTrainer) -> None:
    """`VLLMGeneration.sync_weights` for a CPU: the same names and tensors, loaded by vLLM's reload.

    vLLM packs weights for its CPU kernels after loading and leaves empty parameters behind, without a
    ``weight_loader``, which TRL's ``load_weights`` of one tensor at a time cannot fill. ``reload_weights`` restores the
    layers, loads them and packs them again, all but an output head that shares its weights with the embedding.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    generation = trainer.vllm_generation
    runner = generation.llm.llm_engine.model_executor.driver_worker.model_runner
    runner.reload_weights(weights_iterator=generation._iter_named_params())
    for module in runner.model.modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)
    generation.llm.reset_prefix_cache()


def encode(trainer: InvertGRPOTrainer, world: Path, fps: float) -> list[EncodedPrompt]:
    """Four prompts at a frame rate: whole videos of 12 s and parts of them."""
    from invert_rl.tasks import TASKS, messages, video_of
    from invert_rl.video.settings import FrameSettings
    from invert_rl.video.store import FrameStore

    patch = trainer.processing_class.video_processor.patch_size
    store = FrameStore(world / "videos", FrameSettings(fps=fps, min_pixels=PIXELS, image_patch_size=patch))
    rows = trainer.train_dataset.rows
    chats = [messages(TASKS[task], rows[row]) for task, row in (("tvg", 0), ("tvg", 4), ("ar", 2), ("vd", 5))]
    return [trainer.encoder(chat, store.clip(video_of(chat))) for chat in chats]


def differences(trainer: InvertGRPOTrainer, prompts: list[EncodedPrompt]) -> dict[str, float]:
    """Sample with the engine, score with the trainer.

    ``largest`` and ``mean`` difference of a token's log-probability; ``ban`` is how much of it at most is due to tokens
    that the engine must not sample: it shares their probability among the others, the trainer does not.
    """
    import torch

    from invert_rl.encoding import video_inputs
    from invert_rl.grpo.scoring import token_types
    from invert_rl.grpo.vllm_rollout import generate_with_vllm

    index = [number for number in range(len(prompts)) for _ in range(COMPLETIONS)]
    completions, engine = generate_with_vllm(
        trainer.vllm_generation, prompts, index, trainer.banned_ids, trainer.eos_token_ids
    )
    shown = [prompts[number] for number in index]
    longest = max(len(prompt.input_ids) for prompt in shown)
    pads = [(longest - len(p.input_ids), LENGTH - len(c)) for p, c in zip(shown, completions, strict=True)]
    filled = zip(pads, shown, completions, strict=True)
    ids = torch.tensor([[0] * left + p.input_ids + c + [0] * right for (left, right), p, c in filled])
    mask = torch.tensor([[0] * left + [1] * (longest + LENGTH - left - right) + [0] * right for left, right in pads])
    with torch.no_grad(), trainer._scoring(shown):
        ours = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, LENGTH)[0]
    with torch.no_grad():
        types = token_types(shown, ids.shape[1], LENGTH)
        logits = trainer.model(
            input_ids=ids, attention_mask=mask, mm_token_type_ids=types, **video_inputs(shown)
        ).logits[:, -LENGTH - 1 : -1]
    banned = logits.softmax(-1)[..., trainer.banned_ids].sum(-1)
    kept = mask[:, -LENGTH:].bool()
    gap = ours[kept] - torch.tensor([logp for logps in engine for logp in logps])
    return {
        "largest": gap.abs().max().item(),
        "mean": gap.abs().mean().item(),
        "ban": -torch.log1p(-banned[kept]).min().item(),
    }


def measure(checkpoint: str, kind: str, folder: Path, url: str | None = None) -> dict[str, Any]:
    """All numbers of one kind of model, of an engine in this process or at ``url``."""
    from invert_rl.grpo.vllm_rollout import push_weights
    from invert_rl.models import vision_language_model
    from invert_rl.toy.make import make_world

    world = folder / "world"
    make_world(world, seed=7, n_train=4, n_validation=0, n_test=0)
    trainer = build_trainer(checkpoint, world, folder / "run", url)
    result: dict[str, Any] = {"kind": kind, "engine": "server" if url else "colocate"}
    prompts = {fps: encode(trainer, world, fps) for fps in FPS}
    result["by_fps"] = {fps: differences(trainer, prompts[fps]) for fps in FPS}
    if kind == "qwen2_5_vl":
        inner = vision_language_model(trainer.model)
        trained = inner.__dict__.pop("get_rope_index")  # the method of the class shows again
        result["positions_of_transformers"] = {fps: differences(trainer, prompts[fps]) for fps in FPS}
        inner.get_rope_index = trained
    trainer.train()
    name = "sampling/sampling_logp_difference/max"
    result["training_steps"] = [log[name] for log in trainer.state.log_history if name in log]
    result["weights_of_the_step_before"] = differences(trainer, prompts[2.0])
    push_weights(trainer.vllm_generation)
    result["weights_pushed"] = differences(trainer, prompts[2.0])
    return result


def worst(results: list[dict[str, Any]]) -> float:
    """The largest difference that counts: every frame rate, every training step, after the last push."""
    return max(
        value
        for result in results
        for value in (
            *(part["largest"] for part in result["by_fps"].values()),
            *result["training_steps"],
            result["weights_pushed"]["largest"],
        )
    )


def print_table(results: list[dict[str, Any]]) -> None:
    """The same numbers for people."""
    for result in results:
        print(f"\n{result['kind']}: largest difference of a token's log-probability, engine against trainer")
        rows = [(f"fps {fps}", part) for fps, part in result["by_fps"].items()]
        if "positions_of_transformers" in result:
            parts = result["positions_of_transformers"].items()
            rows += [(f"fps {fps}, position rule of transformers", part) for fps, part in parts]
        rows += [(f"training step {number}", {"largest": step}) for number, step in enumerate(result["training_steps"])]
        rows += [("after training, engine one step behind", result["weights_of_the_step_before"])]
        rows += [("after training, weights pushed", result["weights_pushed"])]
        for label, part in rows:
            ban = f"   (of it by the ban at most {part['ban']:.5f})" if "ban" in part else ""
            print(f"  {label:44s} {part['largest']:.5f}{ban}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--server", action="store_true", help="ask a vLLM server by HTTP")
    parser.add_argument("--kind", choices=KINDS, nargs="*", default=KINDS, help="which models (default: both)")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)  # the process with the engine writes here
    options = parser.parse_args()
    if options.write is not None:
        with tempfile.TemporaryDirectory() as folder:
            kind, checkpoint = options.kind[0], save_model(Path(folder), options.kind[0])
            with serve(checkpoint) if options.server else nullcontext() as url:
                options.write.write_text(json.dumps(measure(checkpoint, kind, Path(folder), url)))
        return 0
    started = time.perf_counter()
    results = []
    for kind in options.kind:  # an engine keeps its process: each kind gets one of its own
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "result.json"
            command = [sys.executable, __file__, "--kind", kind, "--write", str(file)]
            command += ["--server"] if options.server else []
            subprocess.run(command, env={**os.environ, **ENVIRONMENT}, stdout=sys.stderr, check=True)
            results.append(json.loads(file.read_text()))
    largest = worst(results)
    if options.json:
        seconds = round(time.perf_counter() - started, 1)
        print(json.dumps({"largest": largest, "limit": LIMIT, "seconds": seconds, "results": results}))
    else:
        print_table(results)
        print(f"\nlargest {largest:.5f}, limit {LIMIT}: {'passed' if largest <= LIMIT else 'FAILED'}")
    return 0 if largest <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
