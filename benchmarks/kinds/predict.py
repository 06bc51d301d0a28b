"""Predicted bytes and seconds of a training step, from which kinds of cases predict theirs.

`E` = B*I*O and `T` = B*I*(G + k + 1) elements of a layer. For each arm this counts the tensors of these sizes that are live at
the peak, the operators that are called, and their passes over such tensors; the time of an operator and of an element is the
same for all arms. Expect the right order of magnitude, not the byte and not the second: the nearest stored rows correct it,
see `benchmarks.run.history`.
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
class _Work:
    """What a training step does in a layer: operators, passes over tensors of sizes E and T, and operators for each edge.

    pykan's loop over edges takes single numbers out of a tensor of `edge_tensor` numbers an edge: the gradient of each is a
    tensor of that size. `built` is the number of objects that the constructor makes for each edge.
    """

    operators: int
    e: int = 0
    t: int = 0
    edge: int = 0
    edge_tensor: int = 0
    built: int = 0


FLOPS = 5e10  # of one core in float32
OPERATOR_S = 6e-6  # a call from Python
WATCHED_S = 3e-5  # the same where each is looked at
_ELEMENT_S = 1e-9
_BUILT_S = 1e-6
_WORK = {
    "efficient_kan": _Work(100, t=6),
    "efficient_kan[native]": _Work(100, t=12),
    "pykan[default]": _Work(500, e=40, t=40, edge=50, edge_tensor=10, built=10),
    "pykan[nosave]": _Work(500, e=20, t=40, edge=50, edge_tensor=10, built=5),
    "pykan[speed]": _Work(330, e=15, t=40, built=5),
    "pykan[0.0.5]": _Work(500, e=150, edge=50, built=10),
    "cox_de_boor": _Work(160, t=30),
}
_OF_OTHERS = _Work(60)
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
    total = 0.0
    work = _WORK.get(arm, _OF_OTHERS)
    for i, o in pairwise(point.layers):
        # Compiled code computes with the k + 1 bases that are not zero, and the base activation.
        used = min(features, point.spline_order + 2) if arm == "efficient_kan" else features
        e, t, parameters = point.batch * i * o, point.batch * i * used, i * o * features
        total += OPERATOR_S * (work.operators + work.edge * i * o)
        total += _ELEMENT_S * (work.e * e + work.t * t + work.edge_tensor * (i * o) ** 2)
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


def operators(arm: str, case: Case) -> int:
    """Return how many operators a training step of `arm` at the point of `case` is predicted to call."""
    work = _WORK.get(arm, _OF_OTHERS)
    return sum(work.operators + work.edge * i * o for i, o in pairwise(case.point.layers))


def pair_seconds(case: Case, mode: Mode, both: float) -> float:
    """Return the predicted time of warming up and timing the pairs of `mode`, of which a step of both sides takes `both`."""
    block = 2 * max(both * SHARE[mode], 2 * case.min_sample_ms / 1e3)
    blocks = min(case.blocks, math.ceil(case.budget_s / block)) if case.budget_s else case.blocks
    return case.warmup * both * SHARE[mode] + max(1, blocks) * block


def simulation_seconds(case: Case, peaks: int) -> float:
    """Return the predicted time of simulating so many peaks."""
    work = _WORK.get(case.arm, _OF_OTHERS)
    edges = sum(i * o for i, o in pairwise(case.point.layers))
    return _BUILT_S * work.built * edges + peaks * 4 * WATCHED_S * work.operators * case.point.depth  # looked at and guessed
