"""The packages `rewards` and `data_prep` under this package's name, and under their own whatever lies around.

They are layers of their own beside `invert_rl`. A user's ``rewards.py`` in the working folder has the same name and
comes first where Python looks there first (``python -m invert_rl.cli``, notebooks); then ours are taken all the same.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

logger = logging.getLogger(__name__)

HOME = Path(__file__).resolve().parents[1]
"""The folder that all layers lie in."""
LAYERS = ("rewards", "data_prep")


class Alias(MetaPathFinder, Loader):
    """Lets ``invert_rl.rewards.spans`` be the very module ``rewards.spans``: registries must exist once."""

    def __init__(self, package: str) -> None:
        self.package = package
        self.specs: dict[str, ModuleSpec | None] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        parts = fullname.split(".")
        if len(parts) < 2 or parts[0] != self.package or parts[1] not in LAYERS:
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(spec.name.partition(".")[2])
        self.specs[spec.name] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """The module was run under its own name; it keeps that name's spec."""
        spec = module.__spec__
        if spec is not None and spec.name in self.specs:
            module.__spec__ = self.specs.pop(spec.name)


def claim(package: str) -> None:
    """Make sure that `LAYERS` are ours, and known as ``package.<layer>`` too."""
    for name in LAYERS:
        own = HOME / name / "__init__.py"
        if not _is(sys.modules.get(name), own) and not _is(importlib.util.find_spec(name), own):
            _load(name, own)
    if not any(isinstance(finder, Alias) for finder in sys.meta_path):
        sys.meta_path.insert(0, Alias(package))


def _is(found: ModuleType | ModuleSpec | None, own: Path) -> bool:
    place = getattr(found, "origin", None) or getattr(found, "__file__", None)
    return place is not None and Path(place).resolve() == own


def _load(name: str, own: Path) -> None:
    """Import our package of that name in the place of what is found under it."""
    other = sys.modules.pop(name, None) or importlib.util.find_spec(name)
    place = getattr(other, "origin", None) or getattr(other, "__file__", None)
    logger.warning("%s has the name of a package of invert-rl, which is taken instead; rename the file", place)
    for module in [module for module in sys.modules if module.startswith(f"{name}.")]:
        del sys.modules[module]
    if str(HOME) in sys.path:
        sys.path.remove(str(HOME))
    sys.path.insert(0, str(HOME))  # processes that are started from here look there first, too
    importlib.invalidate_caches()
    importlib.import_module(name)
