"""Action segments of a classification data set, their classes, and the words that stand for a class."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from data_prep.errors import DataError
from data_prep.files import read_csv

Action = tuple[int, int]
"""An action class: its verb class and its noun class."""

CLOCK = re.compile(r"(\d+):([0-5]?\d):([0-5]?\d(?:\.\d+)?)")
C2_FPS = 30.0
"""The C2 challenge's csv counts frames at this rate, whatever the video's own."""
OFFICIAL = ("video_id", "start_timestamp", "stop_timestamp", "verb_class", "noun_class")
C2 = ("video", "start", "stop", "verb", "noun")


@dataclass(frozen=True)
class Segment:
    """One annotated action: a part of a video with its classes and the words of its narrator."""

    id: str
    video: str
    """Name of the video in the annotations, without folder and ending."""
    start: float
    """Seconds of the whole video."""
    end: float
    """Seconds of the whole video."""
    narration: str
    """Empty where the file has none."""
    verb: int
    noun: int
    verb_text: str = ""
    """The narrator's verb as the file has it, empty where it has none."""
    noun_text: str = ""
    """The narrator's noun as the file has it, empty where it has none."""

    @property
    def action(self) -> Action:
        """Verb and noun class together."""
        return self.verb, self.noun


def action_key(action: Action) -> str:
    """``"verb:noun"`` in class numbers, as prediction files name a class."""
    return f"{action[0]}:{action[1]}"


def parse_action(key: object, where: str) -> Action:
    """The action that ``"3:17"`` names; raises `DataError` that starts with ``where`` for anything else."""
    match = re.fullmatch(r"\s*(\d+)\s*[:,]\s*(\d+)\s*", str(key))
    if match is None:
        raise DataError(f"{where}: {key!r} is not an action 'VERB:NOUN' in class numbers")
    return int(match[1]), int(match[2])


def read_segments(path: str | os.PathLike[str]) -> list[Segment]:
    """The segments of one csv (plain or gzip) in the file's order.

    Columns are EPIC-KITCHENS-100's ``narration_id, video_id, start_timestamp, stop_timestamp, narration, verb_class,
    noun_class`` (times ``HH:MM:SS.ss`` or plain seconds; ``narration``, ``verb`` and ``noun`` may be missing), or the
    C2 challenge's ``narration_id, video, start, stop, verb, noun`` in frames at 30 per second, without words. Raises
    `DataError` naming the line for a bad time or class and for an id that is used twice.
    """
    rows = read_csv(path, ("narration_id",))
    if not rows:
        raise DataError(f"{path}: holds no segments")
    columns = rows[0][1].keys()
    official = set(OFFICIAL) <= columns
    if not official and not set(C2) <= columns:
        raise DataError(
            f"{path}:1: expected the columns narration_id, {', '.join(OFFICIAL)} (and narration), or C2's "
            f"{', '.join(C2)}; the header is {', '.join(columns)}"
        )
    segments: list[Segment] = []
    line_of_id: dict[str, int] = {}
    for line, record in rows:
        where = f"{path}:{line}"
        identity = record["narration_id"]
        if identity in line_of_id:
            raise DataError(f"{where}: narration_id {identity!r} is already used in line {line_of_id[identity]}")
        line_of_id[identity] = line
        try:
            segments.append(_official(record) if official else _c2(record))
        except ValueError as error:
            raise DataError(f"{where} ({identity}): {error}") from error
    return segments


def _official(record: Mapping[str, str]) -> Segment:
    return Segment(
        id=record["narration_id"],
        video=record["video_id"],
        start=_seconds(record["start_timestamp"]),
        end=_seconds(record["stop_timestamp"]),
        narration=clean_text(record.get("narration", "")),
        verb=int(record["verb_class"]),
        noun=int(record["noun_class"]),
        verb_text=record.get("verb", ""),
        noun_text=record.get("noun", ""),
    )


def _c2(record: Mapping[str, str]) -> Segment:
    return Segment(
        id=record["narration_id"],
        video=record["video"],
        start=int(record["start"]) / C2_FPS,
        end=int(record["stop"]) / C2_FPS,
        narration="",
        verb=int(record["verb"]),
        noun=int(record["noun"]),
    )


def _seconds(text: str) -> float:
    """Seconds of ``HH:MM:SS.ss``, added in decimal, or of a plain number."""
    match = CLOCK.fullmatch(text.strip())
    if match is not None:
        return float(int(match[1]) * 3600 + int(match[2]) * 60 + Decimal(match[3]))
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a time HH:MM:SS.ss or a number of seconds") from error


def clean_text(text: str) -> str:
    """The text with single spaces and none around it."""
    return " ".join(text.split())


def same_text(text: str) -> str:
    """What two options must not have in common: the text without case and final period."""
    return clean_text(text).casefold().rstrip(". ")


class ClassMap:
    """The classes of a data set: names of verbs and nouns, all actions, and the narrations of each action.

    ``actions`` are those that occur in ``segments`` (for EPIC-KITCHENS-100's train and validation files 3,806), in
    the order of their numbers; their place there is the class of the action head. The numbers of verbs and nouns go up
    to the highest that the names or the segments have.
    """

    def __init__(
        self,
        segments: Iterable[Segment],
        verb_names: Mapping[int, str] | None = None,
        noun_names: Mapping[int, str] | None = None,
    ) -> None:
        self.narrations: dict[Action, Counter[str]] = {}
        spoken_verbs: dict[int, Counter[str]] = {}
        spoken_nouns: dict[int, Counter[str]] = {}
        for segment in segments:
            pool = self.narrations.setdefault(segment.action, Counter())
            if segment.narration:
                pool[segment.narration] += 1
            for spoken, number, text in (
                (spoken_verbs, segment.verb, segment.verb_text),
                (spoken_nouns, segment.noun, segment.noun_text),
            ):
                if text:
                    spoken.setdefault(number, Counter())[text] += 1
        self.verb_names = dict(verb_names) if verb_names else _most_common(spoken_verbs)
        self.noun_names = dict(noun_names) if noun_names else _most_common(spoken_nouns)
        self.actions: list[Action] = sorted(self.narrations)
        self.index = {action: place for place, action in enumerate(self.actions)}

    @property
    def verbs(self) -> int:
        """Number of verb classes."""
        return 1 + max([*self.verb_names, *(verb for verb, _ in self.actions)])

    @property
    def nouns(self) -> int:
        """Number of noun classes."""
        return 1 + max([*self.noun_names, *(noun for _, noun in self.actions)])

    def label(self, action: Action) -> str:
        """The words of the official class names, ``put-down`` and ``tap:hot`` as ``put down hot tap``.

        Raises `DataError` for a class without a name.
        """
        verb, noun = action
        if verb not in self.verb_names or noun not in self.noun_names:
            raise DataError(
                f"class {action_key(action)} has no name; give --verb-classes and --noun-classes, whose columns are id "
                "and key"
            )
        return clean_text(f"{_verb_words(self.verb_names[verb])} {_noun_words(self.noun_names[noun])}")

    def record(self) -> dict[str, object]:
        """What a training run needs to know about the classes, as JSON."""
        return {
            "verbs": self.verbs,
            "nouns": self.nouns,
            "actions": [action_key(action) for action in self.actions],
        }


def read_names(path: str | os.PathLike[str]) -> dict[int, str]:
    """Class names of ``EPIC_100_verb_classes.csv`` or ``EPIC_100_noun_classes.csv`` (columns ``id`` and ``key``)."""
    names: dict[int, str] = {}
    for line, record in read_csv(path, ("id", "key")):
        if not record["id"].isdigit() or int(record["id"]) in names:
            raise DataError(f"{path}:{line}: id {record['id']!r} is not a new class number")
        names[int(record["id"])] = record["key"]
    return names


def last_end(segments: Sequence[Segment]) -> dict[str, float]:
    """Seconds at which the last segment of each video ends: its length where nothing better is known."""
    ends: dict[str, float] = {}
    for segment in segments:
        ends[segment.video] = max(ends.get(segment.video, 0.0), segment.end)
    return ends


def _most_common(spoken: Mapping[int, Counter[str]]) -> dict[int, str]:
    """The text most often used for each class; of equally frequent ones the first by alphabet."""
    return {
        number: min(texts.items(), key=lambda item: (-item[1], item[0]))[0] for number, texts in sorted(spoken.items())
    }


def _verb_words(name: str) -> str:
    return name.replace("-", " ").replace("_", " ")


def _noun_words(name: str) -> str:
    return " ".join(reversed(name.split(":"))).replace("_", " ")
