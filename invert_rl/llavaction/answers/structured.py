"""Two-stage structured prediction: a specialist's best K classes, and the model's choice among them (section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.llavaction.answers.choices import Choice
from invert_rl.llavaction.answers.metrics import top1_metrics
from invert_rl.llavaction.segments import Action, parse_action


def true_action(row: Row) -> Action:
    """The annotated class of a row of ``build-mqa``."""
    return int(row.meta["verb_class"]), int(row.meta["noun_class"])


def chosen_action(row: Row, choice: Choice) -> Action:
    """The class of the option that was chosen; the specialist's best one where the answer cannot be read [C].

    Raises `DataError` for a row that was not built with ``--mode structured``.
    """
    if "first" not in row.meta:
        raise DataError(f"row {row.id!r}: not a structured question; build it with `build-mqa --mode structured`")
    key = row.meta["first"] if choice.place is None else row.meta["option_classes"][choice.place]
    return parse_action(key, f"row {row.id!r}")


def structured_metrics(choices: Mapping[str, Choice], rows: Sequence[Row]) -> dict[str, float]:
    """Top-1 accuracy of ``action``, ``verb`` and ``noun``, percent, and what bounds it.

    ``upper_bound`` is how often the true class is among the K at all, ``specialist`` the accuracy of the specialist's
    best class, ``unparsable`` how often that stood in for an answer.
    """
    none = Choice(None, None)
    truth = {row.id: true_action(row) for row in rows}
    found = top1_metrics({row.id: chosen_action(row, choices.get(row.id, none)) for row in rows}, truth)
    return found | {
        "upper_bound": 100 * sum(row.meta["answer"] is not None for row in rows) / len(rows),
        "specialist": top1_metrics({row.id: chosen_action(row, none) for row in rows}, truth)["action"],
        "unparsable": 100 * sum(choices.get(row.id, none).place is None for row in rows) / len(rows),
    }
