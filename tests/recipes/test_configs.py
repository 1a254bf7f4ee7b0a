"""Every shipped YAML parses against its recipe, and starts with the command that runs it."""

from __future__ import annotations

import json
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from trl import ModelConfig, TrlParser

from invert_rl.ablation.config import AblationConfig, read_tables
from invert_rl.ablation.plan import plan
from invert_rl.actionvlm.config import ActionVLMArguments
from invert_rl.grpo.config import InvertGRPOConfig
from invert_rl.llavaction.config import LLaVActionConfig
from invert_rl.psftr.config import PSFTRConfig
from invert_rl.psftr.settings import PSFTRArguments
from invert_rl.recipe import summary
from invert_rl.sft.config import InvertSFTConfig
from invert_rl.wtal.config import WtalArguments

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "recipes" / "configs").rglob("*.yaml"))
RECIPES: dict[str, tuple[type, ...]] = {
    "recipes/grpo_invert.py": (InvertGRPOConfig, ModelConfig),
    "recipes/sft_invert.py": (InvertSFTConfig, ModelConfig),
    "recipes/train_actionvlm.py": (ActionVLMArguments,),
    "recipes/train_llavaction.py": (LLaVActionConfig, ModelConfig),
    "recipes/train_psftr.py": (PSFTRArguments, PSFTRConfig),
    "recipes/distill_wtal.py": (WtalArguments,),
}
"""Classes of settings of each recipe."""
ABLATION = ROOT / "recipes" / "configs" / "toy" / "ablation.yaml"
PAPER = ROOT / "recipes" / "configs" / "charades_sta" / "ablation.yaml"
SUPERVISED = sorted((ROOT / "recipes" / "configs").glob("*/*_ablation.yaml"))
ABLATIONS = [path for path in CONFIGS if path.parent == ABLATION.parent and path.name.startswith("ablation")]
CONFIGS = [path for path in CONFIGS if path not in (*ABLATIONS, PAPER, *SUPERVISED)]  # tested below


def command_of(path: Path) -> list[str]:
    first = path.read_text().splitlines()[0]
    assert first.startswith("# accelerate launch "), f"{path}: the first line is not its command"
    return shlex.split(first.removeprefix("# "))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT / "recipes" / "configs")))
def test_a_config_parses_against_the_recipe_that_its_command_names(path: Path):
    command = command_of(path)
    recipe = next(word for word in command if word.startswith("recipes/") and word.endswith(".py"))
    for word in command:
        if word.startswith("recipes/"):
            assert (ROOT / word).is_file(), f"{path}: its command names {word}"
    if path.parent.name == "accelerate":
        assert load_config_from_file(str(path)).num_processes in (1, 8, 16)
        assert command[command.index("--config_file") + 1] == str(path.relative_to(ROOT))
        return
    assert command[command.index("--config") + 1] == str(path.relative_to(ROOT))
    given = yaml.safe_load(path.read_text())
    changed = {}
    if given.get("bf16"):
        changed["bf16"] = False  # the arguments class wants a GPU for it
    if path.name.startswith("qwen2_5_vl"):
        changed["gradient_accumulation_steps"] = 8  # written for 8 GPUs; what the file says to do on one
    if "bnb" in given.get("optim", "") and find_spec("bitsandbytes") is None:
        changed["optim"] = "adamw_torch"  # refused where it cannot be had
    arguments = [
        "--config",
        str(path),
        *(word for name, value in changed.items() for word in (f"--{name}", str(value))),
    ]
    parsed = TrlParser(RECIPES[recipe]).parse_args_and_config(arguments)
    for name, value in {**given, **changed}.items():
        found = getattr(next(part for part in parsed if hasattr(part, name)), name)
        found = found[0] if name == "report_to" else getattr(found, "value", found)
        assert found == value, name


def test_the_paper_configs_hold_what_the_paper_prints():
    """Section 3.1 and appendix C of the paper."""
    for size in ("3b", "7b"):
        given = yaml.safe_load((ROOT / f"recipes/configs/charades_sta/qwen2_5_vl_{size}.yaml").read_text())
        assert given["tvg_probability"] == 0.8
        assert given["learning_rate"] == 5e-5
        assert (given["adam_beta1"], given["adam_beta2"], given["adam_epsilon"]) == (0.9, 0.999, 1e-8)
        assert given["weight_decay"] == 0.0
        assert given["num_train_epochs"] == 2
        assert given["fps"] == 2.0
        assert given["total_pixels"] == 3584 * 28 * 28
        assert given["min_pixels"] == 16 * 28 * 28
        assert given["per_device_train_batch_size"] * 8 == 4 * given["num_generations"]


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_every_run_of_a_shipped_ablation_is_accepted_by_its_recipe(path: Path, tmp_path: Path):
    first = path.read_text().splitlines()[0]
    assert shlex.split(first)[1:] == ["python", "recipes/ablation.py", "--config", str(path.relative_to(ROOT))]
    arguments = ["--config", str(path), "--output_dir", str(tmp_path)]
    (config,) = TrlParser((AblationConfig,)).parse_args_and_config(arguments)
    config.seeds = config.seeds[:2]  # the others differ in their seed alone
    jobs = plan(config, path.parent)
    assert len(jobs) == len(config.start_models) + len(config.configurations) * len(config.seeds)
    shown = {name for table in read_tables(config) for name in table.rows}
    assert shown == set(config.configurations)
    for table in read_tables(config):
        runs = [job for job in jobs if job.recipe == "grpo_invert.py" and job.name in table.rows]
        steps = {job.settings["max_steps"] for job in runs if not job.name.endswith("-skipped")}
        assert len(steps) == 1, f"{table.name}: the configurations are trained for different numbers of steps"
        for job in runs:
            if job.name.endswith("-skipped"):  # as many as the mixed arm has of grounding: about p of them
                rounds = min(steps)
                assert abs(job.settings["max_steps"] / rounds - 0.8) < 3 * (0.8 * 0.2 / rounds) ** 0.5


def test_the_shipped_proof_has_the_arms_that_its_page_registers():
    given = yaml.safe_load(ABLATION.read_text())
    page = (ROOT / "docs" / "proof.md").read_text()
    assert given["seeds"] == list(range(1, 9)) and given["common"]["max_steps"] == 400
    assert given["common"]["eval_steps"] == 50 and given["common"]["validation_samples"] is None
    runs = given["configurations"]
    for arm in ("tvg", "mixed", "placebo", "tvg-skipped"):
        assert f"`{arm}`" in page and f"free-{arm}" in runs
        assert {**runs[arm], "prompt": "no_think", "start": "think-free"}.keys() == runs[f"free-{arm}"].keys()
    for arm in ("tvg", "mixed", "placebo"):
        rates = {
            runs[name]["learning_rate"] for name in runs if name.startswith(f"{arm}-") and "learning_rate" in runs[name]
        }
        assert len(rates) == 2 and runs[f"{arm}-beta"]["beta"] == 0.04


@pytest.mark.parametrize("path", SUPERVISED, ids=lambda path: path.stem)
def test_the_ablations_of_the_supervised_systems_are_accepted_by_their_recipes(path: Path, tmp_path: Path):
    first = path.read_text().splitlines()[0]
    assert shlex.split(first)[1:] == ["python", "recipes/ablation.py", "--config", str(path.relative_to(ROOT))]
    arguments = ["--config", str(path), "--output_dir", str(tmp_path)]
    (config,) = TrlParser((AblationConfig,)).parse_args_and_config(arguments)
    assert config.seeds == [0, 1, 2] and config.worlds == ([0, 1, 2] if path.parent.name == "planted" else [])
    config.worlds, config.seeds = config.worlds[2:], [1]
    jobs = plan(config, path.parent)
    assert {job.name for job in jobs} == set(config.configurations)
    shown = {name for table in read_tables(config) for name in table.rows}
    assert shown == set(config.configurations)


def test_the_shipped_ablation_has_the_rows_of_the_paper():
    """Table 2: every subset of the inverted tasks with TVG; Fig. 5: six values of p."""
    given = yaml.safe_load(ABLATION.read_text())
    runs = given["configurations"]
    subsets = [
        frozenset(runs[name]["tasks"]) for name in next(t for t in given["tables"] if t["name"] == "tasks")["rows"]
    ]
    inverted = ("vc", "ar", "vd")
    every = {frozenset({"tvg", *(t for t in inverted if n >> inverted.index(t) & 1)}) for n in range(8)}
    assert len(subsets) == 8
    assert set(subsets) == every
    curve = next(table for table in given["tables"] if table["name"] == "probability")["rows"]
    assert [runs[name]["tvg_probability"] for name in curve] == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]


def test_the_papers_ablation_has_its_tables_and_every_run_is_accepted(tmp_path: Path):
    """Table 2's eight rows, Fig. 5's six values of p, Table 3 with en_core_web_md, Fig. 6."""
    (config,) = TrlParser((AblationConfig,)).parse_args_and_config(
        ["--config", str(PAPER), "--output_dir", str(tmp_path)]
    )
    config.common |= {"bf16": False}  # the arguments class wants a GPU for it
    config.start_models["invert-sft"] |= {"bf16": False}
    jobs = plan(config, PAPER.parent)
    assert len(jobs) == 1 + len(config.configurations)
    tables = {table.name: table.rows for table in read_tables(config)}
    assert {name for rows in tables.values() for name in rows} == set(config.configurations)
    settings = {job.name: job.settings for job in jobs if job.recipe == "grpo_invert.py"}
    assert len({frozenset(settings[name]["tasks"]) for name in tables["table2"]}) == len(tables["table2"]) == 8
    assert [settings[name]["tvg_probability"] for name in tables["fig5"]] == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert settings["cosine"]["verb_reward"] == "cosine"
    assert settings["cosine"]["verb_pipeline"] == settings["binary-md"]["verb_pipeline"] == "en_core_web_md"
    assert {one["verb_pipeline"] for name, one in settings.items() if name not in ("cosine", "binary-md")} == {
        "en_core_web_sm"
    }
    assert settings["invert-sft"]["model_name_or_path"].startswith(str(tmp_path))
    assert {one["learning_rate"] for one in settings.values()} == {5e-5}
    text = (ROOT / "docs" / "reproduce.md").read_text()
    assert all(f"`ablation.yaml`, {name}" in text for name in tables)


def test_values_that_the_paper_does_not_print_are_marked():
    for name in ("qwen2_5_vl_3b.yaml", "qwen2_5_vl_7b.yaml"):
        lines = (PAPER.parent / name).read_text().splitlines()
        for field in ("num_generations", "max_completion_length", "min_pixels", "beta", "temperature", "max_grad_norm"):
            (line,) = [line for line in lines if line.startswith(f"{field}:")]
            assert "[ours]" in line, f"{name}: {field}"
        assert any("en_core_web_sm" in line for line in lines)


def test_a_summary_tells_gpu_memory_and_hours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert "gpu" not in json.loads(summary.write_summary(str(tmp_path), {}, {}, 1.0, {}).read_text())
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.max_memory_reserved", lambda: 3 << 30)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "A100")
    told = json.loads(summary.write_summary(str(tmp_path), {}, {}, 7200.0, {}).read_text())["gpu"]
    assert told == {"name": "A100", "count": 1, "peak_gib": 3.0, "hours": 2.0, "gpu_hours": 2.0}
