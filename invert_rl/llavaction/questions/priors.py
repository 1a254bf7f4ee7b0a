"""Which two actions came right before a segment (paper, section 3.2, temporal order learning)."""

from __future__ import annotations

from collections.abc import Sequence

from invert_rl.llavaction.segments import Segment

LONGEST_GAP = 3.0
"""Seconds between two consecutive actions at most [R]."""


def prior_segments(
    segments: Sequence[Segment], count: int = 2, longest_gap: float = LONGEST_GAP
) -> dict[str, list[Segment]]:
    """The ``count`` segments before each one, the earliest first, by the segment's id.

    Segments of a video are taken in the order in which they end. A segment has priors if each of the last ``count``
    gaps, from an end to the next start (seconds, negative where they overlap), is at most ``longest_gap``, and each
    started before the one that follows it [C], so that "… seconds ago, you started" is true of them.
    """
    by_video: dict[str, list[Segment]] = {}
    for segment in segments:
        by_video.setdefault(segment.video, []).append(segment)
    priors: dict[str, list[Segment]] = {}
    for members in by_video.values():
        members.sort(key=lambda segment: (segment.end, segment.start, segment.id))
        for place in range(count, len(members)):
            chain = members[place - count : place + 1]
            near = all(
                b.start - a.end <= longest_gap and a.start < b.start for a, b in zip(chain, chain[1:], strict=False)
            )
            if near:
                priors[chain[-1].id] = chain[:-1]
    return priors
