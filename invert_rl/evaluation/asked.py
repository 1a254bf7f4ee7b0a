"""How a command's tasks are worded and counted: its prompt, under the rules of its named protocol."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace

from invert_rl.evaluation.protocols.named import named_protocol
from invert_rl.evaluation.protocols.rules import Rules
from invert_rl.tasks import Preset, Task, load_preset
from invert_rl.tasks.tvg import Grounding


def asked_preset(args: argparse.Namespace) -> Preset:
    """The preset that a model's tasks are asked by; ``args`` are those of ``invert-rl evaluate``, completed."""
    preset = load_preset(args.prompt, args.tasks if args.predictions is None else (), args.windows)
    if args.protocol is None:
        return preset
    return replace(preset, tasks=ruled(preset.tasks, named_protocol(args.protocol).rules))


def ruled(tasks: Mapping[str, Task], rules: Rules) -> dict[str, Task]:
    """The tasks, of which those that name spans in whole videos are counted by ``rules``."""
    return {name: replace(task, rules=rules) if isinstance(task, Grounding) else task for name, task in tasks.items()}
