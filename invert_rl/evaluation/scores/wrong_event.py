"""How often a grounding answer lies on another event of the video than the one that was asked for."""

from __future__ import annotations

from collections.abc import Sequence

from data_prep.rows import Row, Window
from rewards.spans import interval_iou

SAME = 1e-6
"""Seconds by which the borders of one event may differ between a row's windows and its video's events."""


def wrong_event_rate(predicted: Sequence[Sequence[Window]], rows: Sequence[Row]) -> float | None:
    """Percent of the rows whose first predicted window lies on another annotated event of the video.

    ``rows`` know their video's events where ``meta["events"]`` is a list of ``[name, start, end]`` in seconds; the
    others are left out, and None is returned if none does. A window lies on the event with which its IoU is largest,
    of equally large ones on the one that was asked for. A window that overlaps no event, and a row without a window,
    lies on none: it is wrong, but not on another event, and stays in the denominator.
    """
    known = [(windows, row) for windows, row in zip(predicted, rows, strict=True) if events_of(row)]
    if not known:
        return None
    return 100 * sum(on_another_event(windows[0], row) for windows, row in known if windows) / len(known)


def events_of(row: Row) -> list[Window]:
    """The annotated events of a row's video in seconds; none where its ``meta`` does not list them."""
    listed = row.meta.get("events")
    if not isinstance(listed, list) or not all(isinstance(event, list | tuple) and len(event) == 3 for event in listed):
        return []
    return [(start, end) for _, start, end in listed]


def on_another_event(window: Window, row: Row) -> bool:
    """Whether ``window`` (seconds) overlaps another event of the row's video more, by IoU, than what was asked for."""
    asked = max(interval_iou(window, true) for true in row.windows)
    others = [event for event in events_of(row) if not _asked_for(event, row)]
    return max((interval_iou(window, other) for other in others), default=0.0) > asked


def _asked_for(event: Window, row: Row) -> bool:
    return any(abs(event[0] - start) <= SAME and abs(event[1] - end) <= SAME for start, end in row.windows)
