"""``invert-rl check-features``: every misfit between annotations and features at once, before a GPU is rented."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``invert-rl check-features``."""
    parser.description = (
        "Read the features of every annotated video and list those that are missing or odd: unreadable, of another "
        "width, not finite, without a frame rate, or of a length that does not fit the video. Exit code 1 if there is "
        "one."
    )
    parser.add_argument("annotations", type=Path, metavar="ANNOTATIONS.json", help="ActivityNet layout")
    parser.add_argument("features", type=Path, metavar="FEATURES", help="folder of npy, npz or pt files, or HDF5 file")
    parser.add_argument(
        "--layout", metavar="NAME", help="published features (docs/detection.md); default: what most files are"
    )
    parser.add_argument("--width", type=int, help="channels; default: the layout's")
    parser.add_argument("--stride", type=float, help="frames between rows; default: the layout's")
    parser.add_argument("--clip", type=float, help="frames that a row saw; default: the layout's, else the stride")
    parser.add_argument("--fps", type=float, help="frame rate of all videos; default: the layout's, else each video's")
    parser.add_argument("--prefix", help="before a video's id in names; default: the layout's")
    parser.add_argument("--frame-rates", type=Path, metavar="F.json", help="video_fps by video, as GAP's *_info.json")
    parser.add_argument("--subset", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--resized", action="store_true", help="they will be resized: any length serves, odd ones told")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(args: argparse.Namespace) -> int:
    """Check and print; 0 if all fit, 1 if not. Raises `DataError` for annotations that cannot be read."""
    from dataclasses import replace

    from data_prep.errors import DataError
    from invert_rl.tal.annotations import read_database, with_frame_rates
    from invert_rl.tal.features import LAYOUTS, Features, changed_layout
    from invert_rl.tal.misfits import infer_layout, inspect_features

    if args.layout is not None and args.layout not in LAYOUTS:
        raise DataError(f"--layout {args.layout!r}: not one of {', '.join(LAYOUTS)}")
    database = read_database(args.annotations)
    subsets = args.subset
    there = sorted({str(record.get("subset")) for record in database.values()})
    unknown = [name for name in subsets or [] if name.casefold() not in map(str.casefold, there)]
    if unknown:
        raise DataError(f"{args.annotations}: no subset {', '.join(unknown)}; subsets: {', '.join(there)}")
    layout = changed_layout(args.layout, args.width, args.stride, args.clip, args.fps, args.prefix)
    if args.frame_rates is not None:
        database = with_frame_rates(database, args.frame_rates, layout.prefix)
    features = Features(args.features, layout)
    if args.layout is None and args.stride is None:
        features.layout = infer_layout(features, database)
        features.layout = replace(features.layout, width=args.width or features.layout.width)
    report = inspect_features(features, database, subsets, args.resized)
    told = {
        "ok": not report.missing and not report.odd,
        "videos": len(report.ok) + len(report.missing) + len(report.odd) + len(report.stretched),
        "missing": sorted(report.missing),
        "odd": [{"video": video, "why": why} for video, why in sorted(report.odd.items())],
        "layout": {
            "width": features.layout.width,
            "stride": features.layout.stride,
            "clip": features.layout.clip,
            "fps": features.layout.fps,
        },
        "stretched": [{"video": video, "why": why} for video, why in sorted(report.stretched.items())],
    }
    sys.stdout.write(json.dumps(told, ensure_ascii=False) + "\n" if args.json else _as_text(told))
    return 0 if told["ok"] else 1


def _as_text(told: dict) -> str:
    fine = told["videos"] - len(told["missing"]) - len(told["odd"])
    lines = [f"{fine} of {told['videos']} videos have features that fit"]
    if told["missing"]:
        more = f" and {len(told['missing']) - SHOWN} more" if len(told["missing"]) > SHOWN else ""
        lines.append(f"{len(told['missing'])} missing: {', '.join(told['missing'][:SHOWN])}{more}")
    for name in ("odd", "stretched"):
        if told[name]:
            lines.append(f"{len(told[name])} {name}:")
            lines += [f"  {entry['video']}: {entry['why']}" for entry in told[name][:SHOWN]]
            lines += [f"  and {len(told[name]) - SHOWN} more (--json lists all)"] if len(told[name]) > SHOWN else []
    return "\n".join(lines) + "\n"
