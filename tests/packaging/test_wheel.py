"""The wheel in an environment of its own, away from the clone: commands, recipes, configs and the toy checkpoint."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source")
    tracked = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in tracked.stdout.splitlines():
        if not name.startswith(("tests/", "benchmarks/")) and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    target = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(target), "."]
    done = subprocess.run(build, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(target.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment with the wheel in it; other packages are those that are installed here."""
    folder = tmp_path_factory.mktemp("fresh")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    found = folder / "bin" / "python"
    place = [str(found), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(place, capture_output=True, text=True, check=True).stdout.strip())
    shared = {path for path in sys.path if path.endswith("site-packages")} | {sysconfig.get_path("purelib")}
    (packages / "shared.pth").write_text("\n".join(sorted(shared)) + "\n")
    install = [sys.executable, "-m", "pip", "--python", str(found), "install", "-q", "--no-deps", str(wheel)]
    done = subprocess.run(install, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return found


@pytest.fixture
def run(python: Path, tmp_path: Path):
    """``run("-c", code)`` or ``run("invert-rl", …)`` in an empty folder that holds files with our packages' names."""
    for name in ("rewards.py", "data_prep.py"):
        (tmp_path / name).write_text("raise RuntimeError('the file of a user')\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    def call(*arguments: str) -> str:
        program = python.with_name("invert-rl") if arguments[0] == "invert-rl" else python
        words = [str(program), *arguments[arguments[0] == "invert-rl" :]]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return call


def test_the_wheel_holds_recipes_configs_and_checkpoint(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in (
        "invert_rl/recipes/grpo_invert.py",
        "invert_rl/recipes/configs/toy/grpo.yaml",
        "invert_rl/recipes/configs/charades_sta/qwen2_5_vl_3b.yaml",
        "invert_rl/recipes/configs/accelerate/8gpu_ddp.yaml",
        "invert_rl/toy/checkpoint/model.safetensors",
        "invert_rl/toy/checkpoint/invert_rl.json",
        "invert_rl/tasks/prompts/think.json",
        "invert_rl/model_card.md.jinja",
        "invert_rl/report/page.html.jinja",
        "invert_rl/py.typed",
        "rewards/py.typed",
        "data_prep/py.typed",
    ):
        assert name in names
    assert not any(name.startswith(("recipes/", "tests/", "examples/")) for name in names)


def test_the_library_is_that_of_the_wheel_whatever_lies_around(run, python):
    where = run(
        "-c", "import invert_rl.rewards, invert_rl.data_prep.rows; print(invert_rl.__file__, invert_rl.__version__)"
    )
    assert str(python.parents[1]) in where
    assert "invert-rl 0" in run("invert-rl", "--version")
    assert "--tvg_probability" in run("invert-rl", "train", "grpo", "--help")
    code = "from invert_rl.recipe_files import config_path; print(config_path('charades_sta/qwen2_5_vl_3b'))"
    assert str(python.parents[1]) in run("-c", code)


def test_it_trains_and_answers(run, tmp_path):
    run(
        *("invert-rl", "train", "grpo", "--max_steps", "1", "--toy_train_clips", "2", "--toy_test_clips", "1"),
        *("--per_device_train_batch_size", "8", "--max_completion_length", "8", "--output_dir", "out"),
        *("--save_strategy", "no", "--report_to", "none"),
    )
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["after"]
    clip = next((tmp_path / "cache").rglob("test_*.mp4"))
    answer = json.loads(run("invert-rl", "ask", str(clip), "the person is jumping", "--json"))
    assert answer["model"].endswith("toy/checkpoint")
    assert json.loads(run("invert-rl", "ask", str(clip), "a", "--model", "out/model", "--json"))["model"] == "out/model"
