"""What to expect of a run, so that a plan shows what will not fit before hours are spent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.kinds import dominates, get_kind
from benchmarks.schema.cases import Case
from benchmarks.schema.rows import Status

_START = 0.4  # seconds: fork, imports of this project, network and data
_HOPELESS = 4  # predictions are right to about a factor of two


def seconds(case: Case) -> float:
    """Return the predicted time of `case` were there no time limit."""
    return _START + get_kind(case.kind).seconds(case)


def peak_bytes(case: Case) -> int | None:
    """Return the predicted peak of `case`; None if that is not known."""
    return get_kind(case.kind).peak_bytes(case)


def is_hopeless(case: Case) -> bool:
    """Whether the memory that `case` measures is predicted to take several times its limit: trying it would only cost time.

    Predictions are for a CPU.
    """
    on_cpu = case.point.device == "cpu"
    return get_kind(case.kind).fills_memory and on_cpu and seconds(case) > _HOPELESS * case.timeout_s


@dataclass(frozen=True)
class Forecast:
    """What a run is expected to make of a case: its peak (None: not known), its time and how it ends."""

    case: Case
    peak_bytes: int | None
    seconds: float
    status: Status


def forecast(cases: Sequence[Case], memory_bytes: int | None = None) -> list[Forecast]:
    """Return what to expect of `cases` in this order, with `memory_bytes` for each (None: not known).

    A case that is predicted not to fit or to last too long costs time once and rules out those that ask for more, as in a run.
    """
    failed: list[Case] = []
    found = []
    for case in cases:
        peak, time = peak_bytes(case), seconds(case)
        status: Status = "ok"
        if any(dominates(case, smaller) for smaller in failed):
            status, time = "skipped_by_frontier", 0.0
        elif not get_kind(case.kind).simulated and (peak or 0) > (memory_bytes or math.inf):
            status = "oom"
        elif time > case.timeout_s:
            status = "timeout"
        if status in ("oom", "timeout"):
            failed.append(case)
        found.append(Forecast(case, peak, 0.0 if is_hopeless(case) else min(time, case.timeout_s), status))
    return found
