"""``invert-rl convert``: one sub-command per data set."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from data_prep.convert import (
    activitynet13,
    activitynet_captions,
    by_video,
    charades_sta,
    clips,
    didemo,
    ego4d_nlq,
    epic_kitchens,
    hirest,
    internvid_vtime,
    jsonl,
    lighthouse,
    momentseeker,
    museg,
    nextgqa,
    queryd,
    qvhighlights,
    ra_rft,
    rextime,
    tacos,
    thumos14,
    time_r1,
    timelens,
    tvgbench,
    videomind,
    vtimellm,
    vue_tr,
)
from data_prep.convert.detection import CLIP, SEGMENT_RULES, write_detection
from data_prep.convert.grounding import RowBuilder, VideoNames
from data_prep.convert.ledger import Ledger
from data_prep.errors import DataError
from data_prep.files import atomic_write
from data_prep.rows import Row, split_windows, write_parquet, write_rows
from data_prep.spool import RowSpool, Seen
from data_prep.verbs import annotate_verbs, without_verb
from rewards.errors import RewardError
from rewards.pipelines import load_pipeline

GROUNDING: dict[str, Any] = {
    module.NAME: module
    for module in (
        charades_sta,
        activitynet_captions,
        qvhighlights,
        time_r1,
        tvgbench,
        by_video,
        timelens,
        museg,
        vue_tr,
        tacos,
        didemo,
        nextgqa,
        rextime,
        hirest,
        lighthouse,
        momentseeker,
        ego4d_nlq,
        queryd,
        internvid_vtime,
        videomind,
        vtimellm,
        ra_rft,
        jsonl,
    )
}
"""Sets whose annotations name their videos, by sub-command."""
BATCH = 10_000
"""Rows that are split or annotated at a time."""
TRAINING_SPLITS = ("train", "training")
"""Splits whose multi-window queries become one row per window unless told otherwise."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One sub-command per data set, each with its own and the shared arguments."""
    sets = parser.add_subparsers(dest="dataset", required=True, metavar="DATASET")
    for module in GROUNDING.values():
        grounding = sets.add_parser(module.NAME, help=module.HELP, description=f"{module.HELP}, to rows.")
        _add_shared(grounding, split_required=True, output_required=module is not jsonl)
        _add_grounding(grounding)
        module.add_arguments(grounding)
        _add_video_names(grounding, module.PATTERN)
    text = "a hand-made JSON list of {video, query, windows} with its videos"
    hand_made = sets.add_parser(clips.NAME, help=text, description=f"{text}, to rows (JSONL or parquet).")
    _add_shared(hand_made, split_required=True)
    _add_grounding(hand_made)
    clips.add_arguments(hand_made)
    for module, text in (
        (thumos14, "THUMOS14 (JSON, csv or the folder of text files)"),
        (activitynet13, "ActivityNet-1.3 (JSON)"),
        (epic_kitchens, "EPIC-KITCHENS-100 (csv)"),
    ):
        detection = sets.add_parser(module.NAME, help=text, description=f"{text}, to ActivityNet-style JSON.")
        _add_shared(detection, split_required=False)
        detection.add_argument(
            "--segments",
            choices=SEGMENT_RULES,
            default=CLIP,
            help="clip: segments that stick out of the video are clipped, those outside or empty rejected; "
            "keep: all stay as published, as published mAP counts them (default: %(default)s)",
        )
        module.add_arguments(detection)


def run(args: argparse.Namespace) -> int:
    """Convert as the parsed arguments say; returns 0, or 1 after writing one error to stderr."""
    try:
        if getattr(args, "show", None) is not None:
            return jsonl.show(args)
        summary = convert(args)
    except (DataError, RewardError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(json.dumps(summary, ensure_ascii=False) + "\n" if args.json else _as_text(summary))
    return 0


def convert(args: argparse.Namespace) -> dict[str, Any]:
    """Read, write output, ``*.rejected.jsonl`` and ``*.summary.json``; returns the summary.

    With ``--annotate verbs`` the rows whose query has no verb are listed in ``*.no_verb.jsonl`` too.

    Raises `DataError` for malformed input and, with ``--strict``, for any repair or rejection; nothing is
    written then. It is raised too when no entry can be used; only the rejected file is written then.
    """
    began = time.monotonic()
    _check_output(args)
    ledger = Ledger(getattr(args, "unlabelled", False))
    summary: dict[str, Any] = {"dataset": args.dataset, "split": args.split, "output": str(args.output)}
    if args.dataset in (thumos14.NAME, activitynet13.NAME, epic_kitchens.NAME):
        database = _read_detection(args, ledger)
        _check(args, ledger)
        write_detection(args.dataset, database, args.output)
        summary |= {"videos": len(database)}
    else:
        rows, videos = _read_grounding(args, ledger, summary), Seen()
        write = write_parquet if args.format == "parquet" else write_rows
        summary |= {"rows": write(_counted(rows, videos), args.output), "videos": len(videos)}
    rejected = _rejected_path(args.output)
    ledger.write_rejected(rejected)
    summary |= {
        "rejected_file": str(rejected),
        **ledger.summary(),
        "seconds": round(time.monotonic() - began, 3),
    }
    with atomic_write(args.output.with_suffix(".summary.json")) as out:
        out.write(json.dumps(summary, ensure_ascii=False, indent=2) + "\n")
    return summary


def _check_output(args: argparse.Namespace) -> None:
    inputs = [
        getattr(args, name, None)
        for name in ("annotations", "durations", "classes", "windows", "paths", "times", "videos_of_split")
    ]
    if args.output is None:
        raise DataError("--output FILE is missing; only --show goes without")
    if args.output.resolve() in [path.resolve() for path in inputs if path is not None]:
        raise DataError(f"{args.output}: --output is one of the files to read; choose another name")
    if getattr(args, "format", None) == "parquet" and args.output.suffix != ".parquet":
        raise DataError(f"{args.output}: with --format parquet the name of --output must end in .parquet")


def _read_detection(args: argparse.Namespace, ledger: Ledger) -> dict[str, Any]:
    if args.dataset == thumos14.NAME:
        return thumos14.convert(args, ledger)
    if args.dataset == activitynet13.NAME:
        return activitynet13.convert(args, ledger)
    return epic_kitchens.convert(args, ledger)


def _read_grounding(args: argparse.Namespace, ledger: Ledger, summary: dict[str, Any]) -> Iterable[Row]:
    """The rows, split by window and annotated with verbs as asked; adds to ``summary`` what these two did."""
    if args.dataset == clips.NAME:
        rows: Iterable[Row] = clips.convert(args, ledger)
    else:
        video_name = VideoNames(args.video_pattern, args.videos)
        dataset = args.name if args.dataset == jsonl.NAME else args.dataset
        builder = RowBuilder(dataset, args.split, args.annotations, ledger, video_name)
        GROUNDING[args.dataset].convert(args, builder)
        rows = builder.rows
        if args.videos is not None:
            summary["videos_without_file"] = list(video_name.missing)
    _check(args, ledger)
    split = args.split in TRAINING_SPLITS if args.split_windows is None else args.split_windows
    if split:
        rows = _each_batch(rows, split_windows)
    if args.annotate == "verbs":
        pipeline = load_pipeline()
        annotated = RowSpool()
        for row in _each_batch(rows, lambda batch: annotate_verbs(batch, pipeline)):
            annotated.append(row)
        path = args.output.with_suffix(".no_verb.jsonl")
        listed = write_rows(_each_batch(annotated, without_verb), path)
        summary["verb_pipeline"] = {"name": pipeline.name, "version": pipeline.version}
        summary["rows_without_verb"] = {"count": listed, "file": str(path)}
        rows = annotated
    return rows


def _each_batch(rows: Iterable[Row], change: Callable[[list[Row]], list[Row]]) -> Iterator[Row]:
    """What ``change`` makes of the rows, some at a time."""
    rows = iter(rows)
    while batch := list(islice(rows, BATCH)):
        yield from change(batch)


def _counted(rows: Iterable[Row], videos: Seen) -> Iterator[Row]:
    for row in rows:
        videos.add(row.video)
        yield row


def _check(args: argparse.Namespace, ledger: Ledger) -> None:
    if args.strict:
        ledger.require_clean()
    if not ledger.accepted:
        ledger.write_rejected(_rejected_path(args.output))
        reasons = "; ".join(f"{tally.count} x {reason}" for reason, tally in ledger.reasons.items())
        raise DataError(
            f"{args.annotations}: no entry can be used ({reasons or 'there is none'}), see "
            f"{_rejected_path(args.output)}"
        )


def _rejected_path(output: Path) -> Path:
    return output.with_suffix(".rejected.jsonl")


def _add_shared(parser: argparse.ArgumentParser, split_required: bool, output_required: bool = True) -> None:
    parser.add_argument(
        "--annotations", type=Path, required=True, metavar="FILE", help="the official file, plain or .gz"
    )
    parser.add_argument(
        "--split",
        required=split_required,
        help="name of the split, written into each row"
        if split_required
        else "only this subset of the file (default: all); the name of the subset where the file has none",
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=output_required,
        metavar="FILE",
        help="where to write; beside it appear *.rejected.jsonl and *.summary.json",
    )
    parser.add_argument("--strict", action="store_true", help="any repair or rejection is an error")
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")


def _add_grounding(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=("jsonl", "parquet"), default="jsonl", help="default: %(default)s")
    parser.add_argument(
        "--split-windows",
        action=argparse.BooleanOptionalAction,
        help="one row per window, ids …#0, …#1 (default: for --split train)",
    )
    parser.add_argument(
        "--unlabelled",
        action="store_true",
        help="keep queries without windows (test sets, videos of one's own): they can be answered, not scored",
    )
    parser.add_argument(
        "--annotate", choices=("verbs",), help="add verb lemmas and the masked query to each row's meta"
    )


def _add_video_names(parser: argparse.ArgumentParser, pattern: str) -> None:
    parser.add_argument(
        "--videos",
        type=Path,
        metavar="DIR",
        help="look up each video's file in this folder, whatever its ending",
    )
    parser.add_argument(
        "--video-pattern",
        default=pattern,
        help="path of a video inside the video folder, unless --videos finds it (default: %(default)s)",
    )


def _as_text(summary: dict[str, Any]) -> str:
    written = f"{summary['rows']} rows" if "rows" in summary else f"{summary['accepted']} segments"
    lines = [
        f"{summary['dataset']} {summary['split'] or ''}: {summary['entries']} entries -> {written} "
        f"of {summary['videos']} videos in {summary['output']} ({summary['seconds']:.1f} s)"
    ]
    for reason, count in summary["rejected"].items():
        lines.append(f"  rejected {count:6d}  {reason}")
    for title in ("repaired", "notes"):
        for kind, tally in summary[title].items():
            lines.append(f"  {title:8s} {tally['count']:6d}  {kind} (first: {tally['first'][0]})")
    missing = summary.get("videos_without_file")
    if missing:
        lines.append(f"  WARNING: {len(missing)} videos have no file in the folder (first: {missing[0]})")
    no_verb = summary.get("rows_without_verb")
    if no_verb and no_verb["count"]:
        lines.append(f"  WARNING: {no_verb['count']} rows have a query without a verb: {no_verb['file']}")
    lines.append(f"  rejected entries: {summary['rejected_file']}")
    return "\n".join(lines) + "\n"
