"""The numbers of a report against counts made by hand, and its charts as the SVG they are."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from data_prep.rows import Row
from invert_rl.evaluation.predictions import Prediction
from invert_rl.report.charts import BOTTOM, HEIGHT, TOP, bin_counts, histogram, line_chart, nice_ticks, thinned
from invert_rl.report.samples import make_samples, thought_of
from invert_rl.report.tables import confusions, metric_changes, naming_table, step_times, verb_table
from rewards.pipelines import load_pipeline


def row(name: str, verb: str) -> Row:
    return Row(name, "v.mp4", 20.0, f"a person {verb}s the door", ((0.0, 10.0),), meta={"verbs": [verb]})


def ar(name: str, verb: str, score: float) -> Prediction:
    return Prediction(name, "ar", text=f"<think>hm</think> <answer>{verb}</answer>", score=score)


ROWS = [row("a", "open"), row("b", "open"), row("c", "close")]
BEFORE = [
    Prediction("a", "tvg", [(0.0, 5.0)], "<think>early</think> <answer>0.00 to 5.00</answer>"),
    Prediction("b", "tvg", status="missing_video"),
    Prediction("c", "tvg", [(10.0, 20.0)], "<answer>10 to 20</answer>"),
    ar("a", "close", 0.0),
    ar("b", "close", 0.0),
    ar("c", "close", 1.0),
]
AFTER = [
    Prediction("a", "tvg", [(0.0, 10.0)], "<think>all</think> <answer>0.00 to 10.00</answer>"),
    Prediction("c", "tvg", [], "none", status="unparsable"),
    ar("a", "open", 1.0),
    ar("b", "close", 0.0),
    ar("c", "close", 1.0),
]


def samples():
    return make_samples(ROWS, BEFORE, AFTER, load_pipeline())


def test_samples_put_before_and_after_together() -> None:
    made = samples()
    assert [(s.task, s.id) for s in made] == [(task, name) for task in ("tvg", "ar") for name in "abc"]
    first = made[0]
    assert first.before and first.after
    assert (first.before.value, first.after.value, first.change) == (0.5, 1.0, 0.5)
    assert first.after.parts == {"IoU": 1.0, "format": 1.0}
    assert (first.after.thought, first.after.answer) == ("all", "0.00 to 10.00")
    assert made[1].after is None and made[1].change == 0.0
    assert made[2].before and made[2].before.parts["format"] == 0.0
    assert made[3].after and made[3].after.verbs == ["open"]


@pytest.mark.parametrize(
    ("text", "thought"),
    [
        ("<think>one</think> <answer>two</answer>", "one"),
        ("one</think><answer>two</answer>", "one"),
        ("<THINK>one</THINK> two", "one"),
        ("two", ""),
        ("<answer>two</answer>", ""),
    ],
)
def test_thought(text: str, thought: str) -> None:
    assert thought_of(text) == thought


def test_table_by_verb() -> None:
    opened, closed = verb_table(samples())
    assert (opened.verb, opened.rows, closed.verb, closed.rows) == ("open", 2, "close", 1)
    assert opened.columns["mIoU"].before == pytest.approx(25) and opened.columns["mIoU"].after == pytest.approx(100)
    assert opened.columns["AR"].difference == pytest.approx(50)
    assert closed.columns["R1@0.5"].after == 0 and closed.columns["AR"].before == 100


def test_grounding_by_naming() -> None:
    rows = [
        Row(name, "v.mp4", 20.0, "a person opens a box", ((0.0, 10.0),), meta={"verbs": ["open"]}) for name in "abcde"
    ]
    spans = {"a": (0.0, 10.0), "b": (0.0, 5.0), "c": (0.0, 2.0), "d": (0.0, 4.0), "e": (15.0, 20.0)}
    named = {"a": "open", "b": "open", "c": "close", "d": "close", "e": "close"}
    after = [
        Prediction(name, "tvg", [span], f"<answer>{span[0]} to {span[1]}</answer>") for name, span in spans.items()
    ]
    after += [ar(name, verb, float(verb == "open")) for name, verb in named.items()]
    (found,) = naming_table(make_samples(rows, [], after, load_pipeline()))
    assert (found.task, found.when, found.right, found.wrong) == ("AR", "after", 2, 3)
    assert (found.right_iou, found.wrong_iou) == (pytest.approx(75), pytest.approx(20))  # 100, 50 and 20, 40, 0
    assert found.difference == pytest.approx(55) and found.half == pytest.approx(1.96 * (1250 / 2 + 400 / 3) ** 0.5)
    assert naming_table(samples()) == []  # fewer than two rows on a side


def test_similar_verbs() -> None:
    found = confusions(samples())
    assert found.worst == [("open", "close", 2, 1)]
    assert found.verbs == ["close", "open"]
    assert found.matrix == [[1, 0], [1, 1]]
    alone = confusions(make_samples(ROWS, BEFORE, [], load_pipeline()))
    assert alone.worst == [("open", "close", 2, None)]
    assert alone.matrix == [[1, 0], [2, 0]]


def test_step_times_need_lines_of_one_task() -> None:
    log = [
        {"step": 1, "tvg/reward": 1.0, "time/rollout": 1.0, "step_time": 3.0},
        {"step": 2, "vc/reward": 1.0, "time/rollout": 5.0},
        {"step": 3, "vc/reward": 1.0, "tvg/reward": 1.0, "time/rollout": 9.0},
    ]
    parts, table = step_times(log)
    assert parts == ["rollout", "step_time"]
    assert table == {
        "TVG": {"rollout": 1.0, "step_time": 3.0},
        "VC": {"rollout": 5.0},
        "all tasks": {"rollout": 5.0, "step_time": 3.0},
    }


def test_metric_changes() -> None:
    changes = metric_changes({"n": 3, "mIoU": 10.0, "AR": 5.0}, {"n": 3, "mIoU": 30.0})
    assert list(changes) == ["mIoU", "AR"]
    assert changes["mIoU"].difference == 20.0 and changes["AR"].difference is None


def svg(markup: str) -> ET.Element:
    return ET.fromstring(markup)


def test_line_chart_places_its_points() -> None:
    figure = svg(line_chart("Reward & more", {"<a>": [(0, 0.0), (5, 1.0), (10, 0.5)], "empty": [(1, float("nan"))]}))
    (line,) = figure.iter("polyline")
    xs, ys = zip(*(map(float, pair.split(",")) for pair in line.attrib["points"].split()), strict=True)
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)
    assert ys == (HEIGHT - BOTTOM, TOP, pytest.approx((HEIGHT - BOTTOM + TOP) / 2))
    assert "<a>, step 5: 1" in [title.text for title in figure.iter("title")]
    assert line_chart("nothing", {"a": []}) == ""


def test_no_two_lines_of_a_chart_look_alike() -> None:
    chart = str(line_chart("Parts", {f"part {number}": [(0, number), (1, number)] for number in range(10)}))
    looks = re.findall(r'<polyline class="line ([^"]+)"', chart)
    assert len(set(looks)) == 10 and looks[:2] == ["s0", "s1"] and looks[8] == "s0 again"
    assert re.findall(r'<i class="([^"]+)"', chart) == looks


def test_histogram_heights_are_the_counts() -> None:
    assert bin_counts([0.0, 0.05, 0.1, 0.999, 1.0, 0.3], 10) == [2, 1, 0, 1, 0, 0, 0, 0, 0, 2]
    figure = svg(histogram("IoU", {"before": [0.0, 0.05, 0.15], "after": [1.0]}))
    bars = list(figure.iter("rect"))
    assert len(bars) == 20
    heights = [float(bar.attrib["height"]) for bar in bars]
    assert heights[0] == pytest.approx(2 * heights[1], abs=0.2) and heights[19] == pytest.approx(heights[1], abs=0.1)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.4, 0.95), (-0.01, 0.01), (3, 3), (0, 0), (0, 12345)])
def test_ticks_cover_the_values(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 8 and ticks[0] <= low and ticks[-1] >= high
    assert ticks == sorted(set(ticks))


def test_long_series_are_thinned_to_means() -> None:
    points = [(float(n), float(n % 2)) for n in range(1000)]
    few = thinned(points)
    assert len(few) <= 300 and few[-1][0] == 999
    assert sum(value for _, value in few) / len(few) == pytest.approx(0.5, abs=0.01)
