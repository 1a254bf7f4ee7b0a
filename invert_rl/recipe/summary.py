"""What a run leaves as its result: ``summary.json`` and the table of before and after."""

from __future__ import annotations

import json
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from rich.table import Table

from data_prep.files import atomic_write
from invert_rl.run_folder import SUMMARY


def peak_rss_gib() -> float:
    """Largest resident memory of this process so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def gpu_use(seconds: float) -> dict[str, Any]:
    """``gpu`` of a summary: its name, how many processes had one, GiB at most, hours; empty without a GPU.

    ``peak_gib`` is what PyTorch reserved on the main process's GPU, without a vLLM engine of its own process;
    ``gpu_hours`` are those of all processes.
    """
    if not torch.cuda.is_available():
        return {}
    count = PartialState().num_processes
    hours = seconds / 3600
    peak = torch.cuda.max_memory_reserved() / 2**30
    name = torch.cuda.get_device_name()
    times = {"hours": round(hours, 3), "gpu_hours": round(hours * count, 3)}
    return {"gpu": {"name": name, "count": count, "peak_gib": round(peak, 2), **times}}


def write_summary(
    output_dir: str,
    before: Mapping[str, float],
    after: Mapping[str, float],
    seconds: float,
    settings: Mapping[str, Any],
    **beside: Any,
) -> Path:
    """Write ``summary.json`` of a run folder, whole or not at all.

    ``beside`` stands next to before and after, such as a control's metrics; what is None is left out.
    """
    path = Path(output_dir) / SUMMARY
    content = {
        "before": dict(before),
        "after": dict(after),
        **{name: value for name, value in beside.items() if value is not None},
        "seconds": round(seconds, 1),
        "peak_rss_gib": round(peak_rss_gib(), 2),
        **gpu_use(seconds),
        "settings": dict(settings),
    }
    with atomic_write(path) as out:
        json.dump(content, out, indent=1, default=str)
        out.write("\n")
    return path


def before_after_table(
    before: Mapping[str, float], after: Mapping[str, float], title: str, blind: Mapping[str, float] | None = None
) -> Table:
    """A table of the metrics that both have; ``blind`` is what can be had without looking, in a column of its own."""
    table = Table(title=title)
    for column in ("metric", *(["blind"] if blind else []), "before", "after", "change"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for name in before:
        if name in after and name not in ("n", "seconds"):
            known = [f"{blind[name]:.1f}" if name in blind else ""] if blind else []
            table.add_row(
                name, *known, f"{before[name]:.1f}", f"{after[name]:.1f}", f"{after[name] - before[name]:+.1f}"
            )
    return table
