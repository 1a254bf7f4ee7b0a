"""The model card of a trained model, ``README.md`` in its folder: made from what the folder says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from data_prep.files import atomic_write
from invert_rl.evaluation.protocols.fields import protocol_line
from invert_rl.models.adapters import ADAPTER_CONFIG
from invert_rl.tasks import TASKS
from invert_rl.tasks.refuse import Refusal

CARD = "README.md"
TITLES = {"grpo_invert": "GRPO with inverted tasks", "sft_invert": "supervised fine-tuning (Invert-SFT)"}


def write_card(folder: Path, about: Mapping[str, Any], name: str) -> None:
    """Write the card of a folder whose ``invert_rl.json`` holds ``about``; ``name`` is the model's.

    Nothing is written for a model that does not say of which run it is.
    """
    if "run" not in about:
        return
    adapter = (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file()
    with atomic_write(folder / CARD) as out:
        out.write(model_card(about, name, adapter))


def model_card(about: Mapping[str, Any], name: str, adapter: bool = False) -> str:
    """The card's text: how to use the model, what it was trained on, what came out, what it cannot do."""
    run = about["run"]
    front = {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "video-text-to-text",
        "tags": ["invert-rl", "trl", "temporal-video-grounding", run["recipe"].partition("_")[0]],
    }
    if run["base"].count("/") == 1:
        front["base_model"] = run["base"]
    environment = Environment(
        loader=PackageLoader("invert_rl", "."), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    results = about.get("results") or {}
    return environment.get_template("model_card.md.jinja").render(
        front=yaml.safe_dump(front, sort_keys=False).strip(),
        name=name,
        title=TITLES.get(run["recipe"], run["recipe"]),
        about=about,
        run=run,
        adapter=adapter,
        labels=[TASKS[task].label if task in TASKS else task for task in run["tasks"]],
        forward_only=all(task in TASKS and TASKS[task].forward for task in run["tasks"]),
        metrics=_metrics(results),
        blind=results.get("blind") or {},
        protocol=protocol_line(about["protocol"]) if "protocol" in about else None,
        longest=about["frames"]["max_frames"] / about["frames"]["fps"],
        refuses=any(isinstance(TASKS.get(task), Refusal) for task in run["tasks"]),
        toy=any(part.startswith("toy") for part in run["train"]["datasets"]),
        versions=about.get("protocol", {}).get("versions", {}),
    )


def _metrics(results: Mapping[str, Any]) -> list[tuple[str, float | None, float]]:
    """Name, value before and value after of each metric in percent."""
    after, before = results.get("after", {}), results.get("before", {})
    return [
        (name, before.get(name), value)
        for name, value in after.items()
        if name not in ("n", "seconds") and isinstance(value, int | float)
    ]
