"""Figures over the axes: time, time ratio and peak memory, one panel per line and mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from benchmarks.analysis.data import Line
from benchmarks.report.cells import alone, between
from benchmarks.report.style import GREY, WIDTH_INCHES, Look, log_axis, log_axis_apart, looks

MODES = {
    "inference": "inference",
    "forward": "forward",
    "forward_backward": "forward + backward",
    "step": "training step",
}
X_LABELS = {
    "batch": "batch size $B$ (samples)",
    "width": "layer width (units)",
    "grid": "grid size $G$ (intervals)",
    "order": "spline order $k$ (degree)",
    "depth": "depth (layers)",
}


@dataclass(frozen=True)
class Quantity:
    """What the y axis shows: a column, the ends of its interval if it has one, and its label with the unit.

    `simulated` is a column with simulated values of the same quantity, drawn hollow where `column` has no value. The interval
    of a `ratio` is one over processes: a value of a single process is drawn hollow and without one.
    """

    column: str
    label: str
    low: str | None = None
    high: str | None = None
    interval: str = ""
    ratio: bool = False
    simulated: str | None = None


_ROOM = 0.3  # share of a panel that the marks of failures take at most
# Hatched: some arms' own bands are grey.
_FLOOR: dict[str, Any] = {"facecolor": "none", "edgecolor": GREY, "hatch": "//////", "linewidth": 0, "alpha": 0.7}

TIME = Quantity("arm_ms", "time (ms)", "arm_ms_low", "arm_ms_high", "quartiles of the samples")
RATIO = Quantity("ratio", "time / time of\n{baseline}", "ratio_low", "ratio_high", "95 % interval", ratio=True)
MEMORY = Quantity("peak_mib", "peak memory (MiB)", simulated="simulated_mib")


def lost(frame: pd.DataFrame, quantity: Quantity) -> pd.Series[bool]:
    """Which rows of `frame` have neither a measured nor a simulated value."""
    measured = frame[quantity.column].notna()
    return ~(measured | frame[quantity.simulated].notna()) if quantity.simulated else ~measured


def shown_modes(lines: list[Line]) -> list[str]:
    """Return the modes that are drawn: without those measured at one point of each line, unless none was measured at more."""
    frame = pd.concat([line.frame for line in lines])
    measured = [mode for mode in MODES if mode in set(frame["mode"])]
    along = {mode for line in lines for mode, part in line.frame.groupby("mode") if part[line.x].nunique() > 1}
    return [mode for mode in measured if mode in along] or measured


def draw(lines: list[Line], quantity: Quantity) -> Figure:
    """Draw `quantity` along each of `lines` (columns) for each of `shown_modes` (rows).

    A case that was simulated but not measured is hollow, as is a ratio of one process; one without any value is an x at the
    top of its panel, in its arm's colour.
    """
    frame = pd.concat([line.frame for line in lines])
    modes = shown_modes(lines)
    chosen = looks(list(frame["arm"].unique()))
    size = (WIDTH_INCHES, 1.45 * len(modes) + 0.75)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(modes), len(lines), squeeze=False, sharey="row", sharex="col")
    for row, mode in enumerate(modes):
        part = frame[frame["mode"] == mode]
        failing = set(part.loc[lost(part, quantity), "arm"])
        step = min(0.08, _ROOM / max(1, len(failing)))
        marks = {arm: 1 - step * (rank + 0.5) for rank, arm in enumerate(arm for arm in chosen if arm in failing)}
        for column, line in enumerate(lines):
            axes = grid[row, column]
            _panel(axes, line, line.frame[line.frame["mode"] == mode], quantity, chosen, marks)
            if row == 0:
                axes.set_title(line.title)
            if row == len(modes) - 1:
                axes.set_xlabel(X_LABELS[line.axis])
        baseline = next(iter(frame["baseline"].dropna()), "") if quantity.ratio else ""
        grid[row, 0].set_ylabel(f"{MODES[mode]}\n{quantity.label.format(baseline=baseline)}")
        if lost(part, quantity).all():
            grid[row, 0].set_yticks([])  # marks alone: no scale to read
        else:
            log_axis_apart(list(grid[row]), "above", step * len(marks))
    _legend(figure, frame[frame["mode"].isin(modes)], quantity, chosen)
    return figure


def _panel(
    axes: Axes, line: Line, part: pd.DataFrame, quantity: Quantity, chosen: dict[str, Look], marks: dict[str, float]
) -> None:
    """Draw one line of points; `marks` gives the height (share of the panel) at which an arm's failures are marked."""
    ticks = sorted(line.frame[line.x].unique())
    # Limits from the ticks, not from the data: a size at which every arm failed must still be on the axis.
    axes.set_xlim(ticks[0] / 1.25, ticks[-1] * 1.25)
    log_axis(axes, "x", ticks)
    if quantity.ratio:
        axes.axhline(1, color="black", linewidth=0.9, zorder=1.5)
        floor = part.dropna(subset=["floor"]).groupby(line.x)["floor"].max()
        axes.fill_between(floor.index, 1 / floor, floor, zorder=0, **_FLOOR)
    low, high = quantity.low or quantity.column, quantity.high or quantity.column
    for arm, look in chosen.items():
        own = part[part["arm"] == arm]
        own = between(own) if quantity.ratio else own
        curve = own.groupby(line.x).agg(y=(quantity.column, "median"), low=(low, "min"), high=(high, "max"))
        if not (quantity.ratio and (own["arm"] == own["baseline"]).all()):
            axes.plot(curve.index, curve["y"], color=look.colour, marker=look.marker, linestyle=look.line, zorder=3)
            if quantity.low and quantity.high:
                # Bars as well as a band, because an arm that was measured at one point only has no band.
                axes.vlines(curve.index, curve["low"], curve["high"], color=look.colour, linewidth=0.7, zorder=2)
                axes.fill_between(curve.index, curve["low"], curve["high"], color=look.colour, alpha=0.2, linewidth=0, zorder=2)
            if quantity.ratio:
                lone = own[alone(own)].groupby(line.x)["ratio"].median()
                axes.plot(lone.index, lone, look.marker, color=look.colour, markerfacecolor="white", zorder=3)
        if quantity.simulated:
            _simulated(axes, own.groupby(line.x)[[quantity.column, quantity.simulated]].median(), look)
        if arm in marks:
            failed = own.loc[lost(own, quantity), line.x].unique()
            edge = axes.get_xaxis_transform()
            axes.plot(failed, [marks[arm]] * len(failed), "x", color=look.colour, transform=edge, zorder=4)


def _simulated(axes: Axes, curve: pd.DataFrame, look: Look) -> None:
    """Draw the second column of `curve` hollow where the first has no value, joined to the measured points by a thin line."""
    measured, simulated = curve.iloc[:, 0], curve.iloc[:, 1]
    hollow = simulated[measured.isna()].dropna()
    if hollow.empty:
        return
    joined = measured.fillna(simulated)
    axes.plot(joined.index, joined, color=look.colour, linestyle=look.line, linewidth=0.5, zorder=2)
    axes.plot(hollow.index, hollow, look.marker, color=look.colour, markerfacecolor="white", zorder=3)


def _legend(figure: Figure, frame: pd.DataFrame, quantity: Quantity, chosen: dict[str, Look]) -> None:
    handles: list[Line2D | Patch] = []
    drawn = frame[frame["arm"] != frame["baseline"]] if quantity.ratio else frame
    lone = alone(drawn) if quantity.ratio else pd.Series(False, drawn.index)
    for arm, look in chosen.items():
        own = frame[frame["arm"] == arm]
        if not (quantity.ratio and (own["arm"] == own["baseline"]).all()):
            handles.append(Line2D([], [], color=look.colour, marker=look.marker, linestyle=look.line, label=arm))
    if quantity.interval and (drawn[quantity.column].notna() & ~lone).any():
        handles.append(Line2D([], [], color="black", marker="|", markersize=7, linestyle="", label=quantity.interval))
    if lone.any():
        hollow = Line2D(
            [], [], color="black", marker="o", markerfacecolor="white", linestyle="", label="one process: no interval"
        )
        handles.append(hollow)
    if quantity.ratio and frame["floor"].notna().any():
        handles.append(Patch(label="noise floor", **_FLOOR))
    if quantity.simulated and (frame[quantity.column].isna() & ~lost(frame, quantity)).any():
        handles.append(
            Line2D([], [], color="black", marker="o", markerfacecolor="white", linestyle="", label="simulated, not measured")
        )
    if lost(frame, quantity).any():
        handles.append(Line2D([], [], color="black", marker="x", linestyle="", label="no value: see failed cases"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
