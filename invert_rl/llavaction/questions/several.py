"""Questions with several true options: clips in which more than one thing is done (Animal Kingdom, Table 6).

The paper says how such answers are scored (Jaccard) and not how they are asked: the question, its answer and the number
of options are ours [C].
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from data_prep.rows import Row
from invert_rl.llavaction.answers.metrics import jaccard
from invert_rl.llavaction.questions.mqa import LETTERS, MULTIPLIER, QuestionBuilder, Rejected
from invert_rl.llavaction.questions.specialist import NoPrediction
from invert_rl.llavaction.segments import Action, Segment, action_key, same_text

LETTER = re.compile(r"(?<![^\s(,;])([A-Z])(?=[.):,;\s]|$)")
"""A letter by itself: ``A. eat``, ``(B)``, ``A, C``; an A before a word is an article unless a mark follows it."""
ARTICLE = re.compile(r"\bA(?= +[a-z])")


def answers_of(row: Row) -> list[int] | None:
    """Places of a row's true options; None for a row with a single answer."""
    letters = row.meta.get("answers")
    return None if letters is None else sorted(LETTERS.index(letter) for letter in set(letters))


def several_text(places: Sequence[int], options: Sequence[str], answer_format: str = "letter") -> str:
    """The answer that names those options, ``A. eat, C. walk``."""
    return ", ".join(f"{LETTERS[p]}. {options[p]}" if answer_format == "letter" else options[p] for p in places)


def parse_several(answer: str, options: Sequence[str]) -> tuple[int, ...]:
    """Places of the options that an answer names, by its letters or else by their texts; empty if it names none."""
    known = LETTERS[: len(options)]
    letters = {letter for letter in LETTER.findall(ARTICLE.sub("", answer)) if letter in known}
    if letters:
        return tuple(sorted(known.index(letter) for letter in letters))
    parts = {same_text(part) for part in re.split(r"[,;\n]", answer)}
    return tuple(place for place, option in enumerate(options) if same_text(option) in parts)


def several_metrics(answers: Mapping[str, Sequence[int]], rows: Sequence[Row]) -> dict[str, float]:
    """Scores of answers by row id, percent; every row counts, one without an answer with 0.

    ``jaccard`` is the mean Jaccard index (Table 6), ``exact`` how often all options are right, ``jaccard/all`` the
    index of who names every option and looks at nothing.
    """
    truths = {row.id: places for row in rows if (places := answers_of(row)) is not None}
    found = {name: set(answers.get(name, ())) for name in truths}
    indices = [jaccard(found[name], truth) if found[name] else 0.0 for name, truth in truths.items()]
    return {
        "jaccard": 100 * float(np.mean(indices)),
        "exact": 100 * float(np.mean([index == 1 for index in indices])),
        "jaccard/all": 100 * float(np.mean([len(truths[row.id]) / len(row.meta["options"]) for row in rows])),
        "n": float(len(truths)),
    }


def several_rows(
    segments: Sequence[Segment], builder: QuestionBuilder, durations: Mapping[str, float], path: Mapping[str, str]
) -> list[Row]:
    """One question for each clip: segments of one video with the same start and end are one clip's actions.

    Wrong options are those of the builder's specialist for the clip's first row that are not true, as many as make the
    builder's number of options. ``durations`` (seconds) and ``path`` are by video. What cannot be asked is in the
    builder's summary.
    """
    clips: dict[tuple[str, float, float], list[tuple[int, Segment]]] = {}
    for place, segment in enumerate(segments):
        clips.setdefault((segment.video, segment.start, segment.end), []).append((place, segment))
    rows = []
    for members in clips.values():
        builder.summary.rows += 1
        place, first = members[0]
        try:
            options, true = _options(members, builder, place)
        except (Rejected, NoPrediction) as error:
            builder.summary.rejected.append({"id": first.id, "reason": str(error)})
            continue
        order = np.random.default_rng([builder.seed, 6, zlib.crc32(first.id.encode())]).permutation(len(options))
        shown = [options[at] for at in order]
        answers = sorted(LETTERS[at] for at, number in enumerate(order) if number < true)
        builder.summary.letters.update(answers)
        meta = {
            "options": [text for _, text in shown],
            "option_classes": [action_key(action) for action, _ in shown],
            "answers": answers,
        }
        query = ", ".join(text for _, text in options[:true])
        window = ((first.start, first.end),)
        rows.append(Row(first.id, path[first.video], durations[first.video], query, window, meta=meta))
    return rows


def _options(
    members: Sequence[tuple[int, Segment]], builder: QuestionBuilder, place: int
) -> tuple[list[tuple[Action, str]], int]:
    """The true options, then wrong ones, and how many are true."""
    first = members[0][1]
    if first.end <= first.start:
        raise Rejected("an empty segment")
    rng = np.random.default_rng([builder.seed, 5, zlib.crc32(first.id.encode())])
    true: dict[Action, str] = {}
    for _, segment in members:
        text = builder.true_text(segment)
        if text and same_text(text) not in map(same_text, true.values()):
            true.setdefault(segment.action, text)
    if not true:
        raise Rejected("no narration")
    if len(true) > builder.count:
        raise Rejected(f"more true actions than the {builder.count} options")
    options = list(true.items())
    others = [a for a in builder.specialist.ranked(place, first) if a in builder.classes.index and a not in true]
    if builder.mode == "train":
        pool = others[: MULTIPLIER * builder.count]
        others = [pool[at] for at in rng.permutation(len(pool))] + others[len(pool) :]
    used = {same_text(text) for text in true.values()}
    for action in others:
        if len(options) == builder.count:
            break
        drawn = builder.text_of(action, used, rng)
        if drawn is not None:
            used.add(same_text(drawn))
            options.append((action, drawn))
    if len(options) < builder.count:
        raise Rejected("fewer distinct options than asked for")
    return options, len(true)
