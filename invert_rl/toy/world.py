"""Rendering a toy clip: poses over time, the pictures, and what was planted in them.

A clip lasts 12 s at 8 frames per second. Outside its events the actor idles; inside, something changes in
every part of the event, and the two verbs of an opposite pair (open/close, sit/stand, push/pull, pick/drop)
show the same pictures in reversed order.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from invert_rl.toy.scene import DURATION, Event, Scene, State, after
from invert_rl.toy.sprites import GROUND, SIZE, Pose, draw

FPS = 8
"""Frames per second of the files."""
FRAMES = round(DURATION * FPS)
HOME, MIDDLE, SLIDE, LIFT = 10.0, 28.0, 12.0, 16.0
"""Pixels: where the actor and the object stand, how far a push moves both, how high a lift goes."""
BENT = 0.35
"""How far the knees bend while something is picked up or dropped (1: sitting on the floor)."""
BACKWARDS = ("close", "stand", "pull", "drop")
PERIOD = 0.75
"""Seconds of one hop, wave, turn or step: not a divisor of the 0.5 s between sampled frames."""


def render(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The clip's frames, ``uint8 [96, 56, 56, 3]`` RGB; ``rng`` draws the wall's texture and the noise."""
    background = _background(scene, rng)
    drawn: dict[Pose, np.ndarray] = {}
    frames = np.empty((FRAMES, SIZE, SIZE, 3), dtype=np.uint8)
    for index in range(FRAMES):
        pose = pose_at(scene, index / FPS)
        if pose not in drawn:
            drawn[pose] = draw(pose, scene.colour, scene.noun, background)
        frames[index] = drawn[pose]
    noise = rng.integers(-2, 3, size=(FRAMES, SIZE // 4, SIZE // 4, 1), dtype=np.int16)
    noisy = frames + noise.repeat(4, axis=1).repeat(4, axis=2)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def pose_at(scene: Scene, time: float) -> Pose:
    """The pose at ``time`` seconds."""
    state = scene.first
    for event in scene.events:
        if time < event.start:
            break
        if time < event.end:
            return _acting(scene, event, time)
        state = after(event.verb, event.before)
    return _idle(scene, state)


def _idle(scene: Scene, state: State) -> Pose:
    return _place(scene, state, Pose(crouch=float(state.sitting), opening=float(state.opened)))


def _acting(scene: Scene, event: Event, time: float) -> Pose:
    state, verb = event.before, event.verb
    length = event.end - event.start
    done = (time - event.start) / length
    # Of an opposite pair, one verb runs forwards from 0 to 1 and the other backwards.
    progress = 1.0 - done if verb in BACKWARDS else done
    phase = ((time - event.start) / PERIOD) % 1.0
    # Turns and steps begin off the idle pose, so that their first picture differs from it.
    ahead = phase + 1 / 6
    pose = Pose(crouch=float(state.sitting), opening=float(state.opened))
    if verb in ("open", "close"):
        hand = (9.0, 1.0) if scene.noun == "door" else (8.0, -7.0)
        pose = replace(pose, opening=progress, hand=hand, other_hand=(hand[0], hand[1] + 4))
        return _place(scene, state, pose)
    if verb in ("sit", "stand"):
        return _place(scene, state, replace(pose, crouch=progress, hand=(9.0, 3.0), other_hand=(9.0, 3.0)))
    if verb in ("push", "pull"):
        steps = math.sin(2 * math.pi * progress * length / PERIOD)
        pose = replace(pose, stride=steps, hand=(11.0, -2.0), other_hand=(11.0, 3.0))
        return _place(scene, state, pose, away=progress)
    if verb in ("pick", "drop"):
        return _place(scene, state, replace(pose, crouch=BENT), raised=progress)
    if verb == "walk":
        return _place(scene, state, replace(pose, stride=math.sin(2 * math.pi * ahead)), crossing=done)
    if verb == "jump":
        height = 9.0 * math.sin(math.pi * phase)
        raised = 8.0 - 4.0 * math.sin(2 * math.pi * phase)  # tells rising from falling
        return _place(scene, state, replace(pose, lift=height, hand=(-6.0, raised), other_hand=(6.0, raised)))
    if verb == "wave":
        return _place(scene, state, replace(pose, hand=(3.0 + 7.0 * math.sin(2 * math.pi * phase), 12.0)))
    if verb == "spin":
        return _place(scene, state, replace(pose, turn=ahead, hand=(8.0, 1.0), other_hand=(-8.0, 1.0)))
    raise ValueError(f"no movement is known for the verb {verb!r}")


def _place(
    scene: Scene,
    state: State,
    pose: Pose,
    away: float | None = None,
    raised: float | None = None,
    crossing: float = 0.0,
) -> Pose:
    """The pose with actor and object where they belong, and both hands at an object that is lifted.

    ``away`` and ``raised`` (0 to 1) default to the state's; ``crossing`` is the walked part of the way.
    """
    right = state.crossed != scene.mirrored
    slide = SLIDE * (state.away if away is None else away)
    actor_x, object_x = HOME + slide + (SIZE - 2 * HOME) * crossing, MIDDLE + slide
    if right:
        actor_x, object_x = SIZE - actor_x, SIZE - object_x
    if raised is None and state.held:
        raised = 1.0
    if raised is not None:
        shoulder = GROUND - 26 + 10 * pose.crouch
        hand = (11.0, shoulder - (GROUND - 10 - LIFT * raised))
        pose = replace(pose, object_lift=LIFT * raised, hand=hand, other_hand=(hand[0], hand[1] + 3))
    return replace(
        pose,
        actor_x=actor_x,
        facing=-1 if right else 1,
        object_x=object_x,
        object_side=-1 if scene.mirrored else 1,
    )


def _background(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A plain wall with a gentle gradient and coarse texture, and a darker floor."""
    picture = np.empty((SIZE, SIZE, 3), dtype=np.float32)
    picture[:] = scene.background
    picture += np.linspace(-8, 8, SIZE, dtype=np.float32)[:, None, None] * rng.uniform(-1, 1)
    picture += np.linspace(-8, 8, SIZE, dtype=np.float32)[None, :, None] * rng.uniform(-1, 1)
    texture = rng.normal(0, 3, size=(SIZE // 4, SIZE // 4, 1)).astype(np.float32)
    picture += texture.repeat(4, axis=0).repeat(4, axis=1)
    picture[round(GROUND) :] *= 0.6
    return np.clip(picture, 0, 255).astype(np.uint8)
