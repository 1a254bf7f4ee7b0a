"""Run by torchrun in test_ranks.py: a short GRPO run on two CPU ranks that writes down what each rank saw.

Arguments: checkpoint, world folder, output folder. A video is unreadable on rank 1 alone.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import torch

from data_prep.rows import read_rows
from invert_rl.grpo.config import InvertGRPOConfig
from invert_rl.grpo.trainer import InvertGRPOTrainer
from invert_rl.models import load_model, load_processor
from invert_rl.video.errors import VideoError
from invert_rl.video.store import FrameStore

checkpoint, world, output = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
args = InvertGRPOConfig(
    output_dir=str(output),
    per_device_train_batch_size=2,
    num_generations=4,
    max_completion_length=5,
    max_steps=12,
    tvg_probability=0.5,
    learning_rate=1e-3,
    min_pixels=56 * 56,
    gradient_checkpointing=False,
    bf16=False,
    use_cpu=True,
    report_to="none",
    save_strategy="no",
    disable_tqdm=True,
    seed=3,
)
processor = load_processor(checkpoint)
rows = read_rows(world / "train.jsonl")


class StoreWithATrouble(FrameStore):
    """One video cannot be read, on rank 1 only."""

    def clip(self, ref):
        if args.process_index == 1 and ref.path == rows[0].video:
            raise VideoError(ref.path, "the disk of this rank is broken")
        return super().clip(ref)


rounds: list[dict] = []


def spy(completions, completion_ids, task, id, **columns):
    rounds.append({"tasks": task, "ids": id})
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]


trainer = InvertGRPOTrainer(
    model=load_model(checkpoint),
    rows=rows,
    reward_funcs=[spy],
    args=args,
    processing_class=processor,
    store=StoreWithATrouble(world / "videos", args.frame_settings(processor.video_processor.patch_size)),
)
trainer.train()
weights = trainer.accelerator.unwrap_model(trainer.model).state_dict()
digest = hashlib.sha256()
for name in sorted(weights):
    digest.update(weights[name].to(torch.float64).numpy().tobytes())
output.mkdir(parents=True, exist_ok=True)
(output / f"rank{args.process_index}.json").write_text(
    json.dumps({"rounds": rounds, "digest": digest.hexdigest(), "left_out": list(trainer.quarantine.videos)})
)
