"""`latest` takes the newest checkpoint that can be read; whatever is wrong with a newer one is named."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from data_prep.errors import DataError
from invert_rl.checksums import MANIFEST, write_manifest
from invert_rl.loading import CheckpointError, load_weights
from invert_rl.models import load_model
from invert_rl.resume import latest_checkpoint, resume_point
from tests.invert_rl.grpo import two_ranks

SAVING = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "per_device_train_batch_size": 4}


@pytest.fixture(scope="module")
def sound(tiny_qwen2_5, world, tmp_path_factory) -> Path:
    """The folder of a run with checkpoints 1 and 2."""
    folder: Path = tmp_path_factory.mktemp("run")
    two_ranks.main({"checkpoint": tiny_qwen2_5, "world": str(world), "output": str(folder), "settings": SAVING})
    return folder


def flip(name: str, place: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[int(place * len(content))] ^= 0x10
        (folder / name).write_bytes(content)

    return damage


def zero_page(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        middle = len(content) // 2 // 4096 * 4096
        content[middle : middle + 4096] = bytes(4096)
        (folder / name).write_bytes(content)

    return damage


def content(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text)


def listed(damage: Callable[[Path], None]) -> Callable[[Path], None]:
    """Damage that was there when the list was written: checksums cannot tell."""

    def both(folder: Path) -> None:
        damage(folder)
        write_manifest(folder)

    return both


def unlisted(damage: Callable[[Path], None]) -> Callable[[Path], None]:
    def both(folder: Path) -> None:
        damage(folder)
        (folder / MANIFEST).unlink()

    return both


def file_in_its_place(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("a file")


def with_nan(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    next(iter(weights.values())).view(-1)[3] = torch.nan
    save_file(weights, folder / "model.safetensors")


def random_state(key: str, value: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        with torch.serialization.safe_globals([]):
            state = torch.load(folder / "rng_state.pth", weights_only=False)  # our own file of a moment ago
        state[key] = value
        torch.save(state, folder / "rng_state.pth")

    return damage


def state(**changes: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "trainer_state.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return damage


def cut_header(folder: Path) -> None:
    """The length in front says more than there is."""
    path = folder / "model.safetensors"
    path.write_bytes((1 << 40).to_bytes(8, "little") + path.read_bytes()[8:])


def short_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def from_the_one_before(name: str) -> Callable[[Path], None]:
    return lambda folder: None if shutil.copy(folder.with_name("checkpoint-1") / name, folder / name) else None


def loop(name: str) -> Callable[[Path], None]:
    """A link to itself in the place of a file."""

    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(name)

    return damage


def loop_in_its_place(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to(folder.name)


def nan_moment(folder: Path) -> None:
    state = torch.load(folder / "optimizer.pt", weights_only=True)
    next(iter(state["state"].values()))["exp_avg_sq"].view(-1)[0] = torch.inf
    torch.save(state, folder / "optimizer.pt")


class Planted:
    """What must not be called when a checkpoint is looked at."""

    def __reduce__(self) -> tuple:
        return (Path("planted").touch, ())


CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a bit of the weights": (flip("model.safetensors", 0.7), "model.safetensors has changed since it was written"),
    "a bit of the optimizer": (flip("optimizer.pt", 0.5), "optimizer.pt has changed"),
    "a bit of the scheduler": (flip("scheduler.pt", 0.4), "scheduler.pt has changed"),
    "a bit of the tokenizer": (flip("tokenizer.json", 0.5), "tokenizer.json has changed"),
    "a zeroed page of the weights": (zero_page("model.safetensors"), "model.safetensors has changed"),
    "a zeroed page of the optimizer": (zero_page("optimizer.pt"), "optimizer.pt has changed"),
    "a bit of the optimizer, no list": (
        unlisted(flip("optimizer.pt", 0.5)),
        "optimizer.pt (is damaged|cannot)",
    ),
    "a list as list of files": (content(MANIFEST, '["model.safetensors"]'), "files.json is damaged"),
    "an empty list of files": (content(MANIFEST, "{}"), "files.json is damaged"),
    "a null in the list of files": (
        content(MANIFEST, '{"model.safetensors": null}'),
        "files.json is damaged at 'model",
    ),
    "a list of files elsewhere": (
        content(MANIFEST, json.dumps({"../../x": {"size": 1, "sha256": ""}})),
        "files.json is damaged at '../../x'",
    ),
    "a list of files that is no text": (
        lambda folder: (folder / MANIFEST).write_bytes(b"\xff\xfe"),
        "files.json is cut off",
    ),
    "null for a step": (state(global_step=None), "trainer_state.json has no global_step .it says None"),
    "text for a step": (state(global_step="2"), "trainer_state.json has no global_step"),
    "another step": (state(global_step=7), "trainer_state.json is of step 7"),
    "a list as state": (content("trainer_state.json", "[1, 2]"), "trainer_state.json has no global_step"),
    "a file in its place": (file_in_its_place, "it is no folder"),
    "NaN": (listed(with_nan), "model.safetensors holds NaN or infinity in "),
    "NaN, no list": (unlisted(with_nan), "model.safetensors holds NaN"),
    "a header longer than the file": (listed(cut_header), "model.safetensors is cut off"),
    "half a header": (listed(short_header), "model.safetensors is cut off"),
    "weights of the step before": (from_the_one_before("model.safetensors"), "model.safetensors has changed"),
    "optimizer of the step before": (from_the_one_before("optimizer.pt"), "optimizer.pt has changed"),
    "state of the step before": (listed(from_the_one_before("trainer_state.json")), "trainer_state.json is of step 1"),
    "a link to itself as weights": (loop("model.safetensors"), "model.safetensors is missing"),
    "a link to itself as list of files": (loop(MANIFEST), "it cannot be read"),
    "infinite moments": (listed(nan_moment), "optimizer.pt holds NaN or infinity"),
    "no random state of Python": (listed(random_state("python", (3, (1, 2), None))), "no random state of python"),
    "no random state of torch": (listed(random_state("cpu", None)), "no random state of cpu"),
    "short random state": (listed(random_state("numpy", ("MT19937",))), "no random state of numpy"),
    "a pickle as random state": (listed(content("rng_state.pth", "\x80\x04.")), "rng_state.pth is cut off"),
    "code as scheduler": (
        listed(lambda folder: torch.save({"x": Planted()}, folder / "scheduler.pt")),
        "scheduler.pt cannot be read .*weights_only|scheduler.pt cannot be read",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_damaged_checkpoint_is_skipped_by_name(sound, tmp_path, caplog, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    shutil.copytree(sound, run)
    damage, message = CASES[case]
    damage(run / "checkpoint-2")
    with caplog.at_level(logging.WARNING, logger="invert_rl.resume"):
        assert resume_point(str(run), "latest") == str(run / "checkpoint-1")
    (record,) = [record for record in caplog.records if record.name == "invert_rl.resume"]
    assert record.getMessage().startswith(f"skipping checkpoint {run / 'checkpoint-2'}: ")
    with pytest.raises(DataError, match=message) as error:
        resume_point(str(run), str(run / "checkpoint-2")) if case != "a file in its place" else latest(run, caplog)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "planted").exists()


def test_a_link_to_itself_is_no_checkpoint(sound, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(sound, run)
    loop_in_its_place(run / "checkpoint-2")
    assert latest_checkpoint(run) == str(run / "checkpoint-1")


def test_rounded_weights_are_not_gone_on_with(sound, tiny_qwen2_5, tmp_path):
    """The run would go on, from other weights than it had."""
    checkpoint = tmp_path / "checkpoint-2"
    shutil.copytree(sound / "checkpoint-2", checkpoint)
    weights = load_file(checkpoint / "model.safetensors")
    save_file(
        {name: value.half() for name, value in weights.items()}, checkpoint / "model.safetensors", {"format": "pt"}
    )
    model = load_model(tiny_qwen2_5)
    with pytest.raises(CheckpointError, match="float32 weights are in another precision"):
        load_weights(model, checkpoint)
    load_weights(model, sound / "checkpoint-2")


def latest(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file is named by the warning alone: as a path it is no checkpoint at all."""
    assert latest_checkpoint(run) == str(run / "checkpoint-1")
    raise DataError(caplog.records[-1].getMessage())


def test_auto_starts_from_the_beginning_without_a_word_and_latest_with_one(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="invert_rl.resume"):
        assert resume_point(str(tmp_path / "new"), "auto") is None
        assert not caplog.records
        assert resume_point(str(tmp_path / "new"), "latest") is None
    assert "starting from the beginning" in caplog.text
