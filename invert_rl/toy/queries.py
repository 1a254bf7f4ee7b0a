"""Plain-English queries of the toy world: two dozen verbs in all their tenses, many wordings, one verb each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

COLOURS = ("red", "green", "blue", "yellow")
OBJECTS = ("box", "door", "chair", "cart", "bag")


@dataclass(frozen=True)
class VerbForms:
    """One verb: its lemma, its forms and what may follow it (``{object}`` is filled in)."""

    lemma: str
    present: str
    past: str
    participle: str
    complements: tuple[str, ...]


VERBS: dict[str, VerbForms] = {
    forms.lemma: forms
    for forms in (
        VerbForms("open", "opens", "opened", "opening", ("the {object}",)),
        VerbForms("close", "closes", "closed", "closing", ("the {object}",)),
        VerbForms("knock", "knocks", "knocked", "knocking", ("on the {object}", "at the {object}")),
        VerbForms("sit", "sits", "sat", "sitting", ("down", "down on the floor")),
        VerbForms("stand", "stands", "stood", "standing", ("up", "up from the floor")),
        VerbForms("squat", "squats", "squatted", "squatting", ("down", "down and up")),
        VerbForms("walk", "walks", "walked", "walking", ("across the room", "past the {object}")),
        VerbForms("run", "runs", "ran", "running", ("across the room",)),
        VerbForms("march", "marches", "marched", "marching", ("on the spot", "in place")),
        VerbForms("jump", "jumps", "jumped", "jumping", ("up and down", "on the spot")),
        VerbForms("hop", "hops", "hopped", "hopping", ("on one leg", "on the spot")),
        VerbForms("wave", "waves", "waved", "waving", ("a hand", "at the camera")),
        VerbForms("clap", "claps", "clapped", "clapping", ("both hands", "at the camera")),
        VerbForms("point", "points", "pointed", "pointing", ("a hand", "at the camera")),
        VerbForms("push", "pushes", "pushed", "pushing", ("the {object}", "the {object} away")),
        VerbForms("pull", "pulls", "pulled", "pulling", ("the {object}", "the {object} back")),
        VerbForms("kick", "kicks", "kicked", "kicking", ("the {object}", "at the {object}")),
        VerbForms("pick", "picks", "picked", "picking", ("up the {object}", "the {object} up")),
        VerbForms("drop", "drops", "dropped", "dropping", ("the {object}", "the {object} on the floor")),
        VerbForms("throw", "throws", "threw", "throwing", ("the {object}", "the {object} on the floor")),
        VerbForms("spin", "spins", "spun", "spinning", ("around", "around on the spot")),
        VerbForms("dance", "dances", "danced", "dancing", ("around", "around on the spot")),
        VerbForms("bend", "bends", "bent", "bending", ("down", "forward")),
        VerbForms("reach", "reaches", "reached", "reaching", ("up", "up with both hands")),
    )
}
"""The actions by lemma; forms and complements never contain a second verb."""

SUBJECTS = ("a person", "the person", "someone", "the {colour} figure", "a {colour} figure")
FRAMES = ("{subject} {present}", "{subject} is {participle}", "{subject} {participle}", "{subject} {past}")
MASK = "[]"


@dataclass(frozen=True)
class Query:
    """A query, the same with its verb replaced by ``[]``, and the verb's lemma."""

    text: str
    masked: str
    verb: str


def all_bodies(verb: str, noun: str, colour: str) -> list[tuple[str, str]]:
    """Every wording of one action as ``(sentence, masked sentence)``, lower case, without a final period.

    ``noun`` is one of `OBJECTS`, ``colour`` one of `COLOURS`; raises `KeyError` for an unknown verb.
    """
    forms = VERBS[verb]
    bodies = []
    for subject in SUBJECTS:
        for frame in FRAMES:
            for complement in forms.complements:
                template = f"{frame} {complement}"
                names = {"subject": subject.format(colour=colour), "object": noun}
                words = {"present": forms.present, "past": forms.past, "participle": forms.participle}
                masks = dict.fromkeys(words, MASK)
                bodies.append((template.format(**names, **words), template.format(**names, **masks)))
    return bodies


def make_query(verb: str, noun: str, colour: str, rng: np.random.Generator) -> Query:
    """Draw one wording: half of the queries begin with a capital letter, half end with a period."""
    bodies = all_bodies(verb, noun, colour)
    text, masked = bodies[int(rng.integers(len(bodies)))]
    if rng.random() < 0.5:
        text, masked = text[0].upper() + text[1:], masked[0].upper() + masked[1:]
    if rng.random() < 0.5:
        text, masked = text + ".", masked + "."
    return Query(text, masked, verb)


def plain_sentence(verb: str, noun: str) -> str:
    """The shortest wording, such as ``the person opens the box``."""
    forms = VERBS[verb]
    return f"the person {forms.present} {forms.complements[0].format(object=noun)}"
