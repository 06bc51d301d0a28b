"""A paper's experiment from outside, in one file: the slope of a line, found by least squares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from benchmarks.papers import Effort, Experiment, Line, Result, Run, register


def runs(effort: Effort) -> Iterator[Run]:
    for row in ("flat", "steep"):
        yield Run(row, "least squares", "mlp[width]", (1, 1), 20, 1, {"slope": 0.0 if row == "flat" else 3.0})


def train(run: Run) -> Mapping[str, float]:
    import numpy as np

    x = np.random.default_rng(run.seed).uniform(-1, 1, run.samples)
    return {"error": abs(float(np.polyfit(x, run.number("slope") * x, 1)[0]) - run.number("slope"))}


def judge(results: Sequence[Result]) -> Iterator[Line]:
    for one in results:
        if one.part is not None:
            error = one.part["error"]
            status = "reproduced" if error < 1e-9 else "not"
            yield Line(one.run.row, "slope", f"{one.run.told['slope']}", f"off by {error:.0e}", status, f"seed {one.run.seed}")


register(
    Experiment(
        name="line",
        paper="Planted paper",
        place="table 9",
        about="Least squares find the slope of a line.",
        method="As there.",
        rule="reproduced: to 1e-9.",
        seeds={"tiny": 2, "reduced": 2, "full": 2},
        runs=runs,
        train=train,
        judge=judge,
    )
)
