"""Error against grid size, figures 2.3 and 3.1 of the KAN paper, and which ingredients its slopes need."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks.papers import judging, published
from benchmarks.papers.experiment import Effort, Experiment, Line, Result, Run, Status, Value
from benchmarks.papers.judging import short

ALL = "refine, grid updates, best start"
# What is left out of all ingredients, or who else computes them; with the arm and what it is told instead.
INGREDIENTS: Mapping[str, tuple[str, Mapping[str, Value]]] = {
    ALL: ("efficient_kan", {}),
    "updates that keep the function": ("efficient_kan", {"update": "function"}),
    "no grid updates": ("efficient_kan", {"update": "none"}),
    "one start": ("efficient_kan", {"starts": 1}),
    "pykan, same start": ("pykan[speed]", {}),
    "pykan, no grid updates": ("pykan[speed]", {"update": "none"}),
}
MLP = "MLP of growing width"
# The grids that a slope is fitted over: fine enough to resolve the function, and before samples run out.
WINDOWS: Mapping[str, tuple[int, int]] = {"bessel": (10, 50)}
_WINDOW = (3, 20)
_TOLERANCE = 0.5  # between our slope and the paper's
_FALLS = -1.0  # a slope below, with all of its interval, is a power law at all
_THRESHOLD = "interpolation threshold"
_THRESHOLDS = {"[2,5,1], grid updates": "samples", "[2,5,1], updates that keep the function": "function"}
_FIT: Mapping[Effort, Mapping[str, Value]] = {
    "tiny": {"grids": "3,5", "steps": 2, "starts": 2, "start_steps": 2, "widths": "5"},
    "reduced": {"grids": "3,5,10,20", "steps": 20, "starts": 12, "start_steps": 8, "widths": "5,20,80"},
    "full": {
        "grids": "3,5,10,20,50,100,200,500,1000",
        "steps": 90,
        "starts": 16,
        "start_steps": 10,
        "widths": "5,10,20,50,100",
    },
}


def runs(effort: Effort) -> Iterator[Run]:
    """All ingredients on exp_sin; the full recipe, and MLPs, on the others; the threshold on exp_sin with [2,5,1]."""
    fit = {**_FIT[effort], "scale_base": 0.0, "update": "samples"}
    samples = 200 if effort == "tiny" else 1000
    functions = {"tiny": ("exp_sin",), "reduced": ("exp_sin", "bessel", "product")}.get(effort) or published.rows("scaling")
    for function in [name for name in functions if name != "theorem"]:
        shape = published.shape("scaling", function)
        told = dict(fit)
        if function == "bessel" and effort == "reduced":
            told |= {"grids": "3,10,20,50,100", "starts": 1}
        for model, (arm, other) in INGREDIENTS.items() if function == "exp_sin" else ((ALL, ("efficient_kan", {})),):
            yield Run(function, model, arm, shape, samples, 3, {**told, **other, "function": function})
        if len(shape) > 2:
            yield Run(function, MLP, "mlp[width]", (shape[0], 5, 5, 1), samples, 1, {**told, "function": function})
    few = {"tiny": 60, "reduced": 200, "full": 1000}[effort]
    grids = {"tiny": "3,5", "reduced": "3,5,10,20,50", "full": "3,5,10,20,50,100,200"}[effort]
    for model, update in _THRESHOLDS.items():
        told = {**fit, "grids": grids, "starts": 1, "function": "exp_sin", "update": update}
        yield Run(_THRESHOLD, model, "efficient_kan", (2, 5, 1), few, 3, told)


def judge(results: Sequence[Result]) -> Iterator[Line]:
    """A line for each function and set of ingredients, one for the MLPs, one for the threshold."""
    for row in judging.rows(results):
        own = judging.of(results, row=row)
        if row == _THRESHOLD:
            yield from (_threshold(model, judging.of(own, model=model)) for model in judging.models(own))
            continue
        for model in judging.models(own):
            here = judging.of(own, model=model)
            if model == MLP:
                yield _mlp(row, here, judging.of(own, model=ALL))
            else:
                yield _slope(row, model, here, "test", "slope of the RMSE")
                if row == "exp_sin" and model == ALL:
                    yield _slope(row, model, here, "median", "slope of the median")


def slope(stages: Sequence[Mapping[str, Any]], window: tuple[int, int], name: str) -> float:
    """Slope of the logarithm of an error over that of the grid size in a window, by least squares; NaN if it has none."""
    points = [(stage["grid"], stage[name]) for stage in stages if window[0] <= stage["grid"] <= window[1] and stage[name]]
    if len(points) < 2:
        return math.nan
    grids, errors = np.log(np.array(points)).T
    return float(np.polyfit(grids, errors, 1)[0])


def _slope(row: str, model: str, results: Sequence[Result], name: str, quantity: str) -> Line:
    window = WINDOWS.get(row, _WINDOW)
    value = published.value("scaling", row, quantity)
    paper = value if value is not None else published.value("scaling", "theorem", "slope")
    assert paper is not None
    text = f"{paper:g}" if value is not None else f"{paper:g} (theorem 2.1)"
    where = f"{row}: {model}"
    parts = [one.part for one in results if one.part is not None]
    if not parts:
        return judging.unmeasured(where, quantity, text, results)
    starts = len(judging.tried(results))
    fine = [part for part in parts if not part["stuck"]]
    slopes = [one for one in (slope(part["stages"], window, name) for part in fine) if math.isfinite(one)]
    converged = f"{len(fine)} of {starts} starts found the function{judging.failures(results)}"
    if not slopes:
        return Line(where, quantity, text, "–", "not", f"{converged}; no curve", {"paper": paper, "converged": len(fine)})
    mean, low, high = judging.mean_interval(slopes)
    status: Status = "not"
    if len(fine) > starts / 2 and high <= paper + _TOLERANCE:
        status = "reproduced"
    elif mean <= _FALLS and (high <= _FALLS or len(slopes) < 2):
        status = "ordering only"
    ends = f" ({low:.1f} to {high:.1f})" if len(slopes) > 1 else ""
    errors = " → ".join(
        f"{short(float(np.median([_finite(part['stages'][n][name]) for part in fine])))} at G = {fine[0]['stages'][n]['grid']}"
        for n in (0, -1)
    )
    because = f"{converged}; slope from G = {window[0]} to {window[1]}; medians {errors}"
    values = {"paper": paper, "ours": mean, "low": low, "high": high, "converged": len(fine), "starts": starts}
    return Line(where, quantity, text, f"{mean:.1f}{ends}", status, because, values)


def _mlp(row: str, results: Sequence[Result], kan: Sequence[Result]) -> Line:
    ours, theirs = judging.median(kan), judging.median(results)
    where = f"{row}: {MLP}"
    if not math.isfinite(ours) or not math.isfinite(theirs):
        return judging.unmeasured(where, "lowest RMSE", "above the KAN's", results)
    status: Status = "reproduced" if ours < theirs else "not"
    because = f"medians over seeds of the lowest error of all widths, and of all grids of the KAN ({short(ours)})"
    return Line(where, "lowest RMSE", "above the KAN's", short(theirs), status, because, {"ours": theirs, "kan": ours})


def _threshold(model: str, results: Sequence[Result]) -> Line:
    where, quantity, samples = f"{_THRESHOLD}: {model}", "grid of the lowest test error", results[0].run.samples
    edges = sum(i * o for i, o in pairwise(results[0].run.layers))
    published_one, expected = published.value("scaling", "exp_sin", _THRESHOLD), samples / edges
    text = f"{published_one:g} at 1000 samples; here {expected:.3g}"
    parts = [one.part for one in results if one.part is not None]
    if not parts:
        return judging.unmeasured(where, quantity, text, results)
    best = [float(min(part["stages"], key=lambda stage: _finite(stage["test"]))["grid"]) for part in parts]
    rises = [_finite(part["stages"][-1]["test"]) > 2 * min(_finite(one["test"]) for one in part["stages"]) for part in parts]
    curves = len(judging.tried(results))
    middle, most = float(np.median(best)), sum(rises) > curves / 2
    near = expected / 3 <= middle <= expected * 1.5
    status: Status = "reproduced" if near and most else "ordering only" if most else "not"
    because = f"samples over edges; the error then rises to at least twice the lowest in {sum(rises)} of {curves} curves"
    because += judging.failures(results)
    return Line(where, quantity, text, f"{middle:g}", status, because, {"paper": expected, "ours": middle})


def _finite(value: float | None) -> float:
    return math.inf if value is None else value


def seconds(run: Run) -> float:
    """Predicted time on one idle core."""
    steps = run.whole("starts") * run.whole("start_steps") + len(run.numbers("grids")) * run.whole("steps")
    edges = sum(i * o for i, o in pairwise(run.layers))
    slower = 8.0 if run.arm.startswith("pykan") else 1.0 + edges / 20
    return steps * 0.02 * slower


EXPERIMENT = Experiment(
    name="scaling",
    paper="KAN paper (arXiv 2404.19756)",
    place="figures 2.3 and 3.1",
    about="The error of a KAN of the right shape falls as G^-3 (RMSE) and near G^-4 (median) when its grid is refined, until "
    "parameters outnumber samples; that of MLPs falls more slowly.",
    method="One network refined stage by stage; every ingredient of the recipe is left out in turn: grid updates at every "
    "stage (as pykan computes them; with the function kept; none), the best of several starts, and pykan's own fit and refine "
    "from the same start. Slopes are those of starts that found the function.",
    rule="reproduced: most starts found the function and all of the slope's 95 % interval over seeds is at most 0.5 above the "
    "paper's; ordering only: all of it is below -1; not: otherwise.",
    seeds={"tiny": 1, "reduced": 3, "full": 5},
    runs=runs,
    train="benchmarks.papers.runs.scaling:train",
    judge=judge,
    seconds=seconds,
)
