"""Rounds that are completed ahead: which weights make them is told by the server, not by the trainer's own books."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures.thread import _threads_queues
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from data_prep.errors import DataError
from invert_rl.evaluation.runs.validation import Validation
from invert_rl.grpo import ahead_trainer, rollout_trainer
from invert_rl.grpo.ahead_trainer import ROUNDS, SAVED
from invert_rl.grpo.config import InvertGRPOConfig
from invert_rl.grpo.rounds_ahead import AheadRound, RoundsAhead
from invert_rl.grpo.sampling import request_seed
from invert_rl.grpo.vllm_server import ServerError, VideoClient
from invert_rl.recipe.run_log import RunLog
from invert_rl.schedule import Draw
from invert_rl.tasks.presets import load_preset
from tests.invert_rl.grpo.conftest import share_of_even_tokens
from tests.invert_rl.grpo.steady_server import Served, SteadyServer, fingerprint
from tests.invert_rl.grpo.test_training import changed, parameters
from tests.invert_rl.grpo.test_vllm_server import PUSH, started, without_vllm  # noqa: F401 - a fixture
from tests.invert_rl.grpo.torchrun import distance, read_ranks, run_ranks
from tests.invert_rl.tiny_run import SHORT_RUN

MADE_BY = {0: [0, 1, 2, 3, 4], 1: [0, 0, 1, 2, 3], 2: [0, 0, 0, 2, 2]}
"""For each ``rounds_ahead`` how many optimizer steps the weights had seen which made rounds 0 to 4, of a step each."""


class Weights(TrainerCallback):
    """The weights before each step, by fingerprint."""

    def __init__(self) -> None:
        self.before: dict[int, str] = {}

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        self.before[state.global_step] = fingerprint(model)


@pytest.fixture
def steady() -> Iterator[Any]:
    """Start a `SteadyServer` of a checkpoint."""
    yield from started(SteadyServer)


@pytest.fixture
def make_ahead(make_trainer, steady, tiny_qwen2_5):
    """A trainer and its server; the weights move far in each step. ``server``: another trainer's."""

    def build(rounds_ahead: int, output_dir: str | None = None, server: SteadyServer | None = None, **overrides: Any):
        server = server or steady(tiny_qwen2_5)
        settings = {
            "max_steps": 5,
            "max_completion_length": 3,
            "learning_rate": 3e-2,
            "vllm_server_timeout": 20,
            **overrides,
        }
        settings |= {"use_vllm": True, "vllm_mode": "server", "vllm_server_base_url": server.url}
        trainer = make_trainer(tiny_qwen2_5, output_dir, rounds_ahead=rounds_ahead, **settings)
        trainer.weights = Weights()
        trainer.add_callback(trainer.weights)
        trainer.add_callback(RunLog())
        return trainer, server

    return build


def told(trainer) -> list[dict[str, Any]]:
    """The lines of ``rounds.jsonl``."""
    return [json.loads(line) for line in (Path(trainer.args.output_dir) / ROUNDS).read_text().splitlines()]


def logged(trainer, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


@pytest.mark.parametrize("rounds_ahead", MADE_BY)
def test_each_round_is_made_by_the_weights_of_the_schedule(make_ahead, rounds_ahead):
    trainer, server = make_ahead(rounds_ahead)
    trainer.train()
    steps = MADE_BY[rounds_ahead]
    assert len(set(trainer.weights.before.values())) == 5  # every step moves them
    assert [request.weights for request in server.served] == [trainer.weights.before[step] for step in steps]
    assert server.calls.count("generate") == 5  # none is lost, none is made twice or for nothing
    assert server.calls.count("collective_rpc") == len(set(steps))
    if not rounds_ahead:
        assert server.calls == [*PUSH, "generate"] * 5
        assert not (Path(trainer.args.output_dir) / ROUNDS).exists()
        assert not any("seed" in request.sampling for request in server.served)
        return
    assert [(line["round"], line["step"], line["policy_step"]) for line in told(trainer)] == [
        (number, number + 1, step) for number, step in enumerate(steps)
    ]
    assert logged(trainer, "rollout/policy_step") == steps
    assert logged(trainer, "rollout/staleness") == [number - step for number, step in enumerate(steps)]
    assert len({request.sampling["seed"] for request in server.served}) == 5
    # the correction is computed from the engine's own numbers: 1 where the weights are those that are trained
    difference = logged(trainer, "sampling/sampling_logp_difference/mean")
    ratio = logged(trainer, "sampling/importance_sampling_ratio/mean")
    assert difference[0] < 0.02 < difference[3] and abs(ratio[0] - 1) < 0.1 < abs(ratio[3] - 1)


def test_completions_meet_their_own_prompts_and_the_serial_run_is_equal_where_nothing_is_learned(make_ahead, tmp_path):
    seen: dict[int, list[Any]] = {}
    final = {}
    for rounds_ahead in (0, 1, 2):
        rounds = seen.setdefault(rounds_ahead, [])

        def spy(completions, completion_ids, id, task, rounds=rounds, **columns):
            rounds.append((task, id, completion_ids))
            return share_of_even_tokens(completions, completion_ids)

        trainer, server = make_ahead(
            rounds_ahead,
            str(tmp_path / str(rounds_ahead)),
            learning_rate=0.0,
            weight_decay=0.0,
            reward_funcs=[spy],
            tvg_probability=0.5,
        )
        server.heeds_seeds = False
        trainer.train()
        final[rounds_ahead] = server.prompts, logged(trainer, "loss")
    assert len({json.dumps(entry) for entry in seen[0]}) == 5
    assert seen[0] == seen[1] == seen[2]
    assert final[0] == final[1] == final[2]


@pytest.mark.parametrize("name", ["steps_per_generation", "num_iterations"])
def test_several_steps_share_a_round(make_ahead, name):
    """Two optimizer steps a round: the weights are those from before the round's first."""
    trainer, server = make_ahead(1, gradient_accumulation_steps=1, max_steps=6, **{name: 2})
    trainer.train()
    asked = [request.weights for request in server.served][:: 2 if name == "steps_per_generation" else 1]
    assert asked == [trainer.weights.before[step] for step in (0, 0, 2)]
    assert [(line["round"], line["step"], line["policy_step"], line["staleness"]) for line in told(trainer)] == [
        (0, 1, 0, 0.0),
        (1, 3, 0, 1.0),
        (2, 5, 2, 1.0),
    ]


def test_the_server_works_while_the_trainer_does(make_ahead):
    """The answer to the second round is held back until the first update is done, which a serial run never reaches."""
    trainer, server = make_ahead(1, max_steps=2)
    updated = threading.Event()
    alive: list[threading.Thread] = []

    class Updated(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            alive.extend(thread for thread in threading.enumerate() if thread is not threading.main_thread())
            updated.set()

    def hold(number: int) -> None:
        assert number == 0 or updated.wait(60)

    server.before = hold
    trainer.add_callback(Updated())
    trainer.train()
    assert len(server.served) == 2 and updated.is_set()
    assert "rounds ahead" in [thread.name for thread in alive]
    # A process that is told to end does not wait for the server, as it would for threads of concurrent.futures.
    assert all(thread.daemon and thread not in _threads_queues for thread in alive)
    assert not any(thread.name == "rounds ahead" for thread in threading.enumerate())


class Killed(TrainerCallback):
    """Ends the run after a step, as if its process had been killed."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("rounds_ahead", "iterations"), [pytest.param(1, 1, marks=pytest.mark.slow), (2, 1), (1, 2)])
def test_a_killed_run_goes_on_as_if_it_had_not_been(make_ahead, tmp_path, rounds_ahead, iterations):
    settings = {"num_iterations": iterations, "gradient_accumulation_steps": 1, "warmup_steps": 1}
    settings |= {"max_steps": 6 * iterations, "save_strategy": "steps", "save_steps": 3 * iterations}
    straight, all_served = make_ahead(rounds_ahead, str(tmp_path / "straight"), **settings)
    straight.train()

    killed, server = make_ahead(rounds_ahead, str(tmp_path / "killed"), **settings)
    killed.add_callback(Killed(4 * iterations))
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    killed.ahead.wait()  # what the server had to do still
    assert len(told(killed)) == 4  # one more than the checkpoint knows
    before = len(server.served)

    resumed, _ = make_ahead(rounds_ahead, str(tmp_path / "killed"), server, **settings)
    start = parameters(resumed)
    resumed.train(resume_from_checkpoint=str(tmp_path / "killed" / f"checkpoint-{3 * iterations}"))
    assert changed(parameters(straight), parameters(resumed)) == []
    assert changed(start, parameters(resumed))
    assert told(resumed) == told(straight)
    ready = {1: 4, 2: 5}[rounds_ahead]  # rounds 0 to 3, or to 4, were completed when the checkpoint was written
    assert server.served[before:] == all_served.served[ready:]


@pytest.mark.slow
def test_two_ranks_share_each_round_and_go_on_from_what_was_made_ahead(steady, tiny_qwen2_5, world, tmp_path):
    server = steady(tiny_qwen2_5)
    settings = {"use_vllm": True, "vllm_mode": "server", "vllm_server_base_url": server.url, "vllm_server_timeout": 60}
    settings |= {"rounds_ahead": 1, "learning_rate": 3e-2, "max_completion_length": 3, "max_steps": 5}
    settings |= {"save_strategy": "steps", "save_steps": 3}
    job = {"checkpoint": tiny_qwen2_5, "world": str(world), "settings": settings}
    whole, rest = tmp_path / "whole", tmp_path / "rest"
    run_ranks(
        tmp_path,
        [{**job, "output": str(whole)}, {**job, "output": str(rest), "resume": str(whole / "checkpoint-3")}],
    )
    served = [server.served[first : first + 2] for first in range(0, len(server.served), 2)]  # one of each rank
    assert [a.weights == b.weights and a.prompt == b.prompt for a, b in served] == [True] * 6
    assert all(a.sampling["n"] == b.sampling["n"] == 2 for a, b in served)
    assert all(a.sampling["seed"] != b.sampling["seed"] for a, b in served)
    made_by = [a.weights for a, _ in served[:5]]
    assert made_by[0] == made_by[1] and len(set(made_by)) == 4  # steps 0, 0, 1, 2, 3: one round behind
    lines = [json.loads(line) for line in (whole / ROUNDS).read_text().splitlines()]
    assert [line["policy_step"] for line in lines] == MADE_BY[1]

    def asked(round_: list[Served]) -> list[str]:
        return sorted(json.dumps(request) for request in round_)

    assert asked(served[5]) == asked(served[4])  # the checkpoint holds round 3, round 4 is asked for again
    for first, second in (read_ranks(whole), read_ranks(rest)):
        assert distance(first.end, second.end) == 0 < distance(first.start, first.end)
        assert all(a["ids"] == b["ids"] for a, b in zip(first.rounds, second.rounds, strict=True))
    for straight, resumed in zip(read_ranks(whole), read_ranks(rest), strict=True):
        assert resumed.rounds == straight.rounds[3:]
        assert distance(straight.end, resumed.end) == 0


def test_a_resume_without_what_was_made_ahead_is_another_run(make_ahead, tmp_path, monkeypatch):
    """The negative control of the test above: the rounds are made again, by weights that they were not made by."""
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 3, "tasks": ["tvg"], "tvg_probability": 1.0}
    straight, server = make_ahead(1, str(tmp_path / "run"), **settings)
    straight.train()
    saved = tmp_path / "run" / "checkpoint-3" / SAVED.format(rank=0)
    content = saved.read_text()
    for broken in ("{}", content.replace('"draws"', '"drawn"'), content.replace("[[", "[[7], [", 1)):
        saved.write_text(broken)
        resumed, _ = make_ahead(1, str(tmp_path / "broken"), server, **settings)
        with pytest.raises(DataError, match=r"rounds_ahead_0\.json: holds no rounds made ahead"):
            resumed.load_rounds_ahead(saved.parent)
    for what, kept in (
        ("nothing", None),
        ("another row", content.replace('"draws": [["tvg", ', '"draws": [["tvg", 9')),
    ):
        saved.unlink(missing_ok=True)
        if kept is not None:
            assert kept != content
            saved.write_text(kept)
        resumed, _ = make_ahead(1, str(tmp_path / what), server, **settings)
        resumed.train(resume_from_checkpoint=str(saved.parent))
        assert changed(parameters(straight), parameters(resumed))
        assert [line["staleness"] for line in told(resumed)] == [0.0]


def test_where_a_rank_lacks_its_part_no_rank_takes_the_rounds_up(make_ahead, tmp_path, monkeypatch, caplog):
    trainer, _ = make_ahead(1, max_steps=3, save_strategy="steps", save_steps=2)
    trainer.train()
    checkpoint = tmp_path / "run" / "checkpoint-2"
    trainer.load_rounds_ahead(checkpoint)
    assert list(trainer.ahead.rounds) == [2]
    monkeypatch.setattr(ahead_trainer, "gather_object", lambda numbers: [*numbers, []])
    trainer.load_rounds_ahead(checkpoint)
    assert trainer.ahead.rounds == {}
    assert "checkpoint-2: not every rank has its part of the rounds made ahead" in caplog.text


def test_errors_of_the_thread_reach_the_trainer(make_ahead, monkeypatch):
    trainer, server = make_ahead(1)
    generate = server.generate

    def lie(body: dict[str, Any]) -> list[dict[str, Any]]:
        choices = generate(body)
        if len(server.served) == 2:
            choices[0]["logprobs"]["content"][-1]["logprob"] = float("nan")
        return choices

    monkeypatch.setattr(server, "generate", lie)
    with pytest.raises(ServerError, match=r"\.mp4: http.* a log-probability of nan"):
        trainer.train()
    assert trainer.state.global_step == 1  # the round before it was trained on
    assert trainer.ahead.rounds == {}


def test_a_lost_server_gets_the_weights_of_now_and_the_log_says_so(make_ahead, tiny_qwen2_5, monkeypatch):
    trainer, server = make_ahead(1, max_steps=4)
    start = {name: value.clone() for name, value in server.engine.model.state_dict().items()}
    generate, born, lost = server.generate, [1.0], []
    monkeypatch.setattr(VideoClient, "started", lambda self: born[0])

    def once(body: dict[str, Any]) -> list[dict[str, Any]]:
        if len(server.served) == 2 and not lost:  # round 2, while round 1 is trained on
            lost.append(body)
            server.engine.model.load_state_dict(start)
            born[0] = 2.0
            raise ConnectionAbortedError
        return generate(body)

    monkeypatch.setattr(server, "generate", once)
    trainer.train()
    steps = [0, 0, 2, 2]
    assert lost and [request.weights for request in server.served] == [trainer.weights.before[step] for step in steps]
    assert [line["policy_step"] for line in told(trainer)] == steps
    everything = {name for name, _ in server.engine.model.named_parameters()}
    assert all(sent == everything for sent in server.reloaded)


def test_a_round_whose_reward_raises_is_made_by_the_weights_of_now(make_ahead):
    raised = []

    def sometimes(completions, completion_ids, **columns):
        if len(raised) < 1 and trainer.state.global_step == 2:
            raised.append(True)
            raise ZeroDivisionError
        return share_of_even_tokens(completions, completion_ids)

    trainer, server = make_ahead(1, reward_funcs=[sometimes], max_steps=4)
    trainer.train()
    assert [line["policy_step"] for line in told(trainer)] == [0, 0, 2, 2]
    assert [request.weights for request in server.served] == [
        trainer.weights.before[step]
        for step in (0, 0, 1, 2, 2)  # round 3 was under way already; round 2 comes behind it
    ]
    assert raised and len(set(server.prompts)) == 5


def test_validation_asks_the_weights_of_its_step(make_ahead, rows, monkeypatch):
    """Round 2 is slow: it is asked for once new weights are on their way, if they do not wait for it."""
    trainer, server = make_ahead(2, max_steps=4, eval_strategy="steps", eval_steps=1)
    trainer.validation = Validation(rows[:1], load_preset("think", ("tvg",)).only(("tvg",)), {})
    validated, complete, push = threading.Event(), trainer._complete_ahead, rollout_trainer.push_weights

    def slowly(round_: AheadRound) -> list[Any]:
        assert round_.number != 2 or not validated.wait(1.0)
        return complete(round_)

    def watched(generation: Any) -> None:
        if trainer.state.global_step == 1:
            validated.set()
        push(generation)

    monkeypatch.setattr(trainer, "_complete_ahead", slowly)
    monkeypatch.setattr(rollout_trainer, "push_weights", watched)
    trainer.train()
    greedy = [request.weights for request in server.served if request.sampling["temperature"] == 0.0]
    steps = trainer.weights.before
    assert greedy == [steps[1], steps[2], steps[3], fingerprint(trainer.model)]
    sampled = [request.weights for request in server.served if request.sampling["temperature"] > 0]
    assert sampled == [steps[step] for step in (0, 0, 0, 2)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "only a server can make completions while this process trains; use --use_vllm true --vllm_mode server"),
        ({"use_vllm": True, "vllm_mode": "colocate"}, "only a server"),
        ({"vllm_importance_sampling_correction": False}, "--vllm_importance_sampling_correction true"),
        ({"refill_groups": 1}, "refill_groups asks for more completions in the middle of a round"),
        ({"online_difficulty": True}, "online_difficulty draws a round by what the rounds before it earned"),
        ({"rounds_ahead": 3}, "rounds_ahead: invalid choice: 3 .choose from 0, 1, 2"),
    ],
)
def test_what_it_does_not_go_with_is_refused(settings, message, tmp_path):
    if len(settings) == 1:
        settings = {"use_vllm": True, "vllm_mode": "server", **settings}
    with pytest.raises(ValueError, match=message):
        InvertGRPOConfig(**{**SHORT_RUN, "output_dir": str(tmp_path), "rounds_ahead": 1, **settings})


def ahead_round(number: int) -> AheadRound:
    return AheadRound(number, 0, [], [])


def test_rounds_are_completed_in_their_order_and_taken_when_done():
    ahead, order, go = RoundsAhead(), [], threading.Event()

    def complete(round_: AheadRound) -> list[Any]:
        assert go.wait(10)
        order.append(round_.number)
        return [([round_.number], [0.0])]

    ahead.start([ahead_round(1), ahead_round(2)], complete)
    assert ahead.take(7) is None
    threading.Timer(0.05, go.set).start()
    second = ahead.take(2)
    assert second is not None and second.completions == [([2], [0.0])] and order == [1, 2]
    ahead.wait()
    first = ahead.take(1)
    assert first is not None and first.completions == [([1], [0.0])]
    assert ahead.take(1) is None


def test_after_an_error_no_round_is_tried():
    ahead, tried = RoundsAhead(), []

    def complete(round_: AheadRound) -> list[Any]:
        tried.append(round_.number)
        raise ServerError("no")

    ahead.start([ahead_round(1), ahead_round(2)], complete)
    found = [ahead.take(1), ahead.take(2)]
    assert [str(round_.error) for round_ in found if round_ is not None] == ["no", "no"]
    assert tried == [1]


def test_seeds_belong_to_the_completion():
    draws = [Draw("tvg", 3, round_, slot) for round_ in range(3) for slot in range(3)]
    seeds = {request_seed(42, draw, first) for draw in draws for first in (0, 4)}
    assert len(seeds) == 18 and all(0 <= seed < 2**62 for seed in seeds)
    assert (
        request_seed(42, draws[0], 0) == request_seed(42, draws[0]._replace(row=9), 0) != request_seed(43, draws[0], 0)
    )
