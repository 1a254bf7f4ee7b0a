r"""ActionVLM: temporal action localization with a language model that is let in where it helps.

Without arguments it trains on generated features with planted actions (recipes/configs/planted/actionvlm.yaml):

    accelerate launch recipes/train_actionvlm.py

On features or videos of your own:

    accelerate launch recipes/train_actionvlm.py --config recipes/configs/thumos14/actionvlm.yaml \
        --train_annotations val.json --test_annotations test.json --features th14_mae_g_16_4
"""

from __future__ import annotations

from invert_rl.recipe_help import show_help

if __name__ == "__main__":
    show_help(__file__, __doc__)  # before the imports below, which take seconds

import time
from pathlib import Path

from invert_rl.actionvlm.config import ActionVLMArguments
from invert_rl.actionvlm.experiment import (
    bias_report,
    build,
    control_arguments,
    load_data,
    score_test_set,
)
from invert_rl.actionvlm.planted import planted_data, trivial
from invert_rl.evaluation.detection.protocols import PROTOCOLS
from invert_rl.fingerprint import check_fingerprint, fingerprint_of
from invert_rl.recipe.arguments import parse_arguments
from invert_rl.recipe.console import clear_errors, console, quiet_libraries
from invert_rl.recipe.summary import write_summary
from invert_rl.resume import resume_point
from invert_rl.run_folder import run_folder
from invert_rl.tal.outcome import metrics_table, write_outcome
from invert_rl.tal.training import TestOnTheWay, best_on_the_way

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "planted" / "actionvlm.yaml"


def main(args: ActionVLMArguments) -> None:
    started = time.perf_counter()
    out = console()
    checkpoint = resume_point(args.output_dir, args.resume_from_checkpoint)
    folder = Path(args.output_dir)

    # data and model
    data, vision = load_data(args)
    fingerprint = fingerprint_of(args, videos=len(data.train))
    check_fingerprint(checkpoint, fingerprint, args.accept_changes)
    run = build(args, data, vision)
    trainer = run.trainer()
    trainer.fingerprint = fingerprint
    epochs = args.max_steps / run.batches().schedule.steps_per_epoch
    out.print(
        f"{len(data.train)} training videos, {len(data.test)} test videos, {len(data.classes)} classes, language model "
        f"{args.llm}, {epochs:.1f} epochs, run folder {folder}"
    )

    # training; the last step is reported
    out.print("testing the untrained model")
    before, _ = score_test_set(run)
    if args.evaluate_every:
        trainer.add_callback(TestOnTheWay(trainer, lambda: score_test_set(run)[0], args.evaluate_every))
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model(str(folder / "model"))
    after, results = score_test_set(run)
    after |= bias_report(run, after["average_mAP"])
    controls = {}
    # on generated data: what a fixed rule gets, and a training that can learn nothing
    if args.train_annotations is None:
        controls["trivial"] = trivial(data, args.protocol, args.thresholds)
        if args.shuffled_control:
            control = build(
                control_arguments(args), planted_data(folder / "shuffled" / "data", args.planted_seed, True)
            )
            control.trainer().train()
            controls["shuffled"], _ = score_test_set(control)

    if trainer.accelerator.is_main_process:
        levels = args.thresholds or PROTOCOLS[args.protocol].thresholds
        rescore = write_outcome(folder, results, data.truth, data.test_subset, args.protocol, levels)
        seconds = time.perf_counter() - started
        left_out = data.left_out.videos or None  # videos that could not be decoded, with the reasons
        beside = {
            "left_out": left_out,
            "rescore": rescore,
            "features": data.features,
            "best": best_on_the_way(trainer),
            **controls,
        }
        summary = write_summary(args.output_dir, before, after, seconds, args.to_dict(), **beside)
        columns = {"untrained": before, "trained": after, **controls}
        out.print(metrics_table(columns, f"{len(data.test)} test videos, rules of {args.protocol}, percent"))
        out.print(
            f"{seconds:.0f} s in all\nmodel    {folder / 'model'}\nsummary  {summary}\n"
            f"results  {folder / 'results.json'}\nlog      {folder / 'log.jsonl'}"
        )


if __name__ == "__main__":
    quiet_libraries()
    with clear_errors():
        (args,) = parse_arguments("train_actionvlm", (ActionVLMArguments,), DEFAULT_CONFIG)
        with run_folder(args, "train_actionvlm"):
            main(args)
