"""``invert-rl ask``: when does it happen? A model's answers about one video, without any annotation."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.errors import DataError
from data_prep.files import read_lines
from invert_rl.tasks import DEFAULT_TASK, TASKS
from invert_rl.tasks.options import add_task_arguments
from invert_rl.video.options import FRAME_FIELDS, add_frame_arguments

if TYPE_CHECKING:
    from invert_rl.ask.answer import Answer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``invert-rl ask``."""
    parser.description = (
        "Ask a model when something happens in a video. Without --model the tiny checkpoint of the package answers, "
        "which knows its generated clips only."
    )
    parser.add_argument("video", type=Path, metavar="VIDEO", help="a video file")
    parser.add_argument("query", nargs="*", metavar="QUERY", help='what to look for, such as "person opens the door"')
    parser.add_argument("--queries", type=Path, metavar="FILE", help="more queries, one a line")
    parser.add_argument("--model", metavar="M", help="checkpoint folder, adapter or hub id; default: the toy one")
    parser.add_argument("--task", choices=tuple(TASKS), default=DEFAULT_TASK, help="default: %(default)s")
    parser.add_argument("--from", type=float, dest="start", metavar="S", help="show the video from this second on")
    parser.add_argument("--to", type=float, dest="end", metavar="S", help="show it up to this second")
    parser.add_argument("--thought", action="store_true", help="also print what the model wrote before it answered")
    parser.add_argument(
        "--clip", type=Path, metavar="OUT.mp4", help="write the moment as a video; of several queries OUT_1.mp4, …"
    )
    parser.add_argument(
        "--window",
        type=float,
        metavar="S",
        help="see longer videos in windows of S seconds; default: max_frames / fps",
    )
    parser.add_argument(
        "--overlap", type=float, default=0.5, help="share of a window that the next sees, too; default: %(default)s"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a query instead of text")
    model = parser.add_argument_group("model")
    add_task_arguments(model)
    model.add_argument("--max-new-tokens", type=int, help="longest answer; default: as the model was trained, or 1024")
    model.add_argument("--revision", help="of a hub checkpoint")
    model.add_argument("--dtype", default="auto", choices=("auto", "bfloat16", "float16", "float32"))
    model.add_argument("--device", help="cpu, cuda, cuda:1 …; default: a GPU if there is one")
    model.add_argument("--cpu", action="store_const", const="cpu", dest="device", help="do not use a GPU")
    model.add_argument(
        "--transformers-positions",
        action=argparse.BooleanOptionalAction,
        help="Qwen2.5-VL positions as transformers counts them; default: as the model was trained",
    )
    add_frame_arguments(model)


def run(args: argparse.Namespace) -> int:
    """Ask and print; 0 when the model answered, also that nothing was found. Raises `DataError` for bad input."""
    queries = [*args.query, *([line for _, line in read_lines(args.queries)] if args.queries else [])]
    task = TASKS[args.task]
    if not queries:
        if not task.segment:
            raise DataError(f'nothing is asked; give a query: invert-rl ask {args.video} "person opens the door"')
        queries = [""]
    if task.segment and args.clip is not None:
        raise DataError(f"--clip cuts what was found, and task {args.task} finds no span; leave it out")
    if not args.video.is_file():
        raise DataError(f"{args.video}: no such video file")
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    from invert_rl import Grounder

    grounder = Grounder(
        args.model,
        revision=args.revision,
        device=args.device,
        dtype=args.dtype,
        prompt=args.prompt,
        windows=args.windows,
        max_new_tokens=args.max_new_tokens,
        transformers_positions=args.transformers_positions,
        decode_in_process=True,  # one video: a decoder that crashes takes nothing along that is not lost anyway
        **{name: getattr(args, name) for name in FRAME_FIELDS},
    )
    answers = grounder.ask(
        args.video, queries, task=args.task, start=args.start, end=args.end, window=args.window, overlap=args.overlap
    )
    for number, answer in enumerate(answers, start=1):
        clip = _cut(args, answer, number if len(answers) > 1 else None)
        if args.json:
            sys.stdout.write(json.dumps({**answer.record(), **clip}, ensure_ascii=False) + "\n")
        else:
            sys.stdout.write(_as_text(answer, args.thought, clip, len(answers) > 1))
    return 0


def _cut(args: argparse.Namespace, answer: Answer, number: int | None) -> dict[str, str]:
    """Write the first span as a clip if that is asked for; its place, for the output."""
    if args.clip is None or not answer.windows:
        return {}
    from invert_rl.video.cut_file import cut_file

    target = args.clip if number is None else args.clip.with_stem(f"{args.clip.stem}_{number}")
    cut_file(args.video, *answer.windows[0], target)
    return {"clip": str(target)}


def _as_text(answer: Answer, thought: bool, clip: dict[str, str], named: bool) -> str:
    lines = [f"{answer.query}: {answer.sentence()}" if named and answer.query else answer.sentence()]
    others = [span for span in answer.candidates if span[:2] not in answer.windows][:3]
    if others:
        told = ", ".join(f"{start:.2f} to {end:.2f} s" for start, end, _ in others)
        lines.append(f"  less sure of {told}")
    if thought:
        lines.append(f"  thought: {answer.thought or '(none: the prompt asks for no thought)'}")
    if clip:
        lines.append(f"  clip: {clip['clip']}")
    return "\n".join(lines) + "\n"
