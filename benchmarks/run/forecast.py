"""What to expect of a run, so that a plan shows what will not fit before hours are spent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.kinds import get_kind, rules_out
from benchmarks.run.history import History
from benchmarks.schema.cases import Case
from benchmarks.schema.rows import Status

_START = 0.4  # seconds: fork, imports of this project, network and data
_NOTHING = History()


def seconds(case: Case, history: History = _NOTHING) -> float:
    """Return the predicted time of `case` were there no time limit."""
    return _START + history.seconds(case)


def peak_bytes(case: Case, history: History = _NOTHING) -> int | None:
    """Return the predicted peak of `case`; None if that is not known."""
    return history.peak_bytes(case)


@dataclass(frozen=True)
class Forecast:
    """What a run is expected to make of a case: its peak (None: not known), its time and how it ends."""

    case: Case
    peak_bytes: int | None
    seconds: float
    status: Status


def forecast(cases: Sequence[Case], memory_bytes: int | None = None, history: History = _NOTHING) -> list[Forecast]:
    """Return what to expect of `cases` in this order, with `memory_bytes` for each (None: not known).

    A case that is predicted not to fit or to last too long costs time once and rules out those that ask for more, as in a run.
    """
    failed: list[tuple[Case, Status]] = []
    found = []
    for case in cases:
        peak, time = peak_bytes(case, history), seconds(case, history)
        status: Status = "ok"
        if any(rules_out(smaller, ended, case) for smaller, ended in failed):
            status, time = "skipped_by_frontier", 0.0
        elif not get_kind(case.kind).simulated and (peak or 0) > (memory_bytes or math.inf):
            status = "oom"
        elif time > case.timeout_s:
            status = "timeout"
        if status in ("oom", "timeout"):
            failed.append((case, status))
        found.append(Forecast(case, peak, min(time, case.timeout_s), status))
    return found
