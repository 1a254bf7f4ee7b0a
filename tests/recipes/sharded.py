"""A recipe's run with FSDP2 on CPU ranks: ``torchrun … sharded.py RECIPE.py --option value``.

Accelerate refuses FSDP without GPUs; here it is let, and all else is what it does on GPUs.
"""

from __future__ import annotations

import os
import runpy
import sys

from accelerate import PartialState
from accelerate.utils import DistributedType
from transformers import TrainingArguments

FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}
"""What ``accelerate launch`` sets for recipes/configs/accelerate/8gpu_fsdp2.yaml, but for the last."""


def pretend_gpus() -> None:
    """Let accelerate take FSDP on CPU ranks from the moment that the settings are read."""
    read = TrainingArguments.__post_init__

    def read_and_pretend(self: TrainingArguments) -> None:
        read(self)
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU

    TrainingArguments.__post_init__ = read_and_pretend


if __name__ == "__main__":
    os.environ.update(FSDP2)
    pretend_gpus()
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
