"""The picture of a network: nodes in rows from inputs to outputs, between them a small panel with a curve for each edge.

Drawn from :class:`Layer` alone, so that whatever has a curve an edge can be drawn. All lengths are inches of the figure.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, NamedTuple

from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Circle, Rectangle
from matplotlib.textpath import TextPath

from efficient_kan import _checks

_MAX_WIDTH, _MAX_PANEL, _NODE = 16.0, 0.75, 0.06
_FAINTEST = 0.08  # of an edge that has next to no importance: only masked edges are invisible
_NAME_POINTS = 9
_CHARACTER, _LINE = 0.075, 0.17  # about the width and the height of a letter of a name
_LONGEST_NAME = 24
_WIDEST_NAMES = 10.0  # else they are turned
_TITLE_POINTS, _TITLE_LINE = 11, 0.2
_LONGEST_LINE = 500  # letters, more than the widest drawing has room for
_INK, _FORMULA = (0.0, 0.0, 0.0), (0.75, 0.05, 0.1)


class Curve(NamedTuple):
    """The curve of one edge."""

    output: int
    input: int
    points: Sequence[float]
    values: Sequence[float]
    strength: float  # in [0, 1]: how dark it is drawn
    formula: str | None = None  # marks a symbolic edge


@dataclass(frozen=True)
class Layer:
    """The edges between two rows of nodes that are drawn, of ``edges`` that there are."""

    in_features: int
    out_features: int
    curves: Sequence[Curve]
    edges: int


class Drawing(Figure):
    """A figure that notebooks show without pyplot."""

    def _repr_png_(self) -> bytes:
        file = BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()


def draw(
    layers: Sequence[Layer],
    input_names: Sequence[str],
    output_names: Sequence[str],
    *,
    title: str | None = None,
    figure: Figure | SubFigure | None = None,
) -> Figure | SubFigure:
    """Draw a network from its layers, inputs at the bottom, into ``figure`` or a new one.

    A figure gets the size of the drawing; a ``SubFigure``, whose size its parent decides, is filled.
    """
    _checks.require(title is None or isinstance(title, str), "title", "a string or None", title)
    shown = _shown_nodes(layers)
    names = [labels([names[n] for n in row]) for names, row in ((input_names, shown[0]), (output_names, shown[-1]))]
    lengths = [[text_width(name, _NAME_POINTS) for name in row] for row in names]
    notes = _notes(layers, shown)
    bands = [_Band.of(len(layer.curves)) for layer in layers]
    width = max(
        [band.width for band in bands]
        + [0.4 * len(row) for row in shown]
        + [needed for row in lengths if (needed := len(row) * (max(row) + 2 * _CHARACTER)) <= _WIDEST_NAMES]
        + [max(map(len, notes), default=0) * 0.85 * _CHARACTER, 3.0]
        + [text_width(line, _TITLE_POINTS) for line in _lines(title or "", _MAX_WIDTH)]
    )
    figure = Drawing() if figure is None else figure
    width = min(width, _MAX_WIDTH) if isinstance(figure, Figure) else max(inches(figure)[0] - 0.2, 1.0)
    title_lines = _lines(title or "", width)
    rotated = [max(row) > 0.95 * width / len(row) for row in lengths]
    below, above = (0.15 + (max(row) if turned else _LINE) for row, turned in zip(lengths, rotated, strict=True))
    levels = [below + _LINE * len(notes) + 0.1]
    for band in bands:
        levels.append(levels[-1] + band.height(width))
    height = levels[-1] + above + (0.1 + _TITLE_LINE * len(title_lines) if title_lines else 0.0) + 0.1
    if isinstance(figure, Figure):
        figure.set_size_inches(width + 0.2, height)
    limits: dict[str, Any] = {"xlim": (-0.1, width + 0.1), "ylim": (0, height), "aspect": "equal"}
    axes = figure.add_axes((0, 0, 1, 1), frameon=False, xticks=[], yticks=[], **limits)
    places = [{n: width * (k + 0.5) / len(row) for k, n in enumerate(row)} for row in shown]
    for n, (layer, band) in enumerate(zip(layers, bands, strict=True)):
        _draw_band(axes, layer, band, width, (places[n], levels[n]), (places[n + 1], levels[n + 1]))
    _draw_nodes(axes, layers, places, levels, width)
    for k, name in zip(places[0].values(), names[0], strict=True):
        axes.text(k, levels[0] - 0.15, name, ha="center", va="top", fontsize=_NAME_POINTS, rotation=90 if rotated[0] else 0)
    for k, name in zip(places[-1].values(), names[1], strict=True):
        axes.text(k, levels[-1] + 0.15, name, ha="center", va="bottom", fontsize=_NAME_POINTS, rotation=90 if rotated[1] else 0)
    for k, note in enumerate(reversed(notes)):
        axes.text(0, 0.06 + _LINE * k, note, ha="left", va="bottom", fontsize=7.5, color="0.35")
    if title_lines:
        axes.text(width / 2, height - 0.08, "\n".join(title_lines), ha="center", va="top", fontsize=_TITLE_POINTS)
    return figure


def inches(figure: Figure | SubFigure) -> tuple[float, float]:
    """Width and height of a figure or of a part of one."""
    return figure.bbox.width / figure.dpi, figure.bbox.height / figure.dpi


def text_width(line: str, points: float) -> float:
    """Inches, with room for letters that are rounded to pixels."""
    if not line.strip():
        return 0.0
    return 1.05 * float(TextPath((0, 0), line, size=points).get_extents().width) / 72


def _lines(title: str, width: float) -> list[str]:
    """The lines of a title, wrapped where they are wider than so many inches; one with formulas of TeX is not wrapped."""
    parts = title.expandtabs().splitlines()
    if not title.strip() or title.count("$") > 1:
        return parts if title.strip() else []
    longest = max(parts, key=len, default="")[:_LONGEST_LINE]
    columns = len(longest)
    if (needed := text_width(longest, _TITLE_POINTS)) > width:
        columns = int(columns * width / needed)
    while True:
        lines = [line for part in parts for line in textwrap.wrap(part, max(columns, 1)) or [""]]
        if columns <= 1 or all(text_width(line, _TITLE_POINTS) <= width for line in lines):
            return lines
        columns = columns * 9 // 10


class _Band(NamedTuple):
    """How the panels of a layer are placed: in one row, or in two staggered ones with room for lines between panels."""

    panels: int
    rows: int

    @classmethod
    def of(cls, panels: int) -> _Band:
        return cls(panels, 1 if panels <= 24 else 2)

    @property
    def width(self) -> float:
        return self.panels / self.rows * _MAX_PANEL * 1.25

    def size(self, width: float) -> float:
        """The side of a panel."""
        return min(_MAX_PANEL, 0.8 * width * self.rows / max(self.panels + self.rows - 1, 1))

    def middle(self, panel: int, width: float) -> float:
        """Where a panel stands across."""
        margin = max(self.size(width), width / self.panels) / 2
        return margin + (width - 2 * margin) * (panel / (self.panels - 1) if self.panels > 1 else 0.5)

    def pitch(self, width: float) -> float:
        """From row to row."""
        return 1.3 * self.size(width)

    def fan(self, width: float) -> float:
        """The height of the lines between nodes and panels."""
        return 0.3 + 0.035 * width

    def height(self, width: float) -> float:
        return self.pitch(width) * (self.rows - 1) + self.size(width) + 2 * self.fan(width)


def _shown_nodes(layers: Sequence[Layer]) -> list[list[int]]:
    """The nodes of each row: all of them, or where edges are left out those that have one that is drawn."""
    counts = [layers[0].in_features] + [layer.out_features for layer in layers]
    rows = []
    for depth, count in enumerate(counts):
        drawn = {c.input for layer in layers[depth : depth + 1] for c in layer.curves}
        drawn |= {c.output for layer in layers[max(depth - 1, 0) : depth] for c in layer.curves}
        around = layers[max(depth - 1, 0) : depth + 1]
        whole = all(len(layer.curves) == layer.edges for layer in around) and count * 0.12 <= _MAX_WIDTH
        rows.append(list(range(count)) if whole or not drawn else sorted(drawn))
    return rows


def _notes(layers: Sequence[Layer], shown: Sequence[Sequence[int]]) -> list[str]:
    """What the picture leaves out, and how to read it, in lines."""
    notes = []
    counts = [layers[0].in_features] + [layer.out_features for layer in layers]
    for n, layer in enumerate(layers):
        if len(layer.curves) < layer.edges:
            notes.append(f"layer {n}: the {len(layer.curves)} strongest of {layer.edges} edges")
    for depth, (row, count) in enumerate(zip(shown, counts, strict=True)):
        kind = "inputs" if depth == 0 else "outputs" if depth == len(layers) else f"nodes at depth {depth}"
        if len(row) < count:
            notes.append(f"{len(row)} of {count} {kind}")
    lines = [", ".join(notes[k : k + 3]) for k in range(0, len(notes), 3)]
    if notes:
        lines[0] = f"Not all is shown: {lines[0]}"
    if any(_is_bare(layers, depth, node) for depth, row in enumerate(shown) for node in row):
        lines.append("hollow: a node without edges on one side")
    return lines


def _is_bare(layers: Sequence[Layer], depth: int, node: int) -> bool:
    """Whether a node lacks edges on a side where all edges that there are are drawn."""
    below = layers[depth - 1] if depth > 0 else None
    above = layers[depth] if depth < len(layers) else None
    no_incoming = below is not None and len(below.curves) == below.edges and all(c.output != node for c in below.curves)
    return no_incoming or (
        above is not None and len(above.curves) == above.edges and all(c.input != node for c in above.curves)
    )


def _draw_band(
    axes: Any,
    layer: Layer,
    band: _Band,
    width: float,
    lower: tuple[dict[int, float], float],
    upper: tuple[dict[int, float], float],
) -> None:
    """The panels of a layer, and their lines to the nodes."""
    size = band.size(width)
    lines: list[Any] = []
    line_colours, frames, frame_colours, curves, curve_colours = [], [], [], [], []
    for k, curve in enumerate(sorted(layer.curves, key=lambda c: (lower[0][c.input], upper[0][c.output]))):
        x = band.middle(k, width)
        y = lower[1] + band.fan(width) + size / 2 + (k % band.rows) * band.pitch(width)
        colour = (*(_INK if curve.formula is None else _FORMULA), max(_FAINTEST, min(curve.strength, 1.0)))
        # Straight through the band, so that a line passes between the panels of the other row.
        lines.append([(lower[0][curve.input], lower[1]), (x, lower[1] + band.fan(width)), (x, y - size / 2)])
        lines.append([(x, y + size / 2), (x, upper[1] - band.fan(width)), (upper[0][curve.output], upper[1])])
        line_colours += [colour, colour]
        frames.append(Rectangle((x - size / 2, y - size / 2), size, size))
        frame_colours.append(colour)
        curves.append(_in_panel(curve, x, y, 0.8 * size))
        curve_colours.append(colour)
        if curve.formula is not None:
            (text,) = labels([curve.formula], max(4, int(size / 0.055)))
            paper = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
            axes.text(
                x, y + size / 2 + 0.03, text, ha="center", va="bottom", fontsize=6.5, color=_FORMULA, bbox=paper, zorder=5
            )
    thin = 1.0 if size > 0.4 else 0.7
    axes.add_collection(LineCollection(lines, colors=line_colours, linewidths=thin, zorder=1))
    axes.add_collection(PatchCollection(frames, facecolors="white", edgecolors="white", linewidths=thin, zorder=2))
    axes.add_collection(PatchCollection(frames, facecolors="none", edgecolors=frame_colours, linewidths=thin, zorder=3))
    axes.add_collection(LineCollection(curves, colors=curve_colours, linewidths=1.6 * thin, zorder=4))


def _in_panel(curve: Curve, x: float, y: float, size: float) -> list[tuple[float, float]]:
    """The curve in a square of this middle and side; NaN, which interrupts a line, where it is not finite."""

    def scaled(numbers: Sequence[float]) -> list[float]:
        finite = [v for v in numbers if math.isfinite(v)]
        low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
        # A difference of rounding is none.
        if high - low <= 1e-6 * max(abs(low), abs(high)):
            return [0.0 if math.isfinite(v) else math.nan for v in numbers]
        return [(v - low) / (high - low) - 0.5 if math.isfinite(v) else math.nan for v in numbers]

    across, up = scaled(curve.points), scaled(curve.values)
    if not any(across):  # a node that is constant over the samples
        across = [n / max(len(across) - 1, 1) * 0.1 - 0.05 for n in range(len(across))]
    return [(x + size * a, y + size * b) for a, b in zip(across, up, strict=True)]


def _draw_nodes(
    axes: Any, layers: Sequence[Layer], places: Sequence[dict[int, float]], levels: Sequence[float], width: float
) -> None:
    for depth, (row, level) in enumerate(zip(places, levels, strict=True)):
        radius = min(_NODE, 0.3 * width / len(row))
        for node, x in row.items():
            bare = _is_bare(layers, depth, node)
            axes.add_patch(Circle((x, level), radius, facecolor="white" if bare else "black", edgecolor="black", zorder=6))


def labels(names: Sequence[str], longest: int = _LONGEST_NAME) -> list[str]:
    """Names as they are drawn: cut where they have more letters, in the middle if different ones would look the same.

    Formulas of TeX, between two ``$``, stay whole; what matplotlib cannot read as one is drawn as it stands.
    """
    cut = [_cut(name, longest, longest - 1) for name in names]
    alike = {label for label in cut if len({name for name, other in zip(names, cut, strict=True) if other == label}) > 1}
    return [
        _readable(_cut(name, longest, longest // 2) if label in alike else label)
        for name, label in zip(names, cut, strict=True)
    ]


def _cut(text: str, longest: int, head: int) -> str:
    if len(text) <= longest or text.count("$") > 1:
        return text
    tail = longest - 1 - head
    return f"{text[:head]}…{text[-tail:] if tail else ''}"


def _readable(text: str) -> str:
    try:
        text_width(text, _NAME_POINTS)
    except ValueError:  # of a formula
        return text.replace("$", r"\$")
    return text
