"""Which actions lie around a clip in its video."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

REACH = 2
"""How many actions before and after a clip count as its neighbours: as many as prompts name before it."""


def neighbours_of(
    videos: Sequence[str], times: Sequence[tuple[float, float]], reach: int = REACH
) -> tuple[list[list[int]], list[list[int]]]:
    """Places of the ``reach`` clips before and after each one, in the order in which a video's clips end.

    ``times`` are starts and ends, seconds. A clip whose video has no name has no neighbours.
    """
    by_video: dict[str, list[int]] = defaultdict(list)
    for place, video in enumerate(videos):
        if video:
            by_video[video].append(place)
    before: list[list[int]] = [[] for _ in videos]
    after: list[list[int]] = [[] for _ in videos]
    for members in by_video.values():
        members.sort(key=lambda place: (times[place][1], times[place][0]))
        for order, place in enumerate(members):
            before[place] = members[max(0, order - reach) : order]
            after[place] = members[order + 1 : order + 1 + reach]
    return before, after
