"""Labelled sentences from a Universal Dependencies treebank, with verbs as a reward means them."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

from rewards.errors import RewardError
from rewards.training.captions import Labelled

VERB_FORMS = {"VB": "b", "VBP": "b", "VBD": "d", "VBN": "n", "VBG": "g", "VBZ": "z"}
"""Form of a verb by its Penn Treebank tag; infinitives and plain present look alike and are one form."""

NOT_VERBS = {"amod": "ADJ", "compound": "NOUN", "case": "ADP", "mark": "SCONJ", "cc": "CCONJ", "fixed": "ADP"}
"""Part of speech of a word tagged VERB that stands in one of these relations: "running water", "including"."""


def treebank_sentences(folder: Path, split: str) -> Iterator[Labelled]:
    """The sentences of the file ``*-SPLIT.conllu`` or ``*-SPLIT.conllu.gz`` in ``folder``.

    Raises `RewardError` when there is not exactly one such file.
    """
    paths = [*folder.glob(f"*-{split}.conllu"), *folder.glob(f"*-{split}.conllu.gz")]
    if len(paths) != 1:
        raise RewardError(
            f"{folder}: expected one file *-{split}.conllu or *-{split}.conllu.gz, found {len(paths)}; "
            "give the folder of UD_English-EWT (https://github.com/UniversalDependencies/UD_English-EWT)"
        )
    opener = gzip.open if paths[0].suffix == ".gz" else open
    words: Labelled = []
    with opener(paths[0], "rt", encoding="utf-8") as lines:
        for line in lines:
            fields = line.rstrip("\n").split("\t")
            if len(fields) == 10 and fields[0].isdigit():
                words.append((fields[1], label(fields[2], fields[3], fields[4], fields[7])))
            elif words and not line.strip():
                yield words
                words = []
    if words:
        yield words


def label(lemma: str, upos: str, xpos: str, relation: str) -> str:
    """Label of one word: its part of speech, for lexical verbs with the form, such as ``VERB.z``."""
    if upos != "VERB":
        return upos
    if lemma == "be":
        return "AUX"
    relation = relation.split(":")[0]
    if relation in NOT_VERBS:
        return NOT_VERBS[relation]
    return f"VERB.{VERB_FORMS[xpos]}" if xpos in VERB_FORMS else "X"
