"""Multiple-choice questions as an attacker has them: read from any file, without their clips."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from data_prep.errors import DataError
from data_prep.files import read_jsonl
from data_prep.rows import Row
from invert_rl.llavaction.questions.mqa import LETTERS
from invert_rl.llavaction.segments import Action, parse_action, same_text


@dataclass(frozen=True)
class Asked:
    """A question as an attacker has it, without the clip."""

    id: str
    options: tuple[str, ...]
    answer: int
    """Place of the true option."""
    classes: tuple[Action, ...] | None = None
    """Verb and noun class of each option, where the file names them."""
    video: str = ""
    time: tuple[float, float] = (0.0, 0.0)
    """Start and end of the clip, seconds."""
    priors: tuple[str, ...] = ()
    """Texts of the actions before the clip that the prompt may name."""


def asked_of_rows(rows: Sequence[Row]) -> list[Asked]:
    """The rows of `build-mqa` that have a true option."""
    found = (asked_of(asdict(row), f"row {row.id!r}") for row in rows)
    return [asked for asked in found if asked is not None]


def read_asked(path: str | os.PathLike[str]) -> tuple[list[Asked], int]:
    """The questions of a JSONL file, and how many others have no true option (structured ones).

    A line has ``options`` and ``answer`` (letter, place from 0 or text of one option), itself or in ``meta``; of what
    else `build-mqa` writes attacks use ``option_classes``, ``priors``, ``video`` and ``windows`` where they are there.
    Raises `DataError` naming the line for anything else.
    """
    found: list[Asked] = []
    without = 0
    for line, record in read_jsonl(path):
        where = f"{path}:{line}"
        asked = asked_of(record, where)
        if asked is None:
            without += 1
        else:
            found.append(asked)
    if not found:
        raise DataError(f"{path}: holds no question with a true option")
    return found, without


def asked_of(record: Mapping[str, Any], where: str) -> Asked | None:
    """One line as a question; None where none of its options is true. Raises `DataError`, starting with ``where``."""
    meta = record.get("meta") if isinstance(record.get("meta"), Mapping) else {}
    content = {**record, **(meta or {})}
    options, answer = content.get("options"), content.get("answer")
    if not isinstance(options, list) or not 2 <= len(options) <= len(LETTERS):
        raise DataError(f"{where}: 'options' must list 2 to {len(LETTERS)} texts")
    if not all(isinstance(option, str) and option.strip() for option in options):
        raise DataError(f"{where}: an option is not a text")
    if "answers" in content:
        raise DataError(f"{where}: has several true options; the audit is of questions with one")
    if answer is None and "first" in content:
        return None
    keys = content.get("option_classes")
    if keys is not None and (not isinstance(keys, list) or len(keys) != len(options)):
        raise DataError(f"{where}: 'option_classes' must name one class for each option")
    windows = content.get("windows") or [[0.0, 0.0]]
    try:
        time = (float(windows[0][0]), float(windows[0][1]))
    except (TypeError, ValueError, IndexError) as error:
        raise DataError(f"{where}: 'windows' must be pairs of seconds") from error
    priors = content.get("priors") or []
    return Asked(
        id=str(content.get("id", where)),
        options=tuple(options),
        answer=_place(answer, options, where),
        classes=None if keys is None else tuple(parse_action(key, where) for key in keys),
        video=str(content.get("video", "")),
        time=time,
        priors=tuple(
            str(prior["narration"]) for prior in priors if isinstance(prior, Mapping) and "narration" in prior
        ),
    )


def _place(answer: object, options: Sequence[str], where: str) -> int:
    letters = LETTERS[: len(options)]
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(options):
        return answer
    if isinstance(answer, str) and len(answer.strip(" .()")) == 1 and answer.strip(" .()") in letters:
        return letters.index(answer.strip(" .()"))
    texts = [same_text(option) for option in options]
    if isinstance(answer, str) and texts.count(same_text(answer)) == 1:
        return texts.index(same_text(answer))
    raise DataError(f"{where}: 'answer' {answer!r} is neither letter nor place nor text of one of its options")
