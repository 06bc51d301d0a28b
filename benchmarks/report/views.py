"""What the interactive page can draw: frames of points with their axes, filters and quantities."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import pandas as pd

from benchmarks.analysis.data import BASELINE, Data, families, with_baseline
from benchmarks.report import sparsity, tables
from benchmarks.report.cells import between
from benchmarks.report.penalties import PENALTIES
from benchmarks.report.scaling import MODES, X_LABELS
from benchmarks.study.penalties import ENTROPY


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


def views(data: Data, studies: Sequence[sparsity.Study]) -> list[View]:
    """Return every view that the rows allow; `studies` are those of `data`."""
    return [view for view in _all(data, studies) if not view.frame.empty]


def _all(data: Data, studies: Sequence[sparsity.Study]) -> Iterator[View]:
    speed = _lines(between(data.speed))
    ratio = Shown("ratio", f"time / time of {BASELINE}", ("ratio_low", "ratio_high"), "95 % interval", ratio=True)
    yield View("ratio", "Speed", speed, "x", _AXES, (ratio,), _ALONG, _STEP)
    times = Shown("arm_ms", "time of one call (ms)", ("arm_ms_low", "arm_ms_high"), "quartiles")
    yield View("time", "Speed", _lines(with_baseline(data.speed)), "x", _AXES, (times,), _ALONG, _STEP)
    peaks = (Shown("peak_mib", "peak memory (MiB)"), Shown("memory_ratio", f"peak / peak of {BASELINE}", ratio=True))
    yield View("memory", "Memory", _lines(tables.plain_memory(data)), "x", _AXES, peaks, _ALONG, _STEP)
    yield from _penalties(data)
    yield from _simulated(data)
    yield _sparsity(data, studies)


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
    costs = between(costs)
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
        if frame["policy"].nunique() > 1:
            frame["name"] = frame["name"] + ", as on " + frame["policy"]
        shown = (Shown("peak_gib", "simulated peak memory (GiB)"),)
        filters = _SETTING | {"mode": "What runs"}
        yield View("simulated", "Simulated", frame, "name", {"": "case"}, shown, filters, _STEP, names=True)
    if not data.frontier.empty:
        frame = data.frontier.assign(
            capacity=data.frontier["capacity_gib"].map("{} GiB".format),
            line="G = " + data.frontier["grid_size"].astype(str) + ", k = " + data.frontier["spline_order"].astype(str),
        )
        for column, text in (("depth", "{} layers"), ("policy", "as on {}")):
            if frame[column].nunique() > 1:
                frame["line"] = frame["line"] + ", " + frame[column].map(text.format)
        shown = (Shown("largest_batch", "largest batch that fits (samples)"),)
        filters = _SETTING | {"line": "Fixed sizes", "capacity": "Memory"}
        yield View("frontier", "Simulated", frame, "width", {"": _AXES["width"]}, shown, filters)


def _sparsity(data: Data, studies: Sequence[sparsity.Study]) -> View:
    """Error against edges left on each task: every penalty at its chosen strengths, with and without its entropy term."""
    lines = [_curve(study, penalty, task) for study in studies for penalty, task in product(study.penalties, study.tasks)]
    frame = pd.concat(lines, ignore_index=True) if lines else pd.DataFrame()
    if not frame.empty:
        known = data.cases.drop_duplicates("case_key").set_index("case_key")
        first = frame["case_key"].str.partition(", ")[0]
        frame = frame.assign(run_id=first.map(known["run_id"]), env_id=first.map(known["env_id"]))
    interval = "95 % interval over seeds"
    shown = (
        Shown("test", "test error after the refit (1: a constant)", ("test_low", "test_high"), interval),
        Shown("before", "test error as pruned (1: a constant)", ("before_low", "before_high"), interval),
    )
    filters = _SETTING | {"task": "Task", "entropy": "Entropy term"}
    return View("sparsity", "Sparsity", frame, "edges", {"": "edges left"}, shown, filters, series="norm")


def _curve(study: sparsity.Study, penalty: str, task: str) -> pd.DataFrame:
    """The curves of one penalty on one task, without values where all its runs failed; 'none' stands beside both forms."""
    chosen = study.choices[(study.choices["penalty"] == penalty) & (study.choices["task"] == task)]
    if chosen.empty:
        return pd.DataFrame()
    statuses = sorted(set(chosen["status"]) - {"ok"}) or ["diverged"]
    failed = {"status": ", ".join(statuses), "reason": study.failed(chosen)} if chosen["failed"].all() else {"status": "ok"}
    frame = pd.DataFrame({"edges": chosen["edge_counts"].iloc[0]})
    for curve in ("test", "before"):
        found = sparsity.task_band(study, penalty, task, curve)
        assert found is not None
        for name, values in ((curve, found.y), (f"{curve}_low", found.low), (f"{curve}_high", found.high)):
            frame[name] = math.nan if "reason" in failed else np.exp(values)
    norm, plus, _ = penalty.partition(ENTROPY)
    keys = ", ".join(dict.fromkeys(chosen["case_key"]))
    named = frame.assign(setting=study.setting, task=task, norm=norm, case_key=keys, **failed)
    forms = ("with", "without") if norm == "none" else ("with",) if plus else ("without",)
    return pd.concat([named.assign(entropy=form) for form in forms], ignore_index=True)
