r"""PSFTR: zero-shot temporal action localization, one training per split of the classes.

Without arguments it trains on generated features whose classes share attributes (recipes/configs/planted/psftr.yaml):

    accelerate launch recipes/train_psftr.py

On CLIP features (docs/psftr.md says how to extract them):

    accelerate launch recipes/train_psftr.py --config recipes/configs/thumos14/psftr_75.yaml \
        --annotations thumos14.json --features clip --text clip/text.safetensors
"""

from __future__ import annotations

from invert_rl.recipe_help import show_help

if __name__ == "__main__":
    show_help(__file__, __doc__)  # before the imports below, which take seconds

import copy
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from invert_rl.evaluation.detection.protocols import PROTOCOLS
from invert_rl.fingerprint import check_fingerprint, fingerprint_of
from invert_rl.psftr.config import PSFTRConfig
from invert_rl.psftr.data import SliceBatches
from invert_rl.psftr.experiment import class_split, evaluate, load_split, steps_of, use_planted_world
from invert_rl.psftr.losses import PSFTRLearner
from invert_rl.psftr.model import build_psftr, parameter_groups, save_psftr
from invert_rl.psftr.planted import trivial
from invert_rl.psftr.report import (
    Evaluations,
    over_splits,
    read_report,
    report_table,
    write_report,
)
from invert_rl.psftr.settings import PSFTRArguments
from invert_rl.recipe.arguments import parse_arguments
from invert_rl.recipe.console import clear_errors, console, quiet_libraries
from invert_rl.resume import resume_point
from invert_rl.run_folder import check_run_folder, run_folder
from invert_rl.tal.outcome import write_outcome
from invert_rl.tal.training import SupervisedTrainer

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "planted" / "psftr.yaml"


def main(args: PSFTRArguments, config: PSFTRConfig) -> None:
    started = time.perf_counter()
    args.check()
    args.set_threads()
    if args.annotations is None:
        use_planted_world(args)
        args.planted = True
    if len(args.splits) == 1:
        train_split(args, config, args.splits[0], Path(args.output_dir))
        return
    folders = {number: Path(args.output_dir) / f"split_{number}" for number in args.splits}
    for folder in folders.values():
        check_run_folder(str(folder), resuming=bool(args.resume_from_checkpoint))
    reports = {}
    for number, folder in folders.items():  # a resumed run takes over the splits that are done
        reports[number] = read_report(folder) or train_split(args, config, number, folder)
    settings = {**asdict(config), **args.to_dict()}
    if args.process_index == 0:
        of_splits = {number: report["after"] for number, report in reports.items()}
        average = over_splits(list(reports.values()))
        report = write_report(Path(args.output_dir), average, time.perf_counter() - started, settings, splits=of_splits)
        console().print(report_table(report, f"unseen classes, mean and deviation of {len(reports)} splits, percent"))


def train_split(args: PSFTRArguments, config: PSFTRConfig, number: int, folder: Path) -> dict[str, Any]:
    started = time.perf_counter()
    out = console()
    folder.mkdir(parents=True, exist_ok=True)

    # data: seen classes of the training videos, unseen ones of the test videos
    data = load_split(args, class_split(args, number), config.width)
    run = copy.copy(args)
    run.output_dir, run.max_steps = str(folder), steps_of(args, len(data.slices))
    parts = run.world_size * run.gradient_accumulation_steps
    size = run.rescale or run.slice_size
    batch = run.per_device_train_batch_size
    draw = SliceBatches(data.slices, data.text, batch, parts, run.seed, size, run.class_subset)

    # model
    model = build_psftr(config, run.seed)
    groups = parameter_groups(model, run.learning_rate, run.conv_learning_rate, run.offset_factor, run.weight_decay)
    every = round(run.evaluate_epochs * len(data.slices) / (batch * parts))
    evaluations = Evaluations(lambda: evaluate(model, data, run), folder, every)
    checkpoint = resume_point(run.output_dir, run.resume_from_checkpoint)
    fingerprint = fingerprint_of(run, asdict(config), split=number, classes=asdict(data.split), slices=len(data.slices))
    check_fingerprint(checkpoint, fingerprint, run.accept_changes)
    trainer = SupervisedTrainer(PSFTRLearner(model), draw, run, groups, [evaluations])
    trainer.fingerprint = fingerprint
    out.print(f"split {number}: {data}, {run.max_steps} steps, run folder {folder}")
    trainer.train(resume_from_checkpoint=checkpoint)

    # the last step is reported; texts given to the wrong classes, and the best step, only beside it
    report: dict[str, Any] = {}
    if trainer.accelerator.is_main_process:
        after, results = evaluations.at(run.max_steps)
        conditions = {
            "before": evaluations.known()[0],
            "after": after,
            "shuffled": evaluate(model, data, run, shuffled=True)[0],
            "best": evaluations.best(),
        }
        if run.planted:
            conditions["trivial"] = trivial(data, data.unseen, run.test_subset, run.protocol, run.thresholds)
        save_psftr(model, folder / "model")
        levels = args.thresholds or PROTOCOLS[args.protocol].thresholds
        rescore = write_outcome(folder, results, data.unseen.database, args.test_subset, args.protocol, levels)
        settings = {**asdict(config), **run.to_dict(), "split": number, "classes": asdict(data.split)}
        seconds = time.perf_counter() - started
        report = write_report(folder, conditions, seconds, settings, rescore=rescore, features=data.features)
        out.print(report_table(report, f"split {number}, {len(data.unseen.videos)} test videos, percent"))
        out.print(f"{seconds:.0f} s in all\nmodel    {folder / 'model'}\nsummary  {folder / 'summary.json'}")
    trainer.accelerator.wait_for_everyone()
    return report


if __name__ == "__main__":
    quiet_libraries()
    with clear_errors():
        args, config = parse_arguments("train_psftr", (PSFTRArguments, PSFTRConfig), DEFAULT_CONFIG)
        with run_folder(args, "train_psftr"):
            main(args, config)
