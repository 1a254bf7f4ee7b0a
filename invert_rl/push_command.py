"""``invert-rl push``: a model folder onto the Hugging Face hub, or, dry, into a folder of one's own."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

NOWHERE = Path("")
"""What ``--dry-run`` without a folder gives."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``invert-rl push``."""
    parser.description = (
        "Upload weights, configuration, tokenizer, invert_rl.json and the model card of a folder; nothing else in it. "
        "Log in first with `hf auth login`, or set HF_TOKEN."
    )
    parser.add_argument("model", type=Path, metavar="MODEL_DIR", help="the `model` folder of a run, or a merged one")
    parser.add_argument("--repo", required=True, metavar="USER/NAME", help="repository on the hub; made if it is new")
    parser.add_argument("--private", action="store_true", help="a new repository is visible to its owner only")
    parser.add_argument("--message", default="Upload by invert-rl", help="of the commit; default: %(default)s")
    parser.add_argument(
        "--dry-run",
        type=Path,
        nargs="?",
        const=NOWHERE,
        metavar="DIR",
        help="only check and list, without a network; with DIR also write there what would be uploaded",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(args: argparse.Namespace) -> int:
    """Push; 0 on success. Raises `DataError` for a folder that is no model or that nobody else could load."""
    from invert_rl.hub import check_repo, check_upload, stage, upload

    check_repo(args.repo)
    files = check_upload(args.model)
    result: dict[str, Any] = {
        "repo": args.repo,
        "files": files,
        "bytes": sum(files.values()),
        "dry_run": args.dry_run is not None,
    }
    if args.dry_run is None:
        result["url"] = upload(args.model, list(files), args.repo, args.private, args.message)
    elif args.dry_run != NOWHERE:
        stage(args.model, list(files), args.dry_run)
        result["folder"] = str(args.dry_run)
    if args.json:
        sys.stdout.write(json.dumps(result) + "\n")
        return 0
    for name, size in files.items():
        sys.stdout.write(f"{size:>14,}  {name}\n")
    where = result.get("url", f"nothing was uploaded to {args.repo}")
    see = f", see {args.dry_run}" if "folder" in result else ""
    sys.stdout.write(f"{sum(files.values()):>14,}  bytes in all: {where}{see}\n")
    return 0
