"""A workflow from start to end: seconds and peak memory until its declared error, or until its limit of time."""

from __future__ import annotations

import math

from benchmarks.measure.memory import resident_peak
from benchmarks.papers.runs.training import Clock
from benchmarks.schema.cases import Case
from benchmarks.schema.rows import Outcome
from benchmarks.workflows import Task, get_workflow

_NAMED = ("workflow", "target", "limit_s")


def measure(case: Case) -> Outcome:
    """Run the workflow. Errors are measured with the clock stopped.

    The peak is that of the resident set, which the system records without a cost in time, above what it was before; the first
    call of torch's operators is part of it.
    """
    told = dict(case.options)
    task = Task(
        case.arm,
        case.point.layers,
        case.point.grid_size,
        case.point.batch,
        {name: value for name, value in told.items() if name not in _NAMED},
        case.seed,
    )
    target, limit = float(told["target"]), float(told["limit_s"])
    curve: list[tuple[float, float | None]] = []

    def call() -> None:
        clock = Clock()
        for error in get_workflow(str(told["workflow"])).progress(task):
            seconds = clock.seconds
            value = clock.aside(error)
            curve.append((seconds, value if math.isfinite(value) else None))
            if value <= target or seconds > limit or not math.isfinite(value):
                return

    before, peak = resident_peak(call)
    seconds, last = curve[-1]
    reached = last is not None and last <= target
    above = None if peak is None else max(0, peak - before)
    found = {"reached": reached, "seconds": seconds, "error": last, "items": len(curve), "rss_above_bytes": above}
    return Outcome(status="ok", part=found | {"curve": [list(one) for one in curve]})
