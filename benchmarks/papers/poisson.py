"""A Poisson equation solved by physics-informed networks, section 3.4 of the KAN paper."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from benchmarks.papers import judging, published
from benchmarks.papers.experiment import Effort, Experiment, Line, Result, Run, Status, Value
from benchmarks.papers.judging import short

_SIZE = 10.0  # times the paper's error that still counts as its size
_KAN = "KAN [2,10,1]"
_EFFORTS: Mapping[Effort, tuple[int, Mapping[str, Value]]] = {
    "tiny": (64, {"boundary": 32, "steps": 2, "limit_s": 10}),
    "reduced": (600, {"boundary": 160, "steps": 40, "limit_s": 40}),
    "full": (10000, {"boundary": 800, "steps": 250, "limit_s": 3000}),
}


def runs(effort: Effort) -> Iterator[Run]:
    """This package, the dense recursion and pykan from the same weights, and MLPs."""
    samples, told = _EFFORTS[effort]
    told = {**told, "alpha": 0.01}
    for arm in ("efficient_kan", "cox_de_boor", "pykan[speed]"):
        yield Run("poisson", f"{_KAN}, {arm}", arm, (2, 10, 1), samples, 5, told)
    widths = ((2, 10, 1),) if effort == "tiny" else ((2, 100, 100, 100, 1), (2, 20, 20, 1))
    for shape in widths:
        yield Run("poisson", f"MLP [{','.join(map(str, shape))}]", "mlp[width]", shape, samples, 1, told)


def judge(results: Sequence[Result]) -> Iterator[Line]:
    """One line a model: its error, and its time to the last step."""
    own = judging.of(results, model=f"{_KAN}, efficient_kan")
    mlps = [one for one in results if one.run.model.startswith("MLP")]
    for model in judging.models(results):
        here = judging.of(results, model=model)
        kan = not model.startswith("MLP")
        paper = published.value("poisson", "L2", "KAN" if kan else "MLP") or math.nan
        error, best = judging.lowest(here), judging.lowest(mlps)
        if not math.isfinite(error) or not math.isfinite(best) or not math.isfinite(judging.lowest(own)):
            yield judging.unmeasured(model, "mean squared error", short(paper), here)
            continue
        lower = error < best if kan else error > judging.lowest(own)
        status: Status = "reproduced" if lower and error <= _SIZE * paper else "ordering only" if lower else "not"
        against = f"{'below' if error < best else 'above'} the best MLP's {short(best)}" if kan else "beside the KAN's "
        against += "" if kan else short(judging.lowest(own))
        time, steps = judging.median(here, "seconds"), judging.median(here, "steps")
        because = f"{against}; median {short(judging.median(here))} after {steps:g} steps in {short(time)} s"
        yield Line(
            model, "mean squared error", short(paper), short(error), status, because,
            {"paper": paper, "ours": error, "seconds": time, "steps": steps},
        )  # fmt: skip


def seconds(run: Run) -> float:
    """Predicted time on one idle core."""
    edges = sum(i * o for i, o in pairwise(run.layers))
    slower = {"efficient_kan": 1.0, "cox_de_boor": 2.0, "pykan[speed]": 8.0}.get(run.arm, 0.0)
    a_step = 0.2 * slower * run.samples / 600 if slower else 0.05 + 2e-8 * 25 * run.samples * edges
    return min(run.number("limit_s"), a_step * run.whole("steps"))


EXPERIMENT = Experiment(
    name="poisson",
    paper="KAN paper (arXiv 2404.19756)",
    place="section 3.4",
    about="A KAN of width 10 solves a Poisson equation with a mean squared error near 1e-7, an MLP of 4 layers of width 100 "
    "near 1e-5.",
    method="u = sin(pi x) sin(pi y^2) on the square, the equation's residual weighted by 0.01 beside the boundary's values, "
    "L-BFGS; the error is taken on a mesh of 51 x 51. All KANs start from the same weights. A declared limit of time ends a "
    "run with the error that it has.",
    rule="reproduced: on the paper's side of the other kind of network, and at most 10 times the paper's error; ordering only: "
    "on its side; not: otherwise.",
    seeds={"tiny": 1, "reduced": 2, "full": 3},
    runs=runs,
    train="benchmarks.papers.runs.poisson:train",
    judge=judge,
    seconds=seconds,
    timed=True,
)
