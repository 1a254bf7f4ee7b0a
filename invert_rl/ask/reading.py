"""What may be asked, and what is read out of a completion, whoever made it."""

from __future__ import annotations

from data_prep.errors import DataError
from data_prep.rows import NOT_TEXT, Row, Window
from invert_rl.ask.answer import IMPOSSIBLE, NOTHING, OK, UNREADABLE, Answer
from invert_rl.evaluation.scores.thought_spans import thought_of
from invert_rl.tasks import Task
from rewards.answers import answer_or_bare_text, says_nothing_matches


def check_query(query: str, task: Task) -> str:
    """The query without white space around it; raises `DataError` for one that cannot be asked."""
    words = query.strip()
    foreign = NOT_TEXT.search(words)
    if foreign:
        raise DataError(f"query {words[:80]!a} holds {foreign.group()!a}, which is no text but a mark; remove it")
    if not words and any(place in task.prompt for place in ("{query}", "{masked_query}")):
        raise DataError(f"task {task.name} needs a query")
    return words


def read_windows(task: Task, text: str, row: Row) -> tuple[str, list[Window]]:
    """Status of a completion, and the spans of the video that it names, cut to what was shown."""
    said = answer_or_bare_text(text)
    if not task.names_spans:
        return (OK if said.strip() else UNREADABLE), []
    found = task.read(text, row)
    if found is None:
        return (NOTHING if says_nothing_matches(said) else UNREADABLE), []
    if not found:
        return NOTHING, []
    first, last = row.shown
    inside = [(round(max(start, first), 3), round(min(end, last), 3)) for start, end in found]
    windows = [(start, end) for start, end in inside if start < end]
    return (OK, windows) if windows else (IMPOSSIBLE, [])


def answer_of(task: Task, query: str, text: str, row: Row, model: str, video: str) -> Answer:
    """One completion about a whole video as an answer."""
    status, windows = read_windows(task, text, row)
    return Answer(
        query=query,
        task=task.name,
        windows=windows,
        text=text,
        answer=answer_or_bare_text(text),
        thought=thought_of(text).strip(),
        status=status,
        model=model,
        video=video,
        duration=row.duration,
    )
