"""``invert-rl build-mqa``: multiple-choice questions with hard distractors from a csv of action segments."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.convert.epic_kitchens import read_lengths
from data_prep.errors import DataError
from data_prep.files import atomic_write
from data_prep.rows import Row, check_video_name, write_rows
from invert_rl.evaluation.data import file_sha256
from invert_rl.llavaction.answers.model_arguments import add_clip_arguments
from invert_rl.llavaction.audit.asked import asked_of_rows
from invert_rl.llavaction.audit.command import warning
from invert_rl.llavaction.audit.rules import audit
from invert_rl.llavaction.questions.model_specialist import PREFIX, rank_clips
from invert_rl.llavaction.questions.mqa import MODES, MULTIPLIER, STYLES, QuestionBuilder, question_row
from invert_rl.llavaction.questions.priors import prior_segments
from invert_rl.llavaction.questions.several import several_rows
from invert_rl.llavaction.questions.specialist import RANDOM, SIMILARITY, Specialist, read_specialist
from invert_rl.llavaction.segments import ClassMap, Segment, last_end, read_names, read_segments

SHOWN = 5
"""How many blind rules the text summary lists; the file beside the questions has all."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``invert-rl build-mqa``."""
    parser.description = (
        "Multiple-choice questions about actions, one per segment, whose wrong options are the classes that a "
        "specialist confuses with the true one. EPIC-KITCHENS-100 or any csv with its columns."
    )
    parser.add_argument(
        "--annotations",
        type=Path,
        required=True,
        help="csv with narration_id, video_id, start_timestamp, stop_timestamp, narration, verb_class, noun_class",
    )
    parser.add_argument(
        "--classes-from",
        type=Path,
        nargs="*",
        default=[],
        metavar="CSV",
        help="further csv files whose classes and narrations options may have; give the train and the validation "
        "file for both sets, so that both have the same classes",
    )
    parser.add_argument(
        "--specialist",
        required=True,
        metavar="FILE",
        help=f"predictions or class scores (.json, .npz); {PREFIX}PATH: what a video LLM takes each clip for, which "
        f"needs --videos and can be resumed; {SIMILARITY!r} of the labels; {RANDOM!r}",
    )
    parser.add_argument(
        "--balanced",
        action=argparse.BooleanOptionalAction,
        help="clips lend each other their actions as wrong options, so that options do not tell which of them is true; "
        "default: yes, but for predictions from a file, whose questions are the paper's: the specialist's best for "
        "each clip, with the true one in their midst",
    )
    parser.add_argument(
        "--mode",
        choices=MODES,
        default="benchmark",
        help="the K - 1 hardest; drawn from the 2 K hardest; or the specialist's own best K for two-stage prediction",
    )
    parser.add_argument(
        "--several",
        action="store_true",
        help="rows of a video with the same start and stop are one clip in which several things are done: one question "
        "with several true options, scored by the Jaccard index (Animal Kingdom)",
    )
    parser.add_argument("--options", type=int, default=5, metavar="K", help="options per question (default: 5)")
    parser.add_argument("--style", choices=STYLES, default="narration", help="how a class is written")
    parser.add_argument(
        "--random-over",
        choices=("classes", "narrations"),
        default="narrations",
        help="with --specialist random: what is equally likely; narrations as in the paper (eq. 2), or classes as in "
        "the released code, where a frequent class gives itself away (default: narrations)",
    )
    parser.add_argument("--verb-classes", type=Path, help="EPIC_100_verb_classes.csv (id, key), for labels")
    parser.add_argument("--noun-classes", type=Path, help="EPIC_100_noun_classes.csv (id, key), for labels")
    parser.add_argument(
        "--durations",
        type=Path,
        help="EPIC_100_video_info.csv (video_id, duration) or C2's video_lengths.csv; default: where the last segment "
        "of a video ends",
    )
    parser.add_argument(
        "--video-pattern",
        default="{video}.mp4",
        help="path of a video inside the video folder; {participant} is the part of its name before the first _ "
        "(default: %(default)s)",
    )
    clips = parser.add_argument_group(f"how --specialist {PREFIX}PATH is shown the clips")
    clips.add_argument("--videos", type=Path, metavar="DIR", help="folder of the videos")
    add_clip_arguments(clips)
    parser.add_argument("--dataset", default="epic-kitchens-100", help="name written into the rows")
    parser.add_argument("--split", default="", help="name of the split written into the rows")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: 0)")
    parser.add_argument("--output", type=Path, required=True, help="JSONL; its summary and classes are put beside it")
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Build, write and print a summary; 0 on success. Raises `DataError` for bad input."""
    started = time.perf_counter()
    segments = read_segments(args.annotations)
    others = [segment for path in args.classes_from for segment in read_segments(path)]
    ours = {segment.id for segment in segments}
    classes = ClassMap(
        [*segments, *(segment for segment in others if segment.id not in ours)],
        read_names(args.verb_classes) if args.verb_classes else None,
        read_names(args.noun_classes) if args.noun_classes else None,
    )
    durations = _durations(args.durations, segments)
    clips = [_clip(segment, durations) for segment in segments]
    specialist = _specialist(args, clips, classes, durations)
    balanced = _balanced(args, specialist)
    builder = QuestionBuilder(classes, specialist, args.options, args.mode, args.style, args.seed, balanced)
    priors, known = prior_segments(segments), set(segments)
    rows: list[Row] = []
    clipped = 0
    if args.several:
        paths = {segment.video: _video_path(args.video_pattern, segment) for segment in clips}
        made = several_rows(clips, builder, durations, paths)
        rows = [replace(row, dataset=args.dataset, split=args.split) for row in made]
    for question in builder.questions(clips) if not args.several else ():
        segment = question.segment
        clipped += segment not in known
        texts = [builder.true_text(prior) for prior in priors.get(segment.id, ())]
        rows.append(
            question_row(
                question,
                builder.true_text(segment),
                durations[segment.video],
                _video_path(args.video_pattern, segment),
                args.dataset,
                args.split,
                list(zip(priors[segment.id], texts, strict=True)) if texts and all(texts) else [],
            )
        )
    if not rows:
        raise DataError(f"{args.annotations}: no question could be made; {_reasons(builder.summary.record(True))}")
    write_rows(rows, args.output)
    summary: dict[str, Any] = {
        "output": str(args.output),
        **builder.summary.record(specialist.knows_truth),
        "clipped_to_the_video": clipped,
        "rows_with_prior_actions": sum("priors" in row.meta for row in rows),
        "specialist": specialist.description,
        "blind": audit(asked) if not args.several and (asked := asked_of_rows(rows)) else None,
        "settings": {
            "options": args.options,
            "mode": args.mode,
            "drawn_from_hardest": MULTIPLIER * args.options if args.mode == "train" else None,
            "style": args.style,
            "random_over": args.random_over if args.specialist == RANDOM else None,
            "balanced": balanced,
            "seed": args.seed,
            "durations": "of the file" if args.durations else "end of the last segment",
        },
        "files": _hashes([args.annotations, *args.classes_from, args.specialist]),
        "classes": {"verbs": classes.verbs, "nouns": classes.nouns, "actions": len(classes.actions)},
    }
    _write_json(args.output.with_suffix(".summary.json"), summary)
    _write_json(args.output.with_suffix(".classes.json"), classes.record())
    summary["seconds"] = round(time.perf_counter() - started, 1)
    sys.stdout.write(json.dumps(summary) + "\n" if args.json else _as_text(summary))
    return 0


def _specialist(
    args: argparse.Namespace, segments: list[Segment], classes: ClassMap, durations: Mapping[str, float]
) -> Specialist:
    """The specialist that the arguments name; a model is asked about the clips first."""
    if not args.specialist.startswith(PREFIX):
        return read_specialist(args.specialist, segments, classes, args.seed, args.random_over)
    if args.videos is None:
        raise DataError(f"--specialist {args.specialist}: needs --videos, the folder of the videos to show it")
    shown = [
        Row(s.id, _video_path(args.video_pattern, s), durations[s.video], "-", ((s.start, s.end),))
        for s in segments
        if s.end > s.start
    ]
    return rank_clips(args, shown, classes, args.output.with_suffix(".specialist.jsonl"))


def _balanced(args: argparse.Namespace, specialist: Specialist) -> bool:
    """Whether clips lend each other their actions; raises `DataError` for what cannot be or would be no question."""
    if args.several and (args.balanced or args.mode == "structured" or args.specialist == SIMILARITY):
        raise DataError(
            "--several takes neither --balanced, --mode structured nor --specialist text-similarity: its true options "
            "are many, and what is like them would give them away"
        )
    if args.several:
        return False
    from_file = Path(args.specialist).is_file()
    released = args.specialist == RANDOM and args.random_over == "classes"
    if args.balanced is None:
        return not from_file and not released and args.mode != "structured"
    if args.balanced and released:
        raise DataError("--balanced options are as frequent as their narrations: they need --random-over narrations")
    if not args.balanced and args.specialist == SIMILARITY:
        raise DataError(
            f"--specialist {SIMILARITY} --no-balanced: options that are chosen for their likeness to the true one give "
            "it away; leave --no-balanced out"
        )
    return args.balanced


def _durations(path: Path | None, segments: list[Segment]) -> dict[str, float]:
    if path is None:
        return last_end(segments)
    lengths = read_lengths(path)
    missing = next((segment.video for segment in segments if segment.video not in lengths), None)
    if missing is not None:
        raise DataError(f"{path}: has no duration of video {missing!r}")
    return lengths


def _clip(segment: Segment, durations: dict[str, float]) -> Segment:
    """The segment, cut where its video ends."""
    return replace(segment, end=min(segment.end, durations[segment.video]))


def _video_path(pattern: str, segment: Segment) -> str:
    try:
        name = pattern.format(video=segment.video, participant=segment.video.split("_")[0])
    except (KeyError, IndexError, ValueError) as error:
        raise DataError(f"--video-pattern {pattern!r}: it may name {{video}} and {{participant}} only") from error
    check_video_name(name, f"segment {segment.id}")
    return name


def _hashes(names: list[Path | str]) -> dict[str, str]:
    """SHA-256 of the files among ``names`` by file name."""
    return {Path(name).name: file_sha256(Path(name)) for name in names if Path(name).is_file()}


def _write_json(path: Path, content: object) -> None:
    with atomic_write(path) as out:
        json.dump(content, out, indent=1, ensure_ascii=False)
        out.write("\n")


def _reasons(summary: dict[str, Any]) -> str:
    return "; ".join(f"{count} x {reason}" for reason, count in summary["rejected"].items()) or "it is empty"


def _as_text(summary: dict[str, Any]) -> str:
    lines = [
        f"{summary['questions']} questions of {summary['rows']} segments in {summary['output']} "
        f"({summary['seconds']:.1f} s)",
        f"  specialist: {summary['specialist']}",
    ]
    if summary["specialist_recall"] is not None:
        recall = ", ".join(
            f"top-{name.removeprefix('top_')} {100 * value:.1f} %"
            for name, value in summary["specialist_recall"].items()
        )
        lines.append(f"  true class among its predictions: {recall}")
    lines.append(f"  answers: {', '.join(f'{letter} {count}' for letter, count in summary['answers'].items())}")
    if summary["blind"] is not None:
        attacks = sorted(summary["blind"]["attacks"].items(), key=lambda item: -item[1])
        shown = ", ".join(f"{name} {100 * value:.1f} %" for name, value in attacks[:SHOWN])
        lines.append(f"  right without the video, of chance {100 * summary['blind']['chance']:.1f} %: {shown}, …")
        if warning(summary["blind"]):
            lines.append(f"  {warning(summary['blind'])}")
    lines.append(f"  with two prior actions: {summary['rows_with_prior_actions']}")
    if summary["rejected"]:
        lines.append(f"  without a question: {_reasons(summary)}")
    return "\n".join(lines) + "\n"
