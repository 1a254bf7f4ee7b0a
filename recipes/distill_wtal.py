r"""Weakly supervised localization: DELU with key and complete semantics that distill into each other (MLLM4WTAL).

Without arguments it trains on generated two-stream features with video-level labels
(recipes/configs/planted/wtal.yaml):

    accelerate launch recipes/distill_wtal.py

On the usual release of I3D features, a pickle, or on a file of features per video:

    accelerate launch recipes/distill_wtal.py --config recipes/configs/thumos14/wtal.yaml \
        --joint_features FOLDER --allow_pickle true --descriptions actions.json
    accelerate launch recipes/distill_wtal.py --config recipes/configs/thumos14/wtal.yaml \
        --annotations thumos14.json --features FOLDER --descriptions actions.json

The base, +KSM, +CSR: --matching false --reconstruction false, --reconstruction false, --matching false.
"""

from __future__ import annotations

from invert_rl.recipe_help import show_help

if __name__ == "__main__":
    show_help(__file__, __doc__)  # before the imports below, which take seconds

import time
from pathlib import Path

from transformers import set_seed

from invert_rl.fingerprint import check_fingerprint, fingerprint_of
from invert_rl.recipe.arguments import parse_arguments
from invert_rl.recipe.console import clear_errors, console, quiet_libraries
from invert_rl.recipe.summary import write_summary
from invert_rl.resume import resume_point
from invert_rl.run_folder import run_folder
from invert_rl.tal.outcome import metrics_table, write_outcome
from invert_rl.tal.training import best_on_the_way
from invert_rl.wtal.build import (
    batch_drawer,
    build_model,
    encode_semantics,
    evaluation_rules,
    load_data,
    load_descriptions,
    planted_world,
)
from invert_rl.wtal.config import WtalArguments
from invert_rl.wtal.control import train_on_shuffled_labels
from invert_rl.wtal.evaluate import detect_videos, reconstruction_errors, score
from invert_rl.wtal.export import save_localizer
from invert_rl.wtal.planted import trivial
from invert_rl.wtal.text import encode_texts
from invert_rl.wtal.trainer import WtalTrainer

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "planted" / "wtal.yaml"


def main(args: WtalArguments) -> None:
    started = time.perf_counter()
    out = console()
    checkpoint = resume_point(args.output_dir, args.resume_from_checkpoint)
    folder = Path(args.output_dir)

    # data: videos with classes, and texts of the classes; an encoder that cannot be had costs no reading of features
    encode_texts(["an action"], args.text_encoder)
    data = load_data(args)
    descriptions = load_descriptions(args, data)
    rules = evaluation_rules(args)
    semantics = encode_semantics(args, data, descriptions)
    out.print(
        f"{len(data.train)} training videos, {len(data.test)} test videos, {len(data.classes)} classes, "
        f"descriptions: {descriptions.source}, run folder {args.output_dir}"
    )
    if args.descriptions is None and (args.matching or args.reconstruction):
        out.print("no descriptions given: class names serve as key and complete semantics", style="yellow")

    # model
    set_seed(args.seed)
    model = build_model(args, semantics)

    def test() -> dict[str, float]:
        return score(data, detect_videos(model, data.test, data.classes, args.proposals()), rules)

    fingerprint = fingerprint_of(args, videos=len(data.train), descriptions_from=descriptions.source)
    check_fingerprint(checkpoint, fingerprint, args.accept_changes)
    trainer = WtalTrainer(model, batch_drawer(args, data, semantics), args, test)
    trainer.fingerprint = fingerprint
    out.print("testing the untrained model")
    before = test()
    trainer.train(resume_from_checkpoint=checkpoint)

    # the last iteration is reported, the best one only shown beside it
    results = detect_videos(model, data.test, data.classes, args.proposals())
    after = score(data, results, rules)
    best = best_on_the_way(trainer)
    told_by = reconstruction_errors(model, data, descriptions, semantics.vocabulary, args.max_words)
    trivially = trivial(data, args.rgb_width, args.protocol, args.thresholds) if args.planted else None
    shuffled = None
    if args.planted and args.shuffled_control:
        shuffled = train_on_shuffled_labels(args, planted_world(args), descriptions, rules)

    if trainer.accelerator.is_main_process:
        save_localizer(folder / "model", model, args, data.classes, semantics.vocabulary)
        ambiguous = None if args.ambiguous is None else Path(args.ambiguous)
        rescore = write_outcome(
            folder, results, data.database, data.test_subset, args.protocol, args.thresholds, ambiguous
        )
        settings = {"descriptions_from": descriptions.source, **args.to_dict()}
        beside = {"shuffled": shuffled, "best": best, "reconstruction": told_by}
        seconds = time.perf_counter() - started
        summary = write_summary(
            args.output_dir,
            before,
            after,
            seconds,
            settings,
            rescore=rescore,
            trivial=trivially,
            features=data.features,
            **beside,
        )
        told = {"before": before, "after": after, "trivial": trivially, "shuffled labels": shuffled}
        columns = {name: metrics for name, metrics in told.items() if metrics is not None}
        out.print(metrics_table(columns, f"{len(data.test)} test videos, rules of {args.protocol}, percent"))
        if best is not None:
            out.print(f"best test on the way: average_mAP {100 * best['average_mAP']:.1f} at iteration {best['step']}")
        out.print(
            f"{time.perf_counter() - started:.0f} s in all\nmodel    {folder / 'model'}\nsummary  {summary}\n"
            f"results  {folder / 'results.json'}\nlog      {folder / 'log.jsonl'}"
        )


if __name__ == "__main__":
    quiet_libraries()
    with clear_errors():
        (args,) = parse_arguments("distill_wtal", (WtalArguments,), DEFAULT_CONFIG)
        with run_folder(args, "distill_wtal"):
            main(args)
