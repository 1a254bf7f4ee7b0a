"""Line charts and histograms as SVG text: no script, colours from the page's style."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup, escape

WIDTH, HEIGHT = 520, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 12, 28
MOST_POINTS = 300
"""A longer series is drawn as means of neighbouring points."""
MOST_MARKS = 60
"""Points carry their value to hover over up to this many."""
COLOURS = 8
"""Of the page's style; further lines have the same ones again, dashed."""

Point = tuple[float, float]


def line_chart(title: str, series: Mapping[str, Sequence[Point]], unit: str = "") -> Markup:
    """A figure with one line per series of (step, value), its legend and axes; empty without any finite value."""
    shown = {name: thinned([p for p in points if math.isfinite(p[1])]) for name, points in series.items()}
    shown = {name: points for name, points in shown.items() if points}
    if not shown:
        return Markup("")
    steps = [step for points in shown.values() for step, _ in points]
    values = [value for points in shown.values() for _, value in points]
    ticks = nice_ticks(min(values), max(values))
    low, high = min(ticks[0], min(values)), max(ticks[-1], max(values))
    first, last = min(steps), max(steps)

    def place(step: float, value: float) -> Point:
        across = (step - first) / (last - first) if last > first else 0.5
        up = (value - low) / (high - low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = [_grid(ticks, lambda value: place(first, value)[1])]
    for step in dict.fromkeys((first, round((first + last) / 2), last)):
        anchor = "start" if step == first != last else "end" if step == last != first else "middle"
        across = place(step, low)[0]
        parts.append(f'<text class="tick" x="{across:.1f}" y="{HEIGHT - 10}" text-anchor="{anchor}">{step:g}</text>')
    for number, (name, points) in enumerate(shown.items()):
        places = [place(*point) for point in points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline class="line {_style(number)}" points="{line}"/>')
        if len(points) <= MOST_MARKS:
            for (x, y), (step, value) in zip(places, points, strict=True):
                label = f"{escape(name)}, step {step:g}: {value:.4g}{unit}"
                mark = f'<circle class="mark {_style(number)}" cx="{x:.1f}" cy="{y:.1f}" r="3">'
                parts.append(f"{mark}<title>{label}</title></circle>")
    ends = "; ".join(f"{name} from {points[0][1]:.3g} to {points[-1][1]:.3g}{unit}" for name, points in shown.items())
    return _figure(title, list(shown), parts, f"{title}: {ends}")


def histogram(title: str, groups: Mapping[str, Sequence[float]], bins: int = 10) -> Markup:
    """Counts of values in [0, 1] in equal bins, the groups side by side; a value of 1 is in the last bin."""
    groups = {name: values for name, values in groups.items() if values}
    if not groups:
        return Markup("")
    counts = {name: bin_counts(values, bins) for name, values in groups.items()}
    most = max(max(column) for column in counts.values())
    ticks = nice_ticks(0, most)
    top = ticks[-1]
    wide = (WIDTH - LEFT - RIGHT) / bins
    bar = wide * 0.8 / len(counts)

    def height(count: float) -> float:
        return (HEIGHT - TOP - BOTTOM) * count / top

    parts = [_grid(ticks, lambda value: HEIGHT - BOTTOM - height(value))]
    for number, (name, column) in enumerate(counts.items()):
        for place, count in enumerate(column):
            x = LEFT + place * wide + 0.1 * wide + number * bar
            label = f"{escape(name)}: {count} with {place / bins:.1f} to {(place + 1) / bins:.1f}"
            parts.append(
                f'<rect class="bar s{number}" x="{x:.1f}" y="{HEIGHT - BOTTOM - height(count):.1f}" width="{bar:.1f}" '
                f'height="{height(count):.1f}"><title>{label}</title></rect>'
            )
    for place in range(0, bins + 1, 2):
        x = LEFT + place * wide
        parts.append(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 10}" text-anchor="middle">{place / bins:.1f}</text>')
    return _figure(title, list(counts), parts, title)


def bin_counts(values: Sequence[float], bins: int) -> list[int]:
    """How many values of [0, 1] are in each of ``bins`` equal bins."""
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int(value * bins + 1e-9))] += 1
    return counts


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most `MOST_POINTS` points: means of neighbours."""
    size = math.ceil(len(points) / MOST_POINTS)
    if size <= 1:
        return list(points)
    groups = [points[first : first + size] for first in range(0, len(points), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About ``count`` round numbers that cover [low, high]; at least two."""
    if high - low < 1e-12 * max(1.0, abs(high)):
        pad = abs(high) / 2 or 0.5
        low, high = low - pad, high + pad
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _grid(ticks: Sequence[float], up: Callable[[float], float]) -> str:
    lines = []
    for tick in ticks:
        y = up(tick)
        lines.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    return "".join(lines)


def _style(number: int) -> str:
    return f"s{number % COLOURS}" + (" again" if number >= COLOURS else "")


def _figure(title: str, names: Sequence[str], parts: Sequence[str], label: str) -> Markup:
    legend = "".join(
        f'<span class="key"><i class="{_style(n)}"></i>{escape(name)}</span>' for n, name in enumerate(names)
    )
    return Markup(
        f'<figure class="chart"><figcaption>{escape(title)}<span class="legend">{legend}</span></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg></figure>'
    )
