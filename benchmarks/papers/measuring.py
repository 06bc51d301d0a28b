"""A case of an experiment: what it says of itself, and its measurement."""

from __future__ import annotations

import math
from typing import Any

from benchmarks.papers.experiment import Run, get_experiment
from benchmarks.schema.cases import Case, Point
from benchmarks.schema.rows import Outcome

# What the case says by fields of its own.
_NAMED = ("experiment", "effort", "row", "model")


def case_of(experiment: str, effort: str, run: Run, place: dict[str, Any], timeout_s: float) -> Case:
    """The case that trains `run`, at the device and with the threads of `place`."""
    point = Point(batch=run.samples, layers=run.layers, grid_size=run.grid_size, dtype="float64", **place)
    options = (
        ("experiment", experiment),
        ("effort", effort),
        ("row", run.row),
        ("model", run.model),
        *sorted(run.told.items()),
    )
    return Case(kind="papers", arm=run.arm, point=point, options=options, seed=run.seed, timeout_s=timeout_s)


def run_of(case: Case) -> Run:
    """The run that a case trains."""
    told = dict(case.options)
    return Run(
        row=str(told["row"]),
        model=str(told["model"]),
        arm=case.arm,
        layers=case.point.layers,
        samples=case.point.batch,
        grid_size=case.point.grid_size,
        told={name: value for name, value in told.items() if name not in _NAMED},
        seed=case.seed,
    )


def measure(case: Case) -> Outcome:
    """Train, and return what the experiment measures as the part of a row; numbers that are not finite become None."""
    part = get_experiment(str(dict(case.options)["experiment"])).trained(run_of(case))
    return Outcome(status="ok", part=dict(_finite(part)))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
