"""From a timed case to its outcome: gate, then time the arm against its baseline."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from benchmarks.measure import gate, gpu, graphs, precision, speed, workload
from benchmarks.schema.cases import Case, Mode
from benchmarks.schema.rows import Outcome, SpeedSeries
from efficient_kan import KAN, kernels
from reference.arm import Arm, get_arm


def measure(case: Case) -> Outcome:
    """Return the times of `case`, or the gate that they did not pass."""
    arm, baseline = get_arm(case.arm), get_arm(case.baseline or case.arm)
    with _no_collection():
        source, data = workload.network(case.point, case.seed), workload.data(case.point, case.seed)
        module, other = arm.build(source), baseline.build(source)
        count = workload.trained(module)
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
    with precision.products(case.point.matmul, data.x.device):
        algorithm = kernels.algorithm(module, data.x.shape[0]) if isinstance(module, KAN) else ""
    found = Outcome(status="ok", parameter_count=count, gate=own, algorithm=algorithm)
    sides = (arm, module), (baseline, other)
    if not workload.on_gpu(case.point):
        return found.model_copy(update={"speed": tuple(_timed(case, *calls) for calls in _calls(case, *sides, (data,)))})
    watch = gpu.Watch(torch.device(case.point.device))
    inputs = watch.inputs(data)
    with watch:
        series = tuple(_timed(case, *calls, copies=len(inputs)) for calls in _calls(case, *sides, inputs))
    return found.model_copy(update={"speed": series, "gpu": watch.timing()})


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
