"""The picture of a layer: a grid of panels with axes, a row for each output and a column for each input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from efficient_kan import _checks
from efficient_kan._drawing import Curve, Drawing, inches, labels, text_width

_PANEL = (1.6, 1.15)  # inches
_POINTS, _SHORTEST = 9, 6  # of names, letters of them


def draw(
    curves: Sequence[Curve],
    input_names: Sequence[str],
    output_names: Sequence[str],
    knots: Sequence[Sequence[float]],
    *,
    rows: Sequence[int],
    columns: Sequence[int],
    figure: Figure | SubFigure | None = None,
) -> Figure | SubFigure:
    """Draw the curves of a layer for the outputs ``rows`` and the inputs ``columns``; ``knots`` are those of each input."""
    figure = Drawing() if figure is None else figure
    if isinstance(figure, Figure):
        figure.set_size_inches(_PANEL[0] * len(columns) + 0.9, _PANEL[1] * len(rows) + 0.9)
    width, height = inches(figure)
    _checks.require(min(width, height) > 1, "figure", "a SubFigure of over 1 by 1 inches", f"{width:.2f} by {height:.2f}")
    left, right, bottom, top = 0.75 / width, 1 - 0.15 / width, 0.45 / height, 1 - 0.45 / height
    grid = figure.add_gridspec(len(rows), len(columns), left=left, right=right, bottom=bottom, top=top, wspace=0.5, hspace=0.3)
    drawn = {(curve.output, curve.input): curve for curve in curves}
    above = _fitted([input_names[column] for column in columns], 0.85 * (width - 0.9) / len(columns))
    beside = _fitted([output_names[output] for output in rows], 0.97 * (height - 0.9) / len(rows))
    lowest = {column: max([r for r, o in enumerate(rows) if (o, column) in drawn], default=-1) for column in columns}
    for r, output in enumerate(rows):
        for c, column in enumerate(columns):
            axes = figure.add_subplot(grid[r, c])
            _draw_panel(axes, drawn.get((output, column)), knots[column])
            if r == 0:
                axes.set_title(above[c], fontsize=_POINTS)
            if c == 0:
                axes.set_ylabel(beside[r], fontsize=_POINTS)
            axes.tick_params(labelsize=6.5, length=2, pad=1.5, labelbottom=r == lowest[column])
    if len(rows) < len(output_names) or len(columns) < len(input_names):
        counts = f"{len(rows)} of {len(output_names)} outputs, {len(columns)} of {len(input_names)} inputs"
        note = f"Not all is shown: {counts}, whose curves vary most"
        figure.text(0.1 / width, 0.08 / height, note, fontsize=7.5, color="0.35", ha="left", va="bottom")
    return figure


def _fitted(names: Sequence[str], length: float) -> list[str]:
    """Names as long as so many inches, with as many letters as that allows."""
    found = labels(names)
    longest = max(map(len, found), default=0)
    while longest > _SHORTEST and any(text_width(name, _POINTS) > length for name in found):
        longest -= 1
        found = labels(names, longest)
    return found


def _draw_panel(axes: Any, curve: Curve | None, knots: Sequence[float]) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    if curve is None:
        axes.spines[:].set_visible(False)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.text(0.5, 0.5, "masked", ha="center", va="center", fontsize=7, color="0.6", transform=axes.transAxes)
        return
    axes.plot(curve.points, curve.values, color="black", linewidth=1.2)
    low, high = min(curve.points), max(curve.points)
    inside = [knot for knot in knots if low <= knot <= high]
    axes.plot(inside, [0.03] * len(inside), "|", color="tab:blue", markersize=5, transform=axes.get_xaxis_transform())
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.yaxis.set_major_locator(MaxNLocator(3))
