"""Draw a chart of lines as SVG, readable on light and on dark ground.

A plotting library would be the largest of our dependencies, and its SVG neither small nor stable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 640, 360  # all sizes in pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 132, 40, 48  # margins; names of lines stand in the right one
_TICKS = 5  # about so many on a linear axis
_NAME_HEIGHT = 15  # between names of lines, at least

_STYLE = """\
text { font: 12px system-ui, sans-serif; fill: #444 }
.title { font-weight: 600; font-size: 14px }
.axis, .grid { stroke: #888; stroke-width: 1; fill: none }
.grid { stroke-opacity: .25 }
.line { fill: none; stroke-width: 2 }
.dashed { stroke-dasharray: 5 4 }
.c0 { stroke: #0969da } .c1 { stroke: #bc4c00 } .c2 { stroke: #1a7f37 } .c3 { stroke: #8250df }
.dot { stroke: none }
.dot.c0 { fill: #0969da } .dot.c1 { fill: #bc4c00 } .dot.c2 { fill: #1a7f37 } .dot.c3 { fill: #8250df }
@media (prefers-color-scheme: dark) {
text { fill: #ccc }
.c0 { stroke: #58a6ff } .c1 { stroke: #f0883e } .c2 { stroke: #56d364 } .c3 { stroke: #bc8cff }
.dot.c0 { fill: #58a6ff } .dot.c1 { fill: #f0883e } .dot.c2 { fill: #56d364 } .dot.c3 { fill: #bc8cff }
}"""


@dataclass(frozen=True, slots=True)
class Line:
    """Points joined by a line, with a name beside its end."""

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False  # without dots: not measured, or only once


@dataclass(frozen=True, slots=True)
class Axis:
    """How numbers become pixels, and which have a tick."""

    label: str
    logarithmic: bool = False
    format: Callable[[float], str] = "{:g}".format
    ticks: Sequence[float] = ()  # where the numbers themselves are few; else round ones are found


def chart(title: str, x_axis: Axis, y_axis: Axis, lines: Sequence[Line]) -> str:
    """Return the chart of *lines*; a linear axis begins at zero."""
    xs, ys = (sorted({point[place] for line in lines for point in line.points}) for place in (0, 1))
    x_ticks, x_scale = _scale(x_axis, xs, _LEFT, _WIDTH - _RIGHT)
    y_ticks, y_scale = _scale(y_axis, ys, _HEIGHT - _BOTTOM, _TOP)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{_STYLE}\n</style>",
            _text(_LEFT, 20, title, "title"),
            *_axes(x_axis, y_axis, [(x_scale(tick), tick) for tick in x_ticks], [(y_scale(t), t) for t in y_ticks]),
            *_lines(lines, x_scale, y_scale),
            "</svg>\n",
        ]
    )


def _scale(
    axis: Axis, values: Sequence[float], start: float, end: float
) -> tuple[Sequence[float], Callable[[float], float]]:
    """Return the ticks of *axis*, and what gives the pixel of a value: from *start* to *end*."""
    if axis.logarithmic:
        low, high = (math.log10(value) for value in (values[0], values[-1]))
        ticks = axis.ticks or [10.0**power for power in range(math.floor(low), math.ceil(high) + 1)]
        if not axis.ticks:  # the whole decade, so that there are at least two ticks
            low, high = math.floor(low), math.ceil(high)
        return ticks, lambda value: start + (end - start) * (math.log10(value) - low) / ((high - low) or 1)
    step = _round_step(values[-1] / _TICKS)
    count = math.ceil(values[-1] / step)
    ticks = axis.ticks or [number * step for number in range(count + 1)]
    return ticks, lambda value: start + (end - start) * value / (count * step)


def _round_step(step: float) -> float:
    """Return 1, 2 or 5 times a power of ten, not less than *step*."""
    power: float = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))


def _axes(
    x_axis: Axis, y_axis: Axis, x_ticks: Sequence[tuple[float, float]], y_ticks: Sequence[tuple[float, float]]
) -> Iterator[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    for y, tick in y_ticks:
        yield f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>'
        yield _text(_LEFT - 8, y + 4, y_axis.format(tick), anchor="end")
    for x, tick in x_ticks:
        yield f'<path class="grid" d="M{x:.1f} {_TOP}V{bottom}"/>'
        yield _text(x, bottom + 18, x_axis.format(tick), anchor="middle")
    yield f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>'
    yield _text((_LEFT + right) / 2, _HEIGHT - 10, x_axis.label, anchor="middle")
    middle = (_TOP + bottom) / 2
    yield _text(16, middle, y_axis.label, anchor="middle", turned=True)


def _lines(
    lines: Sequence[Line], x_scale: Callable[[float], float], y_scale: Callable[[float], float]
) -> Iterator[str]:
    ends = []
    for number, line in enumerate(lines):
        pixels = [(x_scale(x), y_scale(y)) for x, y in line.points]
        color = f"c{number % 4}"
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in pixels)
        yield f'<path class="line {color}{" dashed" if line.dashed else ""}" d="M{path}"/>'
        if not line.dashed:
            yield from (f'<circle class="dot {color}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in pixels)
        ends.append((pixels[-1][1] + 4, color, line.name))
    floor = -math.inf
    for y, color, name in sorted(ends):
        floor = max(y, floor + _NAME_HEIGHT)  # names do not cover each other
        yield f'<path class="line {color}" d="M{_WIDTH - _RIGHT + 6} {floor - 4:.1f}h10"/>'
        yield _text(_WIDTH - _RIGHT + 20, floor, name)


def _text(x: float, y: float, text: str, style: str = "", *, anchor: str = "start", turned: bool = False) -> str:
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    name = f' class="{style}"' if style else ""
    return f'<text{name} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turn}>{escape(text)}</text>'
