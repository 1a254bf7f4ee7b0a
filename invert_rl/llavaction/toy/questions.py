"""The toy kitchen's questions, by the builder that makes those of EPIC-KITCHENS-100."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from accelerate import PartialState

from data_prep.rows import Row
from invert_rl.cache import cache_folder
from invert_rl.llavaction.data import Classes, RunData
from invert_rl.llavaction.questions.mqa import QuestionBuilder, question_row
from invert_rl.llavaction.questions.specialist import RandomClasses
from invert_rl.llavaction.segments import Action, ClassMap, Segment
from invert_rl.llavaction.toy.kitchen import NOUNS, SECONDS, VERBS, draw_action, render, segment
from invert_rl.llavaction.toy.kitchen import Action as ToyAction
from invert_rl.toy.make import encode

VERSION = 1
"""Raised whenever the same seed would give other clips."""
WORLD_SEED = 0
"""Of the clips: the same for every seed of training."""
TEST_SEED = 1000
"""Of the test questions: likewise."""
SPLITS = ("train", "test")


class SameNoun:
    """The toy kitchen's specialist: it sees what is handled and not what is done, and takes any of a noun's verbs."""

    knows_truth = False
    description = "toy: sees the noun and guesses the verb"

    def __init__(self, classes: ClassMap, seed: int) -> None:
        self.classes, self.seed = classes, seed

    def ranked(self, place: int, segment: Segment) -> Sequence[Action]:
        """Classes in random order, those with the segment's noun first."""
        rng = np.random.default_rng([self.seed, 3, zlib.crc32(segment.id.encode())])
        scores = rng.random(len(self.classes.actions))
        return sorted(
            self.classes.actions,
            key=lambda action: (action[1] != segment.noun, scores[self.classes.index[action]]),
        )


def toy_run_data(train_clips: int, test_clips: int, distractors: str, seed: int) -> RunData:
    """Training questions with "hard" or "random" wrong options, and the same test clips with both.

    Hard ones are named first: they are what counts.
    """
    videos = kitchen_clips(train_clips, test_clips)
    train, test = (
        [segment_of(split, place) for place in range(count)]
        for split, count in zip(SPLITS, (train_clips, test_clips), strict=True)
    )
    everything = [segment(verb, noun, "") for verb in range(len(VERBS)) for noun in range(len(NOUNS))]
    classes = ClassMap(everything, dict(enumerate(VERBS)), dict(enumerate(NOUNS)))
    rows = toy_questions(train, classes, distractors, seed)
    tests = {name: toy_questions(test, classes, name, TEST_SEED) for name in ("hard", "random")}
    actions = [f"{verb}:{noun}" for verb, noun in classes.actions]
    pools = {"mqa": rows, "temporal": rows, "direct": rows}
    return RunData(pools, tests, Classes(classes.verbs, classes.nouns, actions), str(videos))


def toy_questions(segments: Sequence[Segment], classes: ClassMap, distractors: str, seed: int) -> list[Row]:
    """One question a clip, its wrong options drawn uniformly: of the noun's other verbs, or of all other classes.

    The clips' classes are uniform and independent, too. So whichever five options a question has, each of them is the
    true one with probability 1/5, whatever the other questions and their answers are: no rule without a look at the
    clip is better than chance, but by luck.
    """
    specialist = SameNoun(classes, seed) if distractors == "hard" else RandomClasses(classes, seed, "classes")
    builder = QuestionBuilder(classes, specialist, seed=seed)
    return [
        question_row(question, question.segment.narration, SECONDS, f"{question.segment.video}.mp4", "toy-kitchen")
        for question in builder.questions(segments)
    ]


def action_of(split: str, place: int) -> ToyAction:
    """What happens in a clip; of split and place alone."""
    return draw_action(np.random.default_rng([WORLD_SEED, SPLITS.index(split), place]))


def segment_of(split: str, place: int) -> Segment:
    """A clip as a segment."""
    action = action_of(split, place)
    return segment(action.verb, action.noun, name_of(split, place))


def name_of(split: str, place: int) -> str:
    """A clip's name, without ending."""
    return f"{split}_{place:05d}"


def kitchen_clips(train: int, test: int) -> Path:
    """Folder with that many clips of each split, in the cache folder; those that are missing are made."""
    folder = cache_folder() / f"toy-kitchen-v{VERSION}"
    with PartialState().main_process_first():
        folder.mkdir(parents=True, exist_ok=True)
        there = set(os.listdir(folder))
        for split, count in zip(SPLITS, (train, test), strict=True):
            for place in range(count):
                name = f"{name_of(split, place)}.mp4"
                if name not in there:
                    rng = np.random.default_rng([WORLD_SEED, SPLITS.index(split), place, 1])
                    temporary = folder / f".{name}.{os.getpid()}"
                    temporary.write_bytes(encode(render(action_of(split, place), rng)))
                    os.replace(temporary, folder / name)
    return folder
