"""``--engine ray`` on a cluster of this machine: what the local engine gives, also where workers are killed."""

from __future__ import annotations

import functools
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors import safe_open

from data_prep.errors import DataError
from data_prep.ray_engine import RayTeam, run_each_on_ray
from data_prep.rows import read_rows, write_rows
from invert_rl.cli import main

ray = pytest.importorskip("ray", reason="needs the extra `ray`")

KILLER = """
import os, signal, sys
from pathlib import Path
import {module} as module

if "default_worker" in sys.argv[0]:  # a worker of Ray: the first one here is killed at its second batch
    try:
        os.close(os.open({flag!r}, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        pass
    else:
        whole, calls = module.{name}.__call__, []

        def call(self, jobs, upcoming=()):
            calls.append(1)
            if len(calls) == 2:
                Path({flag!r}).write_text("killed")
                os.kill(os.getpid(), signal.SIGKILL)
            return whole(self, jobs, upcoming)

        module.{name}.__call__ = call
"""
"""A plugin, as workers load it, too."""
SMALL = ["--min-pixels", "3136", "--max-pixels", "6272", "--max-new-tokens", "4", "--cpu"]
TWO = ["--engine", "ray", "--workers", "2"]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}  # else workers starve on a busy machine
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


class Doubling:
    """Notes each item in a file; ends its process over 5, the first ``deaths`` times."""

    def __init__(self, log: str, deaths: int = 1) -> None:
        self.log, self.deaths = Path(log), deaths
        self.about = {"pid": os.getpid()}

    def __call__(self, item: int, upcoming: int | None) -> int:
        with self.log.open("a") as out:
            out.write(f"{item}\n")
        if item == 5 and self.log.read_text().split().count("5") <= self.deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        if item == 13:
            raise DataError("d.jsonl:13: no good")
        time.sleep(0.02)
        return 2 * item


def same(item: object) -> object:
    """The item, after a crash or a nap for some."""
    if item == "crash":
        os.abort()
    if item == "sleep":
        time.sleep(60)
    return item


def test_a_killed_worker_costs_no_item_and_none_comes_twice(tmp_path: Path) -> None:
    log = tmp_path / "asked"
    with RayTeam(functools.partial(Doubling, str(log)), 3) as team:
        assert team.wait_for_about()["pid"] != os.getpid()
        found = list(team.each(list(range(12))))
        assert sorted(found) == [(place, 2 * place) for place in range(12)]
        assert Counter(log.read_text().split()) == {str(item): 2 if item == 5 else 1 for item in range(12)}
        assert sorted(team.each([20, 21])) == [(0, 40), (1, 42)]  # the same workers go on
        with pytest.raises(DataError, match="^d.jsonl:13: no good$"):
            list(team.each([1, 13]))


def test_an_item_that_kills_every_worker_is_an_error(tmp_path: Path) -> None:
    build = functools.partial(Doubling, str(tmp_path / "asked"), deaths=9)
    with RayTeam(build, 2) as team, pytest.raises(DataError, match="3 workers died over the same item, number 1"):
        list(team.each([4, 5, 6]))


def test_a_folder_that_a_machine_does_not_have_is_an_error(tmp_path: Path) -> None:
    gone = tmp_path / "elsewhere"
    with pytest.raises(DataError, match="elsewhere: not on the machine"):
        list(run_each_on_ray(same, ["a"], 1, 9.0, folders=[gone]))


def test_crashes_and_limits_are_those_of_the_local_engine() -> None:
    found = dict(run_each_on_ray(same, ["a", "crash", "b", "sleep", "c"], 2, 3.0))
    assert [found[name] for name in "abc"] == ["a", "b", "c"]
    assert "exit code -6" in found["crash"].reason and found["sleep"].timed_out


def clip_in(file: Path) -> tuple[dict, dict]:
    """What a stored clip holds; the order of a file's header is by chance."""
    with safe_open(file, framework="np") as content:
        return content.metadata(), {name: content.get_tensor(name).tobytes() for name in content.keys()}  # noqa: SIM118


def test_check_videos_and_cache_frames(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = read_rows(world / "train.jsonl")
    rows[0] = type(rows[0])(**{**vars(rows[0]), "video": "gone.mp4"})
    data = tmp_path / "d.jsonl"
    write_rows(rows, data)
    given = [str(data), "--videos", str(world / "videos"), "--json"]

    def run(*command: str) -> dict:
        assert main([*command, *given]) == 1  # one video is not there
        told = json.loads(capsys.readouterr().out)
        return {name: told[name] for name in told if name not in ("seconds", "manifest", "store")}

    manifests = {name: ["--manifest", str(tmp_path / f"{name}.jsonl")] for name in ("local", "ray")}
    local = run("check-videos", *manifests["local"], "--workers", "1")
    assert run("check-videos", *manifests["ray"], *TWO) == local
    lines = {name: sorted((tmp_path / f"{name}.jsonl").read_text().splitlines()) for name in manifests}
    assert lines["ray"] == lines["local"]
    assert run("check-videos", *manifests["ray"], *TWO)["checked"] == 1  # what is not there is looked for again
    stores = {name: tmp_path / f"{name}_store" for name in ("local", "ray")}
    local = run("cache-frames", "--store", str(stores["local"]), "--workers", "1")
    assert run("cache-frames", "--store", str(stores["ray"]), *TWO) == local
    clips = {
        name: {str(file.relative_to(store)): clip_in(file) for file in store.rglob("*.safetensors")}
        for name, store in stores.items()
    }
    assert clips["ray"] == clips["local"] and clips["local"]


@pytest.mark.parametrize(
    ("command", "module", "name"),
    [
        ("evaluate", "invert_rl.evaluation.predict", "Answerer"),
        ("rate-difficulty", "invert_rl.evaluation.difficulty", "Rater"),
    ],
)
def test_models_answer_as_the_local_engine_also_if_a_worker_is_killed(
    command: str,
    module: str,
    name: str,
    world: Path,
    tiny_qwen2_5: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    os.symlink(world / "videos", tmp_path / "videos")
    write_rows(read_rows(world / "train.jsonl")[:6], tmp_path / "d.jsonl")
    given = ["--model", tiny_qwen2_5, "--videos", "videos", "--tasks", "tvg", "ar", "--batch-size", "1", "--json"]
    given += SMALL + (["--data", "d.jsonl"] if command == "evaluate" else ["d.jsonl", "--generations", "2"])
    told = {}
    for engine in ("local", "ray"):
        flag = tmp_path / f"{engine}.flag"
        killer = tmp_path / f"killer_{engine}_{name}.py"
        killer.write_text(KILLER.format(module=module, name=name, flag=str(flag)))
        options = ["--plugins", str(killer), "--output", f"{engine}.jsonl", *(TWO if engine == "ray" else [])]
        assert main([command, *given, *options]) == 0
        told[engine] = json.loads(capsys.readouterr().out)
        told[engine].pop("output", None)
        assert flag.exists() == (engine == "ray")
    assert (tmp_path / "ray.flag").read_text() == "killed"
    assert told["ray"] == told["local"]
    assert (tmp_path / "ray.jsonl").read_text() == (tmp_path / "local.jsonl").read_text()
    assert bool(list(tmp_path.glob("ray.jsonl.part*"))) == (command == "rate-difficulty")  # which keeps its ratings
    # what is there is not asked again, whichever engine made it
    assert main([command, *given, "--output", "ray.jsonl"]) == 0
