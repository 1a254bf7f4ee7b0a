"""Training: updates in turn, exact resume, one and two ranks, learning, and the folder of the final model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from data_prep.errors import DataError
from invert_rl.wtal.build import batch_drawer, build_model, encode_semantics, load_data, load_descriptions
from invert_rl.wtal.config import WtalArguments
from invert_rl.wtal.evaluate import EvaluationRules, detect_videos, score
from invert_rl.wtal.export import WEIGHTS, load_localizer, save_localizer
from invert_rl.wtal.model import PHASES, SemanticLocalizer
from invert_rl.wtal.trainer import inverse_root
from tests.invert_rl.wtal import wtal_runs

Weights = dict[str, torch.Tensor]


def arguments(folder: Path, **settings: object) -> WtalArguments:
    """Settings of short runs."""
    return WtalArguments(output_dir=str(folder), **{**wtal_runs.SETTINGS, **settings})


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Weights]:
    """A run of six iterations that is not stopped, with its checkpoint after three."""
    folder = tmp_path_factory.mktemp("straight")
    return folder, wtal_runs.weights(wtal_runs.train(folder))


def test_a_resumed_run_ends_with_the_same_bits(straight: tuple[Path, Weights], tmp_path: Path) -> None:
    folder, expected = straight
    found = wtal_runs.weights(wtal_runs.train(tmp_path, str(folder / "checkpoint-3")))
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


def test_every_iteration_logs_the_losses_of_all_updates(straight: tuple[Path, Weights]) -> None:
    lines = [json.loads(line) for line in (straight[0] / "log.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "mil" in line]
    assert [line["step"] for line in logged] == [1, 2, 3, 4, 5, 6]
    names = {"mil", "mil_suppressed", "evidential", "uncertainty", "contrastive", "mutual", "norm", "guide"}
    names |= {"alignment", "from_reconstruction", "reconstruction", "hard", "easy", "from_localizer"}
    for line in logged:
        assert names <= line.keys()
        # what the trainer minimised in this iteration is the sum of the three updates' losses
        assert line["loss"] == pytest.approx(sum(line[name] for name in names), rel=1e-3)


def by_hand(args: WtalArguments, steps: int) -> Weights:
    """The same training as a plain loop: three optimizers, one after another on each batch."""
    data = load_data(args)
    semantics = encode_semantics(args, data, load_descriptions(args, data))
    torch.manual_seed(args.seed)
    model = build_model(args, semantics).train()
    draw = batch_drawer(args, data, semantics)
    branch = model.reconstruction
    assert branch is not None and model.matching is not None
    rate = args.reconstruction_learning_rate
    updates = {
        "reconstructor": torch.optim.Adam(branch.reconstructor.parameters(), lr=rate),
        "completeness": torch.optim.Adam(branch.attention.parameters(), lr=rate),
        "localizer": torch.optim.Adam(
            [*model.base.parameters(), *model.matching.parameters()], lr=args.learning_rate, weight_decay=1e-3
        ),
    }
    for step in range(steps):
        batch = draw(step, 0)
        for phase, optimizer in updates.items():
            for group in optimizer.param_groups:
                group["lr"] = args.learning_rate if phase == "localizer" else rate * inverse_root(step, 400)
            model.zero_grad(set_to_none=True)
            model(**batch, phase=phase)["loss"].backward()
            if phase != "localizer":
                torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 10.0)
            optimizer.step()
    return model.state_dict()


def test_an_iteration_is_three_updates_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers as a plain loop; each update's dropout is drawn from its step and name in both."""
    forward = SemanticLocalizer.forward

    def seeded(self: SemanticLocalizer, *args: torch.Tensor, **kwargs: torch.Tensor) -> dict[str, torch.Tensor]:
        torch.manual_seed(1000 * round(100 * float(kwargs["progress"])) + PHASES.index(str(kwargs["phase"])))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(SemanticLocalizer, "forward", seeded)
    expected = by_hand(arguments(tmp_path, max_steps=3), 3)
    found = wtal_runs.weights(wtal_runs.train(tmp_path, max_steps=3))
    for name in expected:
        assert torch.allclose(found[name], expected[name], atol=1e-6), name


def test_two_ranks_make_one_model_and_resume_exactly(tmp_path: Path) -> None:
    """torchrun and gloo: every rank has a batch of its own, gradients are averaged, a resumed run has the same bits."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--rdzv_backend=c10d"]
    result = subprocess.run(
        [*command, "--rdzv_endpoint=localhost:0", wtal_runs.__file__, str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    first, second, resumed = (
        torch.load(tmp_path / run / f"weights{rank}.pt", weights_only=True)
        for run, rank in (("straight", 0), ("straight", 1), ("resumed", 0))
    )
    for name in first:
        assert torch.equal(first[name], second[name]), name
        assert torch.equal(first[name], resumed[name]), name
    lines = [json.loads(line) for line in (tmp_path / "straight" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "mil" in line] == [1, 2, 3, 4, 5, 6]


def test_parts_of_a_step_are_different_batches_and_every_draw_is_repeatable(tmp_path: Path) -> None:
    args = arguments(tmp_path)
    data = load_data(args)
    draw = batch_drawer(args, data, encode_semantics(args, data, load_descriptions(args, data)))
    again, other = draw(2, 1), draw(2, 0)
    for name, value in draw(2, 1).items():
        assert torch.equal(value, again[name])
    assert not torch.equal(again["features"], other["features"])
    assert float(again["progress"]) == pytest.approx(2 / 6)
    assert again["features"].shape == (4, 16, 10)
    hidden = again["masked"].sum(dim=1) / (again["words"] != 0).sum(dim=1)
    assert (hidden >= 0.3).all() and (hidden < 0.6).all()
    released = batch_drawer(
        arguments(tmp_path, mask_words=False), data, encode_semantics(args, data, load_descriptions(args, data))
    )
    assert not released(2, 1)["masked"].any()


@pytest.mark.parametrize(("size", "mode"), [(1, "released"), (3, "rank"), (7, "released")])
def test_any_batch_size_trains(size: int, mode: str, tmp_path: Path) -> None:
    settings = {"per_device_train_batch_size": size, "uct_mode": mode, "max_steps": 1, "pairs": 3}
    wtal_runs.train(tmp_path, **settings)
    (line,) = [line for line in map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines()) if "mil" in line]
    assert (line["contrastive"] > 0) == (size > 1)  # a single video has no partner


def test_learning_rate_of_the_reconstruction() -> None:
    assert [inverse_root(step, 4) for step in (0, 1, 3)] == [0.25, 0.5, 1.0]
    assert inverse_root(15, 4) == pytest.approx(0.5)


def test_the_final_model_is_built_again_from_its_folder(tmp_path: Path) -> None:
    args = arguments(tmp_path)
    data = load_data(args)
    semantics = encode_semantics(args, data, load_descriptions(args, data))
    model = build_model(args, semantics).eval()
    save_localizer(tmp_path / "model", model, args, data.classes, semantics.vocabulary)
    loaded, classes, settings = load_localizer(tmp_path / "model")
    assert classes == list(data.classes)
    assert settings.lambda1 == 1.5
    first, second = (detect_videos(one, data.test, data.classes, args.proposals()) for one in (model, loaded))
    assert first == second
    (tmp_path / "model" / WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(DataError, match="does not fit wtal.json"):
        load_localizer(tmp_path / "model")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps must be 1"),
        ({"lr_scheduler_type": "linear"}, "lr_scheduler_type must be constant"),
        ({"uct_mode": "sorted"}, "uct_mode must be one of released, rank"),
        ({"annotations": "a.json"}, "annotations and features belong together"),
        ({"annotations": "a", "features": "b", "joint_features": "c"}, "either joint_features or"),
        ({"counted_words": "masked", "mask_words": False}, "counted_words masked needs mask_words"),
    ],
)
def test_settings_that_cannot_be_used(settings: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        arguments(tmp_path, **settings)


def test_weight_decay_is_adams_l2_term(tmp_path: Path) -> None:
    trainer = wtal_runs.train(tmp_path, max_steps=1, reconstruction=False, matching=False)
    (group,) = trainer.create_optimizer().param_groups
    assert (group["weight_decay"], group["lr"]) == (1e-3, 1e-3)
    assert type(trainer.create_optimizer().optimizer) is torch.optim.Adam


def test_it_learns_to_localize_from_video_labels(tmp_path: Path) -> None:
    """A small base: untrained it finds next to nothing."""
    settings = {"rgb_width": 16, "flow_width": 16, "snippets": 48, "width": 32, "attention_width": 16, "dropout": 0.3}
    settings |= {"planted_train": 24, "planted_test": 16, "matching": False, "reconstruction": False}
    settings |= {
        "max_steps": 80,
        "per_device_train_batch_size": 10,
        "pairs": 3,
        "save_steps": 500,
        "learning_rate": 2e-3,
    }
    args = arguments(tmp_path, **settings)
    data = load_data(args)
    untrained = build_model(args, encode_semantics(args, data, load_descriptions(args, data)))
    trained = wtal_runs.train(tmp_path, **settings).model
    found = [
        score(data, detect_videos(model, data.test, data.classes, args.proposals()), EvaluationRules())["average_mAP"]
        for model in (untrained, trained)
    ]
    assert found[0] < 0.15
    assert found[1] > found[0] + 0.25
