"""The study over its axes: the effect of L1 on the weights over L1 on the samples at every place on a line through a centre."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.analysis.data import Data, slug
from benchmarks.report import sparsity
from benchmarks.report.cells import View
from benchmarks.report.sparsity_words import percent, undecided
from benchmarks.report.style import GREY, WIDTH_INCHES, log_axis
from benchmarks.report.tables import Table
from benchmarks.study import phase, verdict
from benchmarks.study import rule as rules

_COLOURS = {"symbolic": "#0072B2", "special": "#D55E00", "real": "#009E73"}
_MARKS = {"symbolic": "o", "special": "s", "real": "D"}
_COLUMNS = 3
SHORT = "short"  # the place on the axis of refits where the first round alone counts


@dataclass(frozen=True)
class Lines:
    """All lines of one base: `frame` has a line for each axis, value, family and comparison, the centre on every axis."""

    base: str
    frame: pd.DataFrame


@lru_cache(maxsize=1)  # of the report that is made: its table and its figure show the same
def lines(data: Data) -> list[Lines]:
    """The lines of each base that has any; none without places off a centre."""
    if data.sparsity.empty:
        return []
    rule = rules.load()
    frame = data.sparsity[(data.sparsity["arm"] == "efficient_kan") & (data.sparsity["status"] != "unsupported")]
    bases = {
        name: data.settings.bases[data.settings.names[key]]
        for name, key in frame[["setting", "case_key"]].itertuples(index=False)
    }
    found = []
    for base, part in frame.groupby(frame["setting"].map(bases), sort=True):
        if part["setting"].nunique() < 3:
            continue
        made = list(_of_base(verdict.with_areas(_of_one_phase(part), rule), rule))
        if made:
            found.append(Lines(str(base), pd.DataFrame(made)))
    return found


def _of_one_phase(frame: pd.DataFrame) -> pd.DataFrame:
    """Without the confirmatory networks at a place that has others, too: RULE.md mixes the two in no number."""
    both = frame.groupby(frame["place"].map(str))["confirmatory"].transform("nunique") > 1
    return frame[~(both & frame["confirmatory"].astype(bool))]


def _of_base(frame: pd.DataFrame, rule: rules.Rule) -> Iterator[dict[str, object]]:
    middle = phase.centre(frame["place"])
    on = frame["place"].map(lambda place: phase.line_of(place, middle))
    at_centre = frame[on == ""]
    for axis in phase.AXES:
        along = frame[on == axis]
        values = pd.Series([place[axis] for place in along["place"]], along.index)
        for value in sorted(set(values), key=_order):
            at = along[values == value]
            # A task has one setting here, or several that differ in what is no axis, such as edge counts: these are not pooled.
            number = at.groupby("task")["setting"].transform(lambda own: pd.factorize(own, sort=True)[0])
            for _, part in at.groupby(number, sort=True):
                yield from _compared(part, axis, value, rule, centre=False)
        if len(along):
            # The centre with the same tasks and seeds, so that a line is about its axis alone.
            keys = along[verdict.UNIT].drop_duplicates()
            yield from _compared(at_centre.merge(keys, on=verdict.UNIT), axis, middle[axis], rule, centre=True)
        elif axis == "refit" and middle["refit"] > 1 and len(at_centre):
            yield from _compared(at_centre, axis, middle[axis], rule, centre=True)
        if axis == "refit" and middle["refit"] > 1 and len(at_centre):
            yield from _compared(at_centre, axis, SHORT, rule, centre=False, column="short_area")


def _compared(
    frame: pd.DataFrame, axis: str, value: object, rule: rules.Rule, *, centre: bool, column: str = "test_area"
) -> Iterator[dict[str, object]]:
    if frame.empty:
        return
    choices = verdict.chosen(frame, rule)
    found = verdict.verdicts(choices, rule, column=column)
    keys = ", ".join(dict.fromkeys(choices["case_key"])) if len(choices) else ""
    for line in found.to_dict("records"):
        if line["verdict"] != verdict.NO_ROWS:
            yield {"axis": axis, "value": value, "centre": centre, **{str(k): v for k, v in line.items()}, "cases": keys}


def tables(data: Data) -> list[Table]:
    """Per base the table of where the verdict turns."""
    found = lines(data)
    return [_table(one, named=len(found) > 1) for one in found]


def _table(one: Lines, *, named: bool) -> Table:
    """One line for each axis and family on the main comparison: the verdict at every value, in order, and where it turns."""
    main = rules.load().comparison[0]
    frame = one.frame[(one.frame["candidate"] == main.candidate) & (one.frame["reference"] == main.reference)]
    names = ("axis", "family", "tasks × seeds", "places", "verdict at the centre", "turns at")
    shown: dict[str, list[str]] = {name: [] for name in names}
    for (axis, family), part in frame.groupby(["axis", "family"], sort=False):
        ordered = part.iloc[sorted(range(len(part)), key=lambda n: _order(part["value"].iloc[n]))]
        centre = ordered.loc[ordered["centre"], "verdict"]
        at = str(centre.iloc[0]) if len(centre) else "not trained there"
        effects = sparsity.percent(ordered)
        records = list(zip(ordered.to_dict("records"), effects, strict=True))
        shown["axis"].append(phase.AXES[str(axis)][1])
        shown["family"].append(str(family))
        counts = {f"{name_of(line['value'])}{'*' * line['centre']}": sparsity.units(line) for line, _ in records}
        same = len(set(counts.values())) == 1
        shown["tasks × seeds"].append(
            next(iter(counts.values())) if same else "; ".join(f"{place}: {count}" for place, count in counts.items())
        )
        shown["places"].append(
            "; ".join(f"{name_of(line['value'])}{'*' * line['centre']}: {line['verdict']}, {text}" for line, text in records)
        )
        shown["verdict at the centre"].append(at)
        turns = [name_of(line["value"]) for line, _ in records if line["verdict"] in verdict.WORDS and line["verdict"] != at]
        shown["turns at"].append(", ".join(turns) or "nowhere")
    name = f"sparsity_axes-{slug(one.base)}" if named else "sparsity_axes"
    view: View = dict(shown)
    said = undecided(rules.load(), frame["verdict"])
    note = f"{said[0].upper()}{said[1:]}." if said else ""
    return Table(name, one.frame.drop(columns="cases"), view, setting=one.base if named else "", note=note)


def name_of(value: object) -> str:
    """A place on an axis in words."""
    return value if isinstance(value, str) else f"{value:g}" if isinstance(value, float | int) else str(value)


def _order(value: object) -> tuple[bool, float, str]:
    number = isinstance(value, float | int)
    return not number, float(value) if isinstance(value, float | int) else 0.0, str(value)


def figures(data: Data) -> Iterator[tuple[str, Figure, pd.DataFrame, str, str]]:
    """Per base the figure of all lines: stem, figure, what it draws, caption, base."""
    for one in lines(data):
        figure, drawn = draw(one)
        yield (
            "sparsity_axes",
            figure,
            drawn,
            "Test error at equal edge counts with L1 on the weights over that with L1 on the samples, both with entropy, along "
            "lines through the centre of the study (filled): above 1 L1 on the samples is better. 95 % intervals over seeds of "
            f"these tasks; the band is the margin of {percent(rules.load().margin)}. Exploratory. {_tasks(drawn)} "
            "Where the verdict turns: T31.",
            one.base,
        )


def _tasks(frame: pd.DataFrame) -> str:
    """How many tasks and seeds a family has along each axis: the centre of a line is that of its own tasks."""
    counts: dict[str, list[str]] = {}
    for axis, part in frame.groupby("axis", sort=False):
        families = part.groupby("family", sort=False)[["tasks", "seeds"]].max()
        said = ", ".join(f"{name} {sparsity.units(counts)}" for name, counts in families.iterrows())
        counts.setdefault(said, []).append(phase.AXES[str(axis)][1])
    return "Tasks × seeds: " + "; ".join(f"{said} (along {', '.join(axes)})" for said, axes in counts.items()) + "."


def draw(one: Lines) -> tuple[Figure, pd.DataFrame]:
    """One panel an axis, one colour a family."""
    main = rules.load().comparison[0]
    frame = one.frame[(one.frame["candidate"] == main.candidate) & (one.frame["reference"] == main.reference)]
    axes_ = [axis for axis in phase.AXES if axis in set(frame["axis"])]
    rows = math.ceil(len(axes_) / _COLUMNS)
    figure = Figure(figsize=(WIDTH_INCHES, 1.5 * rows + 0.6), layout="constrained")
    grid = figure.subplots(max(rows, 1), min(_COLUMNS, max(len(axes_), 1)), squeeze=False, sharey=True)
    for panel in grid.flat[len(axes_) :]:
        panel.set_visible(False)
    margin = 1 + rules.load().margin
    for panel, axis in zip(grid.flat, axes_, strict=False):
        part = frame[frame["axis"] == axis]
        values = sorted(dict.fromkeys(part["value"]), key=_order)
        families = [name for name in rules.load().families if name in set(part["family"])]
        panel.axhspan(1 / margin, margin, color=GREY, alpha=0.2, linewidth=0)
        panel.axhline(1, color=GREY, linewidth=0.8)
        for rank, family in enumerate(families):
            for line in part[part["family"] == family].to_dict("records"):
                x = values.index(line["value"]) + 0.18 * (rank - (len(families) - 1) / 2)
                low, value, high = (_within(line[name]) for name in ("effect_low", "effect", "effect_high"))
                if math.isfinite(line["effect_low"]):
                    panel.vlines(x, low, high, color=_COLOURS[family], linewidth=1.2)
                panel.plot(
                    x,
                    value,
                    _MARKS[family],
                    color=_COLOURS[family],
                    fillstyle="full" if line["centre"] else "none",
                    markersize=4,
                )
        panel.set_xticks(range(len(values)), [name_of(value) for value in values])
        panel.set_xlim(-0.5, len(values) - 0.5)
        panel.set_xlabel(phase.AXES[axis][1])
        panel.set_yscale("log")
        log_axis(panel, "y")
    for panel in grid[:, 0]:
        panel.set_ylabel("error ratio")
    handles = [
        grid[0, 0].plot([], [], _MARKS[family], color=_COLOURS[family], label=family)[0]
        for family in rules.load().families
        if family in set(frame["family"])
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure, frame


def _within(effect: object) -> float:
    """A ratio that an axis can show: an unbounded end of an interval is drawn at a hundredth or a hundred times."""
    assert isinstance(effect, float)
    return float(np.exp(np.clip(effect, -math.log(100), math.log(100))))
