r"""GRPO with inverted tasks: TVG with probability p, otherwise VC, AR or VD, on Qwen2.5-VL or Qwen3-VL.

Without arguments it trains the shipped tiny checkpoint on the toy world (recipes/configs/toy/grpo.yaml):

    accelerate launch recipes/grpo_invert.py

With a config and data of your own:

    accelerate launch recipes/grpo_invert.py --config recipes/configs/charades_sta/qwen2_5_vl_3b.yaml \
        --train_data train.jsonl --eval_data test.jsonl --video_root videos
"""

from __future__ import annotations

from invert_rl.recipe_help import show_help

if __name__ == "__main__":
    show_help(__file__, __doc__)  # before the imports below, which take seconds

import time
from dataclasses import asdict, replace
from pathlib import Path

from transformers import PrinterCallback, ProgressCallback
from trl import ModelConfig

from data_prep.errors import DataError
from data_prep.manifest import read_manifest, split_usable
from data_prep.rows import read_rows, split_windows
from data_prep.verbs import annotate_missing
from invert_rl.ablation.guess import text_only_guess
from invert_rl.account import account_of, describe_kept
from invert_rl.audit_rewards import run_ceilings
from invert_rl.controls import with_other_segments, with_shuffled_videos
from invert_rl.curriculum import weigh_by_difficulty
from invert_rl.described import differences_from
from invert_rl.evaluation.runs.before_after import adopt_samples, evaluate_last, evaluate_once
from invert_rl.evaluation.runs.grey_frames import grey_metrics
from invert_rl.evaluation.runs.validation import validation_of
from invert_rl.fingerprint import check_fingerprint, fingerprint_of
from invert_rl.grpo.config import InvertGRPOConfig
from invert_rl.grpo.inject import check_injection
from invert_rl.grpo.options import check_for_model
from invert_rl.grpo.rewards import reward_functions
from invert_rl.grpo.trainer import InvertGRPOTrainer
from invert_rl.hub import take_push
from invert_rl.models import load_config, load_processor
from invert_rl.plan.plan import plan_here
from invert_rl.policy import load_policy
from invert_rl.recipe.arguments import parse_arguments
from invert_rl.recipe.console import clear_errors, console, quiet_libraries, setting_errors
from invert_rl.recipe.ending import Ending
from invert_rl.recipe.run_log import OnceLogged, RunLog
from invert_rl.resume import resume_point
from invert_rl.run_folder import run_folder
from invert_rl.task_data import check_toy_settings, check_video_root
from invert_rl.tasks import DEFAULT_TASKS
from invert_rl.tasks.options import pipeline_for
from invert_rl.tasks.rewards import reward_weights
from invert_rl.toy.default import GRPO_SEED, start_checkpoint, toy_world
from invert_rl.video.blank import BlankFrameStore
from invert_rl.video.quarantine import Quarantine
from invert_rl.video.store import FrameStore

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "toy" / "grpo.yaml"


def main(args: InvertGRPOConfig, model_args: ModelConfig) -> None:
    started = time.perf_counter()
    out = console()
    checkpoint = resume_point(args.output_dir, args.resume_from_checkpoint)
    push = take_push(args)

    preset = args.preset()
    weights = reward_weights(args.rewards, preset.only(args.tasks).tasks)
    if args.inject_truth:
        check_injection(preset, args.tasks)
    name = model_args.model_name_or_path or start_checkpoint()
    check_for_model(args, model_args, load_config(name, model_args.model_revision))

    # data: rows with their verbs, and the videos they name
    if args.train_data is None:
        check_toy_settings(args)
        world = toy_world(GRPO_SEED, args.toy_train_clips, args.toy_test_clips)
        args.train_data, args.eval_data, args.video_root = (
            str(world.train),
            str(world.test),
            str(world.videos),
        )
        args.decode_in_process = True  # these videos crash no decoder
    if args.train_data is None or args.video_root is None:
        raise DataError("--train_data needs --video_root, the folder that holds its videos")
    evaluated = args.scored(preset.only(dict.fromkeys([*DEFAULT_TASKS, *args.tasks])))
    pipeline = pipeline_for(
        evaluated.tasks if args.eval_data or args.validation_data else args.tasks, args.verb_pipeline
    )
    rows = read_rows(args.train_data)
    if args.windows == "split":
        rows = split_windows(rows)
    unusable: dict[str, str] = {}
    if args.manifest is not None:
        rows, unusable = split_usable(rows, read_manifest(args.manifest))
    test_rows = read_rows(args.eval_data)[: args.eval_samples] if args.eval_data else []
    if pipeline is not None:
        rows, test_rows = annotate_missing(rows, pipeline), annotate_missing(test_rows, pipeline)
    rated: dict[str, int] = {}
    if args.difficulty_range is not None:
        difficulty = (args.difficulty_range, args.difficulty_outside, args.difficulty_measure)
        rows, rated = weigh_by_difficulty(rows, args.tasks, *difficulty)

    options = args.verb_options(pipeline)
    validation = validation_of(args, test_rows, evaluated, options, pipeline)
    rewards = reward_functions(args, preset, weights, pipeline, rows)
    ceilings = run_ceilings(preset.only(args.tasks).tasks, rows, weights, args.verb_options(pipeline, args.verb_reward))
    if args.shuffle_videos:
        rows = with_shuffled_videos(rows, args.seed)
    if args.placebo_segments:
        preset = replace(preset, tasks=with_other_segments(preset.tasks, rows, args.seed))

    if args.reward_weights is not None and len(args.reward_weights) != len(rewards):
        raise DataError(f"reward_weights: {len(args.reward_weights)} weights for {len(rewards)} rewards")

    # model
    plan = plan_here(args, model_args, name, rows)
    fingerprint = fingerprint_of(args, model_args, model=name, rows=len(rows), test_rows=len(test_rows))
    check_fingerprint(checkpoint, fingerprint, args.accept_changes)
    processor = load_processor(name, model_args.model_revision)
    settings = args.frame_settings(processor.video_processor.patch_size)
    store_class = BlankFrameStore if args.blank_video else FrameStore
    store = store_class(
        args.video_root,
        settings,
        memory_mb=args.frame_memory_mb,
        directory=args.frame_store,
        timeout=args.video_timeout or None,
        in_process=args.decode_in_process,
    )
    check_video_root(rows, args.video_root)
    with setting_errors():
        policy = load_policy(name, model_args, args.trained_positions)
    quarantine = Quarantine()
    with setting_errors():
        trainer = InvertGRPOTrainer(
            model=policy.model,
            rows=rows,
            reward_funcs=rewards,
            args=args,
            processing_class=processor,
            store=store,
            quarantine=quarantine,
            peft_config=policy.peft_config,
            callbacks=[OnceLogged(ceilings), RunLog(), *args.stopping_callbacks()],
            preset=preset,
        )
    trainer.validation = validation
    trainer.fingerprint = fingerprint
    policy.start(trainer.model)
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    if unusable:
        out.print(f"{len(unusable)} training rows left out by {args.manifest}, such as {next(iter(unusable.items()))}")
    for task, count in rated.items():
        out.print(f"difficulty of {task}: {count} of {len(rows)} rows in {args.difficulty_range}")
    about = account_of(
        *("grpo_invert", args, model_args, name, evaluated, settings, pipeline, rows, test_rows),
        rewards=weights,
    )
    for difference in differences_from(name, about, model_args.model_revision):
        out.print(f"the start model was trained otherwise: {difference}", style="yellow")
    out.print(f"{len(rows)} training rows, {len(test_rows)} test rows, model {name}, run folder {args.output_dir}")

    if plan is not None:
        out.print(plan.summary())

    if args.before_samples is not None and checkpoint is None:
        adopt_samples(args.before_samples, args.output_dir, test_rows, preset.tasks)
    known = checkpoint is not None or args.before_samples is not None
    before = evaluate_once("before", trainer, test_rows, evaluated, options, reuse=known)
    grey_before = grey_metrics("before", trainer, test_rows, evaluated) if args.grey_control else {}
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model(str(Path(args.output_dir) / "model"))
    if trainer.accelerator.is_main_process:
        describe_kept(args.output_dir, about)
    after, failed = evaluate_last(trainer, test_rows, evaluated, options)
    grey_after = grey_metrics("after", trainer, test_rows, evaluated) if args.grey_control and failed is None else {}
    blind = text_only_guess(rows, test_rows) if test_rows and args.windows == "split" else {}
    controls = {"blind": blind, "grey_before": grey_before, "grey_after": grey_after}
    ending = Ending(before, after, failed, blind, controls, push)
    told = {"model": name, "preset": preset.identity(), **asdict(model_args)}
    ending.tell(trainer, told, quarantine, about, started, len(test_rows))


if __name__ == "__main__":
    quiet_libraries()
    with clear_errors():
        args, model_args = parse_arguments("grpo_invert", (InvertGRPOConfig, ModelConfig), DEFAULT_CONFIG)
        with run_folder(args, "grpo_invert"):
            main(args, model_args)
