"""Scenes and pictures: what the rows say is what the pixels show."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import astuple, replace

import av
import numpy as np
import pytest

from invert_rl.toy.make import clip_seed, encode
from invert_rl.toy.queries import VERBS
from invert_rl.toy.scene import (
    DURATION,
    GRID,
    LOOK_ALIKES,
    MAX_EVENTS,
    MAX_LENGTH,
    MIN_EVENTS,
    MIN_GAP,
    MIN_LENGTH,
    OPPOSITE,
    Bystander,
    Event,
    Scene,
    State,
    after,
    draw_scene,
    holds_look_alikes,
    possible,
)
from invert_rl.toy.world import BAR, FPS, FRAMES, pose_at, render

BYSTANDER = Bystander("blue", 40.0, (2.0, 3.0, 4.0))
SCENES = [draw_scene(clip_seed(5, "test", index)) for index in range(400)]


def decode(content: bytes) -> np.ndarray:
    with av.open(io.BytesIO(content)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def changed(first: np.ndarray, second: np.ndarray) -> int:
    """Pixels that differ by more than noise and compression do."""
    return int((np.abs(first.astype(int) - second).max(axis=-1) > 40).sum())


def test_events_are_on_the_grid_apart_and_within_the_clip():
    for scene in SCENES:
        edges = [0.0, *(time for event in scene.events for time in (event.start, event.end)), DURATION]
        assert MIN_EVENTS <= len(scene.events) <= MAX_EVENTS
        assert all(edge % GRID == 0 for edge in edges)
        assert all(edges[i + 1] - edges[i] >= MIN_GAP for i in range(0, len(edges), 2))
        assert all(MIN_LENGTH <= event.end - event.start <= MAX_LENGTH for event in scene.events)


def test_every_event_is_possible_when_it_happens_and_no_verb_is_repeated():
    for scene in SCENES:
        state = scene.first
        for event in scene.events:
            assert event.before == state
            assert possible(event.verb, scene.noun, state), (event, scene)
            state = after(event.verb, state)
        verbs = [event.verb for event in scene.events]
        assert len(set(verbs)) == len(verbs)


def test_an_open_box_cannot_be_opened_nor_a_closed_one_closed():
    assert possible("open", "box", State()) and not possible("open", "box", State(opened=True))
    assert possible("close", "box", State(opened=True)) and not possible("close", "box", State())
    assert not possible("open", "bag", State())
    assert not possible("walk", "box", State(sitting=True))


def test_verbs_are_about_equally_common_and_every_clip_has_two_that_look_alike():
    counts = Counter(event.verb for scene in SCENES for event in scene.events)
    total = sum(counts.values())
    assert set(counts) == set(VERBS)
    assert min(counts.values()) / total > 0.02 and max(counts.values()) / total < 0.09
    assert all(holds_look_alikes([event.verb for event in scene.events]) for scene in SCENES)
    assert sorted(verb for group in LOOK_ALIKES for verb in group) == sorted(VERBS)


def test_the_actor_moves_inside_the_planted_windows_and_only_there():
    for scene in SCENES[:60]:
        poses = [pose_at(scene, index / FPS) for index in range(FRAMES)]
        inside = set()
        for event in scene.events:
            first, last = round(event.start * FPS), round(event.end * FPS)
            inside |= set(range(first, last + 1))
            for start in range(first, last - FPS // 2):
                assert len(set(poses[start : start + FPS // 2 + 1])) > 1, (event, start / FPS)
        for frame in set(range(1, FRAMES)) - inside:
            assert poses[frame] == poses[frame - 1], frame / FPS


def test_the_bystander_never_stands_still_and_is_not_the_actors_colour():
    for index in range(8):
        rng = clip_seed(6, "test", index)
        scene = draw_scene(rng)
        assert scene.bystander.colour != scene.colour
        frames = decode(encode(render(scene, rng)))
        assert frames.shape == (FRAMES, 56, 56, 3)
        above = frames[:, : -BAR - 1]
        assert all(changed(above[frame - FPS], above[frame]) > 0 for frame in range(FPS, FRAMES))


def test_the_bar_at_the_foot_shows_the_time_and_nothing_else():
    for index in range(4):
        rng = clip_seed(6, "test", index)
        frames = decode(encode(render(draw_scene(rng), rng)))
        bright = (frames[:, -2].mean(axis=-1) > 128).sum(axis=1)
        np.testing.assert_allclose(bright, 56 * np.arange(FRAMES) / FRAMES, atol=1.5)


@pytest.mark.parametrize("verb", [verb for verb in OPPOSITE if verb in ("open", "sit", "push", "pick")])
def test_opposites_show_the_same_pictures_in_reversed_order(verb):
    noun = {"open": "door", "sit": "bag", "push": "cart", "pick": "bag"}[verb]
    forward = Scene("red", noun, False, (200, 200, 200), State(), (Event(verb, 2.0, 5.0, State()),), BYSTANDER)
    before = after(verb, State())
    backward = replace(forward, first=before, events=(Event(OPPOSITE[verb], 2.0, 5.0, before),))
    for step in range(1, 24):
        there = pose_at(forward, 2.0 + step / FPS)
        back = pose_at(backward, 5.0 - step / FPS)
        flat = [np.array([np.nan if part is None else part for part in _flat(pose)]) for pose in (there, back)]
        np.testing.assert_allclose(flat[0], flat[1], atol=1e-9)
    assert _flat(pose_at(forward, 2.5)) != _flat(pose_at(backward, 2.5))


def _flat(pose: object) -> list[float | None]:
    parts: list[float | None] = []
    for value in astuple(pose):  # type: ignore[call-overload]
        parts += list(value) if isinstance(value, tuple) else [value]
    return parts


def test_no_part_of_actor_or_object_leaves_the_picture():
    for scene in SCENES[:150]:
        for time in np.arange(0, DURATION, 0.25):
            pose = pose_at(scene, float(time))
            assert 6 <= pose.actor_x <= 50 and 10 <= pose.object_x <= 46


def test_decoded_pictures_are_close_to_the_drawn_ones():
    rng = clip_seed(6, "train", 0)
    drawn = render(draw_scene(rng), rng)
    error = ((decode(encode(drawn)).astype(float) - drawn) ** 2).mean()
    assert 10 * np.log10(255**2 / error) > 27  # decibels; halved colour resolution costs most of it
