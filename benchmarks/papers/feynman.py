"""Feynman rows, table 2 of the KAN paper: KANs built by hand, pruned KANs and MLPs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.papers import fits, judging, published
from benchmarks.papers.experiment import Effort, Experiment, Line, Result, Run, Status
from benchmarks.papers.judging import short

_WITHIN = 3.0  # times the paper's error that still counts as its size: ranges and samples are not the paper's
_NEAR = 2.0  # around the paper's mean ratio, within which all of our interval must lie: a wide one shows nothing
_MODELS = {"human": "human shape", "pruned": "pruned shape"}
_REDUCED = ("I.6.2", "I.12.11", "I.16.6", "I.27.6", "I.37.4", "I.44.4", "II.2.42", "II.35.18")


def runs(effort: Effort) -> Iterator[Run]:
    """The shape made by hand, the best pruned one, and the MLPs, on each row."""
    rows = {"tiny": _REDUCED[:1], "reduced": _REDUCED}.get(effort) or published.rows("feynman")
    for row in rows:
        for model, quantity in _MODELS.items():
            shape = published.shape("feynman", row, quantity)
            yield Run(row, model, "efficient_kan", shape, fits.SAMPLES[effort], 3, fits.told(effort))
        yield from fits.mlps(row, published.shape("feynman", row, "human shape")[0], effort)


def judge(results: Sequence[Result]) -> Iterator[Line]:
    """One line a row, and one on the mean of all: the paper calls KANs and MLPs comparable on average."""
    ratios: list[tuple[float, float]] = []
    for row in judging.rows(results):
        line = _line(row, judging.of(results, row=row))
        if {"ratio", "paper_ratio"} <= set(line.values):
            ratios.append((line.values["paper_ratio"], line.values["ratio"]))
        yield line
    if not ratios:
        return
    paper, ours = np.log(np.array(ratios)).T
    expected = math.exp(float(paper.mean()))
    mean, low, high = (math.exp(one) for one in judging.mean_interval([float(one) for one in ours]))
    near = expected / _NEAR <= low and high <= expected * _NEAR
    status: Status = "reproduced" if near else "ordering only" if (mean < 1) == (expected < 1) else "not"
    yield Line(
        "all",
        "pruned KAN's error over the MLP's, geometric mean",
        short(expected),
        f"{short(mean)} ({short(low)} to {short(high)})",
        status,
        f"over {len(ratios)} rows, 95 % interval over rows",
        {"paper": expected, "ours": mean, "low": low, "high": high},
    )


def _line(row: str, results: Sequence[Result]) -> Line:
    paper = {name: published.value("feynman", row, name) for name in ("human", "pruned", "MLP")}
    text = ", ".join(f"{name} {short(value or math.nan)}" for name, value in paper.items())
    ours = {model: judging.lowest(judging.of(results, model=model)) for model in _MODELS}
    ours["MLP"] = judging.lowest([one for one in results if one.run.model not in _MODELS])
    if not all(map(math.isfinite, ours.values())):
        return judging.unmeasured(row, "test RMSE", text, results)
    shown = ", ".join(f"{name} {short(value)}" for name, value in ours.items())
    values = {f"ours_{name}": value for name, value in ours.items()}
    values |= {f"paper_{name}": value for name, value in paper.items() if value is not None}
    values["ratio"] = ours["pruned"] / ours["MLP"]
    if paper["pruned"] is None or paper["MLP"] is None:
        because = "two copies of the paper differ in its cell, so there is nothing to compare with"
        return Line(row, "test RMSE", text, shown, "not measured", because, values)
    values["paper_ratio"] = paper["pruned"] / paper["MLP"]
    same = (ours["pruned"] < ours["MLP"]) == (paper["pruned"] < paper["MLP"])
    times = max(ours["pruned"] / paper["pruned"], ours["MLP"] / paper["MLP"])
    status: Status = "reproduced" if same and times <= _WITHIN else "ordering only" if same else "not"
    order = "below" if ours["pruned"] < ours["MLP"] else "above"
    because = f"the pruned shape is {order} the best MLP, {'as' if same else 'other than'} in the paper; errors up to "
    return Line(row, "test RMSE", text, shown, status, f"{because}{short(times)} times the paper's", values)


EXPERIMENT = Experiment(
    name="feynman",
    paper="KAN paper (arXiv 2404.19756)",
    place="table 2",
    about="On dimensionless Feynman formulas, KANs of shapes made by hand, pruned KANs and MLPs are comparable on average.",
    method="As the special functions, with the shapes of the table given: nothing is pruned here. Ranges of the variables are "
    "this project's: the paper's text gives none.",
    rule="reproduced: the pruned shape's lowest RMSE stands to the MLPs' in the paper's order, and both are at most 3 times "
    "the paper's; ordering only: in the paper's order; not: otherwise. All: the interval of our mean ratio lies within twice "
    "the paper's, either way; ordering only: the means are on the same side of 1.",
    seeds={"tiny": 1, "reduced": 2, "full": 3},
    runs=runs,
    train="benchmarks.papers.runs.regression:train",
    judge=judge,
    seconds=fits.seconds,
)
