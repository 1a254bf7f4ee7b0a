"""Files that ranks append to beside an output, line by line, and what a begun output belongs to.

A killed command leaves its parts, and goes on from them; one with other settings is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep.errors import DataError
from data_prep.files import atomic_write, read_json


def part_of(output: Path, rank: int) -> Path:
    """The file that a rank appends to."""
    return output.with_name(f"{output.name}.part{rank}")


def parts_of(output: Path) -> list[Path]:
    """All ranks' parts that are there, also those of a run with more ranks."""
    return sorted(output.parent.glob(f"{output.name}.part*"))


def cut_last_line(path: Path) -> None:
    """Remove the half line that a kill can leave at the end of a file, and a file that holds no whole one."""
    if not path.is_file():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole == 0:
        path.unlink()
    elif whole != len(data):
        os.truncate(path, whole)


def begin(output: Path, sidecar: Path, settings: Mapping[str, Any]) -> None:
    """Write ``settings`` into ``sidecar`` if ``output`` is new, else compare them; only "versions" may differ.

    Raises `DataError` if ``output`` or its parts were begun with other settings, or by something else.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.exists() or parts_of(output):
        if not sidecar.exists():
            raise DataError(f"{output}: is there already and is not of this command; choose another --output")
        old, new = read_json(sidecar), json.loads(json.dumps(settings))
        for name in sorted(old.keys() | new.keys()):
            if name != "versions" and old.get(name) != new.get(name):
                raise DataError(
                    f"{output}: was begun with another {name}: {old.get(name)}, now it is {new.get(name)}; choose "
                    f"another --output or delete {output.name}* and {sidecar.name}"
                )
        return
    with atomic_write(sidecar) as out:
        json.dump(settings, out, indent=1)
        out.write("\n")
