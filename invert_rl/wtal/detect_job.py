"""What ``invert-rl detect`` does with a weakly supervised localizer (of the recipe, or `import-delu`)."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from data_prep.errors import DataError
from invert_rl.tal.sharded import DetectionJob, Entries
from invert_rl.wtal.config import WtalArguments
from invert_rl.wtal.data import WeakData, from_joint_file, from_video_files
from invert_rl.wtal.evaluate import detect_videos
from invert_rl.wtal.export import load_localizer


def localizer_job(args: argparse.Namespace, device: torch.device) -> DetectionJob:
    """The job of the command's arguments; raises `DataError` for bad input and for arguments without effect here."""
    for name in ("external_scores", "min_length"):
        if getattr(args, name) is not None:
            raise DataError(f"--{name.replace('_', '-')}: has no effect on a weakly supervised model")
    model, classes, settings = load_localizer(args.model)
    data = videos_to_test(args, settings)
    unknown = sorted(set(data.classes) - set(classes))
    if unknown:
        raise DataError(f"{args.model}: knows no {', '.join(map(repr, unknown[:5]))}, which the annotations have")
    model.to(device)
    proposals = settings.proposals()
    if args.max_segments is not None:
        proposals = replace(proposals, most=args.max_segments)
    of_name = {video.video: video for video in data.test}

    def entries(name: str) -> Entries:
        return detect_videos(model, [of_name[name]], classes, proposals)[name]

    told = {
        "model": str(args.model.resolve()),
        "annotations": str(args.annotations),
        "features": str(args.features or args.joint_features),
        "subset": data.test_subset,
        "max_segments": proposals.most,
        "bad_features": args.bad_features,
    }
    assert data.features is not None
    return DetectionJob([*of_name], entries, told, data.features)


def videos_to_test(args: argparse.Namespace, settings: WtalArguments) -> WeakData:
    """The videos of the test subset; the training's are read from where the model was trained, and not needed."""
    subset = args.subset or settings.test_subset
    if args.joint_features is not None:
        width = settings.rgb_width + settings.flow_width
        name = settings.joint_name
        return from_joint_file(args.joint_features, args.allow_pickle, subset, subset, width, name, args.bad_features)
    if args.annotations is None or args.features is None:
        raise DataError(f"{args.model}: needs --joint-features, or --annotations and --features")
    settings.features, settings.bad_features = str(args.features), args.bad_features
    settings.train_subset = settings.test_subset = subset
    return from_video_files(settings, Path(args.annotations), settings.rgb_width + settings.flow_width)
