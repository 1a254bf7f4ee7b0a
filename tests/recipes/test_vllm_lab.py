"""With a real vLLM: Invert-SFT by LoRA, GRPO on its rollouts with validation, merge, answers of the merged folder.

Runs where vLLM is installed, such as in the lab (``make vllm-lab``; docs/vllm.md):

    .venv-vllm/bin/python -m pytest tests/recipes/test_vllm_lab.py -m slow
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from math import isnan
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from scipy.stats import ttest_ind

from benchmarks.vllm_lab.lab import compare, save_model, serve
from invert_rl.evaluation.difficulty import read_ratings
from invert_rl.grpo.vllm_limits import engine_limits
from invert_rl.toy.default import start_checkpoint
from invert_rl.toy.make import make_world
from invert_rl.video.settings import FrameSettings
from tests.recipes.test_adapter_chain import GRPO, LORA, SHORT, clips  # noqa: F401 - a fixture
from tests.recipes.test_train_llavaction import epic  # noqa: F401 - a fixture

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed; on a CPU: make vllm-lab"),
]

ROOT = Path(__file__).resolve().parents[2]
CPU_ENGINE = ["--plugins", str(ROOT / "benchmarks" / "vllm_lab" / "cpu_engine.py")]
AGREE = 0.02
"""Largest difference of log-probabilities: a random model gives the banned tokens about a hundredth."""
FRAMES = FrameSettings(fps=2.0, min_pixels=3136, max_pixels=6272)
FRAME_OPTIONS = ["--fps", "2", "--min-pixels", "3136", "--max-pixels", "6272"]


VARIED = """
from rewards import register_reward

def varied(completions, **columns):
    return [len(set(str(completion))) % 7 / 7 for completion in completions]

register_reward("varied", varied)
"""
"""A reward with variance on random weights: without it nothing would be trained."""


def run(*words: Any, **environment: str) -> str:
    """What a command of its own process writes, both streams; an engine keeps its process."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def chain(clips, tmp_path_factory) -> Iterator[dict[str, Any]]:  # noqa: F811
    """The folders of the chain: SFT by LoRA on a tiny model whose answers depend on the video."""
    folder = tmp_path_factory.mktemp("chain")
    base = save_model(folder, "qwen2_5_vl")
    data = ["--train_data", clips / "train.jsonl", "--video_root", clips / "videos", "--use_cpu", "true"]
    data += ["--bf16", "false", "--fps", 2, "--min_pixels", 3136, "--max_pixels", 6272]
    run(
        *(ROOT / "recipes" / "sft_invert.py", *SHORT, *LORA, *data, "--model_name_or_path", base),
        *("--output_dir", folder / "sft", "--tasks", "vd", "--tvg_probability", 0, "--tvg_from", 0),
        *("--learning_rate", "1e-2", "--muon_learning_rate", "1e-1", "--per_device_train_batch_size", 2),
        *("--save_strategy", "no", "--max_completion_length", 8),
    )
    (folder / "varied.py").write_text(VARIED)
    yield {"folder": folder, "base": base, "sft": folder / "sft" / "model", "data": data, "clips": clips}


def grpo(chain: dict[str, Any], name: str, *options: Any) -> list[dict[str, Any]]:
    """The log of three GRPO steps on top of the adapter, validated after each of them."""
    output = chain["folder"] / name
    run(
        *(
            ROOT / "recipes" / "grpo_invert.py",
            *SHORT,
            *GRPO,
            *chain["data"],
            *CPU_ENGINE,
            chain["folder"] / "varied.py",
        ),
        *("--max_steps", 3, "--tasks", "tvg", "--rewards", "tvg=varied:1"),
        *(
            "--model_name_or_path",
            chain["sft"],
            "--output_dir",
            output,
            "--learning_rate",
            "3e-2",
            "--use_vllm",
            "true",
        ),
        *("--eval_data", chain["clips"] / "test.jsonl", "--eval_strategy", "steps", "--eval_steps", 1, *options),
    )
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


def check_log(log: list[dict[str, Any]]) -> None:
    """Each round's log-probabilities are the trainer's, and validation came from the engine after each step."""
    name = "sampling/sampling_logp_difference/max"
    found = [entry[name] for entry in log if name in entry]
    assert len(found) == 3 and max(found) <= AGREE, found
    assert min(entry["grad_norm"] for entry in log if "grad_norm" in entry) > 0
    assert [entry["step"] for entry in log if "eval/mIoU" in entry] == [1, 2, 3]


def test_adapter_rollouts_validation_and_the_merged_folder(chain):
    check_log(grpo(chain, "colocate", "--vllm_mode", "colocate", "--vllm_gpu_memory_utilization", 0.1))
    merged = chain["folder"] / "merged"
    run("-m", "invert_rl.cli", "merge", chain["folder"] / "colocate" / "model", "--output", merged)

    answers = {}
    for model, backend in ((merged, "transformers"), (merged, "vllm"), (chain["base"], "vllm")):
        output = chain["folder"] / f"{Path(model).name}-{backend}.jsonl"
        said = run(
            *("-m", "invert_rl.cli", "evaluate", "--model", model, "--data", chain["clips"] / "test.jsonl", "--cpu"),
            *("--videos", chain["clips"] / "videos", "--tasks", "tvg", "vc", "ar", "vd", "--backend", backend),
            *(*FRAME_OPTIONS, "--max-new-tokens", 8, "--dtype", "float32", "--output", output, *CPU_ENGINE),
            VLLM_LOGGING_LEVEL="INFO",
        )
        answers[Path(model).name, backend] = [json.loads(line)["text"] for line in output.read_text().splitlines()]
        if backend == "vllm":
            check_limits(said)
    ours, engine, base = answers.values()
    assert engine == ours and len(ours) >= 8
    assert engine != base  # the adapter is in it


def check_limits(said: str) -> None:
    """The engine's own words on what it was made for: the limits derived from frames and lengths."""
    (told,) = re.findall(r"non-default args: (\{.*\})", said)
    limits = engine_limits(FRAMES, 8, positions=4096)
    for name, value in limits.items():
        assert f"'{name}': {value!r}" in told, (name, value, told)
    assert f"max_seq_len={limits['max_model_len']}" in said


def test_adapter_rollouts_by_a_server(chain):
    with serve(chain["base"]) as url:
        check_log(grpo(chain, "server", "--vllm_mode", "server", "--vllm_server_base_url", url))


def test_questions_of_llavaction_by_vllm(epic, tmp_path):  # noqa: F811
    """A model of the recipe, its action token included, answers the same by both backends."""
    for name, mode in (("all", "train"), ("test", "benchmark")):
        made = ["--annotations", epic / f"{name}.csv", "--classes-from", epic / "all.csv", "--mode", mode]
        run("-m", "invert_rl.cli", "build-mqa", *made, "--specialist", "random", "--output", tmp_path / f"{name}.jsonl")
    data = ["--train_data", tmp_path / "all.jsonl", "--video_root", epic / "videos", "--save_strategy", "no"]
    base = save_model(tmp_path, "qwen2_5_vl")
    run(
        *(ROOT / "recipes" / "train_llavaction.py", *data, "--model_name_or_path", base, "--max_steps", 2),
        *("--per_device_train_batch_size", 2, "--output_dir", tmp_path / "run"),
    )
    answers = []
    for backend in ("transformers", "vllm"):
        output = tmp_path / f"{backend}.jsonl"
        words = ["evaluate-mqa", "--model", tmp_path / "run" / "model", "--data", tmp_path / "test.jsonl"]
        words += ["--videos", epic / "videos", "--cpu", "--dtype", "float32", "--backend", backend]
        run("-c", COMMAND, CPU_ENGINE[1], *words, "--max-new-tokens", 16, "--output", output)
        answers.append([json.loads(line) for line in output.read_text().splitlines()])
    assert answers[0] == answers[1] and len({line["text"] for line in answers[0]}) > 3


COMMAND = "import sys; from invert_rl.plugins import load_plugins; load_plugins(sys.argv[1:2]); " + (
    "from invert_rl.cli import main; sys.exit(main(sys.argv[2:]))"
)
"""A command that takes no ``--plugins``, with the one that is named first."""


WHOLE_PROMPTS = """
from benchmarks.vllm_lab import cpu_engine
from invert_rl.grpo import vllm_rollout

vllm_rollout.ENGINE_ARGUMENTS["max_num_batched_tokens"] = 65536
"""
"""On a CPU the engine stops at a seeded prompt that it computes in pieces."""


def test_ratings_by_an_engine_are_those_of_transformers(tmp_path):
    """Mean rewards of 64 answers to each prompt of the toy world differ by no more than luck; colder ones do."""
    world = make_world(tmp_path / "toy", 0, 1, 0, 3, workers=2)
    (tmp_path / "plugin.py").write_text(WHOLE_PROMPTS)
    rated = {}
    for name, temperature in (("transformers", 1.0), ("vllm", 1.0), ("vllm", 0.6)):
        output = tmp_path / f"{name}-{temperature}.jsonl"
        words = ["rate-difficulty", world["test"], "--videos", tmp_path / "toy" / "videos", "--backend", name]
        words += ["--model", start_checkpoint(), "--prompt", "think", "--generations", 64, "--max-new-tokens", 40]
        words += ["--cpu", "--dtype", "float32", *FRAME_OPTIONS, "--temperature", temperature, "--output", output]
        run("-c", COMMAND, tmp_path / "plugin.py", *words)
        rated[name, temperature] = read_ratings(output)
    ours, engine, colder = rated.values()
    assert ours.keys() == engine.keys() and len(ours) >= 40
    assert luck(ours, engine) < 1.8 < 3 < luck(ours, colder), (luck(ours, engine), luck(ours, colder))


def luck(first: dict[Any, list[float]], second: dict[Any, list[float]]) -> float:
    """The mean squared difference of means in squared standard errors: 1 where both sample the same answers."""
    tests = [ttest_ind(values, second[key], equal_var=False) for key, values in first.items()]
    return fmean(found.statistic**2 for found in tests if not isnan(found.statistic))


@pytest.mark.parametrize("engine", ["vllm", "server"])
@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def test_parity(kind, engine, tmp_path):
    found = compare(kind, engine, tmp_path)
    assert found["ok"], found
    assert max(found["logps"][name] for name in ("before_largest", "changed_largest")) < 1e-3
    assert found["logps"]["visible"] > 10 * 1e-4
    assert ("positions" in found["not_checked"]) == (engine == "server")


@pytest.mark.parametrize(
    ("broken", "verdict"),
    [
        ("vllm_engine.push_weights = lambda generation: None", "weights: stale weights"),
        ("vllm_rollout.engine_dtype = lambda args, model: torch.bfloat16", "precision: another precision"),
    ],
    ids=["nothing_pushed", "half"],
)
def test_parity_names_what_is_broken_in_a_real_engine(broken, verdict, tmp_path):
    """The push that does nothing; an engine in half precision."""
    plugin = tmp_path / "broken.py"
    plugin.write_text(
        f"import torch\nfrom invert_rl.grpo import vllm_rollout\nfrom invert_rl.parity import vllm_engine\n{broken}\n"
    )
    found = compare("qwen2_5_vl", "vllm", tmp_path, plugin)
    assert not found["ok"] and found["verdict"].startswith(verdict), found
