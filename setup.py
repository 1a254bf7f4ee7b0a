"""What pyproject.toml cannot say: a wheel carries the recipes and their configs, as ``invert_rl/recipes``."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRecipes(build_py):
    """`build_py`, and a copy of ``recipes`` inside the package; an editable install finds them where they lie."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "invert_rl" / "recipes"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree("recipes", target, ignore=shutil.ignore_patterns("__pycache__", "runs"))


setup(cmdclass={"build_py": BuildWithRecipes})
