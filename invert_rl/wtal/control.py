"""What stands beside a result: the same training with shuffled labels, and the best test on the way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import copy
from pathlib import Path

from transformers import set_seed

from data_prep.files import atomic_write, read_json
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


def add_controls(summary: Path, shuffled: Mapping[str, float] | None, best: tuple[int, float] | None) -> None:
    """Put metrics with ``shuffled`` labels and the ``best`` test (step, average mAP) beside before and after.

    The best is only for comparison with work that reports it: it was chosen on the test videos.
    """
    content = read_json(summary)
    if shuffled is not None:
        content["shuffled"] = dict(shuffled)
    if best is not None:
        content["best"] = {"step": best[0], "average_mAP": best[1]}
    with atomic_write(summary) as out:
        json.dump(content, out, indent=1)
        out.write("\n")
