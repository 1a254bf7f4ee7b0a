"""An answer about a video, and how it is told to a person."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from data_prep.rows import Window

OK = "ok"
NOTHING = "nothing"
"""The model says that the video does not show it."""
UNREADABLE = "unreadable"
"""The answer holds no span, or several."""
IMPOSSIBLE = "impossible"
"""The answer holds a span that ends before it begins, or lies outside the video."""

WORDS = {
    NOTHING: "not found: the model says that the video does not show it",
    UNREADABLE: "not found: the model's answer names no span",
    IMPOSSIBLE: "not found: the model's answer names no span of this video",
}
"""What each status without a span is called."""


@dataclass(frozen=True)
class Answer:
    """What a model answered to one query about one video."""

    query: str
    task: str
    windows: list[Window]
    """Spans in seconds of the video, best first; empty where nothing was found, and for tasks without spans."""
    text: str
    """The whole completion; of a long video that of the window that the first span is from."""
    answer: str
    """The completion's answer without tags and thought."""
    thought: str
    """What the model wrote before it answered; empty for presets without a thought."""
    status: str
    """ok, nothing, unreadable or impossible."""
    model: str
    video: str
    duration: float
    """Seconds of the video."""
    candidates: list[tuple[float, float, float]] = field(default_factory=list)
    """Of a video that was seen in several windows: start, end and confidence in [0, 1] of all spans, best first."""

    @property
    def found(self) -> bool:
        """Whether there is an answer to show."""
        return self.status == OK

    def record(self) -> dict[str, Any]:
        """The answer as a JSON object."""
        return {**asdict(self), "windows": [list(window) for window in self.windows]}

    def sentence(self) -> str:
        """The answer in one line: spans in seconds and by the clock, or the text of a task without spans."""
        if self.status != OK:
            said = f" ({self.answer.strip()!r})" if self.status != NOTHING and self.answer.strip() else ""
            return WORDS[self.status] + said
        if not self.windows:
            return self.answer.strip()
        return ", ".join(
            f"{start:.2f} to {end:.2f} s ({clock_time(start)} to {clock_time(end)})" for start, end in self.windows
        )


def clock_time(seconds: float) -> str:
    """Seconds as ``m:ss.s`` or ``h:mm:ss.s``, rounded to a tenth."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    told = f"{minutes:02d}" if hours else f"{minutes}"
    return f"{f'{hours}:' if hours else ''}{told}:{rest / 10:04.1f}"
