"""What ``invert-rl detect`` does with a detector of the pyramid (`import-actionformer`)."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import torch

from data_prep.errors import DataError
from invert_rl.tal.annotations import read_database
from invert_rl.tal.checkpoint import load_detector
from invert_rl.tal.data import results_of, videos_of
from invert_rl.tal.detect import detect
from invert_rl.tal.external import read_video_scores, with_video_classes
from invert_rl.tal.features import Features
from invert_rl.tal.misfits import inspect_features
from invert_rl.tal.sharded import DetectionJob, Entries


def detector_job(args: argparse.Namespace, device: torch.device) -> DetectionJob:
    """The job of the command's arguments; raises `DataError` for bad input."""
    if args.annotations is None or args.features is None:
        raise DataError(f"{args.model}: this model needs --annotations and --features")
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
    model.to(device)
    of_name = {video.video: video for video in videos}

    def entries(name: str) -> Entries:
        video = of_name[name]
        detections = detect(model, video, about.window, about.overlap)
        found = results_of([(video, *(values.cpu() for values in detections))], about.classes)[name]
        if scores is None:
            return found
        return with_video_classes(found, scores[name], names, best=args.external_classes)

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
    return DetectionJob([*of_name], entries, settings, report.summary(args.bad_features, database, subset))


def choose_subset(database: dict[str, Any], wanted: str | None, where: str) -> str:
    """The subset to detect in; raises `DataError` naming those that are there."""
    there = sorted({str(record.get("subset")) for record in database.values()})
    if wanted is None and len(there) == 1:
        return there[0]
    if wanted is None or wanted.casefold() not in map(str.casefold, there):
        raise DataError(f"{where}: no subset {wanted!r}; choose one with --subset: {', '.join(there)}")
    return wanted
