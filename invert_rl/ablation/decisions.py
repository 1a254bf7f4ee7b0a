"""Registered hypotheses about an ablation, decided by its runs: paired t tests, Holm's rule over all of them.

The rule is that of docs/proof.md. A difference is taken seed by seed; its p is two-sided, by Student's t. Beside it
stands an interval with the test clips drawn anew as well (`invert_rl.ablation.clips`), which decides nothing.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from scipy import stats

from data_prep.errors import DataError
from data_prep.files import atomic_write
from invert_rl.ablation.clips import FEWEST, ClipReader, interval_over_clips
from invert_rl.ablation.config import AblationConfig, check_known
from invert_rl.ablation.recipes import recipe_named
from invert_rl.ablation.table import START, Result, Statistic, statistic

LEVEL = 0.05
"""Of the whole family: the chance that any hypothesis without an effect is called supported."""
HIGHER, LOWER = "higher", "lower"


@dataclass(frozen=True)
class Hypothesis:
    """``arm`` ends with a higher or lower ``metric`` than ``against``, a configuration or "start", the model before."""

    name: str
    arm: str
    against: str
    metric: str
    expected: Literal["higher", "lower"]


@dataclass(frozen=True)
class Decision:
    """What the runs say of a hypothesis."""

    hypothesis: Hypothesis
    difference: Statistic | None
    """``arm`` minus ``against`` over the pairs, percentage points; None without any pair."""
    p: float | None
    """Two-sided; None with fewer than two pairs."""
    adjusted: float | None
    """By Holm, over the whole family."""
    verdict: str
    """"supported", "contradicted" or "undecided"."""
    over_clips: tuple[float, float] | None = None
    """The difference's 95 % interval with seeds and test clips drawn anew; None with few pairs, or where a pair's runs
    keep no answers that give its numbers."""


def read_hypotheses(config: AblationConfig) -> list[Hypothesis]:
    """The hypotheses of a config; raises `DataError` for unknown fields, configurations, metrics or directions."""
    metrics = recipe_named(config.recipe).metrics
    found = []
    for number, given in enumerate(config.hypotheses, start=1):
        where = f"hypotheses, entry {number}"
        if not isinstance(given, Mapping) or given.keys() != Hypothesis.__dataclass_fields__.keys():
            raise DataError(f"{where}: needs {', '.join(Hypothesis.__dataclass_fields__)}, found {given}")
        hypothesis = Hypothesis(**given)
        check_known([hypothesis.arm], config.configurations, where)
        if hypothesis.against != START:
            check_known([hypothesis.against], config.configurations, where)
        if hypothesis.metric not in metrics:
            raise DataError(f"{where}: metric {hypothesis.metric!r} is unknown; the metrics are {', '.join(metrics)}")
        if hypothesis.expected not in (HIGHER, LOWER):
            raise DataError(f"{where}: expected {hypothesis.expected!r} is neither {HIGHER} nor {LOWER}")
        found.append(hypothesis)
    return found


def decide(hypotheses: Sequence[Hypothesis], results: Sequence[Result], pairs: int) -> list[Decision]:
    """A decision on each hypothesis; all of them are one family, those without runs included.

    Supported: the difference lies on the expected side and Holm's rule rejects that there is none. Contradicted: its
    95 % interval lies wholly on the other side. Undecided: all else, and whatever has fewer than ``pairs`` pairs.
    """
    differences = [paired_differences(hypothesis, results) for hypothesis in hypotheses]
    p = [two_sided(values) if len(values) > 1 else None for values in differences]
    adjusted = holm([1.0 if value is None else value for value in p])
    reader = ClipReader()
    decisions = []
    for hypothesis, values, value, corrected in zip(hypotheses, differences, p, adjusted, strict=True):
        difference = statistic(values) if values else None
        verdict = "undecided"
        if difference is not None and difference.interval is not None and len(values) >= pairs:
            sign = 1 if hypothesis.expected == HIGHER else -1
            low, high = sorted(sign * side for side in difference.interval)
            if corrected <= LEVEL and sign * difference.mean > 0:
                verdict = "supported"
            elif high < 0:
                verdict = "contradicted"
        adjusted_p = None if value is None else corrected
        clips = over_clips(hypothesis, results, reader)
        decisions.append(Decision(hypothesis, difference, value, adjusted_p, verdict, clips))
    return decisions


def paired_differences(hypothesis: Hypothesis, results: Sequence[Result]) -> list[float]:
    """``arm`` minus ``against`` for each seed, and world, that has both."""
    metric, when = hypothesis.metric, _when(hypothesis)
    return [arm.after[metric] - getattr(other, when)[metric] for arm, other in _pairs(hypothesis, results)]


def over_clips(hypothesis: Hypothesis, results: Sequence[Result], reader: ClipReader) -> tuple[float, float] | None:
    """`interval_over_clips` of the hypothesis's pairs, which all have the same test clips; else None."""
    read = []
    for arm, other in _pairs(hypothesis, results):
        mine = reader.read(arm, hypothesis.metric, "after")
        theirs = reader.read(other, hypothesis.metric, _when(hypothesis))
        if mine is None or theirs is None or arm.world is not None:  # each world has clips of its own
            return None
        read.append((mine, theirs))
    clips = {tuple(part.counts.tobytes() for part in side) for pair in read for side in pair}
    return interval_over_clips(read) if len(read) >= FEWEST and len(clips) == 1 else None


def _pairs(hypothesis: Hypothesis, results: Sequence[Result]) -> list[tuple[Result, Result]]:
    """The runs of each seed, and world, that has both; an arm against its start is paired with itself."""
    arms = {(one.world, one.seed): one for one in results if one.name == hypothesis.arm}
    others = {(one.world, one.seed): one for one in results if one.name == hypothesis.against}
    others = arms if hypothesis.against == START else others
    return [(arms[key], others[key]) for key in arms if key in others]


def _when(hypothesis: Hypothesis) -> str:
    return "before" if hypothesis.against == START else "after"


def two_sided(differences: Sequence[float]) -> float:
    """The p of at least two paired differences by Student's t; 1 where all are 0, 0 where all are one other value."""
    if statistics.stdev(differences) == 0:
        return float(differences[0] == 0)
    return float(stats.ttest_1samp(differences, 0).pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """Each p times the number of those not smaller, at least that of any smaller one and at most 1 (Holm 1979)."""
    adjusted, least = [0.0] * len(p), 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=lambda place: p[place])):
        least = max(least, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = least
    return adjusted


def decisions_markdown(decisions: Sequence[Decision], pairs: int) -> str:
    """The decisions as GitHub Markdown: differences in points with 95 % intervals over seeds, and over clips too."""
    lines = [
        "### Hypotheses\n",
        f"Holm's rule over {len(decisions)} comparisons at {100 * LEVEL:.0f} %; decided with {pairs} pairs or more.\n",
        "| hypothesis | comparison | expected | difference | clips anew | p | p by Holm | pairs | decision |",
        "|---|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for decision in decisions:
        told = decision.hypothesis
        difference = decision.difference
        cells = [
            told.name,
            f"{told.metric}: {told.arm} − {told.against}",
            told.expected,
            "" if difference is None else difference.as_difference(),
            "" if decision.over_clips is None else "[{:+.1f}, {:+.1f}]".format(*decision.over_clips),
            *("" if value is None else f"{value:.2g}" for value in (decision.p, decision.adjusted)),
            str(0 if difference is None else difference.n),
            decision.verdict,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write_decisions(folder: Path, decisions: Sequence[Decision], pairs: int) -> list[Path]:
    """Write ``decisions.md`` and ``decisions.json`` into the ablation's folder; returns their paths."""
    with atomic_write(folder / "decisions.md") as out:
        out.write(decisions_markdown(decisions, pairs))
    content: list[dict[str, Any]] = []
    for decision in decisions:
        interval = None if decision.difference is None else decision.difference.interval
        content.append({**asdict(decision), "interval": interval})
    with atomic_write(folder / "decisions.json") as out:
        json.dump({"level": LEVEL, "pairs": pairs, "decisions": content}, out, indent=1, ensure_ascii=False)
        out.write("\n")
    return [folder / "decisions.md", folder / "decisions.json"]
