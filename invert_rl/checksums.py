"""Size and checksum of every file of a folder, in a list beside them that is the last file to be written."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from data_prep.files import atomic_write

MANIFEST = "files.json"
"""The list: ``{name: {"size": bytes, "sha256": hexadecimal}}``."""

NOT_NEEDED = ".md"
"""Files with this ending may change: a run does not read them."""

THREADS = 8
BLOCK = 1 << 22


def sha256(path: str | os.PathLike[str]) -> str:
    """Hash of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def write_manifest(folder: Path) -> list[Path]:
    """List all files of ``folder``, those in its subfolders too, in its `MANIFEST`; returns them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    entries = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": digest}
        for path, digest in zip(files, _hashes(files), strict=True)
    }
    with atomic_write(folder / MANIFEST) as out:
        json.dump(entries, out, indent=1)
        out.write("\n")
    return files


def against_manifest(folder: Path) -> str | None:
    """What differs between a folder's files and its `MANIFEST`, in a few words, or None. Sizes are looked at first."""
    try:
        listed = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except ValueError as error:
        return f"{MANIFEST} is cut off ({error})"
    if not isinstance(listed, dict) or not listed:
        return f"{MANIFEST} is damaged: it lists no files"
    checked: dict[str, str] = {}
    for name, entry in listed.items():
        known = isinstance(entry, dict) and isinstance(entry.get("size"), int) and isinstance(entry.get("sha256"), str)
        if not known or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            return f"{MANIFEST} is damaged at {name!r}"
        if name.endswith(NOT_NEEDED):
            continue
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        size = path.stat().st_size
        if size != entry["size"]:
            return f"{name} is cut off ({size} of {entry['size']} bytes)"
        checked[name] = entry["sha256"]
    found = _hashes([folder / name for name in checked])
    for (name, digest), now in zip(checked.items(), found, strict=True):
        if digest != now:
            return f"{name} has changed since it was written (its checksum is not the one in {MANIFEST})"
    return None


def _hashes(files: Sequence[Path]) -> list[str]:
    with ThreadPoolExecutor(THREADS) as pool:  # hashing releases the interpreter
        return list(pool.map(sha256, files))
