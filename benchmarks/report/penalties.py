"""The figure of what a penalty adds to a training step."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.typing import LineStyleType

from benchmarks.report.cells import alone, between
from benchmarks.report.style import WIDTH_INCHES, Look, log_axis, looks

PENALTIES = {"none": "no penalty", "weight_l1": "WeightL1", "sample_l1": "SampleL1", "sample_std": "SampleStd"}
# Column, x label, columns of the interval's ends, whether it is a ratio to the same arm without a penalty.
_COSTS = (
    ("arm_ms", "time of a step (ms)", ("arm_ms_low", "arm_ms_high"), False),
    ("peak_mib", "peak memory of a step (MiB)", None, False),
    ("ratio", "time / own step without penalty", ("ratio_low", "ratio_high"), True),
    ("memory_ratio", "memory / own step without penalty", None, True),
)


def draw_cost(costs: pd.DataFrame) -> Figure:
    """Draw the time and the peak memory of a penalised step, absolute and against the arm's own plain step, at one point.

    `costs` has one row per arm and penalty, see `benchmarks.report.tables.penalty_costs`. A ratio of one process is hollow.
    """
    costs = between(costs)
    chosen = looks(list(costs["arm"].unique()))
    order = [name for name in PENALTIES if name in set(costs["penalty"])]
    height = 0.3 + 0.11 * len(order) * (len(chosen) + 1)
    figure = Figure(figsize=(WIDTH_INCHES, 2 * height + 0.9), layout="constrained")
    grid = figure.subplots(2, 2, sharey=True)
    step = 0.8 / max(len(chosen), 1)
    for axes, (column, label, ends, is_ratio) in zip(grid.flat, _COSTS, strict=True):
        values = costs[column]
        _log_limits(axes, values, ends and costs[list(ends)], include_one=is_ratio)
        if is_ratio:
            axes.axvline(1, color="black", linewidth=0.6)
        for rank, (arm, look) in enumerate(chosen.items()):
            own = costs[costs["arm"] == arm]
            own = own.assign(y=own["penalty"].map(order.index) + (rank - (len(chosen) - 1) / 2) * step)
            known, missing = own[own[column].notna()], own[own[column].isna()]
            if ends:
                axes.hlines(known["y"], known[ends[0]], known[ends[1]], color=look.colour, linewidth=1.0)
            axes.plot(known[column], known["y"], look.marker, color=look.colour)
            if column == "ratio":
                lone = known[alone(known)]
                axes.plot(lone[column], lone["y"], look.marker, color=look.colour, markerfacecolor="white")
            edge = axes.get_yaxis_transform()
            axes.plot([0.97] * len(missing), missing["y"], "x", color=look.colour, transform=edge)
        axes.set_xlabel(label)
        axes.set_yticks(range(len(order)), [PENALTIES[name] for name in order])
        axes.grid(visible=False, axis="y")
        for boundary in range(1, len(order)):
            axes.axhline(boundary - 0.5, color="0.85", linewidth=0.5)
    grid[0, 0].set_ylim(len(order) - 0.5, -0.5)
    handles = [_handle(arm, look, "") for arm, look in chosen.items()]
    if alone(costs).any():
        hollow = Line2D(
            [], [], color="black", marker="o", markerfacecolor="white", linestyle="", label="one process: no interval"
        )
        handles.append(hollow)
    if costs[[column for column, *_ in _COSTS]].isna().any(axis=None):
        handles.append(Line2D([], [], color="black", marker="x", linestyle="", label="no value: see failed cases"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def _handle(label: str, look: Look, line: LineStyleType) -> Line2D:
    return Line2D([], [], color=look.colour, marker=look.marker, linestyle=line, label=label)


def _log_limits(axes: Axes, values: pd.Series[float], ends: pd.DataFrame | None, *, include_one: bool) -> None:
    """Logarithmic x axis over all values and interval ends, wide enough to carry several labelled ticks."""
    shown = [*values, *(ends.to_numpy().ravel() if ends is not None else ()), *([1.0] if include_one else ())]
    finite = [value for value in shown if math.isfinite(value) and value > 0] or [1.0]
    low, high = min(finite), max(finite)
    spare = max((high / low) ** 0.08, 1.03)
    axes.set_xlim(low / spare, high * spare * (high / low) ** 0.05)
    log_axis(axes, "x")
