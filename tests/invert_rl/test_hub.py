"""What `invert-rl push` uploads, what it refuses, and that a folder that was handed on answers the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest

from data_prep.errors import DataError
from invert_rl.cli import main
from invert_rl.described import FILE, describe_model
from invert_rl.hub import check_login, take_push
from invert_rl.sft.config import InvertSFTConfig


@pytest.fixture
def model(tiny_qwen2_5: str, tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "model"
    shutil.copytree(tiny_qwen2_5, folder)
    describe_model(folder, frames={"fps": 1.0})
    (folder / "README.md").write_text("# a card\n")
    (folder / "optimizer.pt").write_bytes(b"pickle")
    (folder / "training_args.bin").write_bytes(b"pickle")
    (folder / "trainer_state.json").write_text("{}")
    return folder


class FakeApi:
    """Takes what `huggingface_hub.HfApi` is told."""

    def __init__(self, calls: list, error: Exception | None = None) -> None:
        self.calls, self.error = calls, error

    def __call__(self, token=None):
        self.calls.append(("token", token))
        return self

    def whoami(self):
        if self.error is not None:
            raise self.error
        return {"name": "me"}

    def create_repo(self, repo, private, exist_ok):
        self.calls.append(("create", repo, private, exist_ok))

    def upload_folder(self, **told):
        self.calls.append(("upload", told))


def test_a_dry_run_lists_and_writes_what_would_go(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda *a, **k: pytest.fail("a dry run asks no hub"))
    there = tmp_path / "staged"
    assert main(["push", str(model), "--repo", "me/tiny", "--dry-run", str(there), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    staged = {path.name: path.stat().st_size for path in there.iterdir()}
    assert told["files"] == staged
    assert told["bytes"] == sum(staged.values())
    assert {"model.safetensors", "config.json", FILE, "README.md", "tokenizer.json"} <= staged.keys()
    assert not staged.keys() & {"optimizer.pt", "training_args.bin", "trainer_state.json"}
    assert main(["push", str(model), "--repo", "me/tiny", "--dry-run"]) == 0
    assert "nothing was uploaded to me/tiny" in capsys.readouterr().out
    assert main(["push", str(model), "--repo", "me/tiny", "--dry-run", str(there)]) == 1
    assert "is there already" in capsys.readouterr().err


def test_the_upload_has_the_same_files(model, monkeypatch, capsys):
    calls: list = []
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi(calls))
    assert main(["push", str(model), "--repo", "me/tiny", "--private", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["url"] == "https://huggingface.co/me/tiny"
    assert ("create", "me/tiny", True, True) in calls
    (upload,) = [call[1] for call in calls if call[0] == "upload"]
    assert (upload["repo_id"], upload["folder_path"]) == ("me/tiny", model)
    assert sorted(upload["allow_patterns"]) == sorted(told["files"])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: (folder / FILE).unlink(), "invert_rl.json is missing"),
        (lambda folder: (folder / "README.md").unlink(), "README.md is missing"),
        (lambda folder: (folder / "config.json").unlink(), "no model, config.json is missing"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights in safetensors"),
        (lambda folder: shutil.rmtree(folder), "no such folder"),
    ],
)
def test_what_others_could_not_load_is_refused(model, spoil, reason, capsys):
    spoil(model)
    assert main(["push", str(model), "--repo", "me/tiny", "--dry-run"]) == 1
    assert reason in capsys.readouterr().err


def test_an_adapter_of_a_local_base_and_a_bad_name_are_refused(model, capsys):
    for path in (model / "config.json", model / "model.safetensors"):
        path.rename(model / f"adapter_{path.name.replace('config.json', 'x')}")
    (model / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(model)}))
    assert main(["push", str(model), "--repo", "me/tiny", "--dry-run"]) == 1
    assert "merge it first" in capsys.readouterr().err
    for repo in ("tiny", "me/ti ny"):
        assert main(["push", str(model), "--repo", repo, "--dry-run"]) == 1
        assert f"--repo {repo}" in capsys.readouterr().err


def test_a_hub_that_refuses_is_one_sentence(monkeypatch):
    from huggingface_hub.errors import LocalTokenNotFoundError, OfflineModeIsEnabled

    for error, reason in ((LocalTokenNotFoundError("x"), "hf auth login"), (OfflineModeIsEnabled("off"), "off")):
        monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi([], error))
        with pytest.raises(DataError, match=reason):
            check_login("me/tiny")


def test_push_to_hub_of_a_run_is_one_upload_at_its_end(model, tmp_path, monkeypatch):
    calls: list = []
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi(calls))
    common = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False}
    args = InvertSFTConfig(**common, push_to_hub=True, hub_model_id="me/tiny", hub_token="secret")
    push = take_push(args)
    assert push is not None
    assert not args.push_to_hub
    assert calls == [("token", "secret")]
    assert push.upload(model) == "https://huggingface.co/me/tiny"
    assert take_push(InvertSFTConfig(**common)) is None
    with pytest.raises(ValueError, match="needs --hub_model_id"):
        InvertSFTConfig(**common, push_to_hub=True)
    with pytest.raises(ValueError, match="hub_model_id has no effect without --push_to_hub"):
        InvertSFTConfig(**common, hub_model_id="me/tiny")
