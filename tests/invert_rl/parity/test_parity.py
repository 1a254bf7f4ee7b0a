"""The doctor on stacks that are right, and on stacks that are broken on purpose: each fault is named, and no other."""

from __future__ import annotations

import json

import pytest
import torch

from invert_rl.cli import main
from invert_rl.encoding import EncodedPrompt
from invert_rl.models import load_model, load_processor, never_sampled_ids
from invert_rl.parity import command
from invert_rl.parity.change import WeightChange
from invert_rl.parity.doctor import Doctor, Findings
from invert_rl.parity.engines import Reply
from invert_rl.parity.logps import gap, limit_of
from invert_rl.parity.reference import Reference, Variant
from invert_rl.parity.transformers_engine import FAULTS, TransformersEngine
from tests.invert_rl.grpo.test_scoring import encode

NAMED = {
    "placeholders": ("placeholders", "wrong placeholder count"),
    "frame_times": ("frame_times", "wrong frame times"),
    "stock_positions": ("positions", "stock positions"),
    "half_precision": ("logps", "another precision"),
    "banned_tokens": ("banned_tokens", "banned tokens allowed"),
    "raw_logprobs": ("logps", "raw log-probabilities"),
    "stale_weights": ("weights", "stale weights"),
    "stale_prefix": ("weights", "stale prefix cache"),
    "stale_vision": ("weights", "stale vision features"),
}
"""The check that fails first, and what its cause begins with."""


class Unseen(TransformersEngine):
    """An engine whose model cannot be looked at and that is given expanded prompts, as a server is."""

    def seen(self, prompt):
        return None

    def complete(self, prompts, settings):
        return [Reply(None, reply.completions, reply.logps) for reply in super().complete(prompts, settings)]


def prompts_of(checkpoint, world, rows) -> list[EncodedPrompt]:
    return encode(checkpoint, world, [("tvg", rows[0]), ("ar", rows[2])])


def examine(checkpoint, prompts, fault=None, kind=TransformersEngine, change_weights=True) -> Findings:
    processor, trainer = load_processor(checkpoint), load_model(checkpoint, dtype="float32")
    engine = kind(load_model(checkpoint, dtype="float32"), processor, trainer, fault)
    reference = Reference(trainer, never_sampled_ids(processor), temperature=0.9)
    before = {name: weight.clone() for name, weight in trainer.named_parameters()}
    found = Doctor(engine, reference, processor, prompts, completions=2, length=6).examine(change_weights)
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.named_parameters())
    return found


def test_a_right_stack_passes(tiny_checkpoint, world, rows):
    found = examine(tiny_checkpoint, prompts_of(tiny_checkpoint, world, rows))
    assert all(check.ok and check.cause is None for check in found.checks)
    names = [check.name for check in found.checks]
    assert names == [
        *("placeholders", "token_ids", "frame_times", "positions", "precision", "banned_tokens"),
        *("logps", "weights", "restored"),
    ]
    assert not found.left_out and "agree" in found.verdict
    assert found.logps["before_largest"] < 1e-5 and found.logps["changed_largest"] < 1e-5
    assert found.logps["visible"] > 10 * 1e-4  # what is stale would have been seen


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named(tiny_qwen2_5, world, rows, fault):
    found = examine(tiny_qwen2_5, prompts_of(tiny_qwen2_5, world, rows), fault)
    name, cause = NAMED[fault]
    first = next(check for check in found.checks if not check.ok)
    assert (first.name, first.cause[: len(cause)]) == (name, cause), found
    assert found.verdict == f"{name}: {first.cause}"


@pytest.mark.parametrize("fault", ["frame_times", "placeholders", "stale_prefix", "stale_vision"])
def test_each_fault_is_named_where_times_are_text(tiny_qwen3, world, rows, fault):
    found = examine(tiny_qwen3, prompts_of(tiny_qwen3, world, rows), fault)
    name, cause = NAMED[fault]
    first = next(check for check in found.checks if not check.ok)
    assert (first.name, first.cause[: len(cause)]) == (name, cause), found


@pytest.mark.parametrize("fault", [None, "stock_positions", "frame_times"])
def test_a_server_shows_only_log_probabilities(tiny_qwen2_5, world, rows, fault):
    found = examine(tiny_qwen2_5, prompts_of(tiny_qwen2_5, world, rows), fault, Unseen)
    assert {"positions", "placeholders", "token_ids"} <= set(found.left_out)
    if fault is None:
        assert all(check.ok for check in found.checks)
    else:
        assert found.verdict.startswith(f"logps: {NAMED[fault][1]}")


def test_an_engine_with_other_weights_is_named(tiny_qwen2_5, world, rows, monkeypatch):
    made = TransformersEngine.__init__

    def other(self, model, *others):
        WeightChange(model, seed=5).apply(text=0.5)
        made(self, model, *others)

    monkeypatch.setattr(TransformersEngine, "__init__", other)
    found = examine(tiny_qwen2_5, prompts_of(tiny_qwen2_5, world, rows))
    assert found.verdict.startswith("logps: other weights")
    assert "weights" in found.left_out


def test_a_ban_that_forgets_a_vision_token_is_named(tiny_qwen2_5, world, rows, monkeypatch):
    processor = load_processor(tiny_qwen2_5)
    video = processor.tokenizer.convert_tokens_to_ids("<|video_pad|>")
    banned = [token for token in never_sampled_ids(processor) if token != video]
    monkeypatch.setattr("tests.invert_rl.parity.test_parity.never_sampled_ids", lambda processor: banned)
    found = examine(tiny_qwen2_5, prompts_of(tiny_qwen2_5, world, rows), change_weights=False)
    assert found.verdict.startswith(f"banned_tokens: the list of banned tokens lacks [{video}]")


def test_scores_are_those_of_a_plain_forward(tiny_checkpoint, world, rows):
    """By hand: softmax of the logits without banned tokens, at the temperature, in the order of the completions."""
    (prompt,) = prompts_of(tiny_checkpoint, world, rows)[:1]
    model, banned = load_model(tiny_checkpoint, dtype="float32"), never_sampled_ids(load_processor(tiny_checkpoint))
    answers = [[30, 31, 32], [40]]
    (found,) = Reference(model, banned, 0.7).score([prompt], [answers])
    expected = []
    for answer in answers:
        ids = torch.tensor([prompt.input_ids + answer])
        types = torch.tensor([prompt.mm_token_type_ids + [0] * len(answer)])
        video = {"pixel_values_videos": prompt.pixel_values_videos, "video_grid_thw": prompt.video_grid_thw}
        if prompt.second_per_grid_ts is not None:
            video["second_per_grid_ts"] = prompt.second_per_grid_ts
        with torch.no_grad():
            logits = model(input_ids=ids, mm_token_type_ids=types, **video).logits[0].double()
        logits[:, banned] = -torch.inf
        for place, token in enumerate(answer):
            weights = (logits[len(prompt.input_ids) - 1 + place] / 0.7).exp()
            expected.append((weights[token] / weights.sum()).log().item())
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


def test_limits():
    noise = {"trainer": 1e-3, "engine": 2e-3, "precision": 0.1}
    assert limit_of(noise, half=False) == pytest.approx(6e-3)
    assert limit_of(noise, half=True) == pytest.approx(0.3)
    assert limit_of(dict.fromkeys(noise, 0.0), half=False) == 1e-4
    assert gap([torch.zeros(2), torch.ones(2)], [torch.zeros(2), torch.tensor([1.0, 3.0])]) == 1.0
    assert gap([torch.zeros(1)], [torch.tensor([float("nan")])]) == float("inf")


def test_rope_rows_are_those_of_the_model(tiny_qwen2_5, world, rows):
    prompt = prompts_of(tiny_qwen2_5, world, rows)[0]
    reference = Reference(load_model(tiny_qwen2_5), [], 1.0)
    own, stock = reference.positions(prompt), reference.positions(prompt, Variant(stock_positions=True))
    assert own.shape == (3, len(prompt.input_ids)) and not torch.equal(own, stock)
    assert torch.equal(own, reference.positions(prompt))


def test_command(tiny_qwen2_5, world, capsys):
    data = ["--data", str(world / "train.jsonl"), "--videos", str(world / "videos"), "--cpu", "--json"]
    short = ["--model", tiny_qwen2_5, "--rows", "2", "--max-new-tokens", "4", "--min-pixels", "3136"]
    assert main(["parity", *short, *data]) == 0
    right = json.loads(capsys.readouterr().out)
    assert right["ok"] and right["rows"] == 2 and right["rows_left_out"] == 0
    assert {"name", "ok", "value", "limit", "cause"} == set(right["checks"][0])
    assert main(["parity", *short, *data, "--fault", "stale_weights"]) == 1
    wrong = json.loads(capsys.readouterr().out)
    assert not wrong["ok"] and "stale weights" in wrong["verdict"]
    assert main(["parity", *short, *data[:-1], "--fault", "stock_positions", "--keep-weights"]) == 1
    text = capsys.readouterr().out
    assert "WRONG positions" in text and "not   weights: --keep-weights" in text and "stock positions" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "tensorrt"], "must be transformers, vllm or an address"),
        (["--engine", "vllm", "--fault", "stale_weights"], "--fault breaks --engine transformers only"),
        (["--engine", "vllm", "--url", "http://127.0.0.1:1"], "give one of them"),
        (["--data", "x.jsonl"], "--data and --videos go together"),
        (["--rows", "0"], "--rows must be positive"),
        (["--url", "http://127.0.0.1:1"], "vllm is not installed"),
    ],
)
def test_arguments_that_do_not_go_together(options, message, capsys, monkeypatch):
    monkeypatch.setattr("invert_rl.errors.importlib.util.find_spec", lambda name: None)
    assert main(["parity", *options]) == 1
    assert message in capsys.readouterr().err


def test_rows_are_of_different_videos_first(rows):
    chosen = command.of_different_videos(rows)
    videos = len({row.video for row in rows})
    assert len({row.video for row in chosen[:videos]}) == videos < len(rows)
    assert sorted(row.id for row in chosen) == sorted(row.id for row in rows) and chosen[0] is rows[0]


def test_the_command_names_all_faults():
    assert tuple(FAULTS) == command.FAULTS
