"""Score a verb pipeline on sentences with known verbs: ``invert-rl score-verbs GOLD.jsonl``.

A gold line is ``{"sentence": str, "verbs": [lemma, …], "optional": [lemma, …]}``; optional verbs count neither
as hits nor as misses.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rewards.errors import RewardError
from rewards.pipelines import PIPELINE_DIR, VerbPipeline, load_pipeline


@dataclass(frozen=True)
class GoldSentence:
    """One sentence and the lemmas of its verbs."""

    sentence: str
    verbs: frozenset[str]
    optional: frozenset[str]


@dataclass(frozen=True)
class Mistake:
    """The verbs that a pipeline invented or missed in one sentence."""

    sentence: str
    extra: list[str]
    missing: list[str]


@dataclass(frozen=True)
class VerbScores:
    """How well a pipeline finds verbs; fractions in [0, 1]."""

    pipeline: str
    sentences: int
    exact: float
    """Share of sentences whose set of verbs is right."""
    precision: float
    recall: float
    f1: float
    worst: list[Mistake] = field(default_factory=list)
    """Sentences with mistakes, most mistakes first."""


def read_gold(path: Path) -> list[GoldSentence]:
    """Read gold sentences; raises `RewardError` naming file and line for a bad line or an empty file."""
    gold = []
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RewardError(f"{path}: cannot be read ({error}); give a JSONL file of gold sentences") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            sentence, verbs, optional = record["sentence"], record["verbs"], record.get("optional", [])
            if not isinstance(sentence, str) or not isinstance(verbs, list) or not isinstance(optional, list):
                raise TypeError("'sentence' must be a string, 'verbs' and 'optional' lists")
            gold.append(GoldSentence(sentence, frozenset(verbs), frozenset(optional)))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise RewardError(
                f"{path}:{number}: not a gold sentence ({error}); expected an object with 'sentence' and 'verbs'"
            ) from error
    if not gold:
        raise RewardError(f"{path}: holds no sentences; give a JSONL file of gold sentences")
    return gold


def score_verbs(gold: Sequence[GoldSentence], pipeline: VerbPipeline) -> VerbScores:
    """Exact-set accuracy, precision, recall and F1 of ``pipeline`` over all verbs of ``gold``."""
    hits = extra_count = missing_count = exact = 0
    mistakes = []
    for item, lemmas in zip(gold, pipeline.verbs(item.sentence for item in gold), strict=True):
        found = set(lemmas)
        extra = sorted(found - item.verbs - item.optional)
        missing = sorted(item.verbs - found)
        hits += len(item.verbs & found)
        extra_count += len(extra)
        missing_count += len(missing)
        if extra or missing:
            mistakes.append(Mistake(item.sentence, extra, missing))
        else:
            exact += 1
    mistakes.sort(key=lambda mistake: -len(mistake.extra) - len(mistake.missing))
    return VerbScores(
        pipeline=pipeline.name,
        sentences=len(gold),
        exact=exact / len(gold),
        precision=_ratio(hits, hits + extra_count),
        recall=_ratio(hits, hits + missing_count),
        f1=_ratio(2 * hits, 2 * hits + extra_count + missing_count),
        worst=mistakes,
    )


def describe_pipeline(name: str | None = None) -> dict[str, Any]:
    """Name, version, folder, licence and recorded score of a verb pipeline, for ``invert-rl doctor``.

    ``score`` is what the training command measured and wrote beside the weights, None where it did not.
    Raises `RewardError` when the pipeline cannot be loaded.
    """
    pipeline = load_pipeline(name)
    meta = pipeline.nlp.meta
    return {
        "name": pipeline.name,
        "version": pipeline.version,
        "path": str(pipeline.nlp.path or PIPELINE_DIR),
        "license": meta.get("license", ""),
        "score": meta.get("performance", {}).get("verbs"),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``invert-rl score-verbs``."""
    parser.add_argument("gold", type=Path, metavar="GOLD.jsonl", help="sentences with their verbs")
    parser.add_argument(
        "--verb-pipeline",
        "--pipeline",
        dest="pipeline",
        metavar="NAME",
        help="spaCy package or folder; default: the shipped one",
    )
    parser.add_argument("--worst", type=int, default=10, metavar="N", help="how many mistakes to print")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Score a pipeline and print the result; returns the exit code, raises `RewardError` on bad input."""
    scores = score_verbs(read_gold(args.gold), load_pipeline(args.pipeline))
    worst = scores.worst[: max(0, args.worst)]
    if args.json:
        report = asdict(scores) | {"worst": [asdict(mistake) for mistake in worst]}
        sys.stdout.write(json.dumps(report, ensure_ascii=False) + "\n")
        return 0
    lines = [f"pipeline   {scores.pipeline}", f"sentences  {scores.sentences}"]
    lines += [f"{name:<10} {getattr(scores, name):.4f}" for name in ("exact", "precision", "recall", "f1")]
    lines += [_line(mistake) for mistake in worst]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _line(mistake: Mistake) -> str:
    signs = [f"+{verb}" for verb in mistake.extra] + [f"-{verb}" for verb in mistake.missing]
    return f"  {' '.join(signs):<24} {mistake.sentence}"


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
