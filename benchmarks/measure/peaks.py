"""From a case about memory to its outcome: measured, simulated, or the largest batch that fits."""

from __future__ import annotations

import copy
import gc
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from torch import nn

from benchmarks.measure import frontier, memory, simulate, workload
from benchmarks.measure.live import LiveStorages
from benchmarks.schema.cases import Case, Mode
from benchmarks.schema.rows import FrontierPoint, MemorySeries, Outcome, SimulatedSeries
from efficient_kan import KAN
from reference.arm import Arm, get_arm


class _Live:
    """All that is live when the measured call starts: data, network, optimiser state and what the arm keeps between calls."""

    def __init__(self, arm: Arm, case: Case, mode: Mode, source: KAN, storages: LiveStorages | None = None) -> None:
        self.data = workload.data(case.point, case.seed)
        self.module: nn.Module = arm.build(source)
        self.call = workload.call(arm, self.module, self.data, mode, case.penalty, matmul=case.point.matmul)
        with storages.unwatched() if storages and mode != "forward" else nullcontext():  # which leaves its graph
            self.call()  # creates the optimiser's state
        for parameter in self.module.parameters():
            parameter.grad = None

    def parts(self, mode: Mode) -> dict[str, int]:
        """Bytes by purpose, after a call."""
        optimiser = self.call.optimiser if isinstance(self.call, workload.TrainingStep) else None
        return {
            "parameter_bytes": memory.parameter_bytes(self.module),
            "gradient_bytes": memory.gradient_bytes(self.module, mode),
            "optimiser_bytes": memory.optimiser_bytes(optimiser),
            "input_bytes": memory.storage_bytes([self.data.x, self.data.target]),
        }


def measure(case: Case) -> Outcome:
    """Return the peak memory of each mode of `case`, by the allocator and as the operating system sees it."""
    arm = get_arm(case.arm)
    measured = _cuda_memory if workload.on_gpu(case.point) else _cpu_memory
    count, series = measured(arm, case)
    return Outcome(status="ok", parameter_count=count, memory=series)


def _cpu_memory(arm: Arm, case: Case) -> tuple[int, tuple[MemorySeries, ...]]:
    # The operating system's view comes first: the profiler's own records, and a source that is kept, would show in it.
    seen: dict[Mode, dict[str, Any]] = {}
    count = 0
    for mode in case.modes:
        alive = _Live(arm, case, mode, workload.source(arm, case.point, case.seed))
        count = workload.trained(alive.module)
        before, peak = memory.resident_peak(alive.call)
        sampled = memory.sampled_curve(alive.call)
        seen[mode] = {
            "rss_before_bytes": before,
            "rss_peak_bytes": peak,
            "sampled_rss_peak_bytes": max((at for _, at in sampled), default=None),
            "sampled_rss": sampled,
        }
        del alive
    memory.keep_freed_blocks()
    source = workload.source(arm, case.point, case.seed)

    def again() -> KAN:
        # Drawing wide layers takes ten times as long as copying them. A source without memory would get some in a copy.
        return copy.deepcopy(source) if arm.reads_weights else source

    watched = {mode: _live_storages(arm, case, mode, [again()]) for mode in case.modes}
    if max(one.operators for one in watched.values()) > _RECORDED_OPERATORS:
        return count, tuple(
            MemorySeries(mode=mode, method="live storages", **one.as_peak(), **seen[mode]) for mode, one in watched.items()
        )
    parts: dict[Mode, dict[str, Any]] = {}
    with memory.AllocationTrace() as trace:
        for mode in case.modes:
            alive = _Live(arm, case, mode, again())
            with trace.window(mode):
                alive.call()
            parts[mode] = alive.parts(mode)
            del alive
            gc.collect()
    return count, tuple(
        MemorySeries(
            mode=mode,
            method="profiler allocation events",
            peak_bytes=trace.peak(mode).peak,
            activation_bytes=_rest(trace.peak(mode), parts[mode]),
            **parts[mode],
            **watched[mode].as_check(),
            **seen[mode],
        )
        for mode in case.modes
    )


def _cuda_memory(arm: Arm, case: Case) -> tuple[int, tuple[MemorySeries, ...]]:
    series = []
    count = 0
    for mode in case.modes:
        storages = _live_storages(arm, case, mode, [workload.source(arm, case.point, case.seed)])
        alive = _Live(arm, case, mode, workload.source(arm, case.point, case.seed))
        count = workload.trained(alive.module)
        peak, reserved = memory.cuda_peak(alive.call)
        parts: dict[str, Any] = alive.parts(mode) | {"workspace_bytes": memory.release_cublas_workspace()}
        series.append(
            MemorySeries(
                mode=mode,
                method="cuda max_memory_allocated",
                peak_bytes=peak.peak,
                activation_bytes=_rest(peak, parts),
                reserved_bytes=reserved,
                **parts,
                **storages.as_check(),
            )
        )
        del alive
        gc.collect()
    return count, tuple(series)


# The profiler keeps about a kilobyte for each allocation: for a call with more operators, gigabytes for megabytes of tensors,
# and reading them takes longer than looking at each operator.
_RECORDED_OPERATORS = 200_000


@dataclass(frozen=True)
class _Watched:
    """A call as `LiveStorages` saw it: the peak, after which operator, of how many, and what the tensors known then hold."""

    peak: memory.Peak
    operator: str
    operators: int
    parts: dict[str, int]

    def as_check(self) -> dict[str, Any]:
        """The fields of a row whose peak is the allocator's."""
        return {"live_peak_bytes": self.peak.peak, "live_peak_operator": self.operator}

    def as_peak(self) -> dict[str, Any]:
        """The fields of a row whose peak this is."""
        return self.parts | {"peak_bytes": self.peak.peak, "activation_bytes": _rest(self.peak, self.parts)}


def _live_storages(arm: Arm, case: Case, mode: Mode, source: list[KAN]) -> _Watched:
    """Return what `LiveStorages` sees of the call, everything built under its eyes from the one of `source`.

    The list is emptied, so that the network dies once it is copied: what the builder saw of it would count as alive.
    """
    with LiveStorages() as storages:
        alive = _Live(arm, case, mode, source.pop(), storages)
        gc.collect()
        storages.reset_peak()
        alive.call()
    peak = memory.Peak(storages.before, storages.peak)
    return _Watched(peak, storages.operator, storages.operators, alive.parts(mode))


def simulate_case(case: Case) -> Outcome:
    """Return the simulated peak of each mode of `case`."""
    simulation = simulate.Simulation(get_arm(case.arm), case.point, seed=case.seed, policy=case.policy)
    series = []
    for mode in case.modes:
        peak = simulation.peak(case.point.batch, mode, case.penalty, rounding=case.rounding_bytes)
        series.append(SimulatedSeries(mode=mode, before_bytes=peak.before, peak_bytes=peak.peak))
    return Outcome(status="ok", simulated=tuple(series))


def search_case(case: Case) -> Outcome:
    """Return the largest batch of `case` that fits each of its memory sizes."""
    simulation = simulate.Simulation(get_arm(case.arm), case.point, seed=case.seed, policy=case.policy)
    (mode,) = case.modes
    asked: dict[int, int] = {}
    found = []

    def peak(batch: int) -> int:
        return simulation.peak(batch, mode, case.penalty, rounding=case.rounding_bytes).peak

    for capacity in case.capacities_gib:
        largest = frontier.largest_batch(peak, capacity * 2**30, asked=asked)
        found.append(
            FrontierPoint(
                capacity_gib=capacity,
                batch=largest.batch,
                peak_bytes=largest.peak_bytes,
                next_peak_bytes=largest.next_peak_bytes,
            )
        )
    return Outcome(status="ok", frontier=tuple(found))


def _rest(peak: memory.Peak, parts: dict[str, int]) -> int:
    """What the peak holds beside the named parts. All of them but the gradients are there before the call."""
    if peak.before < sum(parts.values()) - parts["gradient_bytes"]:
        raise RuntimeError(f"the allocator reports {peak.before} bytes before the call, the tensors known then hold {parts}")
    return peak.peak - sum(parts.values())
