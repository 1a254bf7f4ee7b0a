"""From one annotated query to a `Row`: the repairs and refusals that all grounding sets share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_prep.convert.ledger import Entry, Ledger
from data_prep.errors import DataError
from data_prep.rows import (
    NOT_TEXT,
    Row,
    Window,
    as_record,
    check_video_name,
    is_seconds,
    is_surrogate,
    parse_row,
    part_ids,
)
from data_prep.spool import Seen

LONG_QUERY_WORDS = 60
"""A longer query is noted."""
SHORT_QUERY_WORDS = 3
"""A shorter query is noted."""
SHORT_WINDOW_SECONDS = 1.0
"""A shorter window is noted."""
WHOLE_VIDEO_SECONDS = 0.1
"""A window that leaves out less than this at either end is noted."""
VIDEO_SUFFIXES = (
    ".3g2",
    ".3gp",
    ".asf",
    ".avi",
    ".divx",
    ".flv",
    ".m2ts",
    ".m2v",
    ".m4v",
    ".mkv",
    ".mov",
    ".mp4",
    ".mpe",
    ".mpeg",
    ".mpg",
    ".mts",
    ".ogv",
    ".qt",
    ".ts",
    ".vob",
    ".webm",
    ".wmv",
)
"""Files of a video folder with another ending (subtitles, features) are not videos."""


class RowBuilder:
    """Makes the rows of one data set and split; each query ends as a row or in the ledger's rejected list."""

    def __init__(
        self, dataset: str, split: str, source: Path, ledger: Ledger, video_name: Callable[[str], str]
    ) -> None:
        self.dataset = dataset
        self.split = split
        self.source = source
        self.ledger = ledger
        self.video_name = video_name
        self.rows = ledger.rows
        self._ids = Seen()
        self._parts = Seen()
        self._video_queries = Seen()

    def add(
        self,
        entry: Entry,
        key: str,
        video: str,
        duration: float | None,
        query: Any,
        windows: Any,
        meta: dict[str, Any] | None = None,
        clip: Window | None = None,
    ) -> None:
        """Add one query as a row, repaired where that is safe, or reject it.

        ``key`` makes the id (``dataset-split-key``), ``video`` is the data set's name of the video, times are
        seconds of the file, of which ``clip`` is the part that is the video (None: all of it). Raises `DataError` for
        a repeated id and for a video name that leaves the video folder.
        """
        check_video_name(video, entry.where)
        identity = f"{self.dataset}-{self.split}-{key}"
        if not self._ids.add(identity, entry.where):
            raise DataError(f"{entry.where}: id {identity!r} is already used at {self._ids.find(identity)}")
        if duration is None:
            self.ledger.reject(entry, "no duration is known for the video", video)
            return
        if not is_seconds(duration) or duration <= 0:
            self.ledger.reject(entry, "the duration is not a positive number", repr(duration))
            return
        # Files hold 89.71000000000001 beside an end of 89.71: the last digits are the computer's, not a time.
        duration = round(float(duration), 6)
        text = self._clean_query(entry, query)
        if text is None:
            return
        if clip is not None:
            problem = window_problem(clip, duration)
            if problem:
                self.ledger.reject(entry, f"the clip: {problem}", f"{clip} in a file of {duration} s")
                return
            clip = (max(0.0, round(float(clip[0]), 6)), min(round(float(clip[1]), 6), duration))
        if windows == [] and (self.ledger.unlabelled or (meta or {}).get("irrelevant")):
            repaired: tuple[Window, ...] | None = ()
        else:
            repaired = self._clean_windows(entry, windows, clip or (0.0, duration))
        if repaired is None:
            return
        row_meta = {"source": f"{self.source.name}:{entry.line}", **(meta or {})}
        if tuple((float(start), float(end)) for start, end in windows) != repaired:
            row_meta["annotated_windows"] = [[float(start), float(end)] for start, end in windows]
        row = Row(
            id=identity,
            video=self.video_name(video),
            duration=duration,
            query=text,
            windows=repaired,
            dataset=self.dataset,
            split=self.split,
            meta=row_meta,
            clip=clip,
        )
        problem = self._refusal(row, entry)
        if problem:
            self.ledger.reject(entry, "its row would be refused on reading", problem)
            return
        self._note(entry, video, text, repaired, row.shown)
        self.ledger.accept(entry)
        self.rows.append(row)

    def _refusal(self, row: Row, entry: Entry) -> str | None:
        """What `read_rows` would say against a row beside the earlier ones; None if nothing."""
        try:
            parse_row(as_record(row), entry.where, self.ledger.unlabelled)
        except DataError as error:
            return str(error)
        for name in part_ids(row):
            if self._ids.find(name) is not None:
                return f"id {name!r}, of a part of {row.id!r}, is already used at {self._ids.find(name)}"
        if self._parts.find(row.id) is not None:
            return f"id {row.id!r} is already used for a part at {self._parts.find(row.id)}"
        for name in part_ids(row):
            self._parts.add(name, entry.where)
        return None

    def _clean_query(self, entry: Entry, query: Any) -> str | None:
        if not isinstance(query, str):
            self.ledger.reject(entry, "the query is not text", repr(query))
            return None
        stripped = query.strip()
        collapsed = " ".join(stripped.split())
        if not collapsed:
            self.ledger.reject(entry, "the query is empty")
            return None
        if not any(map(str.isalnum, collapsed)):
            self.ledger.reject(entry, "the query holds no word", repr(query))
            return None
        if any(map(is_surrogate, collapsed)):
            self.ledger.reject(entry, "the query holds half of a character (a lone surrogate)", ascii(query))
            return None
        if NOT_TEXT.search(collapsed):
            self.ledger.reject(entry, "the query holds a control character or a mark of chat templates", ascii(query))
            return None
        if stripped != query:
            self.ledger.repair(entry, "spaces around the query removed")
        if any(space in stripped for space in "\n\r\t\v\f"):
            self.ledger.repair(entry, "line break or tab inside the query replaced by a space")
        elif collapsed != stripped:
            self.ledger.repair(entry, "repeated spaces inside the query reduced to one")
        return collapsed

    def _clean_windows(self, entry: Entry, windows: Any, shown: Window) -> tuple[Window, ...] | None:
        if not isinstance(windows, list | tuple):
            self.ledger.reject(entry, "the windows are not a list", repr(windows))
            return None
        if not windows:
            self.ledger.reject(entry, "negative query: no window")
            return None
        repaired = []
        for window in windows:
            problem = window_problem(window, shown[1], shown[0])
            if problem:
                self.ledger.reject(entry, problem, f"{window} in a video of {shown[1]} s")
                return None
            start, end = window
            if start < shown[0]:
                self.ledger.repair(entry, "start before the video clipped to 0")
            if end > shown[1]:
                self.ledger.repair(entry, "end after the video clipped to its duration")
            repaired.append((max(shown[0], float(start)), min(float(end), shown[1])))
        return tuple(repaired)

    def _note(self, entry: Entry, video: str, query: str, windows: tuple[Window, ...], shown: Window) -> None:
        words = len(query.split())
        kinds = {
            "query with non-ASCII characters": not query.isascii(),
            f"query of more than {LONG_QUERY_WORDS} words": words > LONG_QUERY_WORDS,
            f"query of fewer than {SHORT_QUERY_WORDS} words": words < SHORT_QUERY_WORDS,
            "same video and query as an earlier entry": not self._video_queries.add(f"{video}\n{query}"),
            "query with several windows": len(windows) > 1,
            "query without windows": not windows,
            f"window shorter than {SHORT_WINDOW_SECONDS:g} s": any(
                end - start < SHORT_WINDOW_SECONDS for start, end in windows
            ),
            "window covers the whole video": any(
                start <= shown[0] + WHOLE_VIDEO_SECONDS and end >= shown[1] - WHOLE_VIDEO_SECONDS
                for start, end in windows
            ),
        }
        for kind, true in kinds.items():
            if true:
                self.ledger.note(entry, kind)


class VideoNames:
    """Turns a data set's video name into a path relative to the video folder.

    Without a folder the name goes through ``pattern`` (``{video}.mp4``). With one, the file of that stem is
    looked up in it, whatever its extension; a video that is not there keeps the pattern's name and is listed
    in ``missing``. Raises `DataError` for a pattern without ``{video}`` and for two files of one stem.
    """

    def __init__(self, pattern: str = "{video}.mp4", folder: str | Path | None = None) -> None:
        if "{video}" not in pattern:
            raise DataError(f"--video-pattern {pattern!r} must contain {{video}}, as in '{{video}}.mp4'")
        check_video_name(pattern, "--video-pattern")
        self.pattern = pattern
        self.missing: dict[str, None] = {}
        self._by_stem: dict[str, str] | None = None
        if folder is not None:
            self._by_stem = _files_by_stem(Path(folder))

    def __call__(self, video: str) -> str:
        """The relative path of ``video``."""
        name = self.pattern.replace("{video}", video)
        if self._by_stem is None:
            return name
        found = self._by_stem.get(video, self._by_stem.get(video_stem(video)))
        if found is None:
            self.missing[video] = None
            return name
        return found


def video_stem(name: str) -> str:
    """A video's name without folder and ending; other dots are the name's own (DiDeMo has names that end in one)."""
    stem = name.rsplit("/", 1)[-1]
    return stem.rsplit(".", 1)[0] if stem.endswith(".") or stem.lower().endswith(VIDEO_SUFFIXES) else stem


def numbers_of(values: Any) -> list[float] | None:
    """A list of numbers (or of texts that are numbers) as floats; None for anything else."""
    if not isinstance(values, list | tuple) or any(isinstance(value, bool) for value in values):
        return None
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if all(is_seconds(number) for number in numbers) else None


def window_problem(window: Any, end_of_video: float, start_of_video: float = 0.0) -> str | None:
    """Why ``window`` cannot be used in a video of those bounds (seconds), even after clipping; None if it can.

    A reversed window is refused, not swapped: of the four in Charades-STA the published corrections
    (VSLNet's copy) are other times, never the same two in order.
    """
    if not isinstance(window, list | tuple) or len(window) != 2 or not all(is_seconds(time) for time in window):
        return "a window is not [start, end] in seconds"
    start, end = window
    if start > end:
        return "reversed window (end before start)"
    if start == end:
        return "empty window (start equals end)"
    if start >= end_of_video:
        return "window starts after the end of the video"
    if end <= start_of_video:
        return "window ends before the video starts"
    return None


def _files_by_stem(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such video folder")
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in VIDEO_SUFFIXES or path.name.startswith("."):
            continue
        name = path.relative_to(folder).as_posix()
        if path.stem in found:
            raise DataError(
                f"{folder}: {found[path.stem]} and {name} are both called {path.stem}; remove one or pass "
                "--video-pattern without --videos"
            )
        found[path.stem] = name
    return found
