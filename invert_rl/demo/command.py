"""``invert-rl demo``: a page on which one or two models are asked about clips."""

from __future__ import annotations

import argparse
from pathlib import Path

from invert_rl.errors import need_module


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``invert-rl demo``."""
    parser.description = "Upload or pick a clip, type a query, see time line and moment; two models stand side by side."
    parser.add_argument("--model", nargs="+", metavar="M", help="one or two checkpoints; default: the toy checkpoint")
    parser.add_argument("--videos", type=Path, metavar="DIR", help="clips to pick from; default: generated ones")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; default: %(default)s")
    parser.add_argument("--port", type=int, default=7860, help="default: %(default)s")
    parser.add_argument("--device", help="cpu, cuda, …; default: a GPU if there is one")


def run(args: argparse.Namespace) -> int:
    """Serve the page until it is interrupted; 0 then. Raises `DataError` without Gradio or for a bad model."""
    need_module("gradio", "invert-rl demo")
    from invert_rl import Grounder
    from invert_rl.demo.clips import example_clips
    from invert_rl.demo.page import build_page

    names = args.model or [None]
    models = {name or "toy checkpoint": Grounder(name, device=args.device) for name in names}
    examples = example_clips(args.videos)
    page = build_page(models, examples)
    folders = sorted({str(Path(video).parent) for video, _ in examples})
    page.launch(server_name=args.host, server_port=args.port, allowed_paths=folders, quiet=True)
    return 0
