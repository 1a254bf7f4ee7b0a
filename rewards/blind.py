"""What a reward pays for answers that never look at the video: its blind ceiling, found by search.

A reward is worth training with if the best blind answer earns little and the annotated one earns 1. Constants are
fitted to the rows that they are scored on, so what is found is a ceiling for any constant on like data; only the
guess from a masked query leaves out the row itself, which would otherwise answer for itself.
"""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, TypeAlias

from rewards.registry import Reward
from rewards.spans import Interval

SAMPLE = 600
"""Answers are searched on as many rows, drawn by seed 0; what is reported is scored on all."""
CANDIDATE_VERBS = 30
"""The most frequent verbs, of which sets are made."""
MOST_VERBS = 12
"""The largest set of verbs that is tried."""
WIDTH = 3
"""How many sets are kept from one size to the next."""
LENGTH_BINS = 6
"""Videos are told apart by length in as many bins of equal count."""
ENOUGH = 20
"""Rows of a kind that a constant is fitted to; kinds with fewer rows get that of all rows."""
COARSE, FINE = 10, 40
"""Borders of constant spans: parts of the video, or quantiles of the annotated ones; first coarse, then fine."""

VerbSet: TypeAlias = tuple[str, ...]


@dataclass(frozen=True)
class Answers:
    """A reward on rows.

    Args:
        reward: called with ``completions`` and the columns.
        columns: one value a row in each.
        complete: makes the completion of an answer; default: the answer itself.
    """

    reward: Reward
    columns: Mapping[str, Sequence[Any]]
    complete: Callable[[str], str] = str

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def scores(self, answers: Iterable[str]) -> list[float | None]:
        """The reward of one answer to each row."""
        return self.reward(completions=[self.complete(answer) for answer in answers], **self.columns)

    def mean(self, answers: Iterable[str]) -> float:
        """The mean reward of one answer to each row, without the rows that cannot be scored."""
        known = [score for score in self.scores(answers) if score is not None]
        return sum(known) / len(known) if known else 0.0

    def constant(self, answer: str) -> float:
        """The mean reward of one answer to all rows."""
        return self.mean([answer] * len(self))

    def take(self, places: Sequence[int]) -> Answers:
        """The rows at these places."""
        return Answers(self.reward, {k: [v[i] for i in places] for k, v in self.columns.items()}, self.complete)


@dataclass
class Ceiling:
    """What blind answers earn: mean rewards by attack, and the best of them."""

    attacks: dict[str, float] = field(default_factory=dict)
    answer: str = ""
    """The best attack's answer, or what it is."""

    @property
    def blind(self) -> float:
        """The mean reward of the best attack."""
        return max(self.attacks.values(), default=0.0)

    def add(self, attack: str, value: float, answer: str) -> None:
        """Note an attack."""
        if not self.attacks or value > self.blind:
            self.answer = answer
        self.attacks[attack] = value


def blind_spans(
    answers: Answers,
    windows: Sequence[Sequence[Interval]],
    durations: Sequence[float],
    write: Callable[[float, float], str],
    refusal: str | None = None,
    groups: Mapping[str, Sequence[Hashable]] = {},
) -> Ceiling:
    """Constant spans in seconds, as parts of the video, and as parts by the video's length; a constant refusal.

    ``windows`` are the annotated ones of each row and ``durations`` the videos' lengths, both in seconds; ``write``
    makes an answer of a span; ``refusal`` is tried where it is given. ``groups`` are more attacks: what else the text
    tells of each row, such as the verbs of its query, by which parts of the video are chosen as by length.
    """
    ceiling = Ceiling()
    places = _places(len(answers))
    starts, ends = (sorted(window[side] for truth in windows for window in truth) for side in (0, 1))
    if starts:

        def seconds(part: tuple[float, float]) -> tuple[float, float]:
            return _quantile(starts, part[0]), _quantile(ends, part[1])

        some = answers.take(places)
        part = _best_part(lambda part: some.constant(write(*seconds(part))), ordered=False)
        span = write(*seconds(part))
        ceiling.add("constant span", answers.constant(span), span)

    def by_part(parts: Sequence[tuple[float, float]]) -> list[str]:
        return [write(first * length, last * length) for (first, last), length in zip(parts, durations, strict=True)]

    def fitted(rows: Sequence[int]) -> tuple[float, float]:
        some = answers.take(rows)
        return _best_part(
            lambda part: some.mean(write(part[0] * durations[row], part[1] * durations[row]) for row in rows)
        )

    overall = fitted(places)
    ceiling.add(
        "part of the video", answers.mean(by_part([overall] * len(answers))), f"{_percent(overall)} of the video"
    )
    rng = random.Random(0)
    for attack, keys in {"part by length": _bins(durations), **groups}.items():
        rows_of_key: dict[Hashable, list[int]] = defaultdict(list)
        for place, key in enumerate(keys):
            rows_of_key[key].append(place)
        parts = {
            key: fitted(sorted(rng.sample(rows, min(SAMPLE // 2, len(rows)))))
            for key, rows in rows_of_key.items()
            if len(rows) >= ENOUGH
        }
        shown = ", ".join(f"{key}: {_percent(parts[key])}" for key in sorted(parts, key=str)[:LENGTH_BINS])
        ceiling.add(attack, answers.mean(by_part([parts.get(key, overall) for key in keys])), f"{attack}, {shown}")
    if refusal is not None:
        ceiling.add("refusal", answers.constant(refusal), refusal)
    return ceiling


def blind_words(
    answers: Answers,
    verbs: Sequence[Collection[str]],
    queries: Sequence[str] = (),
    masked_queries: Sequence[str] = (),
    most: int | None = None,
) -> Ceiling:
    """One frequent verb; the best set of verbs, as sentences; the query under the most frequent like masked query.

    ``verbs`` are the lemmas of each row's query. ``queries`` and ``masked_queries`` are given where the prompt shows
    the masked query. ``most``: what is found is scored on at most so many rows, not on all.
    """
    ceiling = Ceiling()
    common = frequent_verbs(verbs)
    places = _places(len(answers), len(answers) if most is None else most)
    answers = answers.take(places)
    some = answers.take(_places(len(answers)))
    if common:
        verb = max(common, key=some.constant)
        ceiling.add("verb", answers.constant(verb), verb)
    chosen = best_verb_set(common, lambda chosen: some.constant(sentences(chosen)))
    if chosen:
        ceiling.add("sentences", answers.constant(sentences(chosen)), sentences(chosen))
        ceiling.add("all frequent verbs", answers.constant(sentences(common)), sentences(common))
    if masked_queries:
        guesses = leave_one_out(masked_queries, [tuple(sorted(set(of_row))) for of_row in verbs], queries)
        default = sentences(chosen)
        ceiling.add(
            "masked query",
            answers.mean(guesses[place] or default for place in places),
            "the query with the most frequent verbs among the others of the same masked query",
        )
    return ceiling


def frequent_verbs(verbs: Iterable[Collection[str]], count: int = CANDIDATE_VERBS) -> list[str]:
    """The verbs of most rows, most frequent first; of equally frequent ones the first by name."""
    counts = Counter(verb for of_row in verbs for verb in set(of_row))
    return sorted(counts, key=lambda verb: (-counts[verb], verb))[:count]


def sentences(verbs: Iterable[str]) -> str:
    """A description that holds these verbs: "They open it. They close it."."""
    return " ".join(f"They {verb} it." for verb in verbs)


def best_verb_set(candidates: Sequence[str], value: Callable[[VerbSet], float]) -> VerbSet:
    """The set of candidates with the highest ``value`` that a beam search finds; empty if nothing has any.

    Sets grow by one verb at a time, the `WIDTH` best of each size are kept, and the search ends at `MOST_VERBS` or
    when two sizes in a row brought nothing.
    """
    best: tuple[float, VerbSet] = (0.0, ())
    beam: list[VerbSet] = [()]
    idle = 0
    for _ in range(MOST_VERBS):
        grown = {
            frozenset((*chosen, verb)): (*chosen, verb) for chosen in beam for verb in candidates if verb not in chosen
        }
        ranked = sorted(((value(chosen), chosen) for chosen in grown.values()), key=lambda pair: (-pair[0], pair[1]))
        if not ranked:
            break
        beam = [chosen for _, chosen in ranked[:WIDTH]]
        idle = 0 if ranked[0][0] > best[0] else idle + 1
        best = max(best, ranked[0], key=lambda pair: pair[0])
        if idle == 2:
            break
    return best[1]


def leave_one_out(keys: Sequence[Hashable], values: Sequence[Hashable], answers: Sequence[str]) -> list[str | None]:
    """For each row the answer of another row with the same key, of the value that most others with it have.

    Of equally frequent values the first seen counts. None where no other row has the key.
    """
    counts: dict[Hashable, Counter[Hashable]] = defaultdict(Counter)
    example: dict[tuple[Hashable, Hashable], str] = {}
    for key, value, answer in zip(keys, values, answers, strict=True):
        counts[key][value] += 1
        example.setdefault((key, value), answer)
    guesses: list[str | None] = []
    for key, value in zip(keys, values, strict=True):
        others = [(count - (other == value), other) for other, count in counts[key].items()]
        count, other = max(others, key=lambda pair: pair[0])
        guesses.append(example[key, other] if count else None)
    return guesses


def reworded(answers: Sequence[str], kind: str) -> dict[str, list[str]]:
    """Annotated answers in other words that say the same, by what was done to them.

    ``kind`` is that of the answers (`rewards.format`); only wordings that a reader would take for the same answer.
    """
    if kind == "span":
        return {"in a sentence": [f"The event happens from {answer} seconds." for answer in answers]}
    if kind == "spans":
        return {"in a code block": [f"```json\n{answer}\n```" for answer in answers]}
    if kind == "span_text":
        return {"in capitals": [answer.upper() for answer in answers]}
    return {
        "with a lead-in": [f"The answer is: {answer}" for answer in answers],
        "in capitals": [answer.upper() for answer in answers],
    }


def in_company(queries: Sequence[str], videos: Sequence[str], size: int = 3) -> list[str]:
    """Each query as one of up to ``size`` sentences on its video: what people wrote of it, in order of the rows."""
    of_video: dict[str, list[str]] = defaultdict(list)
    for query, video in zip(queries, videos, strict=True):
        if query not in of_video[video]:
            of_video[video].append(query)
    texts = []
    for query, video in zip(queries, videos, strict=True):
        known = of_video[video]
        place = known.index(query)
        first = max(0, min(place - size // 2, len(known) - size))
        texts.append(" ".join(sentence.rstrip(" .") + "." for sentence in known[first : first + size]))
    return texts


def write_span(start: float, end: float, kind: str = "span") -> str:
    """A span in seconds as an answer of that kind (`rewards.format`)."""
    if kind == "spans":
        return json.dumps([[round(start, 2), round(end, 2)]])
    if kind == "span_text":
        return f"The event happens in {start:.2f} - {end:.2f} seconds."
    return f"{start:.2f} to {end:.2f}"


def _best_part(value: Callable[[tuple[float, float]], float], ordered: bool = True) -> tuple[float, float]:
    """The pair of parts in [0, 1] with the highest value: of a coarse grid, then of a fine one around its best.

    ``ordered``: the first is to be smaller.
    """
    grid = [number / COARSE for number in range(COARSE + 1)]
    pairs = list(combinations(grid, 2)) if ordered else [(first, last) for first in grid for last in grid]
    best = max(pairs, key=value)
    steps = range(-(FINE // COARSE) + 1, FINE // COARSE)
    near = [
        (first, last)
        for first in (min(1.0, max(0.0, best[0] + step / FINE)) for step in steps)
        for last in (min(1.0, max(0.0, best[1] + step / FINE)) for step in steps)
        if first < last or not ordered
    ]
    return max(near, key=value)


def _places(rows: int, most: int = SAMPLE) -> list[int]:
    """At most so many places of rows, drawn by seed 0, in order."""
    return sorted(random.Random(0).sample(range(rows), min(most, rows)))


def _bins(durations: Sequence[float]) -> list[str]:
    """Which of `LENGTH_BINS` bins of equal count each video's length falls in: "up to 25 s"."""
    lengths = sorted(durations)
    borders = sorted({_quantile(lengths, number / LENGTH_BINS) for number in range(1, LENGTH_BINS)} | {lengths[-1]})
    return [f"up to {next(border for border in borders if length <= border):.1f} s" for length in durations]


def _quantile(ordered: Sequence[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def _percent(part: tuple[float, float]) -> str:
    return f"{100 * part[0]:.0f} to {100 * part[1]:.0f} %"
