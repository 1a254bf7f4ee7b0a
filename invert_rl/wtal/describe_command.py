"""``invert-rl describe-actions``: key and complete descriptions of actions for weakly supervised localization."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from data_prep.errors import DataError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``invert-rl describe-actions``."""
    parser.description = (
        "Write a key and a complete description of every class, and with --videos of every video, with a video LLM of "
        "transformers, from a JSON of your own, or both. The output can be edited; what it already holds is kept."
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--annotations", type=Path, metavar="A.json", help="classes and videos of such annotations")
    source.add_argument("--classes", nargs="+", metavar="NAME", help="the classes by name")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="D.json", help="the descriptions, kept and added to"
    )
    parser.add_argument("--from", type=Path, dest="given", metavar="OWN.json", help="descriptions that you wrote")
    parser.add_argument("--model", help="video LLM of the hub or a folder, for what is not described yet")
    parser.add_argument("--videos", type=Path, metavar="DIR", help="describe each annotated video, too")
    parser.add_argument("--ending", default=".mp4", help="with --videos: what follows a video's id (default: .mp4)")
    parser.add_argument("--subset", help="with --videos: only of this subset, such as the training videos")
    parser.add_argument("--frames", type=int, default=8, help="with --videos: frames shown of each (default: 8)")
    parser.add_argument("--key-prompt", type=Path, metavar="FILE", help="text with {action} and {actions}")
    parser.add_argument("--complete-prompt", type=Path, metavar="FILE", help="text with {action}")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="longest answer in tokens (default: 64)")
    parser.add_argument("--device", help="default: a GPU if there is one")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(args: argparse.Namespace) -> int:
    """Describe what is missing; 0 on success. Raises `DataError` for bad input."""
    from invert_rl.tal.annotations import class_names, read_database
    from invert_rl.wtal.describe import Answer, describe, read_prompts
    from invert_rl.wtal.descriptions import Descriptions, read_descriptions

    if args.videos is not None and args.annotations is None:
        raise DataError("--videos needs --annotations, which say what each video shows")
    database = {} if args.annotations is None else read_database(args.annotations)
    classes = args.classes or class_names(database)
    known = Descriptions({}, {})
    for path in (args.given, args.output if args.output.exists() else None):  # edits of the output win
        if path is not None:
            more = read_descriptions(path)
            known = Descriptions({**known.classes, **more.classes}, {**known.videos, **more.videos})
    videos = _videos(database, args.subset) if args.videos is not None else {}
    missing = [name for name in classes if name not in known.classes]
    unseen = [video for video in videos if video not in known.videos]
    if (missing or unseen) and args.model is None:
        raise DataError(
            f"nothing describes {', '.join(map(repr, (missing or unseen)[:5]))} ({len(missing)} classes and "
            f"{len(unseen)} videos in all); pass --model, or --from with a file that does"
        )
    prompts = read_prompts({"key": args.key_prompt, "complete": args.complete_prompt})
    clip = None
    answer: Answer = _nobody
    if missing or unseen:
        from invert_rl.models import CheckpointError
        from invert_rl.wtal.video_llm import VideoLLM, clip_loader

        clip = None if args.videos is None else clip_loader(args.videos, args.ending, args.frames)
        try:
            answer = VideoLLM(args.model, args.max_new_tokens, args.device)
        except (CheckpointError, OSError, ValueError) as error:
            raise DataError(f"--model {args.model}: {error}") from error
    _, left_out = describe(classes, prompts, answer, args.output, known, videos, clip)
    written = {"classes": len(missing), "videos": len(unseen) - len(left_out)}
    if args.json:
        sys.stdout.write(json.dumps({"output": str(args.output), "written": written, "left_out": left_out}) + "\n")
    else:
        sys.stdout.write(f"{args.output}: {written['classes']} classes and {written['videos']} videos described\n")
        sys.stdout.writelines(f"left out: {reason}\n" for reason in left_out.values())
    return 0


def _videos(database: dict[str, Any], subset: str | None) -> dict[str, list[str]]:
    """The classes of each annotated video of a subset (None: of all), by id."""
    found = {}
    for video, record in database.items():
        names = sorted({entry["label"] for entry in record["annotations"]})
        if names and (subset is None or str(record.get("subset")).casefold() == subset.casefold()):
            found[video] = names
    return found


def _nobody(prompt: str, clip: Any) -> str:
    raise AssertionError("everything is described already")
