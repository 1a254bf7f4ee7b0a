"""The doctor on vLLM's two ways, by the stand-ins that the rollouts' tests have: an engine here, and a server."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from invert_rl.grpo.config import InvertGRPOConfig
from invert_rl.models import load_model, load_processor, never_sampled_ids, vision_language_model
from invert_rl.parity import vllm_engine
from invert_rl.parity.doctor import Doctor, Findings
from invert_rl.parity.reference import Reference
from invert_rl.parity.vllm_engine import VLLMEngine
from tests.invert_rl.grpo.test_vllm_rollout import StandInEngine, stand_in  # noqa: F401 - a fixture
from tests.invert_rl.grpo.test_vllm_server import serve, without_vllm  # noqa: F401 - fixtures
from tests.invert_rl.parity.test_parity import prompts_of

FACTS = {"name": "vllm", "version": "0.31", "dtype": "float32"}


class Looking(StandInEngine):
    """A stand-in that asks its model for positions as vLLM's runner does."""

    def __init__(self, model, **arguments):
        super().__init__(model, **arguments)
        runner = self.llm_engine.model_executor.driver_worker.model_runner
        runner.model.get_mrope_input_positions = self.reckon
        runner.get_model = lambda: runner.model

    def reckon(self, tokens, features):
        positions, deltas = vision_language_model(self.model).get_rope_index(**self.inputs)
        return positions[:, 0], int(deltas)

    def sample(self, ids, inputs, params):
        names = ("mm_token_type_ids", "video_grid_thw", "second_per_grid_ts")
        self.inputs = {"input_ids": ids, **{name: inputs[name] for name in names if name in inputs}}
        seconds = inputs.get("second_per_grid_ts")
        data = {} if seconds is None else {"second_per_grid_ts": SimpleNamespace(data=torch.as_tensor(seconds)[0])}
        runner = self.llm_engine.model_executor.driver_worker.model_runner
        runner.model.get_mrope_input_positions(ids[0].tolist(), [SimpleNamespace(data=data)])
        return super().sample(ids, inputs, params)


@pytest.fixture
def examine(world, rows, tmp_path, monkeypatch, stand_in):  # noqa: F811
    """What the doctor finds of a checkpoint; ``spoil`` breaks the stand-in's engine first."""
    monkeypatch.setattr(vllm_engine.trl_vllm, "LLM", Looking)
    monkeypatch.setattr(vllm_engine, "facts_of", lambda llm: (FACTS, 16))
    monkeypatch.setattr(vllm_engine, "facts_of_server", lambda client: (FACTS, 16))
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):  # TRL sets them
        monkeypatch.setenv(name, "0")
        monkeypatch.delenv(name)

    def run(checkpoint, spoil=lambda engine: None, server=None) -> Findings:
        args = InvertGRPOConfig(
            output_dir=str(tmp_path),
            use_vllm=True,
            vllm_mode="server" if server else "colocate",
            vllm_server_base_url=server.url if server else None,
            vllm_server_timeout=10,
            temperature=0.9,
            max_completion_length=4,
            bf16=False,
            use_cpu=True,
            min_pixels=3136,
        )
        processor, model = load_processor(checkpoint), load_model(checkpoint)
        engine = VLLMEngine(args, model, processor, rows=4)
        spoil(server.engine if server else engine.generation.llm)
        reference = Reference(model, never_sampled_ids(processor), temperature=0.9)
        return Doctor(engine, reference, processor, prompts_of(checkpoint, world, rows), 2, 4).examine()

    return run


def test_an_engine_in_the_process_passes(examine, tiny_qwen2_5):
    found = examine(tiny_qwen2_5)
    assert [check.name for check in found.checks if not check.ok] == [], found
    assert {"frame_times", "positions", "logps", "weights", "restored"} <= {check.name for check in found.checks}


def test_a_server_passes(examine, tiny_qwen3, serve):  # noqa: F811
    found = examine(tiny_qwen3, server=serve(tiny_qwen3))
    assert [check.name for check in found.checks if not check.ok] == [], found
    assert {"logps", "weights", "restored", "banned_tokens"} <= {check.name for check in found.checks}


def stock(engine):
    del vision_language_model(engine.model).get_rope_index


def half(engine):
    engine.model.to(torch.bfloat16)


def deaf(engine):
    def load(weights):
        list(weights)

    engine.llm_engine.model_executor.driver_worker.model_runner.model.load_weights = load


def unbanned(engine):
    sample = engine.sample
    engine.sample = lambda ids, inputs, params: sample(
        ids, inputs, SimpleNamespace(**{**vars(params), "logit_bias": {}})
    )


def sparse(engine):
    engine.frame_step = 2


@pytest.mark.parametrize(
    ("spoil", "verdict"),
    [
        (stock, "positions: stock positions"),
        (half, "logps: another precision"),
        (deaf, "weights: stale weights"),
        (unbanned, "banned_tokens: banned tokens allowed"),
        (sparse, "placeholders: wrong placeholder count"),
    ],
)
def test_a_broken_engine_is_named(examine, tiny_qwen2_5, spoil, verdict):
    assert examine(tiny_qwen2_5, spoil).verdict.startswith(verdict)
