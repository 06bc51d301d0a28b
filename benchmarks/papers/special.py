"""Special functions of two variables, table 1 of the KAN paper."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from benchmarks.papers import fits, judging, published
from benchmarks.papers.experiment import Effort, Experiment, Line, Result, Run
from benchmarks.papers.judging import short

_WITHIN = 3.0  # times the paper's error that still counts as its size: ranges and samples are not the paper's
KAN_MODEL = "KAN"


def runs(effort: Effort) -> Iterator[Run]:
    """The best shape of the paper and the MLPs, on each function."""
    rows = published.rows("special")
    for row in rows[:1] if effort == "tiny" else rows:
        shape = published.shape("special", row)
        yield Run(row, KAN_MODEL, "efficient_kan", shape, fits.SAMPLES[effort], 3, fits.told(effort))
        yield from fits.mlps(row, 2, effort)


def judge(results: Sequence[Result]) -> Iterator[Line]:
    """One line a function, and one on how many of them are in the paper's order."""
    right, measured = 0, 0
    for row in judging.rows(results):
        line = _line(row, judging.of(results, row=row))
        right += line.status in ("reproduced", "ordering only")
        measured += line.status != "not measured"
        yield line
    if measured:
        needed = math.ceil(0.8 * measured)
        low, high = judging.rate_interval(right, measured)
        yield Line(
            "all",
            "functions in the paper's order",
            f"{measured} of {measured}",
            f"{right} of {measured}",
            "reproduced" if right == measured else "ordering only" if right >= needed else "not",
            f"at least {needed} of {measured} for the ordering; share {100 * right / measured:.0f} % "
            f"({100 * low:.0f} to {100 * high:.0f})",
            {"ours": right, "paper": measured},
        )


def _line(row: str, results: Sequence[Result]) -> Line:
    paper = {model: published.value("special", row, model) for model in ("KAN", "MLP")}
    text = f"{short(paper['KAN'] or math.nan)}, MLP {short(paper['MLP'] or math.nan)}"
    kan = judging.of(results, model=KAN_MODEL)
    mlp = [one for one in results if one.run.model != KAN_MODEL]
    ours, theirs = judging.lowest(kan), judging.lowest(mlp)
    if not math.isfinite(ours) or not math.isfinite(theirs):
        return judging.unmeasured(row, "test RMSE", text, results)
    best = min(judging.models(mlp), key=lambda model: judging.lowest(judging.of(mlp, model=model)))
    medians = judging.median(kan), judging.median(judging.of(mlp, model=best))
    times = ours / (paper["KAN"] or math.nan)
    status, why = ("reproduced", "lower") if ours < theirs and times <= _WITHIN else ("ordering only", "lower")
    if ours >= theirs:
        status, why = "not", "higher"
    because = (
        f"the KAN's lowest is {why} than the MLP's and {short(times)} times the paper's; medians over seeds "
        f"{short(medians[0])} and {short(medians[1])} ({best})"
    )
    values = {"ours": ours, "ours_mlp": theirs, "ours_median": medians[0], "ours_mlp_median": medians[1]}
    values |= {f"paper_{model.lower()}": value for model, value in paper.items() if value is not None}
    return Line(row, "test RMSE", text, f"{short(ours)}, MLP {short(theirs)}", status, because, values)  # type: ignore[arg-type]


EXPERIMENT = Experiment(
    name="special",
    paper="KAN paper (arXiv 2404.19756)",
    place="table 1",
    about="A KAN of the best shape found has a lower test error on 15 special functions than the best of the MLPs.",
    method="The paper's best shape, refined stage by stage with L-BFGS, against MLPs of width 5 and 100 with as many steps; "
    "the stage is chosen on validation samples, the paper's figure is the lowest on its test samples. Ranges of the variables "
    "are this project's: the paper's text gives none.",
    rule="reproduced: the KAN's lowest RMSE over seeds is below the lowest of all MLPs, and at most 3 times the paper's; "
    "ordering only: below the MLPs'; not: otherwise.",
    seeds={"tiny": 1, "reduced": 3, "full": 5},
    runs=runs,
    train="benchmarks.papers.runs.regression:train",
    judge=judge,
    seconds=fits.seconds,
)
