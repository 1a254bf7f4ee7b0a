"""For TRL's own GRPOTrainer: the rewards are plain functions on completions and columns; no column of ours is needed.

Trains a tiny random text model for two steps on three rows, on a CPU:

    python examples/trl_grpo.py [OUTPUT_DIR]
"""

from __future__ import annotations

import sys
from pathlib import Path

from datasets import Dataset
from invert_rl.rewards import format_reward, get_reward, iou_reward
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

from invert_rl.toy.tiny_tokenizer import build_tokenizer

ROWS = [
    {"prompt": "When does the person open the door?", "windows": [[2.5, 7.0]], "duration": 12.0},
    {"prompt": "When does the person sit down?", "windows": [[0.5, 3.0]], "duration": 12.0},
    {"prompt": "When does the person laugh?", "windows": [[4.0, 9.5]], "duration": 12.0},
]


def main(output_dir: str) -> list[dict[str, float]]:
    """Train; returns TRL's log."""
    tokenizer: PreTrainedTokenizerFast = build_tokenizer(row["prompt"] for row in ROWS)
    config = AutoConfig.for_model(
        "qwen2",
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_config(config),
        processing_class=tokenizer,
        reward_funcs=[format_reward, iou_reward, get_reward("wasserstein")],
        args=GRPOConfig(
            output_dir=output_dir,
            max_steps=2,
            num_generations=2,
            per_device_train_batch_size=2,
            max_completion_length=8,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
        ),
        train_dataset=Dataset.from_list(ROWS),
    )
    trainer.train()
    return trainer.state.log_history


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(Path("runs") / "trl_example"))
