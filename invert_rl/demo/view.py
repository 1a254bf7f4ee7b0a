"""What the demo shows of answers: a time line as SVG, and a player that starts at the moment."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from invert_rl.ask.answer import Answer, clock_time

WIDTH, LANE, LEFT = 720, 34, 130
COLOURS = ("#1a5fb4", "#c2410c")


def time_line(answers: Sequence[tuple[str, Answer]]) -> str:
    """One lane for each named answer, its spans as bars, and seconds below; text where nothing was found."""
    duration = max(answer.duration for _, answer in answers)
    span = WIDTH - LEFT - 10
    parts = []
    for number, (name, answer) in enumerate(answers):
        top = number * LANE
        parts.append(f'<text x="0" y="{top + 21}" class="name">{escape(name[:18])}</text>')
        parts.append(f'<rect x="{LEFT}" y="{top + 5}" width="{span}" height="{LANE - 10}" class="lane"/>')
        if not answer.windows:
            parts.append(f'<text x="{LEFT + 8}" y="{top + 21}">{escape(answer.sentence())}</text>')
        for start, end in answer.windows:
            x, width = LEFT + span * start / duration, max(3.0, span * (end - start) / duration)
            label = f"{name}: {start:.2f} to {end:.2f} s"
            place = f'x="{x:.1f}" y="{top + 5}" width="{width:.1f}" height="{LANE - 10}"'
            colour = COLOURS[number % len(COLOURS)]
            parts.append(f'<rect class="bar" {place} fill="{colour}"><title>{escape(label)}</title></rect>')
    bottom = len(answers) * LANE + 16
    for quarter in range(5):
        anchor = "start" if quarter == 0 else "end" if quarter == 4 else "middle"
        x = LEFT + span * quarter / 4
        parts.append(
            f'<text x="{x:.1f}" y="{bottom}" text-anchor="{anchor}">{clock_time(duration * quarter / 4)}</text>'
        )
    style = "<style>.lane{fill:#8883}.tl text{font:13px system-ui,sans-serif;fill:currentColor}</style>"
    told = escape("; ".join(f"{name}: {answer.sentence()}" for name, answer in answers))
    return (
        f'{style}<svg class="tl" role="img" aria-label="{told}" viewBox="0 0 {WIDTH} {bottom + 6}" width="100%">'
        f"{''.join(parts)}</svg>"
    )


def told(answers: Sequence[tuple[str, Answer]]) -> str:
    """The answers as Markdown, one paragraph each, with the thought."""
    lines = []
    for name, answer in answers:
        lines.append(f"**{name}**: {answer.sentence()}")
        if answer.thought:
            lines.append("> " + " ".join(answer.thought.split()))
    return "\n\n".join(lines)
