"""The headlines as a strip of cards for the page: pictures in SVG, which take their colours from the page's style."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from benchmarks.report.cells import number
from benchmarks.report.headlines import Bar, Dot, Headline
from benchmarks.report.sparsity_words import percent

_WIDTH, _LEFT, _RIGHT, _LINE, _TOP, _BOTTOM = 340, 140, 44, 19, 4, 34
_STEPS = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.1, 1.2, 1.3, 1.5, 1.7, 2, 2.5, 3, 4, 5, 6, 7, 8, 9))


def picture(headline: Headline) -> str:
    """Return the SVG of the dots or the bars of `headline`, nothing where it has none; the page's style gives the colours."""
    if not headline.dots and not headline.bars:
        return ""
    body = _dots(headline.dots, headline.margin) if headline.dots else _bars(headline.bars, headline.parts)
    said = [headline.axis, *_marks(headline)]
    foot = _TOP + _LINE * max(len(headline.dots), len(headline.bars)) + _BOTTOM
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    labels = "".join(
        f'<text class="quiet" x="{middle:g}" y="{foot - 4 + 12 * row}" text-anchor="middle">{html.escape(text)}</text>'
        for row, text in enumerate(said)
    )
    described = html.escape(f"{headline.heading}: {'; '.join(said)}", quote=True)
    size = f"{_WIDTH} {foot + 12 * (len(said) - 1)}"
    return f'<svg viewBox="0 0 {size}" role="img" aria-label="{described}">{body}{labels}</svg>'


def _marks(headline: Headline) -> list[str]:
    """What the marks of a picture mean beside dots and intervals, in at most one line."""
    band = f"band: within {percent(headline.margin)}" if headline.dots and headline.margin else ""
    hollow = "hollow: one process" if any(dot.alone for dot in headline.dots) else ""
    said = "; ".join(filter(None, (band, hollow)))
    return [said] if said else []


def _dots(dots: Sequence[Dot], margin: float) -> str:
    known = [value for dot in dots for value in (dot.value, dot.low, dot.high) if math.isfinite(value) and value > 0]
    known += [1 / (1 + margin), 1 + margin]
    low, high = math.log(min(known)), math.log(max(known))
    room = 0.04 * max(high - low, 0.1)
    low, high = low - room, high + room

    def place(value: float) -> str:
        return f"{_LEFT + (_WIDTH - _LEFT - _RIGHT) * (math.log(value) - low) / (high - low):.1f}"

    bottom = _TOP + _LINE * len(dots)
    parts = []
    if margin:
        width = float(place(1 + margin)) - float(place(1 / (1 + margin)))
        parts.append(
            f'<rect class="band" x="{place(1 / (1 + margin))}" y="{_TOP}" width="{width:.1f}" height="{bottom - _TOP}"/>'
        )
    parts += [
        f'<line class="{"one" if tick == 1 else "grid"}" x1="{place(tick)}" x2="{place(tick)}" y1="{_TOP}" y2="{bottom}"/>'
        f'<text class="quiet" x="{place(tick)}" y="{bottom + 13}" text-anchor="middle">{tick:,g}</text>'
        for tick in _ticks(math.exp(low), math.exp(high))
    ]
    for row, dot in enumerate(dots):
        y = _TOP + _LINE * (row + 0.5)
        parts.append(_name(dot.label, y))
        if math.isfinite(dot.high) and dot.low > 0:
            parts.append(f'<line class="range" x1="{place(dot.low)}" x2="{place(dot.high)}" y1="{y:g}" y2="{y:g}"/>')
        parts.append(f'<circle class="{"hollow" if dot.alone else "dot"}" cx="{place(dot.value)}" cy="{y:g}" r="4"/>')
        parts.append(f'<text x="{_WIDTH - 2}" y="{y + 4:g}" text-anchor="end">{number(dot.value)}</text>')
    return "".join(parts)


def _ticks(low: float, high: float) -> list[float]:
    """At least two numbers between `low` and `high`, from the coarsest steps that have three, and at most five."""
    found: list[float] = [1.0]
    for steps in _STEPS:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]
        if len(found) >= 3:
            break
    stride = math.ceil(len(found) / 5)
    start = found.index(1.0) % stride if 1.0 in found else 0
    return found[start::stride]


def _bars(bars: Sequence[Bar], parts: Sequence[str]) -> str:
    longest = max(sum(bar.counts) for bar in bars)
    scale = (_WIDTH - _LEFT - _RIGHT) / longest
    drawn = []
    for row, bar in enumerate(bars):
        y, start = _TOP + _LINE * row, float(_LEFT)
        drawn.append(_name(bar.label, y + _LINE / 2))
        for place, count in enumerate(bar.counts):
            if count:
                size = f'width="{count * scale:.1f}" height="{_LINE - 6}"'
                drawn.append(f'<rect class="part{place}" x="{start:.1f}" y="{y + 3}" {size}/>')
            start += count * scale
        drawn.append(f'<text x="{_WIDTH - 2}" y="{y + _LINE / 2 + 4:g}" text-anchor="end">{sum(bar.counts)}</text>')
    y, start = _TOP + _LINE * len(bars) + 4, float(_LEFT) - 110
    for place, name in enumerate(parts):
        drawn.append(f'<rect class="part{place}" x="{start:g}" y="{y}" width="10" height="10"/>')
        drawn.append(f'<text class="quiet" x="{start + 14:g}" y="{y + 9}">{html.escape(name)}</text>')
        start += 34 + 6.2 * len(name)
    return "".join(drawn)


def _name(label: str, y: float) -> str:
    return f'<text x="{_LEFT - 8}" y="{y + 4:g}" text-anchor="end">{html.escape(label)}</text>'
