"""Run by torchrun: short GRPO runs on several CPU ranks, one after the other, that write down what each rank saw.

The argument is a JSON file with a list of jobs: ``checkpoint``, ``world``, ``output`` and, optional, ``settings`` of
the run, ``rows`` (how many), ``resume`` (a checkpoint folder), ``lora``, ``fsdp`` (True, or "one loads" where only the
first rank reads the weights, as 8gpu_fsdp2.yaml has it), ``zero3``, ``save_model``, ``fault``, ``limit`` (seconds a
clip), ``dtype`` (in which the checkpoint is loaded) and ``validate`` (on how many rows). With ``use_vllm`` in the
settings its server is the tests' stand-in.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from peft import LoraConfig
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from data_prep.rows import Row, read_rows
from data_prep.verbs import annotate_missing
from invert_rl.evaluation.runs.before_after import evaluate_once
from invert_rl.evaluation.runs.validation import Validation
from invert_rl.grpo.config import InvertGRPOConfig
from invert_rl.grpo.trainer import InvertGRPOTrainer
from invert_rl.models import load_model, load_processor
from invert_rl.tasks.presets import load_preset
from rewards.errors import RewardError
from rewards.pipelines import load_pipeline

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # torchrun runs this file, not the package
from tests.invert_rl.grpo.faulty_store import FaultyStore
from tests.invert_rl.grpo.test_vllm_server import pretend_vllm
from tests.invert_rl.tiny_run import SHORT_RUN

SETTINGS = {
    **SHORT_RUN,
    "per_device_train_batch_size": 2,
    "num_generations": 4,
    "max_completion_length": 5,
    "max_steps": 4,
    "tvg_probability": 0.5,
}


def reward(broken: set[str], fault: str | None, rounds: list[dict[str, Any]]) -> Callable[..., list[float]]:
    """A reward that writes down what it saw, and fails on rank 1 for some rows, or always, if ``fault`` says so."""

    def spy(completions, completion_ids, task, id, **columns):
        if fault == "reward" and PartialState().process_index == 1 and broken & set(id):
            raise ZeroDivisionError("no verbs here")
        if fault == "reward_always":
            raise ZeroDivisionError("no verbs anywhere")
        rewards = [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]
        rounds.append({"tasks": task, "ids": id, "completions": completion_ids, "rewards": rewards})
        return rewards

    return spy


FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}
"""What ``accelerate launch`` sets for recipes/configs/accelerate/8gpu_fsdp2.yaml, but for the last."""


ZERO3 = {
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3",
    "ACCELERATE_GRADIENT_CLIPPING": "1.0",
    "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "none",
    "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "none",
    "ACCELERATE_DEEPSPEED_ZERO3_INIT": "false",
    "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "true",
    "DS_ACCELERATOR": "cpu",
}
"""What ``accelerate launch`` sets for recipes/configs/accelerate/8gpu_zero3.yaml, and DeepSpeed's device."""


def pretend_gpus() -> None:
    """Let accelerate take FSDP on CPU ranks, which it otherwise refuses; all else is what it does on GPUs."""
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def full_weights(trainer: InvertGRPOTrainer) -> dict[str, torch.Tensor]:
    """The whole weights of a model that may be sharded; a collective call."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    parts = [parameter for parameter in model.parameters() if hasattr(parameter, "ds_id")]
    if parts:  # sharded by ZeRO-3
        import deepspeed

        with deepspeed.zero.GatheredParameters(parts):
            return {name: value.detach().clone() for name, value in model.state_dict().items()}
    weights = model.state_dict()
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).clone() for name, value in weights.items()
    }


def units(model: torch.nn.Module | None) -> list[str]:
    """Names of the modules that FSDP2 gathers one at a time, whose parameters this rank has a part of."""
    if model is None:
        return []
    assert all(isinstance(p, DTensor) for p in model.parameters()) or not isinstance(model, FSDPModule)
    return [name for name, module in model.named_modules() if isinstance(module, FSDPModule)]


def main(job: dict[str, Any]) -> None:
    """One run; each rank leaves ``rank<n>.json`` and ``weights<n>.pt`` in the output folder."""
    if job.get("fsdp"):
        os.environ.update(FSDP2)
        os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = str(job["fsdp"] == "one loads").lower()
    if job.get("zero3"):
        os.environ.update(ZERO3)
    output, fault = Path(job["output"]), job.get("fault")
    if job.get("settings", {}).get("use_vllm"):
        pretend_vllm(pytest.MonkeyPatch())
    args = InvertGRPOConfig(output_dir=str(output), **{**SETTINGS, **job.get("settings", {})})
    if job.get("fsdp"):
        pretend_gpus()
    processor = load_processor(job["checkpoint"])
    rows: list[Row] = read_rows(Path(job["world"]) / "train.jsonl")[: job.get("rows")]
    settings = args.frame_settings(processor.video_processor.patch_size)
    store = FaultyStore(Path(job["world"]) / "videos", settings, in_process=True)
    store.broken, store.fault = rows[0].video, fault if args.process_index == 1 else None
    rounds: list[dict[str, Any]] = []
    trainer = InvertGRPOTrainer(
        model=load_model(job["checkpoint"], dtype=job.get("dtype", "auto")),
        rows=rows,
        reward_funcs=[reward({row.id for row in rows if row.video == rows[0].video}, fault, rounds)],
        args=args,
        processing_class=processor,
        store=store,
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"]) if job.get("lora") else None,
    )
    trainer.clips.limit = job.get("limit", trainer.clips.limit)
    metrics: dict[str, Any] = {}
    if job.get("validate"):
        pipeline = load_pipeline()
        test = annotate_missing(read_rows(Path(job["world"]) / "test.jsonl")[: job["validate"]], pipeline)
        asked = (test, load_preset("think", ("tvg", "vc", "ar", "vd")), args.verb_options(pipeline))
        trainer.validation = Validation(*asked, args.keep_best)
        metrics["before"] = evaluate_once("before", trainer, *asked)
    start = full_weights(trainer)
    reference_units = units(trainer.ref_model)
    error = None
    try:
        trainer.train(resume_from_checkpoint=job.get("resume"))
    except RewardError as stop:  # the one error that a job here is meant to end with
        error = str(stop)
    if job.get("validate"):
        metrics["after"] = evaluate_once("after", trainer, *asked)
        metrics["during"] = [entry for entry in trainer.state.log_history if "eval/mIoU" in entry]
    end = full_weights(trainer)
    if job.get("save_model"):
        trainer.save_model(str(output / "model"))
    output.mkdir(parents=True, exist_ok=True)
    torch.save({"start": start, "end": end}, output / f"weights{args.process_index}.pt")
    seen = {
        "error": error,
        "rounds": rounds,
        "metrics": metrics,
        "left_out": trainer.quarantine.videos,
        "replaced": [log["data/replaced"] for log in trainer.state.log_history if "data/replaced" in log],
        "wrapped": type(trainer.model_wrapped).__name__,
        "kl": [log["kl"] for log in trainer.state.log_history if "kl" in log],
        "reference_units": reference_units,
        "optimizer_dtypes": sorted(
            {str(value.dtype) for state in trainer.optimizer.state.values() for value in state.values() if value.ndim}
        ),
    }
    (output / f"rank{args.process_index}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    jobs = json.loads(Path(sys.argv[1]).read_text())
    for one_job in jobs:
        main(one_job)
    PartialState().destroy_process_group()
