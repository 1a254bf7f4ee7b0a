"""docs/wtal.md names options, files and functions that there are."""

from __future__ import annotations

import argparse
import importlib
import re
from dataclasses import fields
from pathlib import Path

from invert_rl.ablation.config import AblationConfig
from invert_rl.evaluation.detection import command as detection_command
from invert_rl.wtal import describe_command
from invert_rl.wtal.config import WtalArguments

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs" / "wtal.md").read_text(encoding="utf-8")


def test_options_exist() -> None:
    known = {field.name for of in (WtalArguments, AblationConfig) for field in fields(of)} | {"config"}
    for command in (describe_command, detection_command):
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        known |= {option.removeprefix("--") for action in parser._actions for option in action.option_strings}
    named = set(re.findall(r"--([a-z][\w-]*)", TEXT))
    assert len(named) > 15
    assert named <= known, named - known


def test_functions_and_files_exist() -> None:
    named = re.findall(
        r"`(data|delu|losses|matching|reconstructor|completeness|model|proposals|words|trainer)\.(\w+)`", TEXT
    )
    assert len(named) > 15
    for module, name in named:
        assert hasattr(importlib.import_module(f"invert_rl.wtal.{module}"), name), f"{module}.{name}"
    for path in re.findall(r"`((?:thumos14|activitynet|planted)/\w+\.yaml)`", TEXT):
        assert (ROOT / "recipes" / "configs" / path).is_file(), path
    assert (ROOT / "invert_rl" / "wtal" / "prompts" / "key.txt").is_file()


def test_defaults_are_those_that_the_page_prints() -> None:
    found = WtalArguments(output_dir="unused", use_cpu=True)
    assert (found.lambda1, found.lambda2, found.mu1) == (1.5, 1.5, 1.0)
    assert (found.evidential_weight, found.uncertainty_weight, found.amplitude) == (1.3, 0.4, 0.7)
    assert (found.norm_weight, found.guide_weight, found.pool_ratio, found.evidence_ratio) == (0.8, 0.4, 7, 9)
    assert (found.learning_rate, found.weight_decay, found.snippets, found.pairs) == (5e-5, 1e-3, 320, 3)
    assert (found.reconstruction_learning_rate, found.reconstruction_warmup, found.reconstruction_clip) == (
        4e-4,
        400,
        10,
    )
