"""The verb pipeline: which verbs a text holds, as lemmas, by spaCy.

spaCy is imported when the first pipeline is loaded, so that importing `rewards` stays cheap.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rewards.errors import RewardError

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc, Token

PIPELINE_DIR = Path(__file__).parent / "pipeline"
"""The spaCy pipeline shipped with this library, used when no other is named."""

UNUSED_COMPONENTS = ("parser", "ner", "senter", "entity_linker", "textcat")
"""Components of a named pipeline that verbs do not need."""

MASK = "[]"
"""What stands for a masked verb in a query: "Person [] the door" (paper, section 2.2)."""

_MARKUP = re.compile(r"<[^<>]{1,40}>|[<>\[\]{}()\"“”*`_=|\\#~^]")


class VerbPipeline:
    """A spaCy pipeline seen as a source of verbs.

    A verb is a token whose ``pos_`` is VERB (auxiliaries are AUX there); its lemma is spaCy's, lower case.
    """

    def __init__(self, nlp: Language, name: str) -> None:
        self.nlp = nlp
        self.name = name
        self.version: str = nlp.meta.get("version", "")

    def verbs(self, texts: Iterable[str]) -> list[list[str]]:
        """The distinct verb lemmas of each text, in the order in which they first occur.

        Markup (tags, brackets, quotes, JSON) is read as white space.
        """
        docs = self._docs(_MARKUP.sub(" ", text) for text in texts)
        return [list(dict.fromkeys(map(self._lemma, _verb_tokens(doc)))) for doc in docs]

    def mask(self, texts: Iterable[str]) -> list[tuple[str, list[str]]]:
        """Each query with every verb replaced by ``[]``, and the distinct lemmas of the verbs in order.

        Runs of white space become one space.
        """
        masked = []
        for doc in self._docs(texts):
            verbs = _verb_tokens(doc)
            indices = {token.i for token in verbs}
            query = "".join((MASK if token.i in indices else token.text) + token.whitespace_ for token in doc)
            masked.append((query, list(dict.fromkeys(map(self._lemma, verbs)))))
        return masked

    def _docs(self, texts: Iterable[str]) -> Iterable[Doc]:
        """The tagged texts, white space normalised; rule lemmas wait for `_lemma`, which needs only the verbs'."""
        disable = ["lemmatizer"] if self.nlp.has_pipe("lemmatizer") else []
        return self.nlp.pipe((" ".join(text.split()) for text in texts), disable=disable)

    def _lemma(self, token: Token) -> str:
        """The lemma of one verb, lower case."""
        if self.nlp.has_pipe("lemmatizer"):
            return self.nlp.get_pipe("lemmatizer").lemmatize(token)[0].lower()  # type: ignore[attr-defined]
        return token.lemma_.lower()


@functools.cache
def load_pipeline(name: str | None = None) -> VerbPipeline:
    """The verb pipeline of that name, loaded once per process; without a name the one shipped here.

    ``name`` is a spaCy package such as ``en_core_web_sm`` or a folder. Raises `RewardError` when it cannot be
    loaded or does not tag verbs.
    """
    import spacy

    source = str(PIPELINE_DIR) if name is None else name
    if name is None and not PIPELINE_DIR.is_dir():
        from rewards.stopgap import stopgap_pipeline

        return VerbPipeline(stopgap_pipeline(), "stopgap")
    try:
        nlp = spacy.load(source, exclude=UNUSED_COMPONENTS)
    except (OSError, ValueError) as error:
        raise RewardError(
            f"verb pipeline {source!r} cannot be loaded ({error}); install it with `python -m spacy download "
            "NAME` or leave the name out to use the pipeline shipped with this package"
        ) from error
    pipeline = VerbPipeline(nlp, name or f"{nlp.meta['lang']}_{nlp.meta['name']}")
    if pipeline.verbs(["A person opens the door."]) != [["open"]]:
        raise RewardError(
            f"verb pipeline {source!r} finds no verb 'open' in 'A person opens the door.'; name an English "
            "pipeline with a tagger and a lemmatizer, or leave the name out to use the shipped one"
        )
    return pipeline


def _verb_tokens(doc: Doc) -> list[Token]:
    return [token for token in doc if token.pos_ == "VERB"]
