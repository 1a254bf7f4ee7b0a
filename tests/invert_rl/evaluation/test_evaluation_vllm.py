"""The vLLM backend of evaluation: what the engine is asked, by a stand-in, and the real one where it is there."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.cli import main
from invert_rl.encoding import EncodedPrompt, PromptEncoder
from invert_rl.evaluation.model import choose_backend
from invert_rl.models import load_processor, never_sampled_ids
from invert_rl.tasks import TASKS, messages, video_of
from invert_rl.video.settings import FrameSettings
from invert_rl.video.store import FrameStore


class StandIn:
    """What the backend uses of `vllm.LLM`: answers each prompt with its own length."""

    expanded: dict[tuple[int, ...], list[int]] = {}

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(dtype=torch.bfloat16, max_model_len=512))

    def generate(self, prompts: list[dict], sampling: list[SimpleNamespace], use_tqdm: bool) -> list[SimpleNamespace]:
        StandIn.asked, StandIn.sampling = prompts, sampling
        return [
            SimpleNamespace(
                prompt_token_ids=self.expanded[tuple(prompt["prompt_token_ids"])],
                outputs=[SimpleNamespace(token_ids=(number + answer, 7)) for answer in range(getattr(one, "n", 1))],
            )
            for number, (prompt, one) in enumerate(zip(prompts, sampling, strict=True))
        ]


@pytest.fixture
def prompts(world: Path, rows: list[Row], tiny_qwen2_5: str) -> list[EncodedPrompt]:
    """Two prompts with different videos."""
    processor = load_processor(tiny_qwen2_5)
    store = FrameStore(world / "videos", FrameSettings(min_pixels=3136, max_pixels=6272))
    chats = [messages(TASKS["tvg"], rows[0]), messages(TASKS["vd"], rows[-1])]
    return [PromptEncoder(processor)(chat, store.clip(video_of(chat))) for chat in chats]


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The backend with a stand-in for vLLM."""
    importlib.import_module("invert_rl.grpo.vllm_rollout")  # TRL looks for the real vLLM when it is imported
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=StandIn, SamplingParams=SimpleNamespace))
    monkeypatch.delitem(sys.modules, "invert_rl.evaluation.vllm_backend", raising=False)
    yield importlib.import_module("invert_rl.evaluation.vllm_backend")
    sys.modules.pop("invert_rl.evaluation.vllm_backend")


def test_engine_gets_the_prompts_and_decodes_greedily(
    prompts: list[EncodedPrompt], tiny_qwen2_5: str, backend: Any
) -> None:
    processor = load_processor(tiny_qwen2_5)
    StandIn.expanded = {tuple(prompt.unexpanded_ids): prompt.input_ids for prompt in prompts}
    limits = {"max_model_len": 77}
    complete, dtype, places = backend.complete_with_vllm("checkpoint", None, processor, 9, "auto", limits)
    assert complete(prompts) == [[0, 7], [1, 7]] and (dtype, places) == ("bfloat16", 512)
    video = processor.tokenizer.convert_tokens_to_ids("<|video_pad|>")
    assert [prompt["prompt_token_ids"].count(video) for prompt in StandIn.asked] == [1, 1]
    frames = [prompt["multi_modal_data"]["video"][0][0] for prompt in StandIn.asked]
    assert all((frame == prompt.clip.frames.numpy()).all() for frame, prompt in zip(frames, prompts, strict=True))
    for sampling in StandIn.sampling:
        assert (sampling.temperature, sampling.max_tokens) == (0.0, 9)
        assert set(sampling.logit_bias) == set(never_sampled_ids(processor))
    StandIn.expanded = {tuple(prompt.unexpanded_ids): prompt.input_ids[:-1] for prompt in prompts}
    with pytest.raises(DataError, match="vLLM's prompt is not the processor's"):
        complete(prompts)


def test_rating_samples_by_row_alone(
    prompts: list[EncodedPrompt], rows: list[Row], tiny_qwen2_5: str, backend: Any
) -> None:
    """Each request has a seed of its own, the same in every batch; others ask otherwise."""
    processor = load_processor(tiny_qwen2_5)
    StandIn.expanded = {tuple(prompt.unexpanded_ids): prompt.input_ids for prompt in prompts}
    jobs = [(TASKS["tvg"], rows[0]), (TASKS["vd"], rows[-1])]

    def sampler(seed: int) -> Any:
        return backend.sample_with_vllm("checkpoint", None, processor, 3, 0.8, 9, seed, "auto", {})[0]

    assert sampler(0)(prompts, jobs) == [[[0, 7], [1, 7], [2, 7]], [[1, 7], [2, 7], [3, 7]]]
    first = list(StandIn.sampling)
    assert [(one.n, one.temperature, one.max_tokens) for one in first] == [(3, 0.8, 9)] * 2
    assert set(first[0].logit_bias) == set(never_sampled_ids(processor))
    sampler(0)(prompts[1:], jobs[1:])
    assert StandIn.sampling[0].seed == first[1].seed != first[0].seed
    sampler(1)(prompts, jobs)
    assert StandIn.sampling[0].seed != first[0].seed


def test_the_rating_command_asks_vllm(
    world: Path, rows: list[Row], tiny_qwen2_5: str, backend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("invert_rl.evaluation.model.find_spec", lambda name: object())
    monkeypatch.setattr(StandIn, "expanded", Expanded(tiny_qwen2_5, world, rows))
    command = ["rate-difficulty", world / "train.jsonl", "--model", tiny_qwen2_5, "--videos", world / "videos", "--cpu"]
    command += ["--tasks", "tvg", "--generations", "3", "--max-new-tokens", "5", "--backend", "vllm", "--json"]
    command += ["--min-pixels", "3136", "--max-pixels", "6272", "--output", tmp_path / "r.jsonl"]
    assert main([str(word) for word in command]) == 0
    assert {one.n for one in StandIn.sampling} == {3}
    ratings = [json.loads(line) for line in (tmp_path / "r.jsonl.part0").read_text().splitlines()]
    assert len(ratings) == len(rows) and all(len(one["rewards"]) == 3 for one in ratings)
    assert main([*map(str, command), "--backend", "transformers"]) == 1  # another run's


class Expanded(dict):
    """Expands any prompt as the checkpoint's processor does."""

    def __init__(self, checkpoint: str, world: Path, rows: list[Row]) -> None:
        encoder = PromptEncoder(load_processor(checkpoint))
        store = FrameStore(world / "videos", FrameSettings(min_pixels=3136, max_pixels=6272))
        for row in rows:
            chat = messages(TASKS["tvg"], row)
            prompt = encoder(chat, store.clip(video_of(chat)))
            self[tuple(prompt.unexpanded_ids)] = prompt.input_ids


@pytest.mark.parametrize(
    ("installed", "device", "ranks", "wanted", "chosen"),
    [
        (True, "cuda", 1, "auto", "vllm"),
        (True, "cuda", 2, "auto", "transformers"),
        (True, "cpu", 1, "auto", "transformers"),
        (False, "cuda", 1, "auto", "transformers"),
        (True, "cpu", 1, "vllm", "vllm"),
        (False, "cuda", 1, "vllm", "vLLM is not installed"),
        (True, "cuda", 2, "vllm", "runs in one process"),
        (True, "cuda", 1, "transformers", "transformers"),
    ],
)
def test_choice_of_the_backend(
    monkeypatch: pytest.MonkeyPatch, installed: bool, device: str, ranks: int, wanted: str, chosen: str
) -> None:
    monkeypatch.setattr("invert_rl.evaluation.model.find_spec", lambda name: object() if installed else None)
    state: Any = SimpleNamespace(device=torch.device(device), num_processes=ranks)
    if " " in chosen:
        with pytest.raises(DataError, match=chosen):
            choose_backend(wanted, state)
    else:
        assert choose_backend(wanted, state) == chosen


@pytest.mark.slow
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
def test_real_engine_answers_as_transformers(world: Path, tiny_qwen2_5: str, tmp_path: Path) -> None:
    answers = []
    for backend in ("transformers", "vllm"):
        output = tmp_path / f"{backend}.jsonl"
        command = ["evaluate", "--model", tiny_qwen2_5, "--data", world / "test.jsonl", "--videos", world / "videos"]
        options = ["--tasks", "tvg", "ar", "--max-new-tokens", "12", "--min-pixels", "3136", "--max-pixels", "6272"]
        options += ["--cpu", "--dtype", "float32", "--backend", backend, "--output", output]
        assert main([str(word) for word in (*command, *options)]) == 0
        answers.append([json.loads(line)["text"] for line in output.read_text().splitlines()])
    assert answers[0] == answers[1] and len(answers[0]) > 5
