"""From a case to its outcome: import what it needs, then measure as its kind says."""

from __future__ import annotations

import importlib

import torch

from benchmarks.kinds import get_kind
from benchmarks.kinds.kind import resolved
from benchmarks.measure import gate
from benchmarks.schema.cases import Case
from benchmarks.schema.rows import Outcome
from efficient_kan import kernels
from reference.arm import get_arm


def preload(case: Case) -> None:
    """Import what `case` needs, so that the time it takes is not the measurement's."""
    kind = get_kind(case.kind)
    names = {case.arm} | ({case.baseline} if case.baseline else set())
    arms = [get_arm(name) for name in names]
    for arm in arms:
        arm.load()
    if "step" in case.modes or kind.trains:
        importlib.import_module("torch._dynamo")  # the first optimiser does so
    if "efficient_kan" in names and case.point.device == "cpu":
        penalised = case.penalty != "none" or kind.trains
        kernels.warm_up(case.point.spline_order, getattr(torch, case.point.dtype), penalties=penalised)
    gated = kind.paired and any(arm.exact for arm in arms)
    if gated:
        gate.preload(case.point)


def measure_case(case: Case) -> Outcome:
    """Measure `case` in this process. Exceptions are the caller's to turn into a status."""
    outcome: Outcome = resolved(get_kind(case.kind).measure)(case)
    return outcome
