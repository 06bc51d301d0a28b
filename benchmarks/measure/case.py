"""From a case to its outcome: gate, then measure."""

from __future__ import annotations

import copy
import gc
import importlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.cases import Case, Mode, Point
from benchmarks.measure import frontier, gate, gpu, graphs, memory, simulate, speed, workload
from benchmarks.measure.live import LiveStorages
from benchmarks.rows import FrontierPoint, MemorySeries, Outcome, SimulatedSeries, SpeedSeries
from efficient_kan import KAN, kernels
from reference.arm import Arm, get_arm


def preload(case: Case) -> None:
    """Import what `case` needs, so that the time it takes is not the measurement's."""
    names = {case.arm} | ({case.baseline} if case.baseline else set())
    arms = [get_arm(name) for name in names]
    for arm in arms:
        arm.load()
    if "step" in case.modes or case.kind in ("sparsity", "images"):
        importlib.import_module("torch._dynamo")  # the first optimiser does so
    if "efficient_kan" in names and case.point.device == "cpu":
        penalised = case.penalty != "none" or case.kind in ("sparsity", "images")
        kernels.warm_up(case.point.spline_order, getattr(torch, case.point.dtype), penalties=penalised)
    gated = case.kind in ("speed", "penalty_cost") and any(arm.exact for arm in arms)
    if gated:
        gate.preload(case.point)


def measure_case(case: Case) -> Outcome:
    """Measure `case` in this process. Exceptions are the caller's to turn into a status."""
    arm = get_arm(case.arm)
    if case.kind == "memory":
        return _memory(arm, case)
    if case.kind == "simulated":
        return _simulated(arm, case)
    if case.kind == "frontier":
        return _frontier(arm, case)
    if case.kind == "sparsity":
        from benchmarks.study import sweep  # scipy and tasks, which no other kind needs

        return Outcome(status="ok", sparsity=sweep.run(case))
    if case.kind in ("images", "head_cost"):
        from benchmarks.images import measured  # image libraries, which no other kind needs

        return measured.measure(case)
    return _speed(arm, case)


def _speed(arm: Arm, case: Case) -> Outcome:
    baseline = get_arm(case.baseline or case.arm)
    with _no_collection():
        source, data = workload.network(case.point, case.seed), workload.data(case.point, case.seed)
        module, other = arm.build(source), baseline.build(source)
        count = _trained(module)
        standard, own = gate.Standard(source, data, case.penalty, case.point.matmul), None
        # A ratio to a wrong baseline is as worthless as one of a wrong arm.
        for checked, network in ((arm, module), (baseline, other)):
            if not checked.exact or (own is not None and baseline is arm):
                continue
            # The baseline of penalty_cost is the same arm without the penalty: its plain gradients are covered by this check.
            verdict = standard.check(checked, network)
            own = verdict if checked is arm else own
            if not verdict.passed:
                worst = verdict.worst
                reason = f"{checked.name}: {worst.tensor} is off by {worst.error}, limit {worst.limit:.3g} ({verdict.rule})"
                return Outcome(status="gate_failed", reason=reason, parameter_count=count, gate=verdict)
        del standard
        gc.collect()
        gc.freeze()  # so that the collections between the samples look at what the calls made, not at all of both networks
    found = Outcome(status="ok", parameter_count=count, gate=own)
    sides = (arm, module), (baseline, other)
    if not _on_gpu(case.point):
        return found.model_copy(update={"speed": tuple(_timed(case, *calls) for calls in _calls(case, *sides, (data,)))})
    watch = gpu.Watch(torch.device(case.point.device))
    inputs = watch.inputs(data)
    with watch:
        series = tuple(_timed(case, *calls, copies=len(inputs)) for calls in _calls(case, *sides, inputs))
    return found.model_copy(update={"speed": series, "gpu": watch.timing()})


def _on_gpu(point: Point) -> bool:
    return torch.device(point.device).type == "cuda"


def _calls(
    case: Case, arm: tuple[Arm, nn.Module], baseline: tuple[Arm, nn.Module], inputs: Sequence[workload.Data]
) -> Iterator[tuple[Mode, speed.Call, speed.Call]]:
    """The calls of both sides by mode, each made when it is its turn: a step has an optimiser, whose state takes memory."""
    for mode in case.modes:
        own = workload.call(*arm, inputs, mode, case.penalty, matmul=case.point.matmul)
        yield mode, own, workload.call(*baseline, inputs, mode, matmul=case.point.matmul)


def _timed(case: Case, mode: Mode, arm: speed.Call, baseline: speed.Call, *, copies: int = 0) -> SpeedSeries:
    """Time both sides in pairs, and on a GPU, where they take `copies` of the inputs in turn, replay them too."""
    clock = speed.clock(case.point.device)
    series = speed.measure(
        arm,
        baseline,
        clock,
        mode=mode,
        blocks=case.blocks,
        warmup=case.warmup,
        min_sample_ms=case.min_sample_ms,
        budget_s=case.budget_s or math.inf,
    )
    return graphs.replayed(series, arm, baseline, clock, copies=copies, min_sample_ms=case.min_sample_ms) if copies else series


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the collector from walking again and again over pykan's functions, three for every edge."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _trained(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


class _Live:
    """All that is live when the measured call starts: data, network, optimiser state and what the arm keeps between calls."""

    def __init__(self, arm: Arm, case: Case, mode: Mode, source: KAN) -> None:
        self.data = workload.data(case.point, case.seed)
        self.module: nn.Module = arm.build(source)
        self.call = workload.call(arm, self.module, self.data, mode, case.penalty, matmul=case.point.matmul)
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


def _memory(arm: Arm, case: Case) -> Outcome:
    measured = _cuda_memory if _on_gpu(case.point) else _cpu_memory
    count, series = measured(arm, case)
    return Outcome(status="ok", parameter_count=count, memory=series)


def _cpu_memory(arm: Arm, case: Case) -> tuple[int, tuple[MemorySeries, ...]]:
    # The operating system's view comes first: the profiler's own records, and a source that is kept, would show in it.
    seen: dict[Mode, dict[str, Any]] = {}
    count = 0
    for mode in case.modes:
        alive = _Live(arm, case, mode, workload.source(arm, case.point, case.seed))
        count = _trained(alive.module)
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
        count = _trained(alive.module)
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


# The profiler keeps about a kilobyte for each allocation: of a call with more operators, gigabytes for megabytes of tensors.
_RECORDED_OPERATORS = 500_000


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
        alive = _Live(arm, case, mode, source.pop())
        gc.collect()
        storages.reset_peak()
        alive.call()
    peak = memory.Peak(storages.before, storages.peak)
    return _Watched(peak, storages.operator, storages.operators, alive.parts(mode))


def _simulated(arm: Arm, case: Case) -> Outcome:
    simulation = simulate.Simulation(arm, case.point, seed=case.seed, policy=case.policy)
    series = []
    for mode in case.modes:
        peak = simulation.peak(case.point.batch, mode, case.penalty, rounding=case.rounding_bytes)
        series.append(SimulatedSeries(mode=mode, before_bytes=peak.before, peak_bytes=peak.peak))
    return Outcome(status="ok", simulated=tuple(series))


def _frontier(arm: Arm, case: Case) -> Outcome:
    simulation = simulate.Simulation(arm, case.point, seed=case.seed, policy=case.policy)
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
