"""What of a run's settings memory and time depend on, from its config files or from a run that is about to start."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from data_prep.errors import DataError
from invert_rl.strict_yaml import read_yaml
from invert_rl.video.settings import FrameSettings

SHARDED = ("fsdp", "zero3")


@dataclass(frozen=True)
class Launch:
    """How processes share the model."""

    kind: str = "single"
    """``single``, ``ddp``, ``fsdp``, ``zero3`` or ``zero2``."""
    processes: int = 1
    machines: int = 1
    mixed_precision: str = "no"
    offload: bool = False
    """Whether FSDP or DeepSpeed keep parameters and optimizer state in host memory."""

    @property
    def shards(self) -> int:
        """Into how many parts parameters, gradients and optimizer state are cut."""
        return self.processes if self.kind in SHARDED else 1

    @property
    def per_machine(self) -> int:
        """Processes, and GPUs, of a machine."""
        return max(1, self.processes // self.machines)


def read_launch(path: str | os.PathLike[str] | None) -> Launch:
    """The launch of a file of ``accelerate launch --config_file``; without one a single process under bf16.

    Raises `DataError` for a file that is none, and for a kind of launch that is not known here.
    """
    if path is None:
        return Launch(mixed_precision="bf16")
    given = read_yaml(path)
    kind = str(given.get("distributed_type", "NO")).upper()
    deepspeed, fsdp = given.get("deepspeed_config") or {}, given.get("fsdp_config") or {}
    names = {"NO": "single", "FALSE": "single", "MULTI_GPU": "ddp", "FSDP": "fsdp"}
    if kind == "DEEPSPEED":
        names[kind] = f"zero{deepspeed.get('zero_stage', 2)}"
    if names.get(kind) not in ("single", "ddp", "fsdp", "zero2", "zero3"):
        raise DataError(f"{path}: distributed_type {kind} is not one of NO, MULTI_GPU, FSDP, DEEPSPEED (stage 2 or 3)")
    processes = _whole(path, given, "num_processes")
    return Launch(
        kind="single" if names[kind] == "ddp" and processes == 1 else names[kind],
        processes=processes,
        machines=_whole(path, given, "num_machines"),
        mixed_precision=str(given.get("mixed_precision", "no")),
        offload=bool(fsdp.get("fsdp_offload_params"))
        or deepspeed.get("offload_optimizer_device", "none") not in ("none", None),
    )


def current_launch(mixed_precision: str) -> Launch:
    """How this process was launched, by what ``accelerate launch`` and ``torchrun`` tell it."""
    processes, local = (int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    kind = "ddp" if processes > 1 else "single"
    offload = False
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        kind, offload = "fsdp", os.environ.get("FSDP_OFFLOAD_PARAMS") == "true"
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        kind = f"zero{os.environ.get('ACCELERATE_DEEPSPEED_ZERO_STAGE', 2)}"
        offload = os.environ.get("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "none") != "none"
    return Launch(kind, processes, max(1, processes // max(1, local)), mixed_precision, offload)


@dataclass(frozen=True)
class Job:
    """Settings of a GRPO run that its memory and time depend on, under their names in its config."""

    launch: Launch
    model: str
    revision: str | None
    settings: Mapping[str, Any]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["settings"][name]
        except KeyError:
            raise AttributeError(name) from None

    def with_settings(self, **changed: Any) -> Job:
        """The same job with other settings; ``launch`` is one of them."""
        launch = changed.pop("launch", self.launch)
        return Job(launch, self.model, self.revision, {**self.settings, **changed})

    @property
    def half(self) -> bool:
        """Whether forwards compute in half precision."""
        return bool(self.bf16 or self.fp16) or self.launch.mixed_precision in ("bf16", "fp16")

    @property
    def micro_prompts(self) -> int:
        """Different prompts of a micro-batch at most, where groups stay together and are shared."""
        if not (self.share_prompts and self.keep_groups):
            return int(self.per_device_train_batch_size)
        return -(-int(self.per_device_train_batch_size) // int(self.num_generations))

    @property
    def micro_batches(self) -> int:
        """Micro-batches of a process in an optimizer step."""
        return int(self.gradient_accumulation_steps)

    @property
    def generated_together(self) -> int:
        """Completions that a process generates in a round."""
        steps = self.steps_per_generation or self.gradient_accumulation_steps
        if self.generation_batch_size:
            return max(1, int(self.generation_batch_size) // self.launch.processes)
        return int(self.per_device_train_batch_size) * int(steps)

    @property
    def has_reference(self) -> bool:
        """Whether a second model is loaded for the KL term; adapters are switched off instead."""
        return self.beta > 0 and not self.use_peft

    def frames(self, patch: int) -> FrameSettings:
        """Its frame settings for a vision tower with that patch."""
        names = ("fps", "min_frames", "max_frames", "total_pixels", "min_pixels", "max_pixels")
        return FrameSettings(**{name: self.settings[name] for name in names}, image_patch_size=patch)


def job_of(args: Any, model_args: Any, launch: Launch, model: str) -> Job:
    """The job of a run that is about to start, from its parsed settings."""
    settings = {item.name: getattr(part, item.name) for part in (args, model_args) for item in fields(part)}
    return Job(launch, model, model_args.model_revision, settings)


def read_job(
    config: str | os.PathLike[str] | None, launch: Launch, model: str | None, overrides: Sequence[str] = ()
) -> Job:
    """The job of a recipe's YAML, with the recipe's defaults for what it leaves out, on machines that are not here.

    ``overrides`` are ``--name value`` as on the recipe's command line. The settings are not built into a
    `GRPOConfig`, which wants the launch's GPUs to be there. Raises `DataError` for names that the recipe has not and
    numbers that are none.
    """
    from trl import ModelConfig

    from invert_rl.grpo.config import InvertGRPOConfig

    known = {item.name: _default(item) for part in (InvertGRPOConfig, ModelConfig) for item in fields(part)}
    given = {} if config is None else read_yaml(config)
    named = None if config is None else re.search(r"recipes/(\w+)\.py", Path(config).read_text(encoding="utf-8"))
    if named and named[1] != "grpo_invert":
        raise DataError(f"{config}: is for recipes/{named[1]}.py; only runs of recipes/grpo_invert.py are planned")
    given |= _overrides(overrides)
    unknown = sorted(set(given) - set(known) - {"config"})
    if unknown:
        raise DataError(f"{config}: {unknown[0]!r} is no setting of recipes/grpo_invert.py; only its runs are planned")
    settings = {**known, **given}
    for name, default in known.items():
        if isinstance(default, int | float) and not isinstance(default, bool):
            settings[name] = _number(name, settings[name], whole=isinstance(default, int))
    for name in ("per_device_train_batch_size", "gradient_accumulation_steps", "num_generations"):
        if settings[name] < 1:
            raise DataError(f"{name} must be a positive whole number, found {settings[name]!r}")
    name = model or settings["model_name_or_path"]
    if name is None:
        raise DataError("which model? give --model_name_or_path, a folder with its config.json is enough")
    settings["model_name_or_path"] = name
    return Job(launch, name, settings["model_revision"], settings)


def _default(item: Any) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


def _overrides(words: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    name = None
    for word in words:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            found[name] = yaml.safe_load(value) if value else True
        elif name is None:
            raise DataError(f"{word!r}: settings are --name value")
        else:
            value = yaml.safe_load(word)
            found[name] = value if found[name] is True else [*_listed(found[name]), value]
    return found


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _number(name: str, value: Any, whole: bool) -> Any:
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise DataError(f"{name} must be a number, found {value!r}") from None
    return int(number) if whole and number == int(number) else number


def _whole(path: str | os.PathLike[str], given: Mapping[str, Any], name: str) -> int:
    value = given.get(name, 1)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise DataError(f"{path}: {name} must be a positive whole number, found {value!r}")
    return value
