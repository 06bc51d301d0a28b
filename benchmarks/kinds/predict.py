"""Predicted bytes and seconds of a training step, from which kinds of cases predict theirs.

`E` = B*I*O and `T` = B*I*(G + k + 1) elements of a layer. The memory factors count the tensors of these sizes that are live at
the peak, from reading the arms and from measured peaks; the times are a fit to measured steps of one CPU core. Expect the right
order of magnitude, not the byte and not the second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.schema.cases import Case, Mode
from reference.arm import get_arm


@dataclass(frozen=True)
class _Factors:
    """Tensors per layer kept until backward, and transient ones in the layer at work, of sizes E and T."""

    kept_e: float
    kept_t: float
    transient_e: float
    transient_t: float


_FACTORS = {
    "efficient_kan": _Factors(0, 0.5, 0, 5),
    "efficient_kan[native]": _Factors(0, 0.5, 0, 5),
    "pykan[default]": _Factors(4, 11, 8, 1),
    "pykan[nosave]": _Factors(2, 11, 6, 1),
    "pykan[speed]": _Factors(1, 11, 5, 1),
    "cox_de_boor": _Factors(0, 6, 0, 2),
    "gemm_bound": _Factors(0, 1, 0, 1),
}
# What a sample penalty adds to the layer at work and keeps of every layer, in E.
_PENALTY_E = {"pykan[default]": 0.0, "pykan[nosave]": 3.0, "pykan[speed]": 3.0, "cox_de_boor": 4.0}


def peak_bytes(case: Case) -> int | None:
    """Return the predicted peak of one training step of `case`, parameters, gradients and Adam's state included.

    None for an arm that this module does not know.
    """
    get_arm(case.arm)
    point = case.point
    item = point.item_bytes
    layers = list(pairwise(point.layers))
    basis = point.grid_size + point.spline_order
    inputs = point.batch * (point.layers[0] + point.layers[-1])
    kan_parameters = sum(i * o * (basis + 2) for i, o in layers)
    if case.arm in ("mlp[width]", "mlp[params]"):
        parameters = kan_parameters if case.arm == "mlp[params]" else sum((i + 1) * o for i, o in layers)
        hidden = parameters / sum(point.layers)
        widest = max(*point.layers, hidden) if case.arm == "mlp[params]" else point.width
        return int(item * (4 * parameters + inputs + 3 * point.batch * widest * max(1, point.depth - 1)))
    factors = _FACTORS.get(case.arm)
    if factors is None:
        return None
    extra = _PENALTY_E.get(case.arm, 0.0) if case.penalty in ("sample_l1", "sample_std") else 0.0
    e = [point.batch * i * o for i, o in layers]
    t = [point.batch * i * (basis + 1) for i, _ in layers]
    kept = (factors.kept_e + extra) * sum(e) + factors.kept_t * sum(t)
    working = max((factors.transient_e * a + factors.transient_t * b for a, b in zip(e, t, strict=True)), default=0.0)
    return int(item * (4 * kan_parameters + inputs + kept + working))


@dataclass(frozen=True)
class _Rates:
    """Seconds of a training step: per layer, per element of size E and T, and per edge."""

    layer: float
    e: float
    t: float
    edge: float = 0.0


FLOPS = 5e10  # of one core in float32
_RATES = {
    "efficient_kan": _Rates(6e-4, 0.0, 6e-9),
    "efficient_kan[native]": _Rates(6e-4, 0.0, 1.2e-8),
    "pykan[default]": _Rates(3e-3, 4e-8, 4e-8, 1.5e-4),
    "pykan[nosave]": _Rates(3e-3, 2e-8, 4e-8, 1.5e-4),
    "pykan[speed]": _Rates(2e-3, 1.5e-8, 4e-8),
    "pykan[0.0.5]": _Rates(3e-3, 1.5e-7, 0.0, 1.5e-4),
    "cox_de_boor": _Rates(1e-3, 0.0, 3e-8),
}
_DEFAULT_RATES = _Rates(4e-4, 0.0, 0.0)


@dataclass(frozen=True)
class _Simulation:
    """Seconds of a simulation: per edge to build the network, and of each peak per layer and per edge."""

    build: float
    layer: float
    edge: float = 0.0


_SIMULATIONS = {
    "efficient_kan": _Simulation(0.0, 0.03),
    "efficient_kan[native]": _Simulation(0.0, 0.03),
    "pykan[default]": _Simulation(1e-5, 0.06, 2.5e-7),
    "pykan[nosave]": _Simulation(5e-6, 0.06, 2.5e-7),
    "pykan[speed]": _Simulation(5e-6, 0.02),
}
_DEFAULT_SIMULATION = _Simulation(0.0, 0.01)
_PENALTY_SECONDS = 2e-9  # seconds per edge and sample that a penalty adds
SHARE: dict[Mode, float] = {"inference": 0.35, "forward": 0.4, "forward_backward": 0.85, "step": 1.0}
_GATE = 3.0  # forward and backward of arm, oracle and yardstick, in steps of the oracle
_GATE_EDGE = 7e-7  # seconds per edge to build the yardstick
# The gate compares as many samples as these numbers of elements allow, see `benchmarks.measure.gate`, which imports torch.
EDGE_VALUES = 2**25
FEATURE_VALUES = 2**22


def step_seconds(arm: str, case: Case) -> float:
    """Return the predicted time of one training step of `arm` at the point of `case`, on one CPU core."""
    point = case.point
    features = point.grid_size + point.spline_order + 1
    rates = _RATES.get(arm, _DEFAULT_RATES)
    total = 0.0
    for i, o in pairwise(point.layers):
        # Compiled code computes with the k + 1 bases that are not zero, and the base activation.
        used = min(features, point.spline_order + 2) if arm == "efficient_kan" else features
        e, t, parameters = point.batch * i * o, point.batch * i * used, i * o * features
        total += rates.layer + rates.e * e + rates.t * t + rates.edge * i * o
        total += 6 * e * (1 if arm == "mlp[width]" else used) / FLOPS + parameters * 2e-9
        total += _PENALTY_SECONDS * e * features if case.penalty in ("sample_l1", "sample_std") else 0.0
    return total


def gate_seconds(case: Case) -> float:
    """Return the predicted time of the gate of a timed case."""
    point = case.point
    edges = [i * o for i, o in pairwise(point.layers)]
    features = max(i * (point.grid_size + point.spline_order) for i in point.layers[:-1])
    rows = min(point.batch, max(1, min(EDGE_VALUES // max(edges), FEATURE_VALUES // features)))
    compared = case.model_copy(update={"point": point.model_copy(update={"batch": rows})})
    total = _GATE * step_seconds("cox_de_boor", compared) + step_seconds("pykan[speed]", compared) + _GATE_EDGE * sum(edges)
    if rows < point.batch:
        total += step_seconds(case.arm, case) + step_seconds(case.baseline or case.arm, case)
    return total


def edge_seconds(arm: str) -> float:
    """Return the predicted time that a training step of `arm` spends in Python for each edge."""
    return _RATES.get(arm, _DEFAULT_RATES).edge


def pair_seconds(case: Case, mode: Mode, both: float) -> float:
    """Return the predicted time of warming up and timing the pairs of `mode`, of which a step of both sides takes `both`."""
    block = 2 * max(both * SHARE[mode], 2 * case.min_sample_ms / 1e3)
    blocks = min(case.blocks, math.ceil(case.budget_s / block)) if case.budget_s else case.blocks
    return case.warmup * both * SHARE[mode] + max(1, blocks) * block


def simulation_seconds(case: Case, peaks: int) -> float:
    """Return the predicted time of simulating so many peaks."""
    simulation = _SIMULATIONS.get(case.arm, _DEFAULT_SIMULATION)
    edges = sum(i * o for i, o in pairwise(case.point.layers))
    return simulation.build * edges + peaks * (simulation.layer * case.point.depth + simulation.edge * edges)
