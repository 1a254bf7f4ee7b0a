r"""LLaVAction: a video LLM that learns to tell actions apart from hard wrong options, with an action token.

Without arguments it trains on the toy world's clips (recipes/configs/toy/llavaction.yaml):

    accelerate launch recipes/train_llavaction.py

On EPIC-KITCHENS-100, with questions of `invert-rl build-mqa` (docs/llavaction.md):

    accelerate launch --config_file recipes/configs/accelerate/8gpu_fsdp2.yaml recipes/train_llavaction.py \
        --config recipes/configs/epic_kitchens/llavaction_qwen2_5_vl_7b.yaml \
        --train_data mqa_train.jsonl --eval_data mqa_val.jsonl --video_root videos
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

from peft import PeftModel
from transformers import PreTrainedModel
from trl import ModelConfig, get_peft_config

from data_prep.errors import DataError
from invert_rl.described import describe_model
from invert_rl.fingerprint import check_fingerprint, fingerprint_of
from invert_rl.llavaction.audit.rules import blind_accuracies
from invert_rl.llavaction.config import LLaVActionConfig
from invert_rl.llavaction.data import Batches, RunData, SampleEncoder, SegmentStore, read_data
from invert_rl.llavaction.encode import ClipEncoder
from invert_rl.llavaction.left_out import LeftOut
from invert_rl.llavaction.mixture import Mixture
from invert_rl.llavaction.model import load_action_model, load_action_processor
from invert_rl.llavaction.report import answer_all, comparison_table, write_report
from invert_rl.llavaction.toy.questions import toy_run_data
from invert_rl.llavaction.toy.start import toy_start
from invert_rl.llavaction.training import make_trainer, save_for_inference, with_lora
from invert_rl.recipe.arguments import parse_arguments
from invert_rl.recipe.console import clear_errors, console, quiet_libraries
from invert_rl.resume import resume_point
from invert_rl.run_folder import run_folder

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "toy" / "llavaction.yaml"


def main(args: LLaVActionConfig, model_args: ModelConfig) -> None:
    started = time.perf_counter()
    if model_args.load_in_4bit or model_args.load_in_8bit:
        raise DataError(
            "load_in_4bit and load_in_8bit are not supported: the action token and the heads are trained whole"
        )
    toy = args.train_data is None
    args.decode_in_process |= toy  # generated videos crash no decoder
    if model_args.model_name_or_path is None and not toy:
        raise DataError("--train_data needs --model_name_or_path, the checkpoint to train")
    model_args.model_name_or_path = model_args.model_name_or_path or toy_start(args.seed)
    arms = [args.distractors] if toy else ["data"]
    if toy and args.compare_random and args.distractors == "hard":
        arms.append("random")

    results: dict[str, dict[str, Any]] = {}
    for arm in arms:  # the second one, if any, is the control: the same training with random wrong options
        data = toy_run_data(args.toy_train_clips, args.toy_test_clips, arm, args.seed) if toy else read_data(args)
        folder = Path(args.output_dir) if arm == arms[0] else Path(args.output_dir) / f"{arm}_distractors"
        results[arm] = train_arm(args, model_args, data, folder, answer_before=arm == arms[0])

    if args.process_index == 0:
        blind = blind_accuracies(data.tests)
        settings = {**asdict(model_args), **args.to_dict()}
        first, *others = results.values()
        control = others[0]["after"] if others else None
        path = write_report(args.output_dir, first, control, blind, time.perf_counter() - started, settings)
        out = console()
        if first["after"]:
            out.print(comparison_table(first, control, blind))
        out.print(
            f"{time.perf_counter() - started:.0f} s in all\nmodel    {Path(args.output_dir) / 'model'}\nsummary  {path}"
        )


def train_arm(
    args: LLaVActionConfig, model_args: ModelConfig, data: RunData, folder: Path, answer_before: bool
) -> dict[str, Any]:
    out = console()
    run = copy.copy(args)
    run.output_dir = str(folder)

    # model
    name, revision = model_args.model_name_or_path, model_args.model_revision
    processor = load_action_processor(name, revision, run.action_tokens)
    lora = get_peft_config(model_args)

    def build() -> PreTrainedModel | PeftModel:
        model = load_action_model(
            name,
            processor,
            data.classes.sizes,
            run.head_weights,
            run.seed,
            revision,
            trained_positions=run.trained_positions,
            layers=run.action_layer,
            tokens=run.action_tokens,
            dtype=model_args.dtype,
            attn_implementation=model_args.attn_implementation,
        )
        return with_lora(model, copy.deepcopy(lora))

    model = build()

    # data
    encoder = ClipEncoder(processor, model.config, run.action_token, run.max_length)
    frames = run.frame_settings(getattr(processor.video_processor, "patch_size", 14))
    store = SegmentStore(
        data.video_root,
        frames,
        memory_mb=run.frame_memory_mb,
        directory=run.frame_store,
        in_process=run.decode_in_process,
        timeout=run.video_timeout or None,
    )
    encode = SampleEncoder(encoder, store, run.views(), data.classes)
    mixture = Mixture(data.pools, run.mixture(), run.seed)
    parts = run.world_size * run.gradient_accumulation_steps
    left_out = LeftOut(folder / "left_out.jsonl")
    batches = Batches(mixture, encode, run.per_device_train_batch_size, parts, left_out)
    if run.max_steps < 0:
        run.max_steps = mixture.steps(run.num_train_epochs, run.per_device_train_batch_size * parts)

    # training
    checkpoint = resume_point(run.output_dir, run.resume_from_checkpoint)
    fingerprint = fingerprint_of(run, model_args, model=name, samples=mixture.counts)
    check_fingerprint(checkpoint, fingerprint, run.accept_changes)
    trainer = make_trainer(model, batches, run, run.vision_learning_rate)
    trainer.fingerprint, trainer.quarantine = fingerprint, left_out
    out.print(f"{mixture.counts} samples an epoch, {run.max_steps} steps, model {name}, run folder {folder}")
    before = answer_all("before", trainer, encode, data, reuse=checkpoint is not None) if answer_before else {}
    trainer.train(resume_from_checkpoint=checkpoint)
    after = answer_all("after", trainer, encode, data)
    save_for_inference(trainer, processor, folder / "model", data.classes, build)
    if trainer.accelerator.is_main_process:
        shown = {"perspective": run.perspective, "time_instruction": run.time_instruction}
        shown |= {"prompt_style": run.prompt_style, "action_token": run.action_token}
        describe_model(folder / "model", frames=asdict(frames), views=shown, trained_positions=run.trained_positions)
        left_out.write(folder / "quarantine.json")
        for name, reason in left_out.videos.items():
            out.print(f"left out: {name}: {reason}", style="yellow")
    return {"before": before, "after": after}


if __name__ == "__main__":
    quiet_libraries()
    with clear_errors():
        args, model_args = parse_arguments("train_llavaction", (LLaVActionConfig, ModelConfig), DEFAULT_CONFIG)
        with run_folder(args, "train_llavaction"):
            main(args, model_args)
