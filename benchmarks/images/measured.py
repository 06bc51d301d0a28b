"""From a case of kind `images` or `head_cost` to its outcome."""

from __future__ import annotations

from benchmarks.cases import Case
from benchmarks.rows import Outcome


def measure(case: Case) -> Outcome:
    """Train, or time, what `case` says. Exceptions are the caller's to turn into a status."""
    if case.kind == "head_cost":
        from benchmarks.images import cost

        found = cost.measure(case)
        return Outcome(status="ok", parameter_count=found.head_parameters, head_cost=found)
    from benchmarks.images import study

    result = study.run(case)
    count = result.runs[0].head_parameters
    if all(run.diverged for run in result.runs):
        return Outcome(status="error", reason="every training diverged", parameter_count=count, images=result)
    return Outcome(status="ok", parameter_count=count, images=result)
