"""Multiple-choice questions about the toy world's actions, with hard or random distractors."""

from __future__ import annotations

from collections.abc import Sequence

from data_prep.rows import Row, read_rows
from invert_rl.llavaction.data import Classes, RunData
from invert_rl.llavaction.mqa import QuestionBuilder, question_row
from invert_rl.llavaction.priors import prior_segments
from invert_rl.llavaction.segments import ClassMap
from invert_rl.llavaction.specialist import RandomClasses
from invert_rl.toy.actions import NOUN_NAMES, VERB_NAMES, ToySpecialist, toy_segment
from invert_rl.toy.default import GRPO_SEED, toy_world

TEST_SEED = 1000
"""Seed of the test questions: the same for every seed of training."""


def toy_questions(rows: Sequence[Row], classes: ClassMap, distractors: str, mode: str, seed: int) -> list[Row]:
    """One question per row, its distractors "hard" (of the toy specialist) or "random"; ``mode`` as in build-mqa."""
    segments = [toy_segment(row) for row in rows]
    hard = distractors == "hard"
    specialist = ToySpecialist(rows, classes.actions, seed) if hard else RandomClasses(classes, seed)
    by_id = {row.id: row for row in rows}
    priors = prior_segments(segments)
    return [
        question_row(
            question,
            question.segment.narration,
            by_id[question.segment.id].duration,
            by_id[question.segment.id].video,
            "toy",
            by_id[question.segment.id].split,
            [(prior, prior.narration) for prior in priors.get(question.segment.id, ())],
        )
        for question in QuestionBuilder(classes, specialist, mode=mode, seed=seed).questions(segments)
    ]


def toy_run_data(train_clips: int, test_clips: int, distractors: str, seed: int) -> RunData:
    """Training questions with hard or random distractors, and the same test questions with both.

    Hard ones are named first: they are what counts. The clips are those of the toy world that GRPO trains on.
    """
    world = toy_world(GRPO_SEED, train_clips, test_clips)
    train, test = read_rows(world.train), read_rows(world.test)
    segments = [toy_segment(row) for row in [*train, *test]]
    classes = ClassMap(segments, dict(enumerate(VERB_NAMES)), dict(enumerate(NOUN_NAMES)))
    rows = toy_questions(train, classes, distractors, "train", seed)
    tests = {name: toy_questions(test, classes, name, "benchmark", TEST_SEED) for name in ("hard", "random")}
    actions = [f"{verb}:{noun}" for verb, noun in classes.actions]
    pools = {"mqa": rows, "temporal": rows, "direct": rows}
    return RunData(pools, tests, Classes(classes.verbs, classes.nouns, actions), str(world.videos))
