"""English verbs and their forms: the table behind the lemmatizer and the caption grammar.

``verbs.tsv`` holds one verb a line, most frequent first: base, past, participle, gerund, third person, with
"/" between variants. See ``SOURCES.md`` in this folder for where it comes from.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent

FORMS = {"b": 0, "d": 1, "n": 2, "g": 3, "z": 4}
"""Column of each verb form in ``verbs.tsv``: base, past, participle, gerund, third person."""

PREFERRED = {
    "saw": "see",
    "found": "find",
    "ground": "grind",
    "bound": "bind",
    "wound": "wind",
    "lay": "lay",
    "bathing": "bathe",
    "bathed": "bathe",
    "skied": "ski",
    "skies": "ski",
    "premiered": "premiere",
    "paled": "pale",
    "siting": "sit",
    "putted": "put",
}
"""Forms of two verbs whose lemma is not the one that the order of the table would give."""


class Verb(NamedTuple):
    """One verb; each field but the first holds all variants of that form."""

    base: str
    past: tuple[str, ...]
    participle: tuple[str, ...]
    gerund: tuple[str, ...]
    third: tuple[str, ...]

    def forms(self, form: str) -> tuple[str, ...]:
        """All variants of ``form``, a key of `FORMS`."""
        field = self[FORMS[form]]
        return (field,) if isinstance(field, str) else field


@cache
def read_verbs() -> dict[str, Verb]:
    """The verbs of ``verbs.tsv`` by base form, most frequent first."""
    verbs = {}
    for line in (FOLDER / "verbs.tsv").read_text(encoding="utf-8").splitlines():
        base, *others = line.split("\t")
        verbs[base] = Verb(base, *(tuple(field.split("/")) for field in others))
    return verbs


def lemma_table(misspelled: Collection[str] = ()) -> dict[str, str]:
    """Lemma of every verb form. A base form is its own lemma, else the more frequent verb wins.

    Of the verbs in ``misspelled`` also the misspelled forms that are no form of any verb.
    """
    table: dict[str, str] = {}
    verbs = read_verbs()
    for verb in verbs.values():
        for form in FORMS:
            for variant in verb.forms(form):
                table.setdefault(variant, verb.base)
    table.update({base: base for base in verbs})
    table.update(PREFERRED)
    for verb in verbs.values():
        if verb.base in misspelled:
            for form in FORMS:
                for variant in verb.forms(form):
                    for typo in misspellings(variant):
                        table.setdefault(typo, verb.base)
    return table


def misspellings(word: str) -> Iterator[str]:
    """``word`` with one letter left out or two neighbours swapped, the first letter kept.

    Words of fewer than five letters only have swaps, those of fewer than four none.
    """
    for at in range(1, len(word)):
        if len(word) >= 5:
            yield word[:at] + word[at + 1 :]
        if len(word) >= 4 and word[at : at + 2] != word[at : at + 2][::-1] and at + 1 < len(word):
            yield word[:at] + word[at + 1] + word[at] + word[at + 2 :]
