"""Handing a model folder on: which of its files, whether others can load them, and the upload by huggingface_hub."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.errors import DataError
from invert_rl.described import FILE

if TYPE_CHECKING:
    from transformers import TrainingArguments

PATTERNS = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "README.md")
"""Weights, configuration, tokenizer, ``invert_rl.json`` and the card; never a pickle or an optimizer's state."""
NOT_OF_THE_MODEL = ("trainer_state.json", "validation.json", "files.json")
ADAPTER_CONFIG = "adapter_config.json"


def check_upload(folder: Path) -> dict[str, int]:
    """The files of a model folder to hand on, with their sizes in bytes.

    Raises `DataError` for what is no model folder, one without ``invert_rl.json`` or a card, and an adapter whose base
    lies on this machine.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    adapter = folder / ADAPTER_CONFIG
    if not (folder / "config.json").is_file() and not adapter.is_file():
        raise DataError(f"{folder}: no model, config.json is missing")
    if not any(folder.glob("*.safetensors")):
        raise DataError(f"{folder}: no weights in safetensors; other formats are not uploaded")
    for name, remedy in (
        (FILE, "it says how the model is asked; models of this library's recipes have it"),
        ("README.md", "the model card, which the recipes write; write one if the model is not theirs"),
    ):
        if not (folder / name).is_file():
            raise DataError(f"{folder}: {name} is missing: {remedy}")
    if adapter.is_file() and not (folder / "config.json").is_file():
        base = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path") or ""
        if os.path.isabs(base) or os.path.isdir(base):
            raise DataError(
                f"{folder}: an adapter of {base}, a folder that nobody else has; merge it first (`invert-rl merge "
                f"{folder} --output DIR`), or write the name of its base on the hub into {ADAPTER_CONFIG}"
            )
    paths = {path for pattern in PATTERNS for path in folder.glob(pattern) if path.is_file()}
    return {path.name: path.stat().st_size for path in sorted(paths) if path.name not in NOT_OF_THE_MODEL}


def stage(folder: Path, names: Sequence[str], target: Path) -> None:
    """Copy the files ``names`` of a model folder into the new folder ``target``: what a download would give."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"{target}: is there already; choose another folder for --dry-run")
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copyfile(folder / name, target / name)


def upload(folder: Path, names: Sequence[str], repo: str, private: bool, message: str, token: str | None = None) -> str:
    """Upload the files ``names``; returns the address. Raises `DataError` where the hub refuses or is not reached."""
    from huggingface_hub import HfApi

    with hub_errors(repo):
        api = HfApi(token=token)
        api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo, folder_path=folder, allow_patterns=list(names), commit_message=message, repo_type="model"
        )
    return f"https://huggingface.co/{repo}"


def check_login(repo: str, token: str | None = None) -> None:
    """Ask the hub who is logged in, before a long run that is to end with an upload; raises `DataError`."""
    from huggingface_hub import HfApi

    check_repo(repo)
    with hub_errors(repo):
        HfApi(token=token).whoami()


def check_repo(repo: str) -> None:
    """Raise `DataError` for what is no name of a repository."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise DataError(f"--repo {repo}: {error}") from error
    if repo.count("/") != 1:
        raise DataError(f"--repo {repo}: give it as USER/NAME")


@contextmanager
def hub_errors(repo: str) -> Iterator[None]:
    """Around calls of the hub: what it raises becomes a `DataError` with a remedy."""
    from huggingface_hub.errors import HTTPError, LocalTokenNotFoundError

    try:
        yield
    except LocalTokenNotFoundError as error:
        raise DataError(f"{repo}: nobody is logged in; run `hf auth login`, or set HF_TOKEN") from error
    except (HTTPError, OSError) as error:
        told = " ".join(str(error).split())[:300]
        raise DataError(f"{repo}: the hub cannot be used ({told}); `invert-rl push --dry-run` needs none") from error


@dataclass(frozen=True)
class Push:
    """An upload that a run was asked for, to be made when it is finished."""

    repo: str
    private: bool
    token: str | None

    def upload(self, folder: Path) -> str:
        """Upload a model folder; returns the address. Raises `DataError` as `check_upload` and `upload` do."""
        return upload(folder, list(check_upload(folder)), self.repo, self.private, "Upload by invert-rl", self.token)


def take_push(args: TrainingArguments) -> Push | None:
    """The upload that ``--push_to_hub`` asks for, taken out of the arguments: a trainer would upload every checkpoint.

    The main process asks the hub first whether somebody is logged in; raises `DataError` if not.
    """
    if not args.push_to_hub:
        return None
    push = Push(str(args.hub_model_id), bool(args.hub_private_repo), args.hub_token)
    args.push_to_hub = False
    if args.process_index == 0:
        check_login(push.repo, push.token)
    return push
