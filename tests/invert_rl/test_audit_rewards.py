"""``invert-rl audit-rewards``: blind ceilings, annotated answers and paraphrases of every task."""

import json
import random

import pytest
from transformers import TrainerState

from data_prep.rows import Row, read_rows, write_rows
from invert_rl.audit_rewards import run_ceilings
from invert_rl.cli import main
from invert_rl.recipe.run_log import OnceLogged
from invert_rl.report.page import _curves
from invert_rl.tasks import load_preset

VERBS = {"opens": "open", "closes": "close", "washes": "wash", "throws": "throw", "eats": "eat"}


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory):
    """Sixty rows, half of them of "open", in videos of two lengths; the last ten have two windows."""
    rng = random.Random(0)
    rows = []
    for number in range(60):
        form = "opens" if number % 2 else rng.choice(list(VERBS))
        thing = rng.choice(["door", "box", "apple"])
        start = rng.uniform(2, 12)
        windows = ((start, start + 5.0),) + (((21.0, 24.0),) if number >= 50 else ())
        meta = {"verbs": [VERBS[form]], "masked_query": f"person [] the {thing}", "verb_pipeline": "x"}
        query = f"person {form} the {thing}"
        rows.append(Row(f"r{number}", f"v{number // 3}.mp4", 25.0, query, windows, meta=meta))
    path = tmp_path_factory.mktemp("audit") / "rows.jsonl"
    write_rows(rows, path)
    return path


def audit(capsys, *arguments):
    assert main(["audit-rewards", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_each_task_has_its_ceilings(rows_file, capsys):
    report = audit(capsys, rows_file)
    assert report["n"] == 60
    assert list(report["tasks"]) == ["tvg", "vc", "ar", "vd"]
    for name, task in report["tasks"].items():
        assert 0.0 < task["blind"] < task["perfect"] == pytest.approx(1.0, abs=2e-3), name
        assert task["blind"] == max(task["attacks"].values())
        assert task["answer"]
        assert all(value > 0.6 for value in task["paraphrases"].values()), name
    assert report["tasks"]["ar"]["answer"] == "open"
    assert 0.5 < report["tasks"]["ar"]["blind"] < 0.8
    assert "masked query" in report["tasks"]["vc"]["attacks"]
    assert "masked query" not in report["tasks"]["vd"]["attacks"]
    assert {"part by length", "part by verbs"} <= set(report["tasks"]["tvg"]["attacks"])
    assert report["verbs"]["verb_guard"] == "default"


def test_without_the_guard_describing_everything_is_paid(rows_file, capsys):
    default = audit(capsys, rows_file, "--tasks", "vd")["tasks"]["vd"]
    letter = audit(capsys, rows_file, "--tasks", "vd", "--verb-guard", "none")
    assert letter["tasks"]["vd"]["blind"] == pytest.approx(1.0)
    assert default["blind"] < 0.9
    assert letter["verbs"]["verb_guard"] == "none"


def test_other_rewards_prompts_and_windows(rows_file, capsys):
    report = audit(
        capsys, rows_file, "--tasks", "tvg", "--prompt", "spans_json", "--windows", "all",
        "--rewards", "tvg=format:1,wasserstein:1,set_iou:1,parse_penalty:1",
    )  # fmt: skip
    tvg = report["tasks"]["tvg"]
    assert tvg["n"] == 60
    assert tvg["perfect"] == pytest.approx(1.0, abs=2e-3)
    assert tvg["answer"].startswith(("[[", "part"))
    assert set(tvg["by_reward"]) == {"wasserstein", "set_iou"}
    assert tvg["by_reward"]["wasserstein"]["blind"] > tvg["by_reward"]["set_iou"]["blind"]
    assert audit(capsys, rows_file, "--tasks", "tvg")["tasks"]["tvg"]["n"] == 70  # one row a window


def test_refusal_has_the_constant_refusal(rows_file, capsys):
    task = audit(capsys, rows_file, "--tasks", "refuse")["tasks"]["refuse"]
    assert task["attacks"]["refusal"] == pytest.approx(0.5, abs=0.1)
    assert task["perfect"] == pytest.approx(1.0, abs=2e-3)


def test_a_run_logs_its_ceilings_once(rows_file):
    tasks = load_preset("think").only(["tvg", "ar"]).tasks
    weights = {"tvg": {"format": 1.0, "iou": 1.0, "builtins:len": 1.0}, "ar": {"ar": 1.0}}
    ceilings = run_ceilings(tasks, read_rows(rows_file), weights, {})
    assert set(ceilings) == {"blind/tvg/iou", "blind/ar/ar"}  # not of the form, and not of somebody else's function
    assert 0.5 < ceilings["blind/ar/ar"] < 0.8
    once = OnceLogged(ceilings)
    state = TrainerState(global_step=1)
    first, second = {"loss": 1.0}, {"loss": 1.0}
    once.on_train_begin(None, TrainerState(global_step=0), None)
    for logs in (first, second):
        once.on_log(None, state, None, logs=logs)
    assert first == {"loss": 1.0, **ceilings}
    assert second == {"loss": 1.0}
    resumed = OnceLogged(ceilings)
    resumed.on_train_begin(None, state, None)
    resumed.on_log(None, state, None, logs=second)
    assert second == {"loss": 1.0}


def test_the_report_draws_them_as_level_lines():
    log = [{"step": 1, "tvg/iou": 0.2, "blind/tvg/iou": 0.3}, {"step": 2, "tvg/iou": 0.4}]
    chart = next(str(chart) for chart in _curves(log, {}) if "Parts of the reward, TVG" in str(chart))
    assert "iou, blind from 0.3 to 0.3" in chart
    assert not any("blind" in str(chart) for chart in _curves([{"step": 1, "tvg/iou": 0.2}], {}))


def test_a_table_for_people(rows_file, capsys):
    assert main(["audit-rewards", str(rows_file), "--tasks", "ar"]) == 0
    assert "blind: verb" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rewards", "vd=format:1"], "no reward of its content"),
        (["--rewards", "vd=nothing:1"], "unknown reward 'nothing'"),
        (["--ignore-verbs", "quux"], "ignore_verbs: 'quux'"),
    ],
)
def test_bad_settings_are_refused(rows_file, capsys, arguments, message):
    assert main(["audit-rewards", str(rows_file), "--tasks", "vd", *arguments]) == 1
    assert message in capsys.readouterr().err
