"""What happens in a toy clip: the actor, the object, a bystander and three to five planted events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from invert_rl.toy.queries import COLOURS, OBJECTS, VERBS

DURATION = 12.0
"""Length of every clip in seconds."""
GRID = 0.25
"""Starts and ends of events are multiples of this many seconds."""
MIN_GAP = 0.25
"""Least idle time before, between and after events, in seconds."""
MIN_LENGTH, MAX_LENGTH = 1.25, 3.5
"""Shortest and longest event, in seconds."""
MIN_EVENTS, MAX_EVENTS = 3, 5
"""Fewest and most events of a clip."""

OPPOSITE = {"open": "close", "sit": "stand", "push": "pull", "pick": "drop"}
OPPOSITE |= {second: first for first, second in OPPOSITE.items()}

LOOK_ALIKES: tuple[tuple[str, ...], ...] = (
    ("open", "close", "knock"),
    ("sit", "stand", "squat"),
    ("walk", "run", "march"),
    ("jump", "hop"),
    ("wave", "clap", "point"),
    ("push", "pull", "kick"),
    ("pick", "drop", "throw"),
    ("spin", "dance"),
    ("bend", "reach"),
)
"""Verbs that are easily taken for each other: the same posture, another order, speed or limb."""

ABILITIES: dict[str, tuple[str, ...]] = {
    "box": ("open", "close", "knock", "push", "pull", "kick", "pick", "drop", "throw"),
    "door": ("open", "close", "knock"),
    "chair": ("push", "pull", "kick", "pick", "drop", "throw"),
    "cart": ("push", "pull", "kick"),
    "bag": ("pick", "drop", "throw"),
}
"""Which actions need which object; every other verb goes with any object."""

SEATED = ("stand", "wave", "clap", "point")
"""What can be done sitting."""


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
    "throw": ("held", False),
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
class Bystander:
    """A second figure behind the object that does nothing nameable: it sways and shifts its hands."""

    colour: str
    x: float
    """Where it stands, pixels."""
    pace: tuple[float, float, float]
    """Periods of its sway and of its hands, seconds."""


@dataclass(frozen=True)
class Scene:
    """Everything that determines a clip's pictures but its pixel noise."""

    colour: str
    noun: str
    mirrored: bool
    background: tuple[int, int, int]
    first: State
    events: tuple[Event, ...]
    bystander: Bystander


def possible(verb: str, noun: str, state: State) -> bool:
    """Whether ``verb`` can be done in ``state``: an open box cannot be opened, a seated actor cannot walk."""
    if verb in CHANGES:
        name, after = CHANGES[verb]
        if getattr(state, name) == after:
            return False
    if verb not in ABILITIES[noun] and any(verb in verbs for verbs in ABILITIES.values()):
        return False
    if state.sitting and verb not in SEATED:
        return False
    if state.held and verb not in ("drop", "throw"):
        return False
    return not (verb in ("walk", "run") and state.away)


def after(verb: str, state: State) -> State:
    """The state once ``verb`` is done."""
    if verb in ("walk", "run"):
        return replace(state, crossed=not state.crossed)
    if verb in CHANGES:
        name, value = CHANGES[verb]
        return replace(state, **{name: value})
    return state


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene: every verb is about equally likely, and each clip holds verbs that look alike."""
    count = int(rng.integers(MIN_EVENTS, MAX_EVENTS + 1))
    verbs: list[str] = []
    while len(verbs) < count or not holds_look_alikes(verbs):
        first_verb = str(rng.choice(list(VERBS)))
        noun = str(rng.choice([noun for noun in OBJECTS if possible_at_all(first_verb, noun)]))
        first = _first_state(first_verb, noun, rng)
        verbs = _draw_verbs(first_verb, noun, first, count, rng)
    state, events = first, []
    for verb, (start, end) in zip(verbs, _draw_windows(len(verbs), rng), strict=True):
        events.append(Event(verb, start, end, state))
        state = after(verb, state)
    red, green, blue = (int(value) for value in rng.integers(165, 226, size=3))
    colour, other = (str(name) for name in rng.choice(COLOURS, size=2, replace=False))
    return Scene(
        colour=colour,
        noun=noun,
        mirrored=bool(rng.random() < 0.5),
        background=(red, green, blue),
        first=first,
        events=tuple(events),
        bystander=_bystander(other, rng),
    )


def _bystander(colour: str, rng: np.random.Generator) -> Bystander:
    x, sway, first, second = (float(number) for number in rng.uniform([6, 1.5, 1.5, 1.5], [50, 5.0, 5.0, 5.0]))
    return Bystander(colour, x, (sway, first, second))


def holds_look_alikes(verbs: Sequence[str]) -> bool:
    """Whether two of the verbs look alike."""
    return any(len(set(group) & set(verbs)) > 1 for group in LOOK_ALIKES)


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
    if verb in ("walk", "run"):
        state = replace(state, away=False)
    return state


def _draw_verbs(verb: str, noun: str, state: State, count: int, rng: np.random.Generator) -> list[str]:
    verbs = [verb]
    state = after(verb, state)
    while len(verbs) < count:
        options = [other for other in VERBS if other not in verbs and possible(other, noun, state)]
        if not options:
            break
        alike = [other for other in options if any({other, verbs[-1]} <= set(group) for group in LOOK_ALIKES)]
        verb = str(rng.choice(alike if alike and rng.random() < 0.5 else options))
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
