"""``invert-rl attention``: how much a model's text attends to visual tokens and to the action token."""

from __future__ import annotations

import argparse
import json
import sys

from data_prep.progress import progress
from invert_rl.llavaction.answers.model_arguments import add_model_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``invert-rl attention``."""
    parser.description = (
        "Text-visual and text-action-token attention over multiple-choice questions (LLaVAction, section 4.5)."
    )
    add_model_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(args: argparse.Namespace) -> int:
    """Analyse and print the result; 0 on success. Raises `DataError` for bad input."""
    from invert_rl.llavaction.answers.answer import question_sample
    from invert_rl.llavaction.answers.attention import attention_summary, token_attention
    from invert_rl.llavaction.answers.loaded import load

    loaded = load(args, attn_implementation="eager")
    encode = loaded.encode
    found = []
    for row in progress(loaded.rows, "attention", total=len(loaded.rows)):
        item = encode(question_sample(row, encode.settings), row, with_answer=False)
        found.append(token_attention(loaded.model, encode.encoder, item))
    summary = attention_summary(found)
    sys.stdout.write(json.dumps(summary) + "\n" if args.json else _as_text(summary))
    return 0


def _as_text(summary: dict[str, float]) -> str:
    lines = [
        f"text to visual tokens: mean {summary['text_visual_mean']:.5f}, 90th percentile "
        f"{summary['text_visual_p90']:.5f} ({summary['n']:.0f} questions)"
    ]
    if "text_action_mean" in summary:
        lines.append(
            f"text to the action token: mean {summary['text_action_mean']:.5f}; "
            f"{summary['visual_below_action']:.1f} % of the visual tokens get less"
        )
    return "\n".join(lines) + "\n"
