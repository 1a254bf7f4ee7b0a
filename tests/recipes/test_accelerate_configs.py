"""The launch configs for several GPUs and machines say what docs/scaling.md says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "recipes" / "configs" / "accelerate"
KINDS = ("ddp", "fsdp2", "zero3")


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / name).read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_two_machines_have_the_settings_of_one(kind):
    one, two = read(f"8gpu_{kind}.yaml"), read(f"2x8gpu_{kind}.yaml")
    for config in (one, two):
        config.get("deepspeed_config", {}).pop("deepspeed_multinode_launcher", None)
    machines = {name: two.pop(name) for name in ("main_process_ip", "main_process_port")}
    assert machines["main_process_port"] == 29500
    assert (one.pop("num_machines"), two.pop("num_machines")) == (1, 2)
    assert (one.pop("num_processes"), two.pop("num_processes")) == (8, 16)
    assert one == two


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.name)
def test_every_key_is_one_that_accelerate_knows(path):
    """`load_config_from_file` refuses unknown keys; those of FSDP and DeepSpeed are options of ``launch``."""
    config = load_config_from_file(str(path))
    options = {action.dest for action in launch_command_parser()._actions}
    assert set(config.fsdp_config) <= options
    assert set(config.deepspeed_config) <= options


def test_sharding_leaves_the_layers_to_the_model():
    """Both families name their layers themselves; a name in the file would fit only one."""
    config = read("8gpu_fsdp2.yaml")["fsdp_config"]
    assert config["fsdp_version"] == 2
    assert "fsdp_transformer_layer_cls_to_wrap" not in config
    assert read("8gpu_zero3.yaml")["deepspeed_config"]["zero_stage"] == 3


def test_the_page_names_every_config():
    page = (ROOT / "docs" / "scaling.md").read_text()
    for path in FOLDER.glob("*.yaml"):
        assert f"`{path.name}`" in page, path.name
