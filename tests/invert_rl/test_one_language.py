"""Names of options: synonyms, dashes and underscores, guesses at misspelt words, and help that comes at once."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.errors import DataError
from invert_rl.cli import COMMANDS, build_parser, main
from invert_rl.one_language import did_you_mean, known_name, translated
from invert_rl.recipe_files import config_path
from invert_rl.recipe_help import groups_of, help_text
from invert_rl.train_command import command_of

ROOT = Path(__file__).resolve().parents[2]
RECIPE = {"video_root", "frame_store", "dataloader_num_workers", "use_cpu", "verb_pipeline", "learning_rate"}
COMMAND = {"videos", "store", "decode-workers", "cpu", "verb-pipeline", "no-cpu-x"}


@pytest.mark.parametrize(
    ("given", "for_command", "for_recipe"),
    [
        (["--videos", "v"], ["--videos", "v"], ["--video_root", "v"]),
        (["--video-root=v"], ["--videos=v"], ["--video_root=v"]),
        (["--frame_store", "s"], ["--store", "s"], ["--frame_store", "s"]),
        (["--workers", "2"], ["--decode-workers", "2"], ["--dataloader_num_workers", "2"]),
        (["--pipeline", "p"], ["--verb-pipeline", "p"], ["--verb_pipeline", "p"]),
        (["--cpu"], ["--cpu"], ["--use_cpu", "true"]),
        (["--device", "cpu"], ["--cpu"], ["--use_cpu", "true"]),
        (["--device=cuda", "x"], ["x"], ["x"]),
        (["--unheard-of", "--", "--videos"], ["--unheard-of", "--", "--videos"], ["--unheard-of", "--", "--videos"]),
    ],
)
def test_the_same_thing_under_all_its_names(given, for_command, for_recipe):
    assert translated(given, COMMAND) == for_command
    assert translated(given, RECIPE) == for_recipe


def test_a_command_with_a_device_takes_cpu_and_negated_names():
    assert translated(["--cpu"], {"device"}) == ["--device", "cpu"]
    assert known_name("no-transformers_positions", {"no-transformers-positions"}) == "no-transformers-positions"
    assert known_name("pipeline", {"videos"}) is None


def test_old_names_reach_the_commands(tmp_path):
    parser = build_parser(["cache-frames", "doctor", "score-verbs"])
    parsed = parser.parse_args(["cache-frames", "d.jsonl", "--video_root", "v", "--frame-store", "s", "--workers", "3"])
    assert (str(parsed.videos), str(parsed.store), parsed.workers) == ("v", "s", 3)
    assert parser.parse_args(["doctor", "--pipeline", "p"]).pipeline == "p"
    assert parser.parse_args(["score-verbs", "gold.jsonl", "--verb_pipeline", "p"]).pipeline == "p"


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["evalute"], "unknown command 'evalute' (invalid choice); did you mean evaluate"),
        (
            ["evaluate", "--data", "d", "--model", "m", "--vidoes", "v"],
            "unknown option --vidoes; did you mean --videos",
        ),
        (["evaluate", "--data", "d", "--model", "m", "--backend", "vlm"], "did you mean vllm?"),
        (["frobnicate"], "choose from ask"),
    ],
)
def test_misspelt_words_get_a_guess(arguments, hint, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert hint in capsys.readouterr().err


def test_version_and_completion(capsys):
    import invert_rl

    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"invert-rl {invert_rl.__version__}\n"
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert "--transformers-positions" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0


def test_help_needs_nothing_heavy():
    code = (
        "import sys; from invert_rl.cli import main\n"
        "try: main(['--help'])\n"
        "finally: sys.exit(any(name in sys.modules for name in ('torch', 'scipy', 'numpy', 'spacy', 'yaml')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
    code = (
        "import sys, runpy; sys.argv = ['x', '--help']\n"
        f"try: runpy.run_path({str(ROOT / 'recipes' / 'grpo_invert.py')!r}, run_name='__main__')\n"
        "finally: sys.exit(any(name in sys.modules for name in ('torch', 'trl', 'numpy')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    assert "--tvg_probability float" in done.stdout and "--help all" in done.stdout
    assert "--adam_beta1" not in done.stdout


def test_the_help_that_is_read_from_the_source_is_that_of_the_classes():
    from invert_rl.actionvlm.config import ActionVLMArguments
    from invert_rl.grpo.config import InvertGRPOConfig
    from invert_rl.llavaction.config import LLaVActionConfig
    from invert_rl.psftr.config import PSFTRConfig
    from invert_rl.psftr.settings import PSFTRArguments
    from invert_rl.sft.config import InvertSFTConfig
    from invert_rl.wtal.config import WtalArguments

    for recipe, classes in {
        "grpo_invert": (InvertGRPOConfig,),
        "sft_invert": (InvertSFTConfig,),
        "train_actionvlm": (ActionVLMArguments,),
        "train_llavaction": (LLaVActionConfig,),
        "train_psftr": (PSFTRArguments, PSFTRConfig),
        "distill_wtal": (WtalArguments,),
    }.items():
        groups = groups_of(ROOT / "recipes" / f"{recipe}.py")[0]
        shown = {option.name: option for group in groups for option in group.options}
        own = {}
        for settings in classes:
            for parent in settings.__mro__:
                if parent.__module__.startswith("invert_rl") and dataclasses.is_dataclass(parent):
                    for name in parent.__dict__.get("__annotations__", {}):
                        own.setdefault(name, next(f for f in dataclasses.fields(settings) if f.name == name))
        assert shown.keys() == own.keys(), recipe
        for name, field in own.items():
            assert str(field.metadata.get("help", "")).replace("%%", "%") in shown[name].help or not shown[name].help
    assert "Options on frames:" in help_text(ROOT / "recipes" / "grpo_invert.py", "x")


def test_train_finds_recipes_and_configs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config_path("charades_sta/qwen2_5_vl_3b").endswith("charades_sta/qwen2_5_vl_3b.yaml")
    with pytest.raises(DataError, match="did you mean charades_sta/qwen2_5_vl_3b"):
        config_path("charades_sta/qwen2_5_vl_3")
    own = tmp_path / "mine.yaml"
    own.write_text("seed: 1\n")
    command = command_of("r/grpo_invert.py", ["--config", str(own), "--launch", "8gpu_ddp", "--max_steps", "3"])
    assert command[:4] == [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    assert command[4].endswith("accelerate/8gpu_ddp.yaml")
    assert command[5:] == ["r/grpo_invert.py", "--config", str(own), "--max_steps", "3"]
    assert command_of("r/grpo_invert.py", ["--help"]) == [sys.executable, "r/grpo_invert.py", "--help"]
    with pytest.raises(DataError, match="--launch: give a file"):
        command_of("r/grpo_invert.py", ["--launch"])


def test_guesses():
    assert did_you_mean("--learning-rat", {"--learning_rate", "--seed"}) == "; did you mean --learning_rate?"
    assert did_you_mean("zzz", {"--seed"}) == ""
    assert "ask" in COMMANDS


def test_recipes_take_other_names_on_the_command_line_and_in_yaml(tmp_path, monkeypatch):
    from invert_rl.recipe.arguments import parse_arguments
    from invert_rl.sft.config import InvertSFTConfig

    config = tmp_path / "c.yaml"
    config.write_text("videos: somewhere\nlearning-rate: 0.5\nuse_cpu: true\nbf16: false\n")

    def parsed(*arguments: str):
        monkeypatch.setattr(sys, "argv", ["x", "--config", str(config), *arguments])
        return parse_arguments("sft_invert", (InvertSFTConfig,), config)[0]

    args = parsed("--frame-store", "f", "--report-to", "tensorboard", "wandb", "--workers", "0")
    assert (args.video_root, args.learning_rate, args.frame_store) == ("somewhere", 0.5, "f")
    assert args.report_to == ["tensorboard", "wandb"]
    with pytest.raises(DataError, match="unknown option --learnin_rate; did you mean --learning_rate"):
        parsed("--learnin_rate", "1")
    config.write_text("learning_rats: 0.5\n")
    with pytest.raises(DataError, match="unknown key 'learning_rats' in the config; did you mean learning_rate"):
        parsed()
    config.write_text("videos: a\nvideo_root: b\n")
    with pytest.raises(DataError, match="another name of 'video_root'"):
        parsed()
