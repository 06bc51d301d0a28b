"""From a case of kind `images` or `head_cost` to its outcome."""

from __future__ import annotations

from benchmarks.images import cost
from benchmarks.images import study as images_study
from benchmarks.schema.cases import Case
from benchmarks.schema.rows import Outcome


def head_cost(case: Case) -> Outcome:
    """Time what `case` says."""
    found = cost.measure(case)
    return Outcome(status="ok", parameter_count=found.head_parameters, head_cost=found)


def study(case: Case) -> Outcome:
    """Train what `case` says."""
    result = images_study.run(case)
    count = result.runs[0].head_parameters
    if all(run.diverged for run in result.runs):
        return Outcome(status="error", reason="every training diverged", parameter_count=count, images=result)
    return Outcome(status="ok", parameter_count=count, images=result)
