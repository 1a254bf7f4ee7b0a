"""A run folder as training leaves it, with invented answers on a toy world: no model needed."""

from __future__ import annotations

import json
import random
from pathlib import Path

from data_prep.rows import Row, read_rows
from invert_rl.evaluation.predictions import Prediction, write_predictions
from invert_rl.evaluation.scoring import metrics_of, score_answers
from invert_rl.tasks import DEFAULT_TASKS
from rewards.pipelines import load_pipeline


def make_run(folder: Path, data: Path, videos: Path, seed: int = 0, steps: int = 30) -> Path:
    """Write log, samples and summary of an invented run that got better; returns ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    rows = read_rows(data)
    pipeline = load_pipeline()
    summary: dict = {}
    for name, skill in (("before", 0.2), ("after", 0.8)):
        predictions = [answer(task, row, rows, skill, rng) for task in DEFAULT_TASKS for row in rows]
        score_answers(predictions, rows, options={"pipeline": pipeline})
        write_predictions(predictions, folder / f"samples_{name}.jsonl")
        summary[name] = metrics_of(predictions, rows)
    summary |= {"seconds": 12.0, "settings": {"eval_data": str(data), "video_root": str(videos), "seed": seed}}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "quarantine.json").write_text(json.dumps({"broken.mp4": "no frame could be decoded"}))
    with (folder / "log.jsonl").open("w") as out:
        for step in range(1, steps + 1):
            out.write(json.dumps(log_record(step, steps, rng)) + "\n")
        out.write(json.dumps({"step": steps, "train_runtime": 12.0}) + "\n")
    return folder


def answer(task: str, row: Row, rows: list[Row], skill: float, rng: random.Random) -> Prediction:
    """A right answer with probability ``skill``, else a wrong or an unreadable one, or no video."""
    chance = rng.random()
    prediction = Prediction(row.id, task)
    start, end = row.windows[0]
    verb = row.meta["verbs"][0] if chance < skill else rng.choice(rows).meta["verbs"][0]
    if chance > 0.97:
        prediction.status = "missing_video"
        return prediction
    if chance > 0.9:
        prediction.status, prediction.text = "unparsable", "<think>I cannot </script> tell & so on</think>"
        return prediction
    if task == "tvg":
        shift = rng.uniform(-0.5, 0.5) if chance < skill else rng.uniform(-4, 4)
        prediction.windows = [(round(start + shift, 2), round(end + shift * 0.7, 2))]
        said = f"{prediction.windows[0][0]} to {prediction.windows[0][1]}"
    else:
        said = {"vc": row.meta["masked_query"].replace("[]", verb), "ar": verb, "vd": f"Somebody {verb}s it."}[task]
    prediction.text = f"<think>The {row.meta['object']} moves first, then it is still.</think> <answer>{said}</answer>"
    return prediction


def log_record(step: int, steps: int, rng: random.Random) -> dict[str, float]:
    """One line of the log, of one task."""
    task = "tvg" if rng.random() < 0.7 else rng.choice(["vc", "ar", "vd"])
    reward = 0.4 + 0.5 * step / steps + rng.uniform(-0.1, 0.1)
    part = "iou" if task == "tvg" else task
    return {
        "step": step,
        "loss": rng.uniform(-0.01, 0.01),
        "reward": reward,
        f"{task}/reward": reward,
        f"{task}/format": 0.3,
        f"{task}/{part}": reward - 0.3,
        f"{task}/valid_answers": 1.0,
        "kl": 0.001 * step,
        "completions/mean_length": 30 + rng.uniform(-2, 2),
        "completions/min_length": 20.0,
        "completions/max_length": 40.0,
        "step_time": 0.9,
        "time/decode": 0.1,
        "time/rollout": 0.5,
        "time/update": 0.3,
    }
