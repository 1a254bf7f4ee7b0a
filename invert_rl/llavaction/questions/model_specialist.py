"""A video LLM as the specialist: which classes it takes each clip for, in a pass over the clips that can be resumed."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.errors import DataError
from data_prep.files import read_jsonl
from data_prep.progress import progress
from data_prep.rows import Row
from invert_rl.evaluation.parts import begin, cut_last_line
from invert_rl.llavaction.answers.model_arguments import FRAMES, model_identity
from invert_rl.llavaction.questions.specialist import NoPrediction
from invert_rl.llavaction.segments import Action, ClassMap, Segment, action_key, parse_action

PREFIX = "model:"
"""Of a specialist's name: ``model:PATH``."""
MISSING = "missing_video"


class ModelSpecialist:
    """Rankings that `rank_clips` has written: a video LLM's likeliest classes of each clip, asked without options."""

    knows_truth = False

    def __init__(self, model: str, rankings: Mapping[str, Sequence[Action] | None]) -> None:
        self.description = f"{model}: a video LLM's likeliest classes"
        self.rankings = rankings

    def ranked(self, place: int, segment: Segment) -> Sequence[Action]:
        ranking = self.rankings.get(segment.id)
        if ranking is None:
            raise NoPrediction("the clip cannot be shown to the model")
        return ranking


def class_texts(classes: ClassMap) -> list[str]:
    """How each class is written for the model: its label where classes have names, or else its commonest narration."""
    texts = []
    for action in classes.actions:
        try:
            texts.append(classes.label(action))
        except DataError:
            pool = classes.narrations[action]
            if not pool:
                raise
            texts.append(min(pool, key=lambda text: (-pool[text], text)))
    return texts


def rank_clips(args: argparse.Namespace, rows: Sequence[Row], classes: ClassMap, output: Path) -> ModelSpecialist:
    """Show each row's clip to the model that ``args.specialist`` names, and read what it wrote before a kill.

    Rankings go to ``output`` line by line, ``{"id", "predictions": ["v:n", …], "scores"}`` or ``{"id", "status":
    "missing_video"}``. Raises `DataError` for a checkpoint that cannot be used, and if ``output`` was begun with
    another model, other classes or frames.
    """
    from invert_rl.llavaction.answers.class_beam import BEAM, ClassBeam
    from invert_rl.llavaction.answers.loaded import load_model
    from invert_rl.llavaction.prompts import direct_prompt
    from invert_rl.llavaction.views import Sample
    from invert_rl.video.errors import VideoError
    from invert_rl.video.ref import VideoRef

    texts = class_texts(classes)
    asked = argparse.Namespace(**{**vars(args), "model": args.specialist.removeprefix(PREFIX)})
    settings = {
        **model_identity(asked.model),
        "beam": BEAM,
        "classes": hashlib.sha256(json.dumps([classes.record(), texts]).encode()).hexdigest(),
        "clips": hashlib.sha256(json.dumps([(row.id, row.video, row.windows) for row in rows]).encode()).hexdigest(),
        **{name: getattr(args, name) for name in (*FRAMES, "time_instruction", "no_action_token")},
    }
    begin(output, output.with_suffix(".json"), settings)
    cut_last_line(output)
    known = read_rankings(output) if output.is_file() else {}
    left = [row for row in rows if row.id not in known]
    if left:
        model, encode = load_model(asked)
        beam = ClassBeam(model, encode, texts)
        prompt = direct_prompt(encode.settings.perspective, encode.settings.prompt_style)
        with output.open("a", encoding="utf-8") as out:
            for row in progress(left, "specialist", total=len(left)):
                sample = Sample("direct", prompt, "", VideoRef(row.video, *row.window), has_class=False)
                record: dict[str, Any] = {"id": row.id}
                try:
                    found = beam(sample, row)[:BEAM]
                    record["predictions"] = [action_key(classes.actions[place]) for place, _ in found]
                    record["scores"] = [round(score, 4) for _, score in found]
                except VideoError as error:
                    record |= {"status": MISSING, "reason": error.reason}
                out.write(json.dumps(record) + "\n")
                out.flush()
        known = read_rankings(output)
    return ModelSpecialist(args.specialist, known)


def read_rankings(path: Path) -> dict[str, list[Action] | None]:
    """Rankings of `rank_clips` by segment id; None for a clip that could not be shown."""
    found: dict[str, list[Action] | None] = {}
    for line, record in read_jsonl(path):
        where = f"{path}:{line}"
        predictions = record.get("predictions")
        found[str(record["id"])] = None if predictions is None else [parse_action(key, where) for key in predictions]
    return found
