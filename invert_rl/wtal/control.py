"""What stands beside a result: the same training with shuffled labels."""

from __future__ import annotations

from copy import copy
from pathlib import Path

from transformers import set_seed

from invert_rl.tal.planted import PlantedWorld
from invert_rl.wtal.build import batch_drawer, build_model, encode_semantics
from invert_rl.wtal.config import WtalArguments
from invert_rl.wtal.data import from_planted
from invert_rl.wtal.descriptions import Descriptions
from invert_rl.wtal.evaluate import EvaluationRules, detect_videos, score
from invert_rl.wtal.trainer import WtalTrainer


def train_on_shuffled_labels(
    args: WtalArguments, world: PlantedWorld, descriptions: Descriptions, rules: EvaluationRules
) -> dict[str, float]:
    """Metrics after the training of ``args`` on ``world.with_shuffled_labels()``, tested on true labels.

    It leaves a log in ``shuffled`` of the run folder and no checkpoints.
    """
    args = copy(args)
    args.output_dir, args.save_strategy = str(Path(args.output_dir) / "shuffled"), "no"
    data = from_planted(world.with_shuffled_labels())
    semantics = encode_semantics(args, data, descriptions)
    set_seed(args.seed)
    model = build_model(args, semantics)
    WtalTrainer(model, batch_drawer(args, data, semantics), args).train()
    return score(data, detect_videos(model, data.test, data.classes, args.proposals()), rules)
