"""A lexicon tagger for the verbs of the toy world, in use until the shipped pipeline is trained."""

from __future__ import annotations

import spacy
from spacy.language import Language

VERBS = [
    "open",
    "close",
    "jump",
    "walk",
    "run",
    "sit",
    "stand",
    "wave",
    "push",
    "pull",
    "throw",
    "catch",
    "pick",
    "put",
    "turn",
    "spin",
    "bounce",
    "fall",
    "climb",
    "enter",
    "leave",
    "grow",
    "shrink",
    "appear",
    "disappear",
    "lift",
    "drop",
    "hide",
    "clap",
    "kick",
    "take",
    "hold",
    "look",
    "smile",
    "laugh",
    "eat",
    "drink",
]
IRREGULAR = {
    "run": "ran run",
    "sit": "sat",
    "stand": "stood",
    "throw": "threw thrown",
    "catch": "caught",
    "put": "put",
    "spin": "spun",
    "fall": "fell fallen",
    "leave": "left",
    "grow": "grew grown",
    "shrink": "shrank shrunk",
    "hide": "hid hidden",
    "take": "took taken",
    "hold": "held",
    "eat": "ate eaten",
    "drink": "drank drunk",
}
DOUBLED = {"run", "sit", "put", "spin", "drop", "clap"}


def stopgap_pipeline() -> Language:
    """A blank English pipeline whose attribute ruler marks every form of `VERBS`."""
    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("attribute_ruler")
    for verb in VERBS:
        stem = verb + verb[-1] if verb in DOUBLED else verb.removesuffix("e")
        plural = "es" if verb.endswith(("ch", "sh", "s", "x")) else "s"
        carry = verb.endswith("ry")
        forms = [verb, verb[:-1] + "ies" if carry else verb + plural, stem + "ing", stem + "ed"]
        forms += IRREGULAR.get(verb, "").split()
        ruler.add([[{"LOWER": {"IN": forms}}]], {"POS": "VERB", "LEMMA": verb})  # type: ignore[attr-defined]
    return nlp
