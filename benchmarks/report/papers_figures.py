"""The scaling curves of the KAN paper's figures 2.3 and 3.1: error against grid size and against parameters."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.analysis.data import Data, slug
from benchmarks.papers import scaling
from benchmarks.report.figures import Entry
from benchmarks.report.papers import Group, groups
from benchmarks.report.style import BLACK, GREY, OLIVE, TEAL, VERMILION, WIDTH_INCHES, WINE, Look, log_axis, looks, save

_LOOKS = {
    scaling.ALL: "efficient_kan",
    "pykan, same start": "pykan[speed]",
    "pykan, no grid updates": "pykan[nosave]",
    scaling.MLP: "mlp[width]",
}
_SPARE = [Look(colour, marker, "-.") for marker in "8*hpX" for colour in (TEAL, VERMILION, BLACK, WINE, OLIVE)]


def of_figures(data: Data, _: object, folder: Path) -> Iterator[Entry]:
    """The curves of each setting and effort."""
    for group in groups(data):
        if group.experiment.name != scaling.EXPERIMENT.name:
            continue
        frame = curves(group)
        if frame.empty:
            continue
        name = f"papers_scaling-{slug(f'{group.setting} {group.effort}')}"
        save(draw(frame), frame, folder, name)
        yield Entry(
            "papers",
            name,
            "Test RMSE of one network refined stage by stage, over grid size and over parameters, for the whole recipe and "
            f"with each ingredient left out; {_seeds(frame)}. Dashed: slopes of -3 and -4. "
            f"Starts that found no fit stay near the targets' deviation. Setting: {group.setting}.",
        )


def _seeds(frame: pd.DataFrame) -> str:
    count = frame["seed"].nunique()
    return f"thin lines are {count} seeds, a thick one is their median" if count > 1 else "one seed"


def curves(group: Group) -> pd.DataFrame:
    """One line for each function, model, seed and stage."""
    lines: list[dict[str, Any]] = []
    for result in group.results:
        for stage in result.part["stages"] if result.part is not None else ():
            told = {"case_key": result.case_key, "function": result.run.row, "model": result.run.model, "seed": result.run.seed}
            lines.append(told | {name: stage[name] for name in ("grid", "parameters", "train", "test", "median", "seconds")})
    return pd.DataFrame(lines)


def draw(frame: pd.DataFrame) -> Figure:
    """A column a function; above the error over the grid, below over the parameters."""
    functions = list(dict.fromkeys(frame["function"]))
    models = list(dict.fromkeys(frame["model"]))
    chosen = _looks(models)
    figure = Figure(figsize=(WIDTH_INCHES, 4.0), layout="constrained")
    grid = figure.subplots(2, len(functions), squeeze=False)
    for column, function in zip(grid.T, functions, strict=True):
        part = frame[(frame["function"] == function) & frame["test"].notna()]
        for axes, x in zip(column, ("grid", "parameters"), strict=True):
            shown = part[part[x] > 0]
            for model, own in shown.groupby("model", sort=False):
                look = chosen[str(model)]
                for _, seed in own.groupby("seed"):
                    axes.plot(seed[x], seed["test"], color=look.colour, linewidth=0.4, alpha=0.6)
                middle = own.groupby(x)["test"].median()
                axes.plot(middle.index, middle, look.line, marker=look.marker, color=look.colour)
            if x == "grid" and not shown.empty:
                _slopes(axes, shown)
            axes.set_xlabel("grid size" if x == "grid" else "parameters")
            if not shown.empty:
                log_axis(axes, "x", _powers(shown[x]))
                log_axis(axes, "y")
        column[0].set_title(function)
    for axes in grid[:, 0]:
        axes.set_ylabel("test RMSE")
    handles = [
        grid[0, 0].plot([], [], chosen[model].line, marker=chosen[model].marker, color=chosen[model].colour, label=model)[0]
        for model in models
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def _powers(values: pd.Series[Any]) -> list[float] | None:
    """Powers of ten alone, where there are two: a panel is narrow. Else None."""
    low, high = (math.log10(float(value)) for value in (values.min(), values.max()))
    found = [10.0**power for power in range(math.floor(low), math.ceil(high) + 1) if low - 0.1 <= power <= high + 0.1]
    return found if len(found) > 1 else None


def _slopes(axes: Any, shown: pd.DataFrame) -> None:
    """Lines of the slopes that are expected, through the lowest median at the smallest grid."""
    first = shown["grid"].min()
    height = float(shown[shown["grid"] == first].groupby("model")["test"].median().min())
    grids = np.array(sorted(set(shown["grid"])), dtype=float)
    lowest = float(shown["test"].min())
    for power in (3, 4):
        line = height * (grids / first) ** -power
        keep = line >= lowest / 10
        axes.plot(grids[keep], line[keep], "--", color=GREY, linewidth=0.6)


def _looks(models: list[str]) -> dict[str, Look]:
    known, spare = looks(list(_LOOKS.values())), iter(_SPARE)
    return {model: known[_LOOKS[model]] if model in _LOOKS else next(spare) for model in models}
