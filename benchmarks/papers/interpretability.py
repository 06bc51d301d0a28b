"""From a trained network to a formula: sparsify, prune, refit, name the edges (sections 2.5 and 4.1 of the KAN paper)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from benchmarks.papers import judging, published
from benchmarks.papers.experiment import Effort, Experiment, Line, Result, Run, Status, Value
from benchmarks.papers.judging import short
from reference import tutorial

FORMULA_ERROR = 1e-2  # of the targets' deviation, at test samples
_STARTS: Mapping[str, tuple[int, ...]] = {
    "exp_sin": (2, 5, 1),
    "product": (2, 5, 1),
    "quotient": (2, 5, 1),
    "distance": (4, 3, 3, 1),
}
_EFFORTS: Mapping[Effort, Mapping[str, Value]] = {
    "tiny": {"steps": 2, "refit_steps": 2},
    "reduced": {"steps": 20, "refit_steps": 15},
    "full": {"steps": 100, "refit_steps": 100},
}
_CHECKED = "exp_sin"  # by pykan too, where that is reduced
_OURS, _PYKAN = "efficient_kan", "pykan[speed]"


def runs(effort: Effort) -> Iterator[Run]:
    """Each function; formulas by this package's `symbolic`, and by pykan's `auto_symbolic` on the same pruned network."""
    functions = list(_STARTS)[:1] if effort == "tiny" else list(_STARTS)
    samples = 200 if effort == "tiny" else 1000
    for function in functions:
        told = {**_EFFORTS[effort], "function": function, "strength": 1e-2, "entropy": 2.0, "threshold": 3e-2}
        yield Run(function, "symbolic", _OURS, _STARTS[function], samples, 5, told)
        if effort == "tiny" or (effort == "reduced" and function != _CHECKED):
            continue  # pykan fits every function to every edge in a loop: minutes, where little is pruned
        named = {**told, "library": ",".join(tutorial.FUNCTIONS)}
        yield Run(function, "pykan's auto_symbolic, ten functions", _PYKAN, _STARTS[function], samples, 5, named)


def judge(results: Sequence[Result]) -> Iterator[Line]:
    """Two lines a function: the rate of the paper's shape, and by each fitter that of formulas that hold."""
    for row in judging.rows(results):
        shape = "-".join(map(str, published.shape("interpretability", row)))
        for model in judging.models(judging.of(results, row=row)):
            own = judging.of(results, row=row, model=model)
            parts = [one.part for one in judging.tried(own)]
            if model == "symbolic":
                yield _rate(row, f"pruned to {shape}", own, [part is not None and part["shape"] == shape for part in parts])
            errors = [math.inf if part is None or part["formula_error"] is None else part["formula_error"] for part in parts]
            yield _rate(row, f"formula by {model}", own, [error <= FORMULA_ERROR for error in errors])


def _rate(row: str, quantity: str, results: Sequence[Result], found: Sequence[bool]) -> Line:
    if all(one.part is None for one in results):
        return judging.unmeasured(row, quantity, "found", results)
    right, count = sum(found), len(found)
    low, high = judging.rate_interval(right, count)
    status: Status = "reproduced" if 2 * right > count else "ordering only" if right else "not"
    errors = judging.median(results, "formula_error"), judging.median(results)
    shapes = sorted({str(one.part["shape"]) for one in results if one.part is not None})
    because = (
        f"rate {100 * low:.0f} to {100 * high:.0f} % (95 %); median error of the formula {short(errors[0])}, of the pruned "
        f"network "
        f"{short(errors[1])}; shapes {', '.join(shapes)}{judging.failures(results)}"
    )
    return Line(
        row, quantity, "found", f"{right} of {count}", status, because, {"ours": right / count, "low": low, "high": high}
    )


def seconds(run: Run) -> float:
    """Predicted time on one idle core."""
    edges = sum(i * o for i, o in pairwise(run.layers))
    naming = 25.0 * edges if run.arm == _PYKAN else 3.0  # pykan's search of an edge took that long, where few were pruned
    return naming + 0.04 * (run.whole("steps") + run.whole("refit_steps")) * len(run.layers)


EXPERIMENT = Experiment(
    name="interpretability",
    paper="KAN paper (arXiv 2404.19756)",
    place="sections 2.5 and 4.1",
    about="A network trained with sparsity prunes to the structure of the function, and its edges become the formula.",
    method="L-BFGS with L1 and entropy of the samples, edges below an importance cut, nodes without edges removed, refitted "
    "without a penalty, edges named. One network a seed, none chosen by hand; pykan's auto_symbolic names the edges of the "
    "same pruned network by the ten functions of its first tutorial.",
    rule="reproduced: in more than half of the seeds, those that failed included; ordering only: in some; not: in none. A "
    "formula holds if its RMSE at "
    "test samples is at most 1 % of the targets' deviation.",
    seeds={"tiny": 1, "reduced": 3, "full": 10},
    runs=runs,
    train="benchmarks.papers.runs.interpretability:train",
    judge=judge,
    seconds=seconds,
)
