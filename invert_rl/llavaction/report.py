"""The questions that a training run answers before and after, and what it leaves behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from data_prep.errors import DataError
from data_prep.files import read_jsonl, write_records
from data_prep.rows import Row
from invert_rl.llavaction.answers.answer import (
    MISSING,
    Answer,
    QuestionAnswerer,
    answer_of,
    missing_of,
    sequential_answers,
)
from invert_rl.llavaction.answers.metrics import choice_metrics
from invert_rl.llavaction.data import RunData, SampleEncoder
from invert_rl.llavaction.questions.several import several_metrics
from invert_rl.llavaction.training import LLaVActionTrainer
from invert_rl.recipe.summary import write_summary


def answer_all(
    when: str, trainer: LLaVActionTrainer, encode: SampleEncoder, data: RunData, reuse: bool = False
) -> dict[str, float]:
    """Metrics of the trainer's model on all test questions, percent; the answers go to ``samples_<when>.jsonl``.

    Those of the first test have plain names (``MQA``, …), those of others ``<test>/MQA``; with ``sap`` the first is
    asked once more by sequential prediction (``SAP``). ``reuse`` takes the answers that a stopped run wrote. Empty
    without a test, and for sharded models, which ``invert-rl evaluate-mqa`` evaluates afterwards.
    """
    if not data.tests or trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        return {}
    args = trainer.args
    path = Path(str(args.output_dir)) / f"samples_{when}.jsonl"
    state = trainer.accelerator
    ask = QuestionAnswerer(
        state.unwrap_model(trainer.model),
        encode,
        args.eval_batch_size,
        args.max_new_tokens,
        state.process_index,
        state.num_processes,
        args.likeliest,
    )
    known = read_answers(path) if reuse and path.is_file() else {}
    metrics: dict[str, float] = {}
    records: list[dict[str, Any]] = []
    for number, (name, rows) in enumerate(data.tests.items()):
        with state.autocast():
            answers = known[name] if name in known else ask(rows)
        found = {name: answers}
        if number == 0 and args.sap:
            sap = f"{name}/sap"
            with state.autocast():
                found[sap] = known[sap] if sap in known else sequential_answers(ask, rows, answers)[0]
            metrics["SAP"] = next(iter(answer_metrics(found[sap], rows).values()))
        scores = answer_metrics(answers, rows)
        metrics |= scores if number == 0 else {f"{name}/{key}": value for key, value in scores.items()}
        for test, given in found.items():
            records += [{"test": test, "answer": truth_of(row), **given[row.id].record()} for row in rows]
    if state.is_main_process:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_records(path, records)
    return metrics


def truth_of(row: Row) -> Any:
    """Letter of a row's true option, or letters where there are several."""
    return row.meta.get("answers", row.meta.get("answer"))


def read_answers(path: Path) -> dict[str, dict[str, Answer]]:
    """Answers of a ``samples_*.jsonl`` by test and row id."""
    found: dict[str, dict[str, Answer]] = {}
    for number, record in read_jsonl(path):
        try:
            found.setdefault(record["test"], {})[record["id"]] = answer_of(record)
        except (KeyError, TypeError) as error:
            raise DataError(f"{path}:{number}: not an answer ({error!r}); delete the file to ask again") from error
    return found


def answer_metrics(answers: Mapping[str, Answer], rows: Sequence[Row]) -> dict[str, float]:
    """`choice_metrics` of answers; `several_metrics` where questions have several true options."""
    if any("answers" in row.meta for row in rows):
        states = Counter(answers[row.id].status for row in rows if row.id in answers)
        share = 100 / len(rows)
        found = several_metrics({identity: answer.places for identity, answer in answers.items()}, rows)
        return found | {"unparsable": share * states["unparsable"], "missing": share * states[MISSING]}
    choices = {identity: answer.choice for identity, answer in answers.items()}
    return choice_metrics(choices, rows, missing_of(answers))


def write_report(
    output_dir: str,
    result: Mapping[str, Mapping[str, float]],
    control: Mapping[str, float] | None,
    blind: Mapping[str, Mapping[str, float]],
    seconds: float,
    settings: Mapping[str, Any],
) -> Path:
    """Write ``summary.json``; ``random_distractors`` in it is what the control run reached, ``trivial`` the metrics of
    the best rule that never looks, and ``blind`` what the audit found in each test."""
    before, after = result["before"], result["after"]
    others = {"random_distractors": control, "trivial": trivial_metrics(blind), "blind": blind}
    return write_summary(output_dir, before, after, seconds, settings, **others)


def trivial_metrics(blind: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The accuracy of the best blind rule under the metrics' names: the first test's is plain."""
    return {"MQA" if number == 0 else f"{name}/MQA": blind[name]["worst"] for number, name in enumerate(blind)}


def comparison_table(
    result: Mapping[str, Mapping[str, float]],
    control: Mapping[str, float] | None,
    blind: Mapping[str, Mapping[str, float]],
) -> Table:
    """Metrics before and after, those of the control run beside them, and of the best rule that sees no clip."""
    table = Table(title=f"{result['after']['n']:.0f} questions, percent")
    trivial = trivial_metrics(blind)
    columns = ["metric", "blind", "start", "after"] + (["trained with random options"] if control else [])
    for column in columns:
        table.add_column(column, justify="left" if column == "metric" else "right")
    for name, value in result["after"].items():
        if name == "n" or name.endswith("/n"):
            continue
        before = result["before"].get(name)
        known = [f"{found:.1f}" if found is not None else "" for found in (trivial.get(name), before)]
        cells = [name, *known, f"{value:.1f}"]
        table.add_row(*cells, *([f"{control[name]:.1f}"] if control else []))
    return table
