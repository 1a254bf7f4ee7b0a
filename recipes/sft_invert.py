r"""Supervised fine-tuning on the four tasks; with ``tasks: [vd]`` it is the paper's Invert-SFT (appendix D).

Without arguments it teaches the toy world's tasks to a model with random weights (recipes/configs/toy/sft.yaml):

    accelerate launch recipes/sft_invert.py

Before GRPO on data of your own:

    accelerate launch recipes/sft_invert.py --config recipes/configs/charades_sta/invert_sft_3b.yaml \
        --train_data train.jsonl --video_root videos
"""

from __future__ import annotations

from invert_rl.recipe_help import show_help

if __name__ == "__main__":
    show_help(__file__, __doc__)  # before the imports below, which take seconds

import time
from dataclasses import asdict
from pathlib import Path

from transformers import PrinterCallback, ProgressCallback
from trl import ModelConfig

from data_prep.errors import DataError
from data_prep.rows import Row, read_rows, split_windows
from data_prep.verbs import annotate_missing
from invert_rl.account import account_of, describe_kept
from invert_rl.described import differences_from
from invert_rl.evaluation.runs.before_after import evaluate_last, evaluate_once
from invert_rl.evaluation.runs.validation import validation_of
from invert_rl.fingerprint import check_fingerprint, fingerprint_of
from invert_rl.hub import take_push
from invert_rl.models import load_processor
from invert_rl.policy import load_policy
from invert_rl.recipe.arguments import parse_arguments
from invert_rl.recipe.console import clear_errors, console, quiet_libraries, setting_errors
from invert_rl.recipe.ending import Ending
from invert_rl.recipe.run_log import RunLog
from invert_rl.resume import resume_point
from invert_rl.run_folder import run_folder
from invert_rl.schedule import Draw
from invert_rl.sft.config import InvertSFTConfig
from invert_rl.sft.trainer import InvertSFTTrainer
from invert_rl.task_data import check_toy_settings, check_video_root
from invert_rl.tasks import DEFAULT_TASKS
from invert_rl.toy.default import SFT_SEED, random_checkpoint, toy_target, toy_world
from invert_rl.toy.tiny_model import save_checkpoint
from invert_rl.video.quarantine import Quarantine
from invert_rl.video.store import FrameStore
from rewards.pipelines import load_pipeline

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "toy" / "sft.yaml"


def main(args: InvertSFTConfig, model_args: ModelConfig) -> None:
    started = time.perf_counter()
    out = console()
    checkpoint = resume_point(args.output_dir, args.resume_from_checkpoint)
    push = take_push(args)

    preset = args.preset()

    # data: rows with their verbs, and the answer to teach for each
    toy = args.train_data is None
    if toy:
        check_toy_settings(args)
        world = toy_world(SFT_SEED, args.toy_train_clips, args.toy_test_clips)
        args.train_data, args.eval_data, args.video_root = str(world.train), str(world.test), str(world.videos)
        args.decode_in_process = True  # these videos crash no decoder
    if args.train_data is None or args.video_root is None:
        raise DataError("--train_data needs --video_root, the folder that holds its videos")
    pipeline = load_pipeline(args.verb_pipeline)
    rows = read_rows(args.train_data)
    rows = annotate_missing(split_windows(rows) if args.windows == "split" else rows, pipeline)
    test_rows = annotate_missing(read_rows(args.eval_data), pipeline) if args.eval_data else []
    evaluated = args.scored(preset.only(dict.fromkeys([*DEFAULT_TASKS, *args.tasks])))
    options = args.verb_options(pipeline)
    validation = validation_of(args, test_rows, evaluated, options, pipeline)
    check_video_root(rows, args.video_root)

    def target(draw: Draw, row: Row) -> str:
        task = preset.tasks[draw.task]
        return toy_target(draw, row, task, args.seed) if toy else task.target(row)

    # model
    if model_args.model_name_or_path is None and not toy:
        raise DataError("--train_data needs --model_name_or_path, the checkpoint to fine-tune")
    name = model_args.model_name_or_path or random_checkpoint(
        rows,
        args.video_root,
        args.frame_settings(image_patch_size=14),
        args.seed,
        args.toy_tower_steps,
        args.toy_caption_steps,
        preset,
    )
    fingerprint = fingerprint_of(args, model_args, model=name, rows=len(rows), test_rows=len(test_rows))
    check_fingerprint(checkpoint, fingerprint, args.accept_changes)
    processor = load_processor(name, model_args.model_revision)
    settings = args.frame_settings(processor.video_processor.patch_size)
    with setting_errors():
        policy = load_policy(name, model_args, args.trained_positions)
    quarantine = Quarantine()
    with setting_errors():
        trainer = InvertSFTTrainer(
            model=policy.model,
            rows=rows,
            target=target,
            args=args,
            processing_class=processor,
            store=FrameStore(
                args.video_root,
                settings,
                memory_mb=args.frame_memory_mb,
                directory=args.frame_store,
                timeout=args.video_timeout or None,
                in_process=args.decode_in_process,
            ),
            quarantine=quarantine,
            peft_config=policy.peft_config,
            callbacks=[RunLog(), *args.stopping_callbacks()],
            preset=preset,
        )
    trainer.validation = validation
    trainer.fingerprint = fingerprint
    policy.start(trainer.model)
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    about = account_of("sft_invert", args, model_args, name, evaluated, settings, pipeline, rows, test_rows)
    for difference in differences_from(name, about, model_args.model_revision):
        out.print(f"the start model was trained otherwise: {difference}", style="yellow")
    out.print(f"{len(rows)} training rows, {len(test_rows)} test rows, model {name}, run folder {args.output_dir}")

    before = evaluate_once("before", trainer, test_rows, evaluated, options, reuse=checkpoint is not None)
    trainer.train(resume_from_checkpoint=checkpoint)
    folder = Path(args.output_dir)
    if toy and trainer.accelerator.is_main_process:
        save_checkpoint(trainer.accelerator.unwrap_model(trainer.model), processor, folder / "model")
    elif not toy:
        trainer.save_model(str(folder / "model"))
    if trainer.accelerator.is_main_process:
        describe_kept(args.output_dir, about)
    after, failed = evaluate_last(trainer, test_rows, evaluated, options)
    ending = Ending(before, after, failed, push=push)
    told = {"model": name, "preset": preset.identity(), **asdict(model_args)}
    ending.tell(trainer, told, quarantine, about, started, len(test_rows))


if __name__ == "__main__":
    quiet_libraries()
    with clear_errors():
        args, model_args = parse_arguments("sft_invert", (InvertSFTConfig, ModelConfig), DEFAULT_CONFIG)
        with run_folder(args, "sft_invert"):
            main(args, model_args)
