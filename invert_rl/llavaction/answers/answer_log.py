"""Answers written as they are given, by every rank into its own file, so that a killed evaluation goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState

from data_prep.files import read_jsonl, write_records
from data_prep.rows import Row
from invert_rl.evaluation.parts import begin, cut_last_line, part_of, parts_of
from invert_rl.llavaction.answers.answer import Answer, QuestionAnswerer, answer_of

PLAIN, SAP = "mqa", "mqa/sap"
"""Names of the two passes over the questions, the task of their lines."""


class AnswerLog:
    """What has been answered of an output, by all ranks and by those of a run that was killed.

    Args:
        output: the JSONL file that `finish` writes; until then ranks append to files beside it.
        settings: of model, questions and prompts; an output that was begun with others is refused with `DataError`.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any]) -> None:
        self.output, self.state = output, PartialState()
        if self.state.is_main_process:
            begin(output, output.with_suffix(".settings.json"), settings)
            for part in parts_of(output):
                cut_last_line(part)
        self.state.wait_for_everyone()
        self.part = part_of(output, self.state.process_index)

    def known(self, task: str) -> dict[str, Answer]:
        """Answers of a pass by row id."""
        files = [*([self.output] if self.output.is_file() else []), *parts_of(self.output)]
        records = [record for path in files for _, record in read_jsonl(path)]
        return {record["id"]: answer_of(record) for record in records if record["task"] == task}

    def ask(
        self, task: str, ask: QuestionAnswerer, rows: Sequence[Row], texts: Mapping[str, str] | None = None
    ) -> dict[str, Answer]:
        """Answers of a pass to all ``rows``; only what is not known is asked, shared out over the ranks."""
        known = self.known(task)
        left = [row for row in rows if row.id not in known]
        self.state.wait_for_everyone()  # nobody writes before everybody has read
        ask.each(left, texts, self._writer(task))
        self.state.wait_for_everyone()
        known = self.known(task)
        return {row.id: known[row.id] for row in rows}

    def finish(self, passes: Mapping[str, Mapping[str, Answer]]) -> None:
        """Write the output, all of it or none, and remove the ranks' files."""
        self.state.wait_for_everyone()
        if self.state.is_main_process:
            write_records(
                self.output,
                [answer.record(task) for task, answers in passes.items() for answer in answers.values()],
            )
            for part in parts_of(self.output):
                part.unlink()
        self.state.wait_for_everyone()

    def _writer(self, task: str) -> Callable[[Sequence[Answer]], None]:
        def write(answers: Sequence[Answer]) -> None:
            with self.part.open("a", encoding="utf-8") as out:
                out.writelines(json.dumps(answer.record(task), ensure_ascii=False) + "\n" for answer in answers)

        return write
