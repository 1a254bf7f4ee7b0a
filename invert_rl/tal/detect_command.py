"""``invert-rl detect``: detections of a saved detector, test only; shared out over ranks, and resumed after a kill."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from data_prep.errors import DataError
from data_prep.files import atomic_write, read_json, read_jsonl
from data_prep.progress import progress
from invert_rl.evaluation.parts import begin, cut_last_line, part_of, parts_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``invert-rl detect``."""
    parser.description = (
        "Detect actions in features with a saved detector (import-actionformer). Shares the videos out under "
        "accelerate launch -m invert_rl.cli detect ...; a killed command goes on where it was."
    )
    parser.add_argument("--model", type=Path, required=True, metavar="MODEL_DIR")
    parser.add_argument("--annotations", type=Path, required=True, metavar="A.json", help="videos and their durations")
    parser.add_argument("--features", type=Path, required=True, metavar="F", help="folder or HDF5 file")
    parser.add_argument("--output", type=Path, required=True, metavar="detections.json")
    parser.add_argument("--subset", metavar="NAME", help="default: the model's test subset")
    parser.add_argument(
        "--external-scores", type=Path, metavar="S.json", help="class scores of videos, for class-agnostic models"
    )
    parser.add_argument(
        "--external-classes", type=int, default=2, metavar="K", help="best classes of a video; default: 2"
    )
    parser.add_argument("--max-segments", type=int, metavar="N", help="detections of a video; default: the model's")
    parser.add_argument("--min-length", type=float, metavar="ROWS", help="shortest detection; default: the model's")
    parser.add_argument(
        "--bad-features",
        choices=("error", "skip", "take"),
        default="error",
        help="see docs/detection.md; default: error",
    )
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(args: argparse.Namespace) -> int:
    """Detect and write; 0 on success. Raises `DataError` for bad input."""
    from dataclasses import replace

    from accelerate import PartialState

    from invert_rl.tal.annotations import read_database
    from invert_rl.tal.checkpoint import load_detector
    from invert_rl.tal.data import results_of, videos_of
    from invert_rl.tal.detect import detect
    from invert_rl.tal.external import read_video_scores, with_video_classes
    from invert_rl.tal.features import Features
    from invert_rl.tal.misfits import inspect_features

    state = PartialState(cpu=args.cpu)
    model, about = load_detector(args.model)
    config = model.config
    if args.max_segments is not None:
        config.suppression = replace(config.suppression, max_segments=args.max_segments)
    if args.min_length is not None:
        config.min_length = args.min_length
    database = read_database(args.annotations)
    subset = choose_subset(database, args.subset or about.subset, str(args.annotations))
    features = Features(args.features, about.layout)
    report = inspect_features(features, database, [subset], about.resize is not None)
    left_out = report.check(args.bad_features, str(args.features))
    scores, names = None, about.video_classes
    if args.external_scores is not None:
        scores, names = read_video_scores(args.external_scores, about.video_classes or about.classes)
    # Labels are not needed for detecting: the database may have classes that the model does not know.
    plain = {video: {**record, "annotations": []} for video, record in database.items()}
    videos = videos_of(
        plain,
        str(args.annotations),
        features,
        subset,
        about.classes,
        about.resize,
        about.resize_mode,
        left_out=left_out,
        downsample=about.downsample,
        need_annotated=False,
    )
    lacking = [video.video for video in videos if scores is not None and video.video not in scores]
    if lacking:
        shown = ", ".join(lacking[:5])
        raise DataError(f"{args.external_scores}: no scores of {len(lacking)} videos, among them {shown}")

    settings = {
        "model": str(args.model.resolve()),
        "annotations": str(args.annotations),
        "features": str(args.features),
        "subset": subset,
        "external_scores": None if scores is None else str(args.external_scores),
        "external_classes": args.external_classes,
        "max_segments": config.suppression.max_segments,
        "min_length": config.min_length,
        "bad_features": args.bad_features,
    }
    if state.is_main_process:
        begin(args.output, args.output.with_name(f"{args.output.name}.settings.json"), settings)
    state.wait_for_everyone()
    part = part_of(args.output, state.process_index)
    cut_last_line(part)
    state.wait_for_everyone()
    found = done_videos(args.output)
    todo = [video for video in videos if video.video not in found]
    state.wait_for_everyone()
    model.to(state.device)
    for video in progress(todo[state.process_index :: state.num_processes], "detect"):
        detections = detect(model, video, about.window, about.overlap)
        entries = results_of([(video, *(values.cpu() for values in detections))], about.classes)[video.video]
        if scores is not None:
            entries = with_video_classes(entries, scores[video.video], names, best=args.external_classes)
        with part.open("a", encoding="utf-8") as out:
            out.write(json.dumps({"video": video.video, "detections": entries}) + "\n")
    state.wait_for_everyone()
    if state.is_main_process:
        publish(args.output, [video.video for video in videos])
        told = {
            "output": str(args.output),
            "videos": len(videos),
            "features": report.summary(args.bad_features, database, subset),
        }
        left = f", {len(left_out)} left out for their features" if left_out else ""
        text = json.dumps(told) if args.json else f"{args.output}: detections of {len(videos)} videos{left}"
        sys.stdout.write(text + "\n")
    state.wait_for_everyone()
    return 0


def choose_subset(database: dict[str, Any], wanted: str | None, where: str) -> str:
    """The subset to detect in; raises `DataError` naming those that are there."""
    there = sorted({str(record.get("subset")) for record in database.values()})
    if wanted is None and len(there) == 1:
        return there[0]
    if wanted is None or wanted.casefold() not in map(str.casefold, there):
        raise DataError(f"{where}: no subset {wanted!r}; choose one with --subset: {', '.join(there)}")
    return wanted


def done_videos(output: Path) -> dict[str, Any]:
    """Detections of the videos that are done, of the output or else of all ranks' parts."""
    if output.exists():
        return dict(read_json(output)["results"])
    records = [record for part in parts_of(output) for _, record in read_jsonl(part)]
    return {record["video"]: record["detections"] for record in records}


def publish(output: Path, videos: list[str]) -> None:
    """Put the parts together, in the order of ``videos``, and remove them."""
    if not output.exists():
        results = done_videos(output)
        with atomic_write(output) as stream:
            ordered = {video: results[video] for video in videos}
            json.dump({"version": "invert-rl", "results": ordered, "external_data": {}}, stream)
    for part in parts_of(output):
        part.unlink()
