"""Figures of what fits: simulated peaks of named cases, the largest batch by memory size, and the resident set over time."""

from __future__ import annotations

import math

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from benchmarks.report.cells import number
from benchmarks.report.scaling import MODES
from benchmarks.report.style import WIDTH_INCHES, log_axis, log_axis_apart, looks

_GIB = 2**30
_COLUMNS = 3
_ROOM = 0.3  # share of a panel that the marks of cases without a value take at most


def draw_named(part: pd.DataFrame) -> Figure:
    """Draw the simulated peak of each arm (rows) as a point, for each mode (panels); a case without a value is an x."""
    modes = [mode for mode in MODES if mode in set(part["mode"])]
    chosen = looks(list(part["arm"].unique()))
    figure = Figure(figsize=(WIDTH_INCHES, 0.19 * len(chosen) + 0.75), layout="constrained")
    grid = figure.subplots(1, len(modes), squeeze=False, sharey=True)
    for axes, mode in zip(grid[0], modes, strict=True):
        peaks = part[part["mode"] == mode].set_index("arm")["peak_bytes"].reindex(list(chosen)) / _GIB
        if peaks.notna().any():
            axes.set_xscale("log")
            axes.set_xlim(peaks.min() / 2, peaks.max() * 6)
        else:
            axes.set_xticks([])
        for place, (arm, look) in enumerate(chosen.items()):
            peak = float(peaks[arm])
            if math.isnan(peak):
                axes.plot(0.03, place, "x", color=look.colour, transform=axes.get_yaxis_transform())
                axes.text(
                    0.06, place, "no value: see failed cases", va="center", fontsize=6, transform=axes.get_yaxis_transform()
                )
                continue
            axes.plot(peak, place, look.marker, color=look.colour)
            axes.text(peak * 1.3, place, number(peak), va="center", fontsize=6)
        if peaks.notna().any():
            log_axis(axes, "x")
        axes.set_yticks(range(len(chosen)), list(chosen))
        axes.set_title(MODES[mode])
        axes.set_xlabel("simulated peak (GiB)")
    grid[0, 0].set_ylim(len(chosen) - 0.5, -0.5)
    return figure


def draw_frontier(part: pd.DataFrame) -> Figure:
    """Draw the largest batch over the layer width for each arm, one panel for each memory size.

    Below a line under the data, in the colour of its arm: an x for a case without a value, a 0 where not even one sample fits.
    """
    capacities = sorted(part["capacity_gib"].unique())
    chosen = looks(list(part["arm"].unique()))
    rows = math.ceil(len(capacities) / _COLUMNS)
    figure = Figure(figsize=(WIDTH_INCHES, 1.5 * rows + 0.6), layout="constrained")
    grid = figure.subplots(rows, min(_COLUMNS, len(capacities)), squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(capacities) :]:
        axes.set_visible(False)
    missing = [arm for arm in chosen if not part.loc[part["arm"] == arm, "largest_batch"].gt(0).all()]
    step = min(0.08, _ROOM / max(1, len(missing)))
    for axes, capacity in zip(grid.flat, capacities, strict=False):
        here = part[part["capacity_gib"] == capacity]
        for arm, look in chosen.items():
            own = here[here["arm"] == arm].sort_values("width")
            batches = own["largest_batch"].where(own["largest_batch"] > 0)
            axes.plot(own["width"], batches, color=look.colour, marker=look.marker, linestyle=look.line)
            height = step * (missing.index(arm) + 0.5) if arm in missing else 0.0
            for marker, places in (("x", own["largest_batch"].isna()), ("$0$", own["largest_batch"] == 0)):
                widths = own["width"][places]
                edge = axes.get_xaxis_transform()
                axes.plot(widths, [height] * len(widths), marker=marker, linestyle="", color=look.colour, transform=edge)
        axes.set_title(f"{capacity} GiB")
    widths = sorted(part["width"].unique())
    grid[0, 0].set_xlim(widths[0] / 1.25, widths[-1] * 1.25)
    log_axis(grid[0, 0], "x", widths)
    if part["largest_batch"].gt(0).any():
        log_axis_apart(list(grid.flat), "below", step * len(missing))
    else:
        grid[0, 0].set_yticks([])  # marks alone: no scale to read
    for axes in grid[-1]:
        axes.set_xlabel("layer width (units)")
    for axes in grid[:, 0]:
        axes.set_ylabel("largest batch\n(samples)")
    handles = [Line2D([], [], color=k.colour, marker=k.marker, linestyle=k.line, label=arm) for arm, k in chosen.items()]
    if part["largest_batch"].isna().any():
        handles.append(Line2D([], [], color="black", marker="x", linestyle="", label="no value: see failed cases"))
    if part["largest_batch"].eq(0).any():
        handles.append(Line2D([], [], color="black", marker="$0$", linestyle="", label="not even one sample fits"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


_BINS = 500  # of a curve: about as many as its width has points in print


def resident_curves(part: pd.DataFrame) -> pd.DataFrame:
    """Return the curves of `draw_resident`: of each case the smallest and the largest sample of every stretch of time.

    A run of minutes has ten thousands of samples, of which no figure shows more.
    """
    kept = []
    for _, own in part.sort_values("seconds").groupby(["arm", "case_key"], sort=True):
        stretch = np.arange(len(own)) * _BINS // max(len(own), _BINS)
        size = own["rss_bytes"].reset_index(drop=True).groupby(stretch)
        kept.append(own.iloc[np.unique(np.concatenate([size.idxmin(), size.idxmax()]))])
    return pd.concat(kept)[["arm", "case_key", "seconds", "rss_bytes"]]


def draw_resident(part: pd.DataFrame) -> Figure:
    """Draw the resident set of each arm's process over time while one call is repeated, above its lowest in that time.

    Each arm has a panel with its own time axis; all share the axis of memory, linear up to 1 MiB and logarithmic above.
    It is not drawn above what it was before the calls: the first may give back pages that building the network had left, by
    which all after it would be drawn too low, even below zero.
    """
    chosen = looks(list(part["arm"].unique()))
    columns = min(5, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    figure = Figure(figsize=(WIDTH_INCHES, 1.6 * rows + 0.3), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in grid.flat[len(chosen) :]:
        axes.set_visible(False)
    for axes, (arm, look) in zip(grid.flat, chosen.items(), strict=False):
        own = part[part["arm"] == arm].sort_values("seconds")
        time, above = own["seconds"] * 1e3, (own["rss_bytes"] - own["rss_bytes"].min()) / 2**20
        axes.fill_between(time, above, color=look.colour, alpha=0.3, linewidth=0)
        axes.plot(time, above, color=look.colour, linewidth=0.8)
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.set_title(arm)
    grid[0, 0].set_yscale("symlog", linthresh=1)
    grid[0, 0].set_ylim(0, None)
    grid[0, 0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for axes in grid[:, 0]:
        axes.set_ylabel("resident set above\nits lowest (MiB)")
    figure.supxlabel("time since the first call began (ms)", fontsize=mpl.rcParams["axes.labelsize"])
    return figure
