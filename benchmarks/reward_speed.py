"""Time of the verb rewards for a batch of 32 completions, against one ``nlp(text)`` per text.

``python benchmarks/reward_speed.py [--json]``. Both ways run in one process, on one thread, alternating; the times are
medians in milliseconds. The plain way reloads nothing either: it only lacks the batch and lemmatizes every word.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
# This file bears the name of the package it measures and would otherwise import itself.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from rewards.answers import answer_or_bare_text  # noqa: E402
from rewards.pipelines import VerbPipeline, load_pipeline  # noqa: E402
from rewards.verbs import ar_reward, ar_score, vc_reward, vc_score, vd_reward, vd_score  # noqa: E402

BATCH = 32
RUNS = {"!": "!", "emoji": "\U0001f3ac", "zero width": "\u200b", "'s": "'s", "letter": "a", "mixed": "!?\U0001f3ac' "}
RUN_LENGTH = 5000
RUN_LIMIT_MS = 20.0
"""What a completion of a collapsed policy may cost, alone and in a batch of 64."""
LIMITS_MS = {"vc": 10.0, "ar": 10.0, "vd": 40.0}
"""What a batch may cost; the paper reports 81, 10 and 46 ms a step (appendix C)."""
SUBJECTS = ["person", "a person", "the man", "another woman", "a young boy", "the girl in red"]
VERBS = ["opens", "closes", "puts down", "is holding", "throws", "picks up", "looks at", "walks past", "washes"]
OBJECTS = ["the door", "a box", "some clothes", "the laptop", "a glass of water", "their phone", "the red towel"]
PLACES = ["", " in the kitchen", " on the table", " near the window", " by the sofa"]


def clause(rng: random.Random) -> str:
    """One clause of about eight words."""
    return f"{rng.choice(SUBJECTS)} {rng.choice(VERBS)} {rng.choice(OBJECTS)}{rng.choice(PLACES)}"


def batch(task: str, rng: random.Random) -> list[str]:
    """Completions of one step: a sentence for VC, a word for AR, three sentences for VD."""
    texts = []
    for _ in range(BATCH):
        if task == "ar":
            answer = rng.choice(VERBS)
        else:
            answer = ". ".join(clause(rng) for _ in range(3 if task == "vd" else 1)) + "."
        texts.append(f"<think>I watch the clip and see what happens.</think> <answer>{answer}</answer>")
    return texts


def plain(task: str, completions: list[str], verbs: list[list[str]], pipeline: VerbPipeline) -> list[float]:
    """The rewards by one ``nlp(text)`` per completion."""
    scores = []
    for completion, truth in zip(completions, verbs, strict=True):
        answer = answer_or_bare_text(completion)
        found = [token.lemma_.lower() for token in pipeline.nlp(answer) if token.pos_ == "VERB"]
        if task == "vc":
            scores.append(vc_score(found, truth))
        elif task == "ar":
            scores.append(ar_score(found, truth))
        else:
            scores.append(vd_score(found, truth, len(answer.split())))
    return scores


def collapsed(pipeline: VerbPipeline) -> dict[str, Any]:
    """Milliseconds of a description of 5,000 characters that repeats one or a few; the plain way on the first."""
    report: dict[str, Any] = {"limit_ms": RUN_LIMIT_MS}
    texts = {name: (body * RUN_LENGTH)[:RUN_LENGTH] for name, body in RUNS.items()}
    for name, text in texts.items():
        alone = partial(vd_reward, [text], verbs=[["open"]], pipeline=pipeline)
        report[f"{name}_ms"] = round(min(milliseconds(alone) for _ in range(5)), 2)
    rng = random.Random(0)
    noise = ["".join(rng.choices("!?.,' \U0001f3aca", k=RUN_LENGTH)) for _ in range(64)]
    batch = partial(vd_reward, noise, verbs=[["open"]] * 64, pipeline=pipeline)
    report["each_of_64_ms"] = round(min(milliseconds(batch) for _ in range(3)) / 64, 2)
    report["plain_ms"] = round(milliseconds(partial(pipeline.nlp, texts["!"])), 2)
    report["ratio"] = round(report["plain_ms"] / report["!_ms"], 1)
    return report


def milliseconds(function: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    function()
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--repeats", type=int, default=30, help="batches per task")
    parser.add_argument("--pipeline", help="spaCy package or folder; default: the shipped one")
    options = parser.parse_args()
    pipeline = load_pipeline(options.pipeline)
    rewards: dict[str, Callable[..., object]] = {"vc": vc_reward, "ar": ar_reward, "vd": vd_reward}
    rng = random.Random(0)
    report: dict[str, Any] = {
        "compared": f"verb rewards of {BATCH} completions in one batch against one nlp(text) per text",
        "pipeline": pipeline.name,
    }
    ratios = []
    for task, reward in rewards.items():
        batched, one_by_one = [], []
        for _ in range(options.repeats + 3):
            completions = batch(task, rng)
            verbs = [["open"]] * BATCH
            columns: dict[str, Any] = {"task": [task] * BATCH, "verbs": verbs, "pipeline": pipeline}
            batched.append(milliseconds(partial(reward, completions, **columns)))
            one_by_one.append(milliseconds(partial(plain, task, completions, verbs, pipeline)))
        fast, slow = statistics.median(batched[3:]), statistics.median(one_by_one[3:])
        ratios.append(slow / fast)
        report[task] = {
            "batched_ms": round(fast, 2),
            "one_by_one_ms": round(slow, 2),
            "ratio": round(slow / fast, 2),
            "limit_ms": LIMITS_MS[task],
        }
    report["collapsed"] = collapsed(pipeline)
    report["ratio"] = round(statistics.median(ratios), 2)
    if options.json:
        print(json.dumps(report))
        return
    print(f"{pipeline.name}, {BATCH} completions, median of {options.repeats} batches, milliseconds")
    print("task  batched  one by one  ratio")
    for task in rewards:
        row = report[task]
        print(f"{task:<6}{row['batched_ms']:7.2f}{row['one_by_one_ms']:12.2f}{row['ratio']:7.2f}")
    runs = ", ".join(f"{name} {value}" for name, value in report["collapsed"].items())
    print(f"one description of {RUN_LENGTH} characters of a run: {runs}")


if __name__ == "__main__":
    main()
