"""A toy kitchen: short generated clips in which a hand does one of eight things to one of eight objects.

All 64 pairs of a verb and a noun are classes and a clip's is drawn from them uniformly, by itself: neither a verb nor a
noun, nor a clip beside it, says anything about the other half. A noun is a colour and a shape, seen in any frame; a
verb is a movement, and two pairs of verbs (push and pull, lift and lower) show the same pictures in reversed order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from invert_rl.llavaction.segments import Segment
from invert_rl.toy.world import FPS

VERBS = ("push", "pull", "lift", "lower", "shake", "turn", "wash", "cut")
NOUNS = ("cup", "plate", "knife", "onion", "bread", "pan", "bowl", "lid")
COLOURS = (
    (40, 70, 215),
    (245, 245, 240),
    (90, 95, 105),
    (150, 40, 160),
    (165, 95, 35),
    (25, 25, 30),
    (20, 150, 70),
    (225, 40, 40),
)
"""Of the nouns."""
FLAT = (1.0, 1.0, 0.45, 0.8, 0.6, 1.0, 0.7, 0.35)
"""Height of each noun's shape divided by its width."""
ROUND = (False, True, False, True, False, True, True, False)
"""Whether it is an ellipse, or else a rectangle."""
SKIN, WATER = (240, 195, 150), (90, 190, 255)
SIZE = 56
"""Pixels, width and height of a frame."""
SECONDS = 2.0
"""Length of a clip, all of it the action."""
FRAMES = round(SECONDS * FPS)


@dataclass(frozen=True)
class Action:
    """What happens in a clip and where."""

    verb: int
    noun: int
    x: float
    """Centre of the movement, pixels."""
    y: float
    background: tuple[int, int, int]
    speed: float
    """Turns of what goes round, about 1."""


def draw_action(rng: np.random.Generator) -> Action:
    """A clip's action: class, place, background and speed, each by itself."""
    verb, noun = (int(rng.integers(len(names))) for names in (VERBS, NOUNS))
    x, y = (SIZE / 2 + rng.uniform(-5, 5, 2)).tolist()
    red, green, blue = rng.integers(150, 215, 3).tolist()
    return Action(verb, noun, x, y, (red, green, blue), float(rng.uniform(0.8, 1.2)))


def render(action: Action, rng: np.random.Generator) -> np.ndarray:
    """The clip's frames, uint8 (frames, 56, 56, 3) RGB; ``rng`` draws the noise."""
    frames = np.stack([_frame(action, (index + 0.5) / FRAMES) for index in range(FRAMES)])
    noise = rng.integers(-6, 7, (FRAMES, SIZE // 4, SIZE // 4, 1)).repeat(4, 1).repeat(4, 2)
    return np.clip(frames + noise, 0, 255).astype(np.uint8)


def segment(verb: int, noun: int, name: str) -> Segment:
    """A clip as an annotated segment of a video of that name, narrated as ``push cup``."""
    return Segment(name, name, 0.0, SECONDS, f"{VERBS[verb]} {NOUNS[noun]}", verb, noun)


def _frame(action: Action, done: float) -> np.ndarray:
    """One frame when ``done`` of the action is over, float (56, 56, 3)."""
    picture = np.empty((SIZE, SIZE, 3))
    picture[:] = action.background
    verb = VERBS[action.verb]
    x, y, width = action.x, action.y, 18.0
    hand = (0.0, 13.0)
    if verb in ("push", "pull"):
        y += 12 - 24 * (done if verb == "push" else 1 - done)
    elif verb in ("lift", "lower"):
        width = 11 + 15 * (done if verb == "lift" else 1 - done)
        hand = (-0.5 * width - 3, 0.0)
    elif verb == "shake":
        x += 9 * math.sin(4 * math.pi * action.speed * done)
        hand = (13.0, 0.0)
    elif verb == "turn":
        angle = 2 * math.pi * action.speed * done
        hand = (15 * math.cos(angle), 15 * math.sin(angle))
    elif verb == "wash":
        for drop in range(4):
            _fill(picture, x - 12 + 8 * drop, (y - 22 + 9 * drop + 40 * done) % SIZE, 4, 6, WATER, True)
        hand = (-13.0, 0.0)
    height = width * FLAT[action.noun]
    if verb == "cut":
        apart = 9 * done
        for side in (-1, 1):
            place = x + side * (width / 4 + apart)
            _fill(picture, place, y, width / 2, height, COLOURS[action.noun], ROUND[action.noun])
        hand = (0.0, -14.0 + 8 * done)
    else:
        _fill(picture, x, y, width, height, COLOURS[action.noun], ROUND[action.noun])
    _fill(picture, x + hand[0], y + hand[1], 7, 7, SKIN, True)
    return picture


def _fill(
    picture: np.ndarray, x: float, y: float, width: float, height: float, colour: tuple[int, int, int], is_round: bool
) -> None:
    """Fill an ellipse or rectangle with its centre at x, y."""
    rows, columns = np.ogrid[:SIZE, :SIZE]
    across, down = np.abs(columns + 0.5 - x) / (width / 2), np.abs(rows + 0.5 - y) / (height / 2)
    inside = across**2 + down**2 <= 1 if is_round else np.maximum(across, down) <= 1
    picture[inside] = colour
