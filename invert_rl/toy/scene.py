"""What happens in a toy clip: the actor, the object and two or three planted events, drawn from a seed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from invert_rl.toy.queries import COLOURS, OBJECTS, VERBS

DURATION = 12.0
"""Length of every clip in seconds."""
GRID = 0.25
"""Starts and ends of events are multiples of this many seconds."""
MIN_GAP = 0.5
"""Least idle time before, between and after events, in seconds."""
MIN_LENGTH, MAX_LENGTH = 1.5, 5.0
"""Shortest and longest event, in seconds."""

OPPOSITE = {"open": "close", "sit": "stand", "push": "pull", "pick": "drop"}
OPPOSITE |= {second: first for first, second in OPPOSITE.items()}

ABILITIES: dict[str, tuple[str, ...]] = {
    "box": ("open", "close", "push", "pull", "pick", "drop"),
    "door": ("open", "close"),
    "chair": ("push", "pull", "pick", "drop"),
    "cart": ("push", "pull"),
    "bag": ("pick", "drop"),
}
"""Which actions need which object; every other verb goes with any object."""

WEIGHT = {"sit": 0.4, "wave": 0.5}
"""Verbs that are possible more often are drawn less often, so that all twelve are about as common."""


@dataclass(frozen=True)
class State:
    """What persists between events."""

    opened: bool = False
    sitting: bool = False
    away: bool = False
    held: bool = False
    crossed: bool = False
    """The actor stands on the other side of the object than at first."""


CHANGES: dict[str, tuple[str, bool]] = {
    "open": ("opened", True),
    "close": ("opened", False),
    "sit": ("sitting", True),
    "stand": ("sitting", False),
    "push": ("away", True),
    "pull": ("away", False),
    "pick": ("held", True),
    "drop": ("held", False),
}
"""The part of the state that a verb sets, and its value afterwards; before, it has the other value."""


@dataclass(frozen=True)
class Event:
    """One planted action: ``start`` and ``end`` in seconds, and the state before it."""

    verb: str
    start: float
    end: float
    before: State


@dataclass(frozen=True)
class Scene:
    """Everything that determines a clip's pictures but its pixel noise."""

    colour: str
    noun: str
    mirrored: bool
    background: tuple[int, int, int]
    first: State
    events: tuple[Event, ...]


def possible(verb: str, noun: str, state: State) -> bool:
    """Whether ``verb`` can be done in ``state``: an open box cannot be opened, a seated actor cannot walk."""
    if verb in CHANGES:
        name, after = CHANGES[verb]
        if getattr(state, name) == after:
            return False
    if verb not in ABILITIES[noun] and any(verb in verbs for verbs in ABILITIES.values()):
        return False
    if state.sitting and verb not in ("stand", "wave"):
        return False
    if state.held and verb != "drop":
        return False
    return not (verb == "walk" and state.away)


def after(verb: str, state: State) -> State:
    """The state once ``verb`` is done."""
    if verb == "walk":
        return replace(state, crossed=not state.crossed)
    if verb in CHANGES:
        name, value = CHANGES[verb]
        return replace(state, **{name: value})
    return state


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene: every verb is equally likely to come first, and opposites often follow each other."""
    first_verb = str(rng.choice(list(VERBS)))
    nouns = [noun for noun in OBJECTS if possible_at_all(first_verb, noun)]
    noun = str(rng.choice(nouns))
    first = _first_state(first_verb, noun, rng)
    verbs = _draw_verbs(first_verb, noun, first, int(rng.integers(2, 4)), rng)
    state, events = first, []
    for verb, (start, end) in zip(verbs, _draw_windows(len(verbs), rng), strict=True):
        events.append(Event(verb, start, end, state))
        state = after(verb, state)
    red, green, blue = (int(value) for value in rng.integers(165, 226, size=3))
    return Scene(
        colour=str(rng.choice(COLOURS)),
        noun=noun,
        mirrored=bool(rng.random() < 0.5),
        background=(red, green, blue),
        first=first,
        events=tuple(events),
    )


def possible_at_all(verb: str, noun: str) -> bool:
    """Whether some state of the object lets ``verb`` be done."""
    return verb in ABILITIES[noun] or not any(verb in verbs for verbs in ABILITIES.values())


def _first_state(verb: str, noun: str, rng: np.random.Generator) -> State:
    state = State()
    for other in ("open", "push"):
        if other in ABILITIES[noun] and rng.random() < 0.3:
            state = after(other, state)
    if verb in CHANGES:
        name, value = CHANGES[verb]
        state = replace(state, **{name: not value})
    if verb == "walk":
        state = replace(state, away=False)
    return state


def _draw_verbs(verb: str, noun: str, state: State, count: int, rng: np.random.Generator) -> list[str]:
    verbs = [verb]
    state = after(verb, state)
    while len(verbs) < count:
        options = [other for other in VERBS if other not in verbs and possible(other, noun, state)]
        if not options:
            break
        opposite = OPPOSITE.get(verbs[-1])
        if opposite in options and rng.random() < 0.5:
            verb = opposite
        else:
            weights = np.array([WEIGHT.get(option, 1.0) for option in options])
            verb = str(rng.choice(options, p=weights / weights.sum()))
        verbs.append(verb)
        state = after(verb, state)
    return verbs


def _draw_windows(count: int, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Windows in seconds, in order, with at least `MIN_GAP` around each; the rest is spread at random."""
    gap, total = round(MIN_GAP / GRID), round(DURATION / GRID)
    low, high = round(MIN_LENGTH / GRID), round(MAX_LENGTH / GRID)
    while True:
        lengths = rng.integers(low, high + 1, size=count)
        idle = total - int(lengths.sum()) - gap * (count + 1)
        if idle >= 0:
            break
    cuts = np.sort(rng.integers(0, idle + 1, size=count))
    windows, used = [], 0
    for index, length in enumerate(lengths):
        start = gap * (index + 1) + int(cuts[index]) + used
        used += int(length)
        windows.append((start * GRID, (start + int(length)) * GRID))
    return windows
