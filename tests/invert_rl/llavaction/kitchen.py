"""A small csv of made-up kitchen actions and a specialist's scores for it."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from invert_rl.llavaction.segments import Segment, action_key

VERBS = ("take", "put-down", "wash", "cut", "open", "close")
NOUNS = ("tap:hot", "knife", "plate", "board:cutting", "cup", "pan", "onion")
WORDS = {"take": ("take", "pick up"), "put-down": ("put down", "lay down", "take")}
"""Two verbs share the word "take", so that texts of different classes can be the same."""


def make_segments(count: int, seed: int = 0) -> list[Segment]:
    """Segments with gaps between 0 and 6 s, ten to a video."""
    rng = np.random.default_rng(seed)
    segments: list[Segment] = []
    time = 0.0
    for number in range(count):
        if number % 10 == 0:
            time = 0.0
        verb, noun = int(rng.integers(len(VERBS))), int(rng.integers(len(NOUNS)))
        words = WORDS.get(VERBS[verb], (VERBS[verb],))
        text = f"{words[int(rng.integers(len(words)))]} {NOUNS[noun].split(':')[0]}"
        start = round(time + float(rng.uniform(0.1, 6.0)), 2)
        time = round(start + float(rng.uniform(0.5, 4.0)), 2)
        video = f"P{number // 10 % 30:02d}_{number // 10:03d}"
        segments.append(Segment(f"{video}_{number % 10}", video, start, time, text, verb, noun))
    return segments


def clock(seconds: float) -> str:
    """``HH:MM:SS.ss``."""
    return f"{int(seconds // 3600):02d}:{int(seconds // 60 % 60):02d}:{seconds % 60:05.2f}"


def write_csv(path: Path, segments: list[Segment]) -> Path:
    """The segments with EPIC-KITCHENS-100's columns."""
    columns = ("narration_id", "video_id", "start_timestamp", "stop_timestamp", "narration", "verb_class", "noun_class")
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for s in segments:
            writer.writerow([s.id, s.video, clock(s.start), clock(s.end), s.narration, s.verb, s.noun])
    return path


def write_names(path: Path, names: tuple[str, ...]) -> Path:
    """A list of classes with the official columns id and key."""
    path.write_text("id,key\n" + "".join(f"{number},{name}\n" for number, name in enumerate(names)))
    return path


def write_scores(path: Path, segments: list[Segment], seed: int = 1) -> tuple[Path, np.ndarray, list[str]]:
    """Random scores of all classes that occur; returns the file, the scores and the classes."""
    keys = [action_key(action) for action in sorted({segment.action for segment in segments})]
    scores = np.random.default_rng(seed).random((len(segments), len(keys)))
    np.savez(path, ids=np.array([s.id for s in segments]), scores=scores, classes=np.array(keys))
    return path, scores, keys
