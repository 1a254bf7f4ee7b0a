"""Caption-like training sentences with known verbs, drawn from the grammar ``captions.cfg``.

The treebank has few sentences such as "person puts the box down" or "Woman in red holding a camera", and so a
tagger trained on it alone takes "puts" for a noun. The grammar has no sentence of any annotated data set.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from rewards.training.lexicon import FOLDER, FORMS, lemma_table, read_verbs

Labelled = list[tuple[str, str]]
"""Words of one sentence with their labels: a part of speech, for verbs with the form, such as ``VERB.z``."""

VERB_CLASSES = ("vt", "vi", "vphr", "vprep", "vsay", "vasp", "vto", "ving", "vpass", "any")
CLASS_POS = {"adj": "ADJ", "material": "ADJ", "predadj": "ADJ", "adv": "ADV", "prep": "ADP", "particle": "ADP"}
"""Part of speech of the words of a class; NOUN where a class is not named, PROPN for ``proname``."""

MAX_DEPTH = 14
RARE_POWER = 0.6
"""Verbs of the whole table are drawn with weight rank ** -0.6, so that rare ones occur too."""


class Expansion(NamedTuple):
    """One right-hand side of a rule."""

    weight: float
    items: tuple[str, ...]


@cache
def read_words() -> dict[str, list[str]]:
    """The word classes of ``words.txt``: entries by class name, multi-word entries joined by underscores."""
    classes = {}
    for line in (FOLDER / "words.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, words = line.split(":", 1)
            classes[name] = words.split()
    hardly_verbs = set(classes["mostlynoun"])
    classes["any"] = [verb for verb in read_verbs() if verb not in hardly_verbs]
    return classes


def caption_verbs() -> set[str]:
    """The verbs that captions use: those of the verb classes of ``words.txt``."""
    return {entry.split("_")[0] for name in VERB_CLASSES if name != "any" for entry in read_words()[name]}


@cache
def lone_verbs() -> dict[str, str]:
    """Lemmas of the words that are read as a verb when they stand alone: verb forms but those of `mostlynoun`."""
    hardly_verbs = set(read_words()["mostlynoun"])
    return {form: lemma for form, lemma in lemma_table(caption_verbs()).items() if lemma not in hardly_verbs}


@cache
def read_grammar() -> dict[str, list[Expansion]]:
    """The rules of ``captions.cfg`` by symbol, starred rules written out for each verb form."""
    rules = {}
    for line in (FOLDER / "captions.cfg").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        for form in "zbdg" if "*" in line.split("->")[0] else " ":
            symbol, right = line.replace("*", form).split("->")
            expansions = []
            for option in right.split(" | "):
                body, _, weight = option.partition("^")
                expansions.append(Expansion(float(weight or 1), tuple(body.split())))
            rules[symbol.strip()] = expansions
    return rules


def caption_sentences(count: int, seed: int) -> Iterator[Labelled]:
    """``count`` labelled sentences, the same for the same ``seed``."""
    rng = random.Random(seed)
    for _ in range(count):
        words: Labelled = []
        while not 1 <= len(words) <= 45:
            words = _expand("S", rng, 0)
        yield _vary(words, rng)


def _expand(symbol: str, rng: random.Random, depth: int) -> Labelled:
    """One random derivation of ``symbol``; deep in the tree the shortest expansion is taken."""
    options = read_grammar()[symbol]
    if depth > MAX_DEPTH:
        chosen = min(options, key=lambda option: sum(item[0].isupper() for item in option.items))
    else:
        chosen = rng.choices(options, [option.weight for option in options])[0]
    words: Labelled = []
    for item in chosen.items:
        if item == "_":
            continue
        if item.startswith("{"):
            words += _draw(item[1:-1], rng)
        elif item.startswith("V:"):
            _, lemma, form = item.split(":")
            words.append(_inflect(lemma, form, rng))
        elif item in read_grammar():
            words += _expand(item, rng, depth + 1)
        else:
            word, _, pos = item.rpartition("/")
            words.append((word, pos))
    return words


def _draw(name: str, rng: random.Random) -> Labelled:
    """A random entry of a word class: ``class``, ``class:POS``, ``class:form`` or ``class:form:POS``."""
    name, *options = name.split(":")
    entries = read_words()[name]
    if name == "any":
        entry = entries[int(len(entries) * rng.random() ** (1 / (1 - RARE_POWER)))]
    else:
        entry = rng.choice(entries)
    first, *rest = entry.split("_")
    if name in VERB_CLASSES:
        form, *pos = options
        word, label = _inflect(first, form, rng)
        return [(word, pos[0] if pos else label), *((word, "ADP") for word in rest)]
    pos_of_class = options[0] if options else CLASS_POS.get(name, "PROPN" if name == "proname" else "NOUN")
    words = []
    for part in (first, *rest):
        word, _, pos_of_word = part.partition("+")
        words.append((word, pos_of_word or pos_of_class))
    return words


def _inflect(lemma: str, form: str, rng: random.Random) -> tuple[str, str]:
    verb = read_verbs().get(lemma)
    if verb is None:
        raise KeyError(f"{FOLDER / 'words.txt'}: verb {lemma!r} is not in verbs.tsv; add it there")
    assert form in FORMS
    return rng.choice(verb.forms(form)), f"VERB.{form}"


def _vary(words: Labelled, rng: random.Random) -> Labelled:
    """Random writing habits: a or an, capitals, and now and then a misspelling."""
    words = [
        ("an" if word == "a" and following[0] in "aeiou" else "a" if word == "an" else word, label)
        if following[0] in "aeiou" or word != "an"
        else ("a", label)
        for (word, label), (following, _) in zip(words, [*words[1:], ("x", "")], strict=True)
    ]
    if rng.random() < 0.1:
        words = [
            (_misspell(word, rng) if len(word) > 4 and rng.random() < 0.25 else word, label) for word, label in words
        ]
    style = rng.random()
    if style < 0.55:
        words[0] = (words[0][0][:1].upper() + words[0][0][1:], words[0][1])
    elif style < 0.57:
        words = [(word.upper(), label) for word, label in words]
    elif style < 0.58:
        words = [(word.capitalize(), label) for word, label in words]
    return words


def _misspell(word: str, rng: random.Random) -> str:
    """``word`` with one inner letter dropped or two swapped."""
    at = rng.randrange(1, len(word) - 1)
    if rng.random() < 0.6:
        return word[:at] + word[at + 1 :]
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
