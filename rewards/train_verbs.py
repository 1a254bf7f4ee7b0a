"""Train the verb pipeline that this library ships.

``python -m rewards.train_verbs --treebank DIR --output DIR`` with the folder of UD_English-EWT takes about five
minutes on one core. The result is a plain spaCy pipeline: a morphologizer and a rule lemmatizer. With
``--gold FILE`` its score on those sentences is written into ``meta.json``; they are not trained on.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
from pathlib import Path
from typing import Any

import numpy
import spacy
from spacy.attrs import ORTH
from spacy.language import Language
from spacy.lookups import Lookups
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import fix_random_seed, minibatch
from spacy.vectors import Vectors
from thinc.api import Adam, Config

from rewards.pipelines import VerbPipeline
from rewards.score import read_gold, score_verbs
from rewards.training.captions import Labelled, caption_sentences, caption_verbs
from rewards.training.lexicon import lemma_table
from rewards.training.treebank import treebank_sentences
from rewards.training.vectors import verb_vectors

logger = logging.getLogger(__name__)

VERB_FEATURES = {
    "z": "Number=Sing|Person=3|Tense=Pres|VerbForm=Fin",
    "b": "VerbForm=Base",
    "d": "Tense=Past|VerbForm=Fin",
    "n": "Tense=Past|VerbForm=Part",
    "g": "Tense=Pres|VerbForm=Part",
}
"""Morphological features of each verb form."""

VECTOR_DIMENSIONS = 48

CONFIG = """
[model]
@architectures = "spacy.Tagger.v2"

[model.tok2vec]
@architectures = "spacy.HashEmbedCNN.v2"
pretrained_vectors = null
width = 64
depth = 4
embed_size = 5000
window_size = 1
maxout_pieces = 2
subword_features = true
"""

META: dict[str, Any] = {
    "name": "caption_verbs",
    "version": "1.0.0",
    "spacy_version": ">=3.8,<4",
    "description": "Verbs and their lemmas in English captions and queries of videos.",
    "license": "CC BY-SA 4.0",
    "sources": [
        {
            "name": "UD_English-EWT",
            "url": "https://github.com/UniversalDependencies/UD_English-EWT",
            "author": "Natalia Silveira and others",
            "license": "CC BY-SA 4.0",
        },
        {
            "name": "LemmInflect, from the SPECIALIST Lexicon",
            "url": "https://github.com/bjascob/LemmInflect",
            "author": "Brad Jascob; National Library of Medicine",
            "license": "MIT",
        },
    ],
}
"""What ``meta.json`` of the pipeline says about it."""

SUFFIX_RULES = [
    *([letter * 2 + "ing", letter] for letter in "bdgmnprt"),
    *([letter * 2 + "ed", letter] for letter in "bdgmnprt"),
    ["ing", ""],
    ["ing", "e"],
    ["ied", "y"],
    ["ed", ""],
    ["ed", "e"],
    ["ies", "y"],
    ["ches", "ch"],
    ["shes", "sh"],
    ["sses", "ss"],
    ["xes", "x"],
    ["s", ""],
    ["es", ""],
]
"""Ending and replacement for verbs that the table does not hold; spaCy takes the first known result, else the
first."""


def verb_lookups() -> Lookups:
    """The tables of spaCy's rule lemmatizer, for verbs only."""
    lookups = Lookups()
    lookups.add_table("lemma_index", {"verb": []})
    lookups.add_table("lemma_exc", {"verb": {form: [lemma] for form, lemma in lemma_table(caption_verbs()).items()}})
    lookups.add_table("lemma_rules", {"verb": [list(rule) for rule in SUFFIX_RULES]})
    return lookups


def make_example(nlp: Language, words: Labelled) -> Example:
    """A training example of one labelled sentence."""
    pos = [label.split(".")[0] for _, label in words]
    morphs = [VERB_FEATURES[label[5:]] if label.startswith("VERB.") else "" for _, label in words]
    texts = [word for word, _ in words]
    return Example(Doc(nlp.vocab, words=texts), Doc(nlp.vocab, words=texts, pos=pos, morphs=morphs))


def train(treebank: Path, captions: int, epochs: int, seed: int) -> Language:
    """Train a pipeline on the treebank's training split and ``captions`` sentences of the grammar."""
    fix_random_seed(seed)
    rng = random.Random(seed)
    sentences = list(treebank_sentences(treebank, "train"))
    sentences += [[(word.lower(), label) for word, label in words] for words in sentences if rng.random() < 0.3]
    sentences += caption_sentences(captions, seed)
    nlp = spacy.blank("en", meta=META)
    tokenizer: Any = nlp.tokenizer
    for form in lemma_table():
        if "-" in form:
            for written in (form, form.capitalize(), form.title(), form.upper()):
                tokenizer.add_special_case(written, [{ORTH: written}])
    nlp.add_pipe("morphologizer", config=dict(Config().from_str(CONFIG)))
    nlp.add_pipe("lemmatizer", config={"mode": "rule"}).initialize(nlp=nlp, lookups=verb_lookups())  # type: ignore[attr-defined]
    examples = [make_example(nlp, words) for words in sentences]
    with nlp.select_pipes(enable="morphologizer"):
        nlp.get_pipe("morphologizer").initialize(lambda: examples, nlp=nlp)  # type: ignore[attr-defined]
        optimizer = Adam(0.001, L2=0.01, grad_clip=1.0, use_averages=True, L2_is_weight_decay=True)
        total = epochs * len(examples)
        seen = 0
        for epoch in range(epochs):
            rng.shuffle(examples)
            losses: dict[str, float] = {}
            for batch in minibatch(examples, 64):
                optimizer.learn_rate = 0.002 * max(0.02, 1 - seen / total)
                nlp.update(batch, sgd=optimizer, losses=losses, drop=0.1)
                seen += len(batch)
            logger.info("epoch %d of %d: loss %.0f", epoch + 1, epochs, losses["morphologizer"])
    return nlp


def add_vectors(nlp: Language, treebank: Path) -> None:
    """Give ``nlp`` word vectors of the verbs of the treebank, which the cosine reward compares."""
    vectors = verb_vectors(treebank_sentences(treebank, "train"), VECTOR_DIMENSIONS)
    if not vectors:
        logger.warning("%s has too few verbs for word vectors; the cosine reward will not work", treebank)
        return
    keys = [nlp.vocab.strings.add(verb) for verb in vectors]
    nlp.vocab.vectors = Vectors(data=numpy.stack(list(vectors.values())), keys=keys, strings=nlp.vocab.strings)


def main(arguments: list[str] | None = None) -> int:
    """Command line entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--treebank", type=Path, required=True, help="folder of UD_English-EWT, *.conllu[.gz]")
    parser.add_argument("--output", type=Path, required=True, help="folder to write the pipeline to")
    parser.add_argument("--gold", type=Path, help="gold sentences to score the result on, JSONL")
    parser.add_argument("--captions", type=int, default=32000, help="sentences to draw from the grammar")
    parser.add_argument("--epochs", type=int, default=4, help="passes over all sentences")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    nlp = train(options.treebank, options.captions, options.epochs, options.seed)
    add_vectors(nlp, options.treebank)
    if options.gold:
        scores = score_verbs(read_gold(options.gold), VerbPipeline(nlp, META["name"]))
        figures = {name: getattr(scores, name) for name in ("sentences", "exact", "precision", "recall", "f1")}
        logger.info("%s: %s", options.gold, figures)
        nlp.meta["performance"] = {"verbs": figures}
    nlp.to_disk(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
