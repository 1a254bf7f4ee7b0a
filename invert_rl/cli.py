"""``invert-rl``: the commands around training. Each is imported only when it is asked for."""

from __future__ import annotations

import argparse
import importlib
import sys

from invert_rl.one_language import Parser

COMMANDS = {
    "ask": ("invert_rl.ask_command", "ask a model when something happens in a video"),
    "train": ("invert_rl.train_command", "run a recipe: grpo, sft, actionvlm, psftr, llavaction, wtal, ablation"),
    "convert": ("data_prep.convert.command", "turn official annotation files into rows"),
    "mix": ("invert_rl.mixture.command", "one training list of several sources, apart from test sets"),
    "check-videos": ("data_prep.check_videos", "decode each video once and write a manifest"),
    "cache-frames": ("invert_rl.video.cache_frames", "decode the frames of a data set once, ahead of training"),
    "audit-rewards": ("invert_rl.audit_rewards_command", "what rewards pay without a look at the video"),
    "score-verbs": ("rewards.score", "score a verb pipeline on labelled sentences"),
    "evaluate": ("invert_rl.evaluation.command", "score a model or its predictions"),
    "qvhighlights-submission": ("invert_rl.evaluation.submission", "predictions as QVHighlights' server takes them"),
    "timelens-submission": ("invert_rl.evaluation.timelens_submission", "predictions in TimeLens-Bench's form"),
    "evaluate-detection": ("invert_rl.evaluation.detection.command", "mAP of temporal action localization"),
    "check-features": ("invert_rl.tal.check_command", "every misfit between annotations and features at once"),
    "import-actionformer": ("invert_rl.tal.import_command", "released ActionFormer weights as a model folder"),
    "import-delu": ("invert_rl.wtal.import_command", "released weights of DELU as a model folder"),
    "detect": ("invert_rl.detect_command", "detections of a saved detector"),
    "extract-clip": ("invert_rl.psftr.extract_command", "CLIP features and class texts of annotated videos (PSFTR)"),
    "evaluate-mqa": (
        "invert_rl.llavaction.answers.command",
        "a model's answers to questions of build-mqa (LLaVAction)",
    ),
    "attention": ("invert_rl.llavaction.answers.attention_command", "attention to clip and action token (LLaVAction)"),
    "rate-difficulty": ("invert_rl.evaluation.difficulty_command", "measure how hard each row is for a model"),
    "build-mqa": ("invert_rl.llavaction.questions.command", "questions with hard distractors (LLaVAction)"),
    "audit-mqa": ("invert_rl.llavaction.audit.command", "what questions give away to who never looks (LLaVAction)"),
    "export-llava": ("invert_rl.llavaction.llava_format", "a LLaVA-OneVision model as lmms-eval loads it (LLaVAction)"),
    "describe-actions": ("invert_rl.wtal.describe_command", "key and complete descriptions of actions by a video LLM"),
    "parity": ("invert_rl.parity.command", "does an engine (vLLM, a server) compute what the trainer computes?"),
    "plan": ("invert_rl.plan.command", "memory and time of a GRPO run, from config files alone"),
    "tiny-model": ("invert_rl.tiny_model_command", "a checkpoint with random weights of any family, for tests"),
    "merge": ("invert_rl.merge_command", "one checkpoint of a LoRA adapter and its base"),
    "push": ("invert_rl.push_command", "a model folder onto the Hugging Face hub, or a dry run of it"),
    "demo": ("invert_rl.demo.command", "a page on which models are asked about clips (Gradio)"),
    "report": ("invert_rl.report.command", "one HTML file of a run"),
    "completion": ("invert_rl.completion_command", "a script by which a shell completes commands and options"),
    "doctor": ("invert_rl.doctor", "what is installed and what will be used"),
}
"""Module and help of each command; a module has ``add_arguments(parser)`` and ``run(arguments) -> int``."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 on success, 1 for bad input, 2 for wrong arguments."""
    arguments = sys.argv[1:] if arguments is None else arguments
    asked = next((argument for argument in arguments if not argument.startswith("-")), None)
    if asked not in COMMANDS:
        build_parser([]).parse_args(arguments)
        return 2  # not reached: such arguments end in parse_args
    import logging

    from invert_rl.errors import explain

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        if "--plugins" in {argument.partition("=")[0] for argument in arguments}:
            from invert_rl.plugins import load_plugins, plugins_of_arguments

            load_plugins(plugins_of_arguments(arguments))  # their tasks are choices of options
        parsed = build_parser([asked]).parse_args(arguments)
        return parsed.run(parsed)
    except Exception as error:
        text = explain(error)
        if text is None:
            raise
        sys.stderr.write(f"error: {text}\n")
        return 1


def build_parser(loaded: list[str]) -> argparse.ArgumentParser:
    """The parser of all commands, with the arguments of those that are ``loaded``."""
    parser = Parser(prog="invert-rl", description="Tools around GRPO with inverted tasks.")
    parser.add_argument("--version", action=Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module_name, about) in COMMANDS.items():
        command = commands.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")
        if name in loaded:
            module = importlib.import_module(module_name)
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser


class Version(argparse.Action):
    """Prints the version, which is looked up only then."""

    def __call__(self, parser: argparse.ArgumentParser, *others: object) -> None:
        import invert_rl

        sys.stdout.write(f"invert-rl {invert_rl.__version__}\n")
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())
