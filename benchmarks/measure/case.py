"""From a case to its outcome: gate, then measure."""

from __future__ import annotations

import gc
import importlib
from typing import Any

import torch
from torch import nn

from benchmarks.cases import Case, Mode
from benchmarks.measure import gate, memory, speed, training, workload
from benchmarks.rows import MemorySeries, Outcome
from reference.arm import Arm, Unsupported, get_arm


def preload(case: Case) -> None:
    """Import what `case` needs, so that the time it takes is not the measurement's."""
    names = {case.arm} | ({case.baseline} if case.baseline else set())
    arms = [get_arm(name) for name in names]
    for arm in arms:
        arm.load()
    if "step" in case.modes or case.kind == "sparsity":
        importlib.import_module("torch._dynamo")  # the first optimiser does so
    gated = case.kind in ("speed", "penalty_cost") and any(arm.exact for arm in arms)
    if gated:
        gate.preload(case.point.dtype)


def measure_case(case: Case) -> Outcome:
    """Measure `case` in this process. Exceptions are the caller's to turn into a status."""
    arm = get_arm(case.arm)
    if case.kind == "memory":
        return _memory(arm, case)
    if case.kind == "sparsity":
        if arm.name != "efficient_kan":
            raise Unsupported(f"{arm.name} has no importance and pruning in this suite, so it is not trained for sparsity")
        return Outcome(status="ok", sparsity=training.train_sparse(case))
    return _speed(arm, case)


def _speed(arm: Arm, case: Case) -> Outcome:
    source, data = workload.network(case.point, case.seed), workload.data(case.point, case.seed)
    baseline = get_arm(case.baseline or case.arm)
    own = None
    # A ratio to a wrong baseline is as worthless as one of a wrong arm.
    for checked in dict.fromkeys((arm, baseline)):
        if not checked.exact:
            continue
        # The baseline of penalty_cost is the same arm without the penalty: its plain gradients are covered by this check.
        verdict = gate.check(checked, checked.build(source), source, data, case.penalty)
        own = verdict if checked is arm else own
        if not verdict.passed:
            worst = verdict.worst
            reason = f"{checked.name}: {worst.tensor} is off by {worst.error}, limit {worst.limit:.3g} ({verdict.rule})"
            return Outcome(status="gate_failed", reason=reason, parameter_count=_count(arm, case), gate=verdict)
    series = []
    for mode in case.modes:
        series.append(
            speed.measure(
                workload.call(arm, arm.build(source), data, mode, case.penalty),
                workload.call(baseline, baseline.build(source), data, mode),
                lambda: workload.synchronise(case.point.device),
                mode=mode,
                blocks=case.blocks,
                warmup=case.warmup,
                min_sample_ms=case.min_sample_ms,
            )
        )
    return Outcome(status="ok", parameter_count=_count(arm, case), gate=own, speed=tuple(series))


def _count(arm: Arm, case: Case) -> int:
    module = arm.build(workload.network(case.point, case.seed))
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


class _Live:
    """All that is live when the measured call starts: data, network, optimiser state and what the arm keeps between calls."""

    def __init__(self, arm: Arm, case: Case, mode: Mode) -> None:
        self.data = workload.data(case.point, case.seed)
        self.module: nn.Module = arm.build(workload.network(case.point, case.seed))
        self.call = workload.call(arm, self.module, self.data, mode, case.penalty)
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
    measured = _cuda_memory if torch.device(case.point.device).type == "cuda" else _cpu_memory
    return Outcome(status="ok", parameter_count=_count(arm, case), memory=measured(arm, case))


def _cpu_memory(arm: Arm, case: Case) -> tuple[MemorySeries, ...]:
    # The operating system's view comes first: the profiler's own records would show in it.
    resident: dict[Mode, dict[str, Any]] = {}
    for mode in case.modes:
        live = _Live(arm, case, mode)
        before, peak = memory.resident_peak(live.call)
        sampled = memory.sampled_peak(live.call)
        resident[mode] = {"rss_before_bytes": before, "rss_peak_bytes": peak, "sampled_rss_peak_bytes": sampled}
        del live
    parts = {}
    with memory.AllocationTrace() as trace:
        for mode in case.modes:
            live = _Live(arm, case, mode)
            with trace.window(mode):
                live.call()
            parts[mode] = live.parts(mode)
            del live
            gc.collect()
    return tuple(
        MemorySeries(
            mode=mode,
            method="profiler allocation events",
            peak_bytes=trace.peak(mode).peak,
            activation_bytes=_rest(trace.peak(mode), parts[mode]),
            **parts[mode],
            **resident[mode],
        )
        for mode in case.modes
    )


def _cuda_memory(arm: Arm, case: Case) -> tuple[MemorySeries, ...]:
    series = []
    for mode in case.modes:
        live = _Live(arm, case, mode)
        peak, reserved = memory.cuda_peak(live.call)
        parts = live.parts(mode)
        series.append(
            MemorySeries(
                mode=mode,
                method="cuda max_memory_allocated",
                peak_bytes=peak.peak,
                activation_bytes=_rest(peak, parts),
                reserved_bytes=reserved,
                **parts,
            )
        )
        del live
        gc.collect()
    return tuple(series)


def _rest(peak: memory.Peak, parts: dict[str, int]) -> int:
    """What the peak holds beside the named parts. All of them but the gradients are there before the call."""
    if peak.before < sum(parts.values()) - parts["gradient_bytes"]:
        raise RuntimeError(f"the allocator reports {peak.before} bytes before the call, the tensors known then hold {parts}")
    return peak.peak - sum(parts.values())
