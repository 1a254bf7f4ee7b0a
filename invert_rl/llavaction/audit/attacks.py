"""Rules that answer multiple-choice questions without their clips; `audit` measures how often each is right."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from invert_rl.llavaction.audit.asked import Asked
from invert_rl.llavaction.audit.corpus import Attack, Corpus, Scores
from invert_rl.llavaction.questions.neighbours import neighbours_of
from invert_rl.llavaction.questions.text_similarity import cosine, pieces, words
from invert_rl.llavaction.segments import Action, same_text

WIDE = 5
"""How many questions before and after one `offered_around` looks at."""
FAR = 30
"""How many `offered_words` and `offered_verbs` look at."""


# --- the options alone


def centroid(alike: Callable[[Any, Any], float], of: Callable[[Corpus], list[Sequence[Any]]]) -> Attack:
    """The option that is most like the others."""

    def attack(corpus: Corpus) -> Scores | None:
        scores = []
        for items in of(corpus):
            table = np.array([[0.0 if a is b else alike(a, b) for b in items] for a in items])
            scores.append(np.round(table.sum(1), 9))
        return scores

    return attack


def option_pieces(corpus: Corpus) -> list[Sequence[Any]]:
    """Words and three-letter pieces of each option."""
    cache: dict[str, Counter[str]] = {}
    return [[cache.setdefault(text, Counter(pieces(text))) for text in q.options] for q in corpus.questions]


def option_words(corpus: Corpus) -> list[Sequence[Any]]:
    """Words of each option."""
    return [[set(words(text)) for text in question.options] for question in corpus.questions]


def option_classes(corpus: Corpus) -> list[Sequence[Any]]:
    """Verb and noun class of each option, a list of its own for each so that equal ones differ."""
    return [[list(action) for action in question.classes or ()] for question in corpus.questions]


def shared_classes(a: Sequence[int], b: Sequence[int]) -> float:
    """How many of verb and noun two classes share."""
    return float(a[0] == b[0]) + float(a[1] == b[1])


def classes_only(attack: Attack) -> Attack:
    """The attack, on files that name classes."""
    return lambda corpus: attack(corpus) if corpus.has_classes else None


def reverse(attack: Attack) -> Attack:
    """The attack that picks what the other finds least likely."""

    def reversed_attack(corpus: Corpus) -> Scores | None:
        scores = attack(corpus)
        return None if scores is None else [-found for found in scores]

    return reversed_attack


def longest(corpus: Corpus) -> Scores:
    """The option with most letters."""
    return [np.array([len(text) for text in question.options], dtype=float) for question in corpus.questions]


def letter(corpus: Corpus) -> Scores:
    """The letter that is most often true in the other half of the file."""
    longest_list = max(len(question.options) for question in corpus.questions)
    counts = [np.zeros(longest_list), np.zeros(longest_list)]
    for question, fold in zip(corpus.questions, corpus.folds, strict=True):
        counts[1 - fold][question.answer] += 1
    return [counts[fold][: len(q.options)] for q, fold in zip(corpus.questions, corpus.folds, strict=True)]


def order(corpus: Corpus) -> Scores:
    """The letter that is most often true, in the other half, at this place in the file, counted modulo the options."""
    return _by_letter(corpus, [place % len(q.options) for place, q in enumerate(corpus.questions)])


def after_letter(corpus: Corpus) -> Scores:
    """The letter that is most often true, in the other half, after the letter of the question before in the file."""
    return _by_letter(corpus, [-1, *(question.answer for question in corpus.questions[:-1])])


def _by_letter(corpus: Corpus, states: Sequence[int]) -> Scores:
    longest_list = max(len(question.options) for question in corpus.questions)
    counts: list[dict[int, np.ndarray]] = [defaultdict(lambda: np.zeros(longest_list)) for _ in range(2)]
    for question, fold, state in zip(corpus.questions, corpus.folds, states, strict=True):
        counts[1 - fold][state][question.answer] += 1
    return [
        counts[fold][state][: len(question.options)]
        for question, fold, state in zip(corpus.questions, corpus.folds, states, strict=True)
    ]


def form(text: str) -> tuple[Hashable, ...]:
    """How a text is written, whatever it says: capitals, digits, marks at its end and inside, number of words."""
    marks = frozenset(mark for mark in text if not mark.isalnum() and not mark.isspace())
    return text[:1].isupper(), any(c.isdigit() for c in text), text[-1:].isalnum(), marks, min(len(text.split()), 6)


def telling(of: Callable[[str], Sequence[Hashable]]) -> Attack:
    """The option whose marks are true most often for how often they are offered, in the other half of the file."""

    def attack(corpus: Corpus) -> Scores:
        marks = [[of(text) for text in question.options] for question in corpus.questions]
        true: list[Counter[Hashable]] = [Counter(), Counter()]
        there: list[Counter[Hashable]] = [Counter(), Counter()]
        for options, question, fold in zip(marks, corpus.questions, corpus.folds, strict=True):
            true[1 - fold].update(options[question.answer])
            for found in options:
                there[1 - fold].update(found)

        def weight(mark: Hashable, fold: int, count: int) -> float:
            return math.log((true[fold][mark] + 1) / (there[fold][mark] + count)) + math.log(count)

        return [
            np.round([sum(weight(mark, fold, len(options)) for mark in found) for found in options], 9)
            for options, fold in zip(marks, corpus.folds, strict=True)
        ]

    return attack


# --- counts over the file


def prior(corpus: Corpus) -> Scores:
    """The class (or text) that is most often true in the other half of the file."""
    known = [Counter(corpus.true_keys(fold)) for fold in (0, 1)]
    return [np.array([float(known[f][k]) for k in keys]) for keys, f in zip(corpus.keys, corpus.folds, strict=True)]


def prior_of(half: int) -> Attack:
    """The verb (0) or noun (1) that is most often true in the other half of the file."""

    def attack(corpus: Corpus) -> Scores | None:
        if not corpus.has_classes:
            return None
        known = [Counter(key[half] for key in corpus.true_keys(fold)) for fold in (0, 1)]
        return [
            np.array([float(known[fold][key[half]]) for key in keys])
            for keys, fold in zip(corpus.keys, corpus.folds, strict=True)
        ]

    return attack


def truth_rate(corpus: Corpus) -> Scores:
    """The class that is most often true where it is offered, in the other half of the file."""
    offered: list[Counter[Any]] = [Counter(), Counter()]
    for keys, fold in zip(corpus.keys, corpus.folds, strict=True):
        offered[1 - fold].update(keys)
    known = [Counter(corpus.true_keys(fold)) for fold in (0, 1)]
    return [
        np.array([(known[f][k] + 1) / (offered[f][k] + len(keys)) for k in keys])
        for keys, f in zip(corpus.keys, corpus.folds, strict=True)
    ]


def offered(corpus: Corpus) -> Scores:
    """The class (or text) that is offered most often in the whole file, true or not."""
    counts = Counter(key for keys in corpus.keys for key in keys)
    return [np.array([float(counts[key]) for key in keys]) for keys in corpus.keys]


def offered_text(corpus: Corpus) -> Scores:
    """The option whose text is offered most often in the whole file, whatever its class."""
    counts = Counter(same_text(text) for question in corpus.questions for text in question.options)
    return [np.array([float(counts[same_text(text)]) for text in q.options]) for q in corpus.questions]


def offered_together(corpus: Corpus) -> Scores:
    """The option whose meetings with the others, in other questions, are most for how often it is offered."""
    single = Counter(key for keys in corpus.keys for key in keys)
    pairs = Counter(frozenset((a, b)) for keys in corpus.keys for a in keys for b in keys if a != b)
    scores = []
    for keys in corpus.keys:
        # each pair was counted twice a question; this question's own meeting is left out
        met = [sum(pairs[frozenset((a, b))] / 2 - 1 for b in keys if b != a) / single[a] for a in keys]
        scores.append(np.round(np.array(met), 9))
    return scores


def degree(corpus: Corpus) -> Scores:
    """The option that meets the most different others in the file."""
    met: dict[Any, set[Any]] = defaultdict(set)
    for keys in corpus.keys:
        for key in keys:
            met[key].update(keys)
    return [np.array([float(len(met[key])) for key in keys]) for keys in corpus.keys]


# --- the actions around the clip


def neighbours(share: Callable[[Action, Action], float], before_only: bool = False) -> Attack:
    """The option that has most in common with the true classes of the clips around it."""

    def attack(corpus: Corpus) -> Scores | None:
        if not corpus.has_classes or not any(around.truths() for around in corpus.around):
            return None
        scores = []
        for question, around in zip(corpus.questions, corpus.around, strict=True):
            near = around.before if before_only else around.truths()
            truths = [other.classes[other.answer] for other in near if other.classes is not None]
            scores.append(
                np.array([sum(share(option, truth) for truth in truths) for option in question.classes or ()])
            )
        return scores

    return attack


def neighbours_text(corpus: Corpus) -> Scores | None:
    """The option that shares most words with the true texts of the clips around it, and with the prior actions."""
    if not any(around.truths() for around in corpus.around) and not any(q.priors for q in corpus.questions):
        return None
    scores = []
    for question, around in zip(corpus.questions, corpus.around, strict=True):
        near = [other.options[other.answer] for other in around.truths()] + list(question.priors)
        counts = Counter(word for text in near for word in set(words(text)))
        scores.append(np.array([float(sum(counts[word] for word in set(words(o)))) for o in question.options]))
    return scores


def usual_of(value: Callable[[Asked], float]) -> Attack:
    """The option whose verb and noun, in the other half of the file, have clips most like this one by a number."""

    def attack(corpus: Corpus) -> Scores | None:
        values = np.array([value(question) for question in corpus.questions])
        if not corpus.has_classes or values.std() == 0:
            return None
        scores = [np.zeros(len(keys)) for keys in corpus.keys]
        for fold in (0, 1):
            learned: list[dict[Any, list[float]]] = [defaultdict(list), defaultdict(list)]  # of verbs and of nouns
            for keys, question, own, found in zip(corpus.keys, corpus.questions, corpus.folds, values, strict=True):
                for half in (0, 1) if own != fold else ():
                    learned[half][keys[question.answer][half]].append(float(found))
            usual = [{name: _shrunk(found, values) for name, found in known.items()} for known in learned]
            unknown = (float(values.mean()), float(values.std()))
            for place in np.flatnonzero(np.array(corpus.folds) == fold).tolist():
                for at, key in enumerate(corpus.keys[place]):
                    for half in (0, 1):
                        mean, deviation = usual[half].get(key[half], unknown)
                        scores[place][at] -= 0.5 * ((values[place] - mean) / deviation) ** 2 + math.log(deviation)
        return [np.round(found, 9) for found in scores]

    return attack


def _shrunk(found: Sequence[float], all_values: np.ndarray) -> tuple[float, float]:
    """Mean and deviation, drawn towards those of all values as if five of these were among them."""
    number = len(found) + 5.0
    mean = (sum(found) + 5.0 * all_values.mean()) / number
    variance = (sum((x - mean) ** 2 for x in found) + 5.0 * all_values.var()) / number
    return float(mean), float(max(variance, 1e-12) ** 0.5)


Marks = Callable[[Corpus], Sequence[Sequence[Sequence[Hashable]]]]
"""What is counted of each option of each question."""


def option_texts(corpus: Corpus) -> Sequence[Sequence[Sequence[Hashable]]]:
    """The text of each option."""
    return [[[same_text(text)] for text in question.options] for question in corpus.questions]


def words_of_options(corpus: Corpus) -> Sequence[Sequence[Sequence[Hashable]]]:
    """The different words of each option."""
    return [[sorted(set(words(text))) for text in question.options] for question in corpus.questions]


def halves(half: int) -> Marks:
    """The verb (0) or noun (1) of each option."""
    return lambda corpus: [[[key[half]] for key in keys] for keys in corpus.keys]


def offered_around(of: Marks, reach: int) -> Attack:
    """The option whose marks the ``reach`` questions before and after offer more often, true or not, than the file."""

    def attack(corpus: Corpus) -> Scores | None:
        times = [question.time for question in corpus.questions]
        before, after = neighbours_of([question.video for question in corpus.questions], times, reach)
        if not any(before):
            return None
        marks = of(corpus)
        everywhere = Counter(mark for options in marks for found in options for mark in found)
        total = sum(everywhere.values())
        scores = []
        for options, b, a in zip(marks, before, after, strict=True):
            near = Counter(mark for place in [*b, *a] for found in marks[place] for mark in found)
            lift = {m: math.log(near[m] * total / everywhere[m] + 1) for found in options for m in found}
            scores.append(np.array([sum(lift[mark] for mark in found) / max(1, len(found)) for found in options]))
        return [np.round(found, 9) for found in scores]

    return attack


def true_in_video(corpus: Corpus) -> Scores | None:
    """The class (or text) that is most often true in the other questions of the video."""
    videos = [question.video for question in corpus.questions]
    counts: dict[str, Counter[Any]] = defaultdict(Counter)
    for keys, question in zip(corpus.keys, corpus.questions, strict=True):
        counts[question.video][keys[question.answer]] += 1
    if max(Counter(videos).values()) == 1 or len(counts) == 1:
        return None
    return [
        np.array([float(counts[q.video][key] - (at == q.answer)) for at, key in enumerate(keys)])
        for keys, q in zip(corpus.keys, corpus.questions, strict=True)
    ]


ATTACKS: dict[str, Attack] = {
    "centroid_text": centroid(cosine, option_pieces),
    "centroid_words": centroid(lambda a, b: float(len(a & b)), option_words),
    "centroid_class": classes_only(centroid(shared_classes, option_classes)),
    "centroid_verb": classes_only(centroid(lambda a, b: float(a[0] == b[0]), option_classes)),
    "centroid_noun": classes_only(centroid(lambda a, b: float(a[1] == b[1]), option_classes)),
    "odd_one_out_text": reverse(centroid(cosine, option_pieces)),
    "odd_one_out_class": classes_only(reverse(centroid(shared_classes, option_classes))),
    "longest": longest,
    "shortest": reverse(longest),
    "letter": letter,
    "order": order,
    "after_letter": after_letter,
    "form": telling(lambda text: [form(text)]),
    "prior": prior,
    "rarest": reverse(prior),
    "prior_verb": prior_of(0),
    "prior_noun": prior_of(1),
    "rarest_verb": reverse(prior_of(0)),
    "rarest_noun": reverse(prior_of(1)),
    "telling_words": telling(lambda text: sorted(set(words(text)))),
    "truth_rate": truth_rate,
    "offered": offered,
    "offered_rarely": reverse(offered),
    "offered_text": offered_text,
    "offered_together": offered_together,
    "degree": degree,
    "neighbours": neighbours(shared_classes),
    "neighbours_verb": neighbours(lambda a, b: float(a[0] == b[0])),
    "neighbours_noun": neighbours(lambda a, b: float(a[1] == b[1])),
    "neighbours_same": neighbours(lambda a, b: float(a == b)),
    "neighbours_before": neighbours(shared_classes, before_only=True),
    "unlike_neighbours": reverse(neighbours(shared_classes)),
    "neighbours_text": neighbours_text,
    "length": usual_of(lambda question: math.log(max(question.time[1] - question.time[0], 0.01))),
    "place": usual_of(lambda question: math.log(max(question.time[0], 1.0))),
    "offered_next": offered_around(option_texts, 1),
    "offered_around": offered_around(option_texts, WIDE),
    "offered_words": offered_around(words_of_options, FAR),
    "offered_verbs": classes_only(offered_around(halves(0), FAR)),
    "offered_nouns": classes_only(offered_around(halves(1), 1)),
    "true_in_video": true_in_video,
    "false_in_video": reverse(true_in_video),
}
"""Every rule by name; its docstring, or that of what makes it, says what it picks."""
