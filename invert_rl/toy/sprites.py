"""Drawing one picture of the toy world: a figure and an object, 56x56 pixels, from one pose."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SIZE = 56
"""Width and height of a frame in pixels."""
SCALE = 3
"""Shapes are drawn this many times larger and averaged, so that small movements change pixels smoothly."""
GROUND = 50.0

ACTOR_COLOURS = {"red": (225, 30, 40), "green": (20, 160, 50), "blue": (30, 60, 225), "yellow": (245, 215, 0)}
OBJECT_COLOURS = {
    "box": (140, 85, 40),
    "door": (110, 50, 120),
    "chair": (60, 60, 70),
    "cart": (0, 135, 140),
    "bag": (190, 50, 130),
}
SKIN = (245, 205, 165)
LEGS = (35, 35, 60)
BACK = (250, 250, 250)
INSIDE = (255, 255, 240)

Point = tuple[float, float]
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Pose:
    """Where everything is in one frame; lengths in pixels, ``facing`` is +1 (right) or -1."""

    actor_x: float = 0.0
    facing: int = 1
    object_x: float = 0.0
    object_side: int = 1
    """+1 when the object's far side is the right one."""
    lift: float = 0.0
    """Height of the feet above the ground."""
    crouch: float = 0.0
    """0 standing, 1 sitting on the floor."""
    hand: Point | None = None
    """The hand that reaches forward, relative to the shoulder (forward, up); None: it hangs down."""
    other_hand: Point | None = None
    """The other hand likewise."""
    stride: float = 0.0
    """-1 to 1: legs apart, one or the other in front."""
    kick: float = 0.0
    """0 to 1: how far the front foot swings forward and up."""
    lean: float = 0.0
    """0 upright, 1 bent forward at the hip."""
    turn: float = 0.0
    """Turns about the vertical axis: 0 shows the front, 0.5 the back."""
    object_lift: float = 0.0
    opening: float = 0.0
    """0 closed, 1 open."""


def draw(
    pose: Pose, colour: str, noun: str, background: np.ndarray, behind: tuple[Pose, str] | None = None
) -> np.ndarray:
    """One frame, ``uint8 [56, 56, 3]``; ``background`` is ``uint8 [56, 56, 3]`` and stays as it is.

    ``behind`` is the pose and colour of another figure that stands behind object and actor.
    """
    canvas = Image.fromarray(background).resize((SIZE * SCALE, SIZE * SCALE), Image.Resampling.NEAREST)
    pen = _Pen(ImageDraw.Draw(canvas))
    if behind is not None:
        _draw_actor(pen, behind[0], ACTOR_COLOURS[behind[1]])
    _draw_object(pen, pose, noun)
    _draw_actor(pen, pose, ACTOR_COLOURS[colour])
    return np.asarray(canvas.reduce(SCALE))


class _Pen:
    """Thin shapes in frame pixels on the enlarged canvas."""

    def __init__(self, target: ImageDraw.ImageDraw):
        self.target = target

    def line(self, points: list[Point], colour: Colour, width: float) -> None:
        scaled = [(x * SCALE, y * SCALE) for x, y in points]
        self.target.line(scaled, fill=colour, width=round(width * SCALE), joint="curve")

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        left, right = sorted((left, right))
        corners = (left * SCALE, top * SCALE, right * SCALE - 1, bottom * SCALE - 1)
        if corners[0] < corners[2] and corners[1] < corners[3]:
            self.target.rectangle(corners, fill=colour)

    def circle(self, x: float, y: float, radius: float, colour: Colour) -> None:
        box = ((x - radius) * SCALE, (y - radius) * SCALE, (x + radius) * SCALE, (y + radius) * SCALE)
        self.target.ellipse(box, fill=colour)


def _draw_actor(pen: _Pen, pose: Pose, colour: Colour) -> None:
    x, forward = pose.actor_x, pose.facing
    ground = GROUND - pose.lift
    hip = ground - 14 + 10 * pose.crouch
    knee_x, knee_y = x + forward * 8 * pose.crouch, ground - 7
    for side in (-1, 1):
        step = side * 5 * pose.stride
        swing = pose.kick if side == forward else 0.0
        foot = (knee_x + step + side * 2 + forward * 9 * swing, ground - 6 * swing)
        knee = (knee_x + step * 0.6 + side * 2 + forward * 5 * swing, knee_y - 2 * swing)
        pen.line([(x + side * 2, hip), knee, foot], LEGS, 3.5)
    angle = 2 * math.pi * pose.turn
    front = math.cos(angle) >= 0
    half = 2.0 + 3.5 * abs(math.cos(angle))
    shoulder = hip - 12 + 5 * pose.lean
    bent = x + forward * 8 * pose.lean
    if pose.other_hand is not None:
        _draw_arm(pen, bent, shoulder, forward, pose.other_hand, colour)
    if pose.lean > 0:
        pen.line([(x, hip), (bent, hip - 14 + 5 * pose.lean)], colour, 2 * half)
    else:
        pen.box(x - half, hip - 15, x + half, hip + 1, colour if front else BACK)
    head = (x + forward * 12 * pose.lean, hip - 20 + 9 * pose.lean)
    pen.circle(*head, 5, SKIN if front else LEGS)
    if front:
        eye = head[0] + forward * 2.5 * math.cos(angle) + 4 * math.sin(angle)
        pen.box(eye - 1, head[1] - 2, eye + 1, head[1] + 0.5, LEGS)
    _draw_arm(pen, bent, shoulder, forward, pose.hand if pose.hand is not None else (0.0, -11.0), colour)


def _draw_arm(pen: _Pen, x: float, shoulder: float, forward: int, hand: Point, colour: Colour) -> None:
    dark = (colour[0] * 6 // 10, colour[1] * 6 // 10, colour[2] * 6 // 10)
    end = (x + forward * hand[0], shoulder - hand[1])
    pen.line([(x, shoulder), end], dark, 3.5)
    pen.circle(end[0], end[1], 2.2, SKIN)


def _draw_object(pen: _Pen, pose: Pose, noun: str) -> None:
    x, far, colour = pose.object_x, pose.object_side, OBJECT_COLOURS[noun]
    base = GROUND - pose.object_lift
    if noun == "box":
        if pose.opening > 0:
            pen.box(x - 6, base - 12 - 6 * pose.opening, x + 6, base - 12, INSIDE)
        pen.box(x - 7, base - 12, x + 7, base, colour)
        angle = math.radians(125 * pose.opening)
        hinge = (x + far * 7, base - 12)
        tip = (hinge[0] - far * 15 * math.cos(angle), hinge[1] - 15 * math.sin(angle))
        pen.line([hinge, tip], (80, 40, 15), 3.5)
    elif noun == "door":
        pen.box(x - 10, base - 38, x + 10, base, (60, 30, 70))
        pen.box(x - 8, base - 36, x + 8, base, INSIDE)
        edge = x - far * 8 + far * 14 * pose.opening
        pen.box(edge, base - 36, x + far * 8, base, colour)
        pen.circle(edge + far * 1.5, base - 18, 1.5, INSIDE)
    elif noun == "chair":
        pen.line([(x - 6, base), (x - 6, base - 9)], colour, 3)
        pen.line([(x + 6, base), (x + 6, base - 9)], colour, 3)
        pen.box(x - 8, base - 12, x + 8, base - 8, colour)
        pen.line([(x + far * 6.5, base - 24), (x + far * 6.5, base - 8)], colour, 3)
    elif noun == "cart":
        pen.box(x - 9, base - 14, x + 9, base - 4, colour)
        pen.line([(x - far * 8, base - 12), (x - far * 9, base - 20)], LEGS, 2.5)
        for side in (-1, 1):
            pen.circle(x + side * 6, base - 3, 3, LEGS)
    else:
        pen.circle(x, base - 6, 6.5, colour)
        pen.line([(x - 4, base - 11), (x, base - 15), (x + 4, base - 11)], LEGS, 2)
