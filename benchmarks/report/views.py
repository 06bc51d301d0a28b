"""What the interactive page can draw: frames of points with their axes, filters and quantities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pandas as pd

from benchmarks.report import tables
from benchmarks.report.data import Data, families, with_baseline
from benchmarks.report.penalties import PENALTIES
from benchmarks.report.scaling import MODES, X_LABELS
from benchmarks.report.tables import BASELINE


@dataclass(frozen=True)
class Shown:
    """A quantity of the y axis: a column, its label with the unit, and the columns of its interval's ends if it has one."""

    column: str
    label: str
    ends: tuple[str, str] | None = None
    interval: str = ""
    ratio: bool = False


@dataclass(frozen=True)
class View:
    """Points of one kind. `x` is a column of numbers, or of names if `names`; `filters` maps columns to labels.

    One value is chosen of every filter, so that the rows that remain are points of one chart: one series for each value of
    `series`. `x_labels` gives the label of the x axis by the value of the filter `axis`, or under "" if there is none.
    """

    key: str
    title: str
    frame: pd.DataFrame = field(repr=False)
    x: str
    x_labels: Mapping[str, str]
    quantities: tuple[Shown, ...]
    filters: Mapping[str, str]
    preferred: Mapping[str, str] = field(default_factory=dict)
    series: str = "arm"
    names: bool = False
    joined: bool = True


_SETTING = {"setting": "Device, type, threads"}
_ALONG = _SETTING | {"axis": "Axis", "line": "Fixed sizes", "mode": "What runs"}
_AXES = {axis: label.replace("$", "") for axis, label in X_LABELS.items()}
_STEP = {"mode": MODES["step"]}


def views(data: Data) -> list[View]:
    """Return every view that the rows allow."""
    return [view for view in _all(data) if not view.frame.empty]


def _all(data: Data) -> Iterator[View]:
    speed = _lines(data.speed)
    ratio = Shown("ratio", f"time / time of {BASELINE}", ("ratio_low", "ratio_high"), "95 % interval", ratio=True)
    yield View("ratio", "Speed", speed, "x", _AXES, (ratio,), _ALONG, _STEP)
    times = Shown("arm_ms", "time of one call (ms)", ("arm_ms_low", "arm_ms_high"), "quartiles")
    yield View("time", "Speed", _lines(with_baseline(data.speed)), "x", _AXES, (times,), _ALONG, _STEP)
    peaks = (Shown("peak_mib", "peak memory (MiB)"), Shown("memory_ratio", f"peak / peak of {BASELINE}", ratio=True))
    yield View("memory", "Memory", _lines(tables.plain_memory(data)), "x", _AXES, peaks, _ALONG, _STEP)
    yield from _penalties(data)
    yield from _simulated(data)
    yield from _sparsity(data)


def _lines(frame: pd.DataFrame) -> pd.DataFrame:
    """The points of every line, under its axis and its fixed sizes; a point on several lines comes once for each."""
    if frame.empty:
        return frame
    parts = [
        line.frame.assign(axis=line.axis, line=line.title, x=line.frame[line.x])
        for _, part in frame.groupby("setting", sort=True)
        for family in families(part)
        for line in family
    ]
    return _moded(pd.concat(parts, ignore_index=True)) if parts else frame.head(0)


def _moded(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(mode=frame["mode"].map(MODES))


def _penalties(data: Data) -> Iterator[View]:
    costs = tables.penalty_costs(data)
    if costs.empty:
        return
    keys = ["case_key", "run_id", "env_id"]
    known = data.cases.drop_duplicates("case_key")[keys]
    sizes = costs[["batch", "layers", "grid_size", "spline_order"]].astype(str).agg(", ".join, axis=1)
    frame = _moded(costs.assign(point=sizes, penalty=costs["penalty"].map(PENALTIES)).merge(known, on="case_key", how="left"))
    shown = (
        Shown("ratio", "time / own step without penalty", ("ratio_low", "ratio_high"), "95 % interval", ratio=True),
        Shown("memory_ratio", "peak / own step without penalty", ratio=True),
        Shown("arm_ms", "time of a penalised step (ms)", ("arm_ms_low", "arm_ms_high"), "quartiles"),
        Shown("peak_mib", "peak memory of a penalised step (MiB)"),
    )
    filters = _SETTING | {"point": "B, layers, G, k", "mode": "What runs"}
    yield View("penalty", "Penalties", frame, "penalty", {"": "penalty"}, shown, filters, names=True)


def _simulated(data: Data) -> Iterator[View]:
    if not data.simulated.empty:
        named = data.simulated[data.simulated["name"].notna()]
        frame = _moded(named.assign(peak_gib=named["peak_bytes"] / 2**30))
        shown = (Shown("peak_gib", "simulated peak memory (GiB)"),)
        filters = _SETTING | {"mode": "What runs"}
        yield View("simulated", "Simulated", frame, "name", {"": "case"}, shown, filters, _STEP, names=True)
    if not data.frontier.empty:
        frame = data.frontier.assign(
            capacity=data.frontier["capacity_gib"].map("{} GiB".format),
            line="G = " + data.frontier["grid_size"].astype(str) + ", k = " + data.frontier["spline_order"].astype(str),
        )
        shown = (Shown("largest_batch", "largest batch that fits (samples)"),)
        filters = _SETTING | {"line": "Fixed sizes", "capacity": "Memory"}
        yield View("frontier", "Simulated", frame, "width", {"": _AXES["width"]}, shown, filters)


def _sparsity(data: Data) -> Iterator[View]:
    frame = data.sparsity
    if frame.empty:
        return
    shown = (Shown("test_rmse", "test RMSE"), Shown("pruned_test_rmse", "test RMSE, inactive edges removed"))
    filters = _SETTING | {"task": "Task", "arm": "Arm"}
    labels = {"": "active edges"}
    yield View("sparsity", "Sparsity", frame, "active_edges", labels, shown, filters, series="penalty", joined=False)
