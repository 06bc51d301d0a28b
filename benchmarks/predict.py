"""Predicted peak bytes of a training step, so that a plan shows what will not fit before hours are spent.

`E` = B*I*O and `T` = B*I*(G + k + 1) elements of a layer. The factors count the tensors of these sizes that are live at the
peak, from reading the arms and from measured peaks; expect the right order of magnitude, not the byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from benchmarks.cases import Case
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
    item = 8 if point.dtype == "float64" else 4
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
