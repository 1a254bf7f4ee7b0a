"""``invert-rl report``: a run folder as one HTML file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from data_prep.errors import DataError
from data_prep.files import atomic_write
from invert_rl.report.run_data import Run, read_run
from invert_rl.report.samples import add_answers, make_samples

OUTPUT = "report.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``invert-rl report``."""
    parser.description = (
        "One HTML file of a run, or of several side by side: curves, before and after, training completions, and every "
        "test sample with its clip, ground truth and answers on a time line. It needs no network and can be sent on."
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="run folder of a recipe")
    parser.add_argument("others", type=Path, nargs="*", metavar="OTHER_RUN", help="runs to set beside it")
    parser.add_argument("--output", type=Path, metavar="FILE.html", help=f"default: RUN_DIR/{OUTPUT}")
    parser.add_argument("--data", type=Path, metavar="DATA.jsonl", help="rows of the samples; default: the run's")
    parser.add_argument("--videos", type=Path, metavar="DIR", help="the video folder; default: the run's")
    parser.add_argument(
        "--media",
        choices=("clips", "frames", "none"),
        default="clips",
        help="what to embed of each video; frames or none where videos must not be passed on; default: %(default)s",
    )
    parser.add_argument(
        "--media-mb", type=float, default=30.0, help="room for clips and frames, MB; default: %(default)s"
    )
    parser.add_argument("--verb-pipeline", metavar="NAME", help="spaCy pipeline for verbs; default: the run's")
    parser.add_argument(
        "--plugins", nargs="+", default=[], metavar="P", help="files or modules that register the run's own tasks"
    )


def run(args: argparse.Namespace) -> int:
    """Write the report and say where; returns 0, raises `DataError` for a folder that cannot be reported."""
    found = read_run(args.run_dir, args.data, args.videos, args.verb_pipeline)
    output = args.output or args.run_dir / OUTPUT
    if output.is_dir():
        raise DataError(f"{output}: is a folder; give the name of the HTML file with --output")
    samples = make_samples(found.rows, found.before, found.after, found.pipeline, found.tasks)
    others: list[Run] = []
    for folder in args.others:
        other = read_run(folder, args.data, args.videos, args.verb_pipeline)
        other.name = unused_name(folder, other.name, [found.name, *(known.name for known in others)])
        own = make_samples(other.rows, other.before, other.after, other.pipeline, other.tasks)
        shared = add_answers(samples, other.name, own)
        if shared < max(len(own), len(samples)):
            found.notes.append(
                f"{other.name} answers {shared} of the {len(samples)} samples, and {len(own) - shared} others."
            )
        others.append(other)
    from invert_rl.report.page import render_page  # brings torch, which decodes the clips

    text = render_page(found, samples, args.media, int(args.media_mb * 1e6), others)
    with atomic_write(output) as out:
        out.write(text)
    for note in found.notes:
        sys.stderr.write(f"note: {note}\n")
    sys.stdout.write(f"{output}  {len(samples)} samples, {len(text.encode()) / 1e6:.1f} MB\n")
    return 0


def unused_name(folder: Path, name: str, taken: Sequence[str]) -> str:
    """The run's name; with its parent's, or a number, where another run has it."""
    for candidate in (name, f"{folder.resolve().parent.name}/{name}"):
        if candidate not in taken:
            return candidate
    return next(candidate for number in count(2) if (candidate := f"{name} ({number})") not in taken)
