"""Rendering a toy clip: poses over time, the pictures, and what was planted in them.

A clip lasts 12 s at 8 frames per second. Outside its events the actor idles; inside, something changes in
every part of the event. Verbs come in pairs and triples that look alike (`invert_rl.toy.scene.LOOK_ALIKES`): the two
of an opposite pair (open/close, sit/stand, push/pull, pick/drop) show the same pictures in reversed order, others
differ in speed, in a limb or in where they end. All through the clip a bystander sways behind the object, a shadow
drifts over the wall, the light changes and the pictures are noisy. A bar at the foot of each picture shows the time, as
players and cameras do: what there is to learn is which event was meant, not how to count pictures.
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
"""Seconds of one jump, wave, turn or step: not a divisor of the 0.5 s between sampled frames."""
RUN_PERIOD = 0.6
"""Seconds of two steps of a run."""
NOISE = 6.0
"""Standard deviation of the noise of each 4x4 block of pixels, of 255."""
LIGHT = 8.0
"""How far the light swings, of 255."""
SHADOW = 18.0
"""How much darker the drifting shadow is at its middle, of 255."""

BAR = 3
"""Height of the time bar at the foot of a picture, pixels."""
PASSED, TO_COME = 245.0, 30.0
"""Brightness of its two parts."""


def render(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The clip's frames, ``uint8 [96, 56, 56, 3]`` RGB; ``rng`` draws the wall, its shadow, the light and the noise."""
    wall = _background(scene, rng)
    times = np.arange(FRAMES) / FPS
    shadow = rng.uniform(0, SIZE) + rng.uniform(-6, 6) * times  # pixels, of its middle
    light = LIGHT * np.sin(2 * np.pi * (times / rng.uniform(3, 9) + rng.random()))
    frames = np.empty((FRAMES, SIZE, SIZE, 3), dtype=np.float32)
    for index, time in enumerate(times):
        away = (np.arange(SIZE) - shadow[index] + SIZE / 2) % SIZE - SIZE / 2
        darker = SHADOW * np.exp(-((away / 7) ** 2))[None, :, None]
        background = np.clip(wall - darker, 0, 255).astype(np.uint8)
        behind = (_loitering(scene, float(time)), scene.bystander.colour)
        frames[index] = draw(pose_at(scene, float(time)), scene.colour, scene.noun, background, behind)
    noise = rng.normal(0, NOISE, size=(FRAMES, SIZE // 4, SIZE // 4, 1)).repeat(4, axis=1).repeat(4, axis=2)
    frames += light[:, None, None, None] + noise
    for index, time in enumerate(times):
        frames[index, -BAR:] = _time_bar(float(time))
    return np.clip(frames, 0, 255).astype(np.uint8)


def _time_bar(time: float) -> np.ndarray:
    """Brightness of the bar's columns, ``[56, 1]``: bright up to the part of the clip that has passed."""
    passed = np.clip(SIZE * time / DURATION - np.arange(SIZE), 0.0, 1.0)
    return (TO_COME + (PASSED - TO_COME) * passed)[:, None]


def _loitering(scene: Scene, time: float) -> Pose:
    """The bystander's pose: it sways and shifts its hands below its shoulders, which no verb does."""
    sway, first, second = (math.sin(2 * math.pi * time / period) for period in scene.bystander.pace)
    return Pose(
        actor_x=scene.bystander.x + 2.5 * sway,
        facing=1 if scene.bystander.x < SIZE / 2 else -1,
        lift=5.0,
        hand=(3.0 + 2.0 * first, -8.0 + 2.0 * first),
        other_hand=(-2.0 + 2.0 * second, -9.0),
    )


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
    if verb == "knock":
        away = 9.0 if scene.noun == "door" else 8.0
        height = 1.0 if scene.noun == "door" else -7.0
        hand = (away - 3.0 * abs(math.sin(math.pi * ahead)), height)
        return _place(scene, state, replace(pose, hand=hand, other_hand=(hand[0] - 2, height + 4)))
    if verb == "squat":
        down = math.sin(math.pi * done)
        return _place(scene, state, replace(pose, crouch=down, hand=(9.0, 3.0), other_hand=(9.0, 3.0)))
    if verb in ("sit", "stand"):
        return _place(scene, state, replace(pose, crouch=progress, hand=(9.0, 3.0), other_hand=(9.0, 3.0)))
    if verb in ("push", "pull"):
        steps = math.sin(2 * math.pi * progress * length / PERIOD)
        pose = replace(pose, stride=steps, hand=(11.0, -2.0), other_hand=(11.0, 3.0))
        return _place(scene, state, pose, away=progress)
    if verb == "kick":
        swing = abs(math.sin(math.pi * ahead))
        return _place(scene, state, replace(pose, kick=swing, hand=(6.0, -6.0), other_hand=(-6.0, -4.0)))
    if verb == "throw":
        return _place(scene, state, replace(pose, crouch=BENT), raised=1.0 - done + 0.9 * math.sin(math.pi * done))
    if verb in ("pick", "drop"):
        return _place(scene, state, replace(pose, crouch=BENT), raised=progress)
    if verb == "walk":
        return _place(scene, state, replace(pose, stride=math.sin(2 * math.pi * ahead)), crossing=done)
    if verb == "run":
        quick = math.sin(2 * math.pi * ((time - event.start) / RUN_PERIOD + 1 / 6))
        pose = replace(pose, stride=quick, lift=2.0 * abs(quick), hand=(7.0, -5.0), other_hand=(-5.0, -6.0))
        return _place(scene, state, pose, crossing=done)
    if verb == "march":
        step = math.sin(2 * math.pi * ahead)
        return _place(scene, state, replace(pose, stride=0.7 * step, lift=2.0 * abs(step)))
    if verb == "hop":
        return _place(scene, state, replace(pose, lift=6.0 * math.sin(math.pi * phase), kick=0.4))
    if verb == "jump":
        height = 9.0 * math.sin(math.pi * phase)
        raised = 8.0 - 4.0 * math.sin(2 * math.pi * phase)  # tells rising from falling
        return _place(scene, state, replace(pose, lift=height, hand=(-6.0, raised), other_hand=(6.0, raised)))
    if verb == "wave":
        return _place(scene, state, replace(pose, hand=(3.0 + 7.0 * math.sin(2 * math.pi * phase), 12.0)))
    if verb == "clap":
        gap = 4.0 * abs(math.sin(math.pi * ahead))
        return _place(scene, state, replace(pose, hand=(7.0, 6.0 + gap), other_hand=(7.0, 6.0 - gap)))
    if verb == "point":
        return _place(scene, state, replace(pose, hand=(7.0 + 4.0 * math.sin(math.pi * done), 9.0)))
    if verb == "reach":
        up = math.sin(math.pi * done)
        height = -10.0 + 23.0 * up
        return _place(scene, state, replace(pose, hand=(4.0, height), other_hand=(-4.0, height)))
    if verb == "bend":
        return _place(scene, state, replace(pose, lean=math.sin(math.pi * done)))
    if verb == "dance":
        beat = math.sin(2 * math.pi * ahead)
        arms = replace(pose, hand=(8.0, 1.0 + 4.0 * beat), other_hand=(-8.0, 1.0 - 4.0 * beat))
        return _place(scene, state, arms, sway=4.0 * beat)
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
    sway: float = 0.0,
) -> Pose:
    """The pose with actor and object where they belong, and both hands at an object that is lifted.

    ``away`` and ``raised`` (0 to 1) default to the state's; ``crossing`` is the walked part of the way, ``sway`` how
    many pixels the actor stands off its place.
    """
    right = state.crossed != scene.mirrored
    slide = SLIDE * (state.away if away is None else away)
    actor_x, object_x = HOME + slide + sway + (SIZE - 2 * HOME) * crossing, MIDDLE + slide
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
