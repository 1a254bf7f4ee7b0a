"""Tables from made-up runs: means, standard errors, paired differences, and what the files hold."""

from __future__ import annotations

import csv
import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from data_prep.errors import DataError
from invert_rl.ablation import plots
from invert_rl.ablation.config import AblationConfig, Table, read_tables
from invert_rl.ablation.jobs import Job
from invert_rl.ablation.recipes import GROUNDING as METRICS
from invert_rl.ablation.recipes import RECIPES
from invert_rl.ablation.table import (
    Result,
    as_markdown,
    lines_of,
    read_curve,
    read_results,
    statistic,
    write_tables,
)

TABLE = Table("tasks", "Tasks", ("only-tvg", "all"), reference="only-tvg")


def metrics(value: float) -> dict[str, float]:
    return {name: value + number for number, name in enumerate(METRICS)}


def results() -> list[Result]:
    values = {"only-tvg": {1: 50.0, 2: 54.0, 3: 49.0}, "all": {1: 52.0, 2: 55.5, 3: 53.0}}
    start = metrics(40.0)
    return [
        Result(name, seed, start, metrics(value), 10.0, {})
        for name, of_seed in values.items()
        for seed, value in of_seed.items()
    ]


def test_mean_and_standard_error_are_those_of_scipy():
    values = [50.0, 54.0, 49.0, 61.5]
    found = statistic(values)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.error == pytest.approx(stats.sem(values))
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert found.interval == pytest.approx((low, high))
    assert statistic([7.0]).error is None and statistic([7.0]).interval is None


def test_the_curve_of_a_run_is_read_from_its_validations(tmp_path):
    log = tmp_path / "log.jsonl"
    entries = [
        {"step": 10, "reward": 1.0},
        {"step": 50, "eval/mIoU": 40.0, "eval/VC": 60.0, "eval/AR": 70.0, "eval/VD": 80.0},
        {"step": 100, "eval/mIoU": 45.0},
    ]
    log.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    curve = read_curve(log)
    assert curve[50] == {"mIoU": 40.0, "VC": 60.0, "AR": 70.0, "VD": 80.0, "verbs": 70.0}
    assert curve[100] == {"mIoU": 45.0} and curve.keys() == {50, 100}
    assert read_curve(tmp_path / "none.jsonl") == {}


def test_lines_have_the_start_once_every_configuration_and_paired_differences():
    lines = lines_of(TABLE, results())
    assert [(line.name, line.when) for line in lines] == [
        ("start", "before"),
        ("only-tvg", "after"),
        ("all", "after"),
        ("all − only-tvg", "difference"),
    ]
    assert lines[0].metrics["mIoU"].mean == 40.0
    assert lines[2].metrics["VD"].mean == pytest.approx(np.mean([52.0, 55.5, 53.0]) + METRICS.index("VD"))
    paired = lines[3].metrics["mIoU"]
    assert paired.mean == pytest.approx(np.mean([2.0, 1.5, 4.0]))
    assert paired.error == pytest.approx(stats.sem([2.0, 1.5, 4.0]))


def test_a_difference_uses_only_the_seeds_that_both_have():
    some = [result for result in results() if (result.name, result.seed) not in (("only-tvg", 2), ("all", 3))]
    difference = lines_of(TABLE, some)[-1]
    assert difference.metrics["mIoU"].n == 1
    assert difference.metrics["mIoU"].mean == 2.0


def test_different_start_models_get_a_line_each_and_unfinished_configurations_none():
    table = Table("t", "T", ("only-tvg", "all", "later"))
    changed = [
        Result(r.name, r.seed, metrics(30.0) if r.name == "all" else r.before, r.after, 1.0, {}) for r in results()
    ]
    names = [line.name for line in lines_of(table, changed)]
    assert names == ["start of only-tvg", "start of all", "only-tvg", "all"]


def test_files_agree_with_each_other(tmp_path):
    guess = metrics(20.0)
    table = Table("tasks", "Tasks", ("only-tvg", "all"), reference="only-tvg", text_only=True)
    lines = lines_of(table, results(), guess)
    write_tables(tmp_path, {table: lines}, results(), 8, "python recipes/ablation.py")
    text = (tmp_path / "table.md").read_text()
    assert "6 of 8 runs, 60 s" in text
    assert "`python recipes/ablation.py`" in text
    cells = {row.split("|")[1].strip(): row.split("|")[2:] for row in text.splitlines() if row.startswith("| ")}
    assert cells["all"][0].strip() == "53.5 ± 1.0"
    assert cells["all − only-tvg"][0].strip() == "+2.5 [-0.8, +5.8]"
    assert cells["text only"][0].strip() == "20.0"
    content = json.loads((tmp_path / "table.json").read_text())
    for line in content["tables"]["tasks"]["lines"]:
        for value in line["metrics"].values():
            assert value["n"] in (1, 3)
    assert len(content["results"]) == 6
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(lines) * len(METRICS)
    mine = next(row for row in rows if row["name"] == "all" and row["metric"] == "R1@0.5")
    assert float(mine["mean"]) == pytest.approx(53.5 + 2)
    assert float(mine["standard_error"]) == pytest.approx(stats.sem([52.0, 55.5, 53.0]))


def test_a_metric_that_a_run_lacks_is_an_empty_cell():
    lacking = [
        Result(r.name, r.seed, {"mIoU": 1.0}, {"mIoU": 2.0}, 1.0, {}) if r.name == "only-tvg" else r for r in results()
    ]
    rows = as_markdown(TABLE, lines_of(TABLE, lacking)).splitlines()
    row = next(row for row in rows if row.startswith("| only-tvg |"))
    assert re.fullmatch(r"\| only-tvg \| 2\.0 ± 0\.0 \|(  \|){8} 3 \|", row), row


def test_a_metric_that_no_run_has_is_no_column():
    lacking = [Result(r.name, r.seed, {"mIoU": 1.0}, {"mIoU": 2.0}, 1.0, {}) for r in results()]
    assert as_markdown(TABLE, lines_of(TABLE, lacking)).splitlines()[2] == "|  | mIoU | runs |"


def test_detection_is_in_percent_beside_the_fixed_rule_of_each_world(tmp_path):
    jobs = []
    for world, seed, value in ((0, 0, 0.5), (0, 1, 0.7), (1, 0, 0.6)):
        folder = tmp_path / f"{world}{seed}"
        folder.mkdir()
        summary = {
            "before": {"average_mAP": 0.0},
            "after": {"average_mAP": value, "mAP@0.3": 0.9, "n": 40},
            "trivial": {"average_mAP": 0.2 + 0.1 * world, "rule": "nearest"},
            "seconds": 1.0,
            "settings": {},
        }
        (folder / "summary.json").write_text(json.dumps(summary))
        jobs.append(Job("all", seed, folder, "train_psftr.py", {}, {}, world=world))
    recipe = RECIPES["train_psftr"]
    table = Table("t", "T", ("all",), recipe=recipe)
    lines = lines_of(table, read_results(jobs, recipe))
    assert [line.name for line in lines] == ["trivial rule", "all"]  # random weights make no line
    assert lines[0].metrics["average_mAP"].mean == pytest.approx(25.0) and lines[0].metrics["average_mAP"].n == 2
    assert lines[1].metrics["average_mAP"].mean == pytest.approx(60.0) and lines[1].metrics["average_mAP"].n == 3


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"name": "a", "title": "A"}, "needs name, title and rows"),
        ({"name": "a", "title": "A", "rows": ["x"], "colour": "red"}, "may have"),
        ({"name": "a", "title": "A", "rows": ["y"]}, "no configuration 'y'; there are x"),
        ({"name": "a", "title": "A", "rows": ["x"], "metrics": ["mAP"]}, "metric 'mAP' is unknown"),
        ({"name": "a", "title": "A", "rows": ["x"], "plot": "pie"}, "plot 'pie' is unknown"),
    ],
)
def test_bad_tables_are_refused(table, message):
    with pytest.raises(DataError, match=message):
        read_tables(AblationConfig(configurations={"x": {}}, tables=[table]))


@pytest.mark.parametrize("kind", ["bars", "curve"])
def test_a_plot_is_drawn_as_png_and_svg(tmp_path, kind):
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    table = Table("p", "Probability", ("only-tvg", "all"), plot=kind)
    paths = plots.draw(table, lines_of(table, results()), {"only-tvg": 1.0, "all": 0.8}, tmp_path)
    assert [path.name for path in paths] == ["p.png", "p.svg"]
    picture = np.asarray(Image.open(paths[0]).convert("RGB"))
    for colour in plots.COLOURS[: len(table.metrics)]:
        wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
        assert (np.abs(picture.astype(int) - wanted).max(axis=2) < 8).sum() > 50, f"{colour} is not in the picture"
    assert ElementTree.parse(paths[1]).getroot().tag.endswith("svg")


@pytest.mark.parametrize("kind", ["steps", "frontier"])
def test_curves_over_steps_and_the_frontier_are_drawn(tmp_path, kind):
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    table = Table("f", "Forgetting", ("only-tvg", "all"), metrics=("mIoU", "verbs"), plot=kind)
    curve = {50: metrics(45.0), 100: metrics(48.0)}
    runs = [Result(r.name, r.seed, r.before, r.after, r.seconds, r.settings, curve) for r in results()]
    picture = np.asarray(Image.open(plots.draw(table, lines_of(table, runs), {}, tmp_path, runs)[0]).convert("RGB"))
    for colour in plots.COLOURS[:2]:
        wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
        assert (np.abs(picture.astype(int) - wanted).max(axis=2) < 8).sum() > 30, f"{colour} is not in the picture"


def test_no_two_lines_of_a_plot_look_alike():
    looks = [tuple(plots.look_of(number).values()) for number in range(40)]
    assert len(set(looks)) == 40 and looks[:2] == [("#0072B2", "o"), ("#E69F00", "s")]


def test_without_matplotlib_the_remedy_is_told(monkeypatch):
    monkeypatch.setattr(plots.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install -e '.\[plots\]'"):
        plots.require_matplotlib()
