"""The verb pipeline: which verbs a text holds, as lemmas, by spaCy.

spaCy is imported when the first pipeline is loaded, so that importing `rewards` stays cheap.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewards.errors import RewardError
from rewards.plain_text import LONGEST_WORD, plain_text
from rewards.training.captions import lone_verbs, read_words

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc, Token

PIPELINE_DIR = Path(__file__).parent / "pipeline"
"""The spaCy pipeline shipped with this library, used when no other is named."""

SHIPPED = "shipped"
"""What the pipeline of this library is called where a name is asked for."""

UNUSED_COMPONENTS = ("parser", "ner", "senter", "entity_linker", "textcat")
"""Components of a named pipeline that verbs do not need."""

PARTICLES = frozenset({"down", "off", "out", "up"})
"""Words that are never read as verbs in this form: "jumps up and down" has one verb ("downs" may be another)."""

LIST_WORDS = 4
"""As many words that all can be verbs are a list of verbs and no sentence."""

MAX_WORDS = 400
"""A text with more words, which takes about 20 ms, is no description of an event and holds no verb."""

MASK = "[]"
"""What stands for a masked verb in a query: "Person [] the door" (paper, section 2.2)."""

_JOINT = re.compile(r"[^\w\s:-]|\d|(?:^|\s)-+(?=\s|$)|\b(?:and|or|then)\b")


class VerbPipeline:
    """A spaCy pipeline seen as a source of verbs.

    A verb is a token whose ``pos_`` is VERB (auxiliaries are AUX there); its lemma is spaCy's, lower case.
    """

    def __init__(self, nlp: Language, name: str) -> None:
        self.nlp = nlp
        self.name = name
        self.version: str = nlp.meta.get("version", "")
        self._lemmatizer: Any = nlp.get_pipe("lemmatizer") if nlp.has_pipe("lemmatizer") else None

    def verbs(self, texts: Iterable[str]) -> list[list[str]]:
        """The distinct verb lemmas of each text, in the order in which they first occur.

        Texts are read as `rewards.plain_text` gives them; one of more than `MAX_WORDS` words holds none. Without a
        sentence a tagger can only guess: a word that stands alone is a verb if it can be one, and so are single
        words joined by punctuation, "and" or "or", and `LIST_WORDS` or more words, where every one can be a verb.
        So is a gerund before one or two words in which no other verb is found.
        """
        texts = list(texts)
        distinct = list(dict.fromkeys(texts))
        plain = [text if text.count(" ") < MAX_WORDS else "" for text in map(plain_text, distinct)]
        found = {
            text: _listed_verbs(doc.text)
            or list(dict.fromkeys(map(self._lemma, _verb_tokens(doc))))
            or _leading_gerund(doc.text)
            for text, doc in zip(distinct, self._docs(plain), strict=True)
        }
        return [list(found[text]) for text in texts]

    def mask(self, texts: Iterable[str]) -> list[tuple[str, list[str]]]:
        """Each query with every verb replaced by ``[]``, and the distinct lemmas of the verbs in order.

        Runs of white space become one space, a query all in capitals becomes lower case.
        """
        masked = []
        for doc in self._docs(texts):
            verbs = _verb_tokens(doc)
            indices = {token.i for token in verbs}
            query = "".join((MASK if token.i in indices else token.text) + token.whitespace_ for token in doc)
            masked.append((query, list(dict.fromkeys(map(self._lemma, verbs)))))
        return masked

    def similarity(self, a: str, b: str) -> float:
        """Cosine of the word vectors of two lemmas, cut to [0, 1]; 0 when a vector is missing, 1 when equal.

        Raises `RewardError` when the pipeline has no word vectors at all.
        """
        vocab = self.nlp.vocab
        if vocab.vectors_length == 0:
            raise RewardError(
                f"verb pipeline {self.name!r} has no word vectors, which the cosine reward needs; name one that "
                "has them, such as en_core_web_md, or use the binary reward"
            )
        if a == b:
            return 1.0
        first, second = vocab.get_vector(a), vocab.get_vector(b)
        norms = float((first @ first) * (second @ second)) ** 0.5
        return min(1.0, max(0.0, float(first @ second) / norms)) if norms > 0 else 0.0

    def _docs(self, texts: Iterable[str]) -> Iterable[Doc]:
        """The tagged texts, white space normalised; rule lemmas wait for `_lemma`, which needs only the verbs'."""
        disable = [] if self._lemmatizer is None else ["lemmatizer"]
        return self.nlp.pipe(map(_normalise, texts), disable=disable)

    def _lemma(self, token: Token) -> str:
        """The lemma of one verb, lower case."""
        lemma = token.lemma_ if self._lemmatizer is None else self._lemmatizer.lemmatize(token)[0]
        return lemma.lower()


def load_pipeline(name: str | None = None) -> VerbPipeline:
    """The verb pipeline of that name, loaded once per process; without a name, or for "shipped", the one here.

    ``name`` is a spaCy package such as ``en_core_web_sm`` or a folder. Raises `RewardError` when it cannot be
    loaded or does not tag verbs.
    """
    return _load(str(PIPELINE_DIR) if name in (None, SHIPPED) else str(name))


@functools.cache
def _load(source: str) -> VerbPipeline:
    import spacy

    try:
        nlp = spacy.load(source, exclude=UNUSED_COMPONENTS)
    except (OSError, ValueError) as error:
        raise RewardError(
            f"verb pipeline {source!r} cannot be loaded ({error}); install it with `python -m spacy download "
            "NAME` or leave the name out to use the pipeline shipped with this package"
        ) from error
    pipeline = VerbPipeline(nlp, f"{nlp.meta['lang']}_{nlp.meta['name']}")
    if pipeline.verbs(["A person opens the door."]) != [["open"]]:
        raise RewardError(
            f"verb pipeline {source!r} finds no verb 'open' in 'A person opens the door.'; name an English "
            "pipeline with a tagger and a lemmatizer, or leave the name out to use the shipped one"
        )
    return pipeline


def _normalise(text: str) -> str:
    """``text`` with single spaces, shouting in lower case, and lone surrogates, which spaCy refuses, replaced."""
    text = " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
    return text.lower() if text.isupper() else text


def _listed_verbs(text: str) -> list[str]:
    """The lemmas of a text that is one word, or a list of words, that can be verbs; empty for any other text."""
    lemmas = lone_verbs()
    items = [item for item in _JOINT.split(text.lower()) if item.strip()]
    words = [word for item in items for word in item.split()]
    is_list = len(words) == len(items) or len(words) >= LIST_WORDS
    if not is_list or not all(word in lemmas for word in words):
        return []
    return list(dict.fromkeys(lemmas[word] for word in words))


def _leading_gerund(text: str) -> list[str]:
    """The lemma of the first of two or three words, "opening door", but not of a compound, "living room"."""
    words = text.lower().strip(" .").split()
    compound = "_".join(words[:2]) in read_words()["compound"]
    if len(words) not in (2, 3) or not words[0].endswith("ing") or compound or words[0] not in lone_verbs():
        return []
    return [lone_verbs()[words[0]]]


def _verb_tokens(doc: Doc) -> list[Token]:
    return [token for token in doc if token.pos_ == "VERB" and _can_be_verb(token)]


def _can_be_verb(token: Token) -> bool:
    """Whether a token is a word at all; a tagger guesses at emoji and at what is no word, too."""
    text = token.text
    return text[0].isalpha() and len(text) < LONGEST_WORD and token.lower_ not in PARTICLES
