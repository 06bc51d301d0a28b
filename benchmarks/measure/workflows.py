"""A workflow from start to end: seconds and peak memory until its declared error, or until its limit of time."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math

import torch

from benchmarks.measure.memory import resident_peak
from benchmarks.papers.runs.training import Clock
from benchmarks.schema.cases import Case
from benchmarks.schema.rows import Outcome
from benchmarks.workflows import Task, get_workflow
from efficient_kan import KAN
from efficient_kan.training.optimizers import trainable
from reference.arm import get_arm

_NAMED = ("workflow", "target", "limit_s")


def measure(case: Case) -> Outcome:
    """Run the workflow. Errors are measured with the clock stopped.

    It has reached its end at the declared error or, where none is declared, when it ends by itself within its time.

    The peak is that of the resident set, which the system records without a cost in time, above what it was before. A step of
    a tiny network comes first, for all arms, and so do the samples: what libraries take when they are first called, and what
    it takes to read and order data, is no part of time or memory.
    """
    warm_up(case)
    told = dict(case.options)
    task = Task(
        case.arm,
        case.point.layers,
        case.point.grid_size,
        case.point.batch,
        {name: value for name, value in told.items() if name not in _NAMED},
        case.seed,
    )
    target, limit = float(told["target"]) if "target" in told else None, float(told["limit_s"])
    progress = get_workflow(str(told["workflow"])).progress(task)
    give_back()
    curve: list[tuple[float, float | None]] = []
    edges: int | None = None

    def call() -> None:
        nonlocal edges
        clock = Clock()
        for measured in progress:
            seconds = clock.seconds
            found = clock.aside(measured)
            curve.append((seconds, found.error if math.isfinite(found.error) else None))
            edges = found.edges
            if (target is not None and found.error <= target) or seconds > limit or not math.isfinite(found.error):
                return

    before, peak = resident_peak(call)
    seconds, last = curve[-1]
    reached = last is not None and (seconds <= limit if target is None else last <= target)
    above = None if peak is None else max(0, peak - before)
    found = {"reached": reached, "seconds": seconds, "error": last, "edges": edges, "items": len(curve)}
    found |= {"rss_above_bytes": above}
    return Outcome(status="ok", part=found | {"curve": [list(one) for one in curve]})


def give_back() -> None:
    """Return what was freed to the system, so that whoever needs memory next takes it anew."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def warm_up(case: Case) -> None:
    """One step of a tiny network of the arm by each optimiser."""
    dtype = getattr(torch, case.point.dtype)
    x = torch.linspace(-1, 1, 256, dtype=dtype).unsqueeze(1).repeat(1, 16)
    for optimizer_class in (torch.optim.Adam, torch.optim.LBFGS):
        module = get_arm(case.arm).build(KAN([16, 8, 1], 3, generator=torch.Generator().manual_seed(0), dtype=dtype))
        optimizer = optimizer_class(trainable(module), lr=1e-3)

        def closure(module: torch.nn.Module = module, optimizer: torch.optim.Optimizer = optimizer) -> float:
            optimizer.zero_grad()
            loss = module(x).square().mean()
            loss.backward()
            for parameter in trainable(module):
                if parameter.grad is not None:
                    parameter.grad = parameter.grad.contiguous()
            return float(loss.detach())

        optimizer.step(closure)  # type: ignore[no-untyped-call]
