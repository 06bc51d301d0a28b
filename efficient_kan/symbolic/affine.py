r"""The affine fit :math:`\min_{a,b,c,d} \| y - a f(b u + c) - d \|^2` of functions to curves, all of them at once.

:math:`a` and :math:`d` enter linearly and are solved for, so that the search is over ``(b, c)`` alone (variable projection,
Golub and Pereyra 1973). A grid over ``(b, c)``, the same for all curves, gives starts: with the curves averaged in bins, one
product of matrices correlates all curves with all of a function's grid. Levenberg-Marquardt steps on all (function, curve,
start) at once then go to rounding.

Shape legend: ``E`` curves, ``N`` points of each, ``F`` functions, ``S`` starts, ``Q = E S``, ``K`` points of the grid.
Inputs ``u`` are scaled to [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from efficient_kan.symbolic.library import Function
from efficient_kan.symbolic.starts import GAP, STARTS, starts

_STEPS = 60
_CONVERGED = 1e-9  # relative decrease of the cost
_ROUNDING = 1e-30  # a cost that is 0
_DAMPING = 1e-15, 1e9  # the least; where no step lowers the cost
_ELEMENTS = 2**21  # of one tensor (F, Q, N)
_TYPICAL_GAPS = 8.0  # ... and as many times the typical distance of samples
_SLACK = 1e-3  # distance of the first arguments from an end of the domain


class Fits(NamedTuple):
    """Of each function and curve, ``(F, E)``: the numbers for inputs ``u`` and by how much the function misses the curve."""

    affine: Tensor  # shape: (4, F, E), a, b, c, d
    misfit: Tensor  # 1 - R^2 at the points of the fit, infinite if no fit lies in the function's domain
    held_out: Tensor  # RMS error at the points held out
    cancellation: Tensor  # |a| rms(f) / std(y): how much larger the parts a f and d are than what they sum to


def fit(u: Tensor, y: Tensor, held_out: Tensor, functions: Sequence[Function]) -> Fits:
    """Fit all functions to all curves.

    Args:
        u: ``(E, N)`` inputs, ascending, from -1 to 1.
        y: ``(E, N)`` values, none of the curves constant.
        held_out: ``(N,)``, true at points that do not count for the fit.
        functions: the candidates.
    """
    size = max(1, _ELEMENTS // (len(functions) * STARTS * u.shape[1]))
    parts = [_fit(*part, held_out, functions) for part in zip(u.split(size), y.split(size), strict=True)]
    return Fits(*(torch.cat(values, dim=-1) for values in zip(*parts, strict=True)))


def inside(function: Function, t: Tensor, gaps: Tensor) -> Tensor:
    """Whether arguments ``t`` ``(..., N)`` stay in the function's domain, without a pole between neighbours.

    They ascend or descend; ``gaps`` ``(..., N - 1)`` is where a pole may lie, see :func:`wide_gaps`.
    """
    ok = function.contains(t).all(-1)
    if function.branch is None:
        return ok
    return ok & ~((function.branch(t).diff(dim=-1) != 0) & ~gaps).any(-1)


def evaluate(function: Function, t: Tensor) -> tuple[Tensor, Tensor]:
    """The function and its derivative at ``t``, by differences where torch has no derivative, as of Bessel functions."""
    with torch.enable_grad():
        leaf = t.detach().requires_grad_()
        values = function.torch(leaf)
        slope = None
        if values.requires_grad:
            (slope,) = torch.autograd.grad(values.sum(), leaf, allow_unused=True)
    if slope is None:
        step = torch.finfo(t.dtype).eps ** (1 / 3) * (1 + t.abs())
        slope = (function.torch(t + step) - function.torch(t - step)) / (2 * step)
    return values.detach(), slope


def wide_gaps(u: Tensor) -> Tensor:
    """``(..., N - 1)``: where ascending inputs ``(..., N)`` leave a gap so wide that a pole may lie in it."""
    steps = u.diff(dim=-1)
    typical = steps.median(dim=-1, keepdim=True).values
    span = u[..., -1:] - u[..., :1]
    return (steps >= GAP * span) & (steps >= _TYPICAL_GAPS * typical)


def _fit(u: Tensor, y: Tensor, held_out: Tensor, functions: Sequence[Function]) -> Fits:
    mean, size = y.mean(1, keepdim=True), y.std(1, keepdim=True, correction=0)
    z = (y - mean) / size
    E, F = len(u), len(functions)
    first = starts(u[:, ~held_out], z[:, ~held_out], functions)  # shape: (2, F, E, S)
    problem = _Problem(u.repeat_interleave(STARTS, 0), z.repeat_interleave(STARTS, 0), ~held_out, functions)
    b, c, cost = problem.minimize(*first.flatten(-2))
    best = cost.view(F, E, STARTS).argmin(-1, keepdim=True)
    b, c, cost = (values.view(F, E, STARTS).gather(-1, best).squeeze(-1) for values in (b, c, cost))
    values, _ = _evaluate(functions, b.unsqueeze(-1) * u + c.unsqueeze(-1))
    a, d, misfit = _project(values, z, ~held_out)
    residual = (z - a.unsqueeze(-1) * values - d.unsqueeze(-1))[..., held_out]
    held = residual.square().mean(-1).sqrt() * size.squeeze(1)
    cancellation = a.abs() * values[..., ~held_out].square().mean(-1).sqrt()
    affine = torch.stack((a * size.squeeze(1), b, c, d * size.squeeze(1) + mean.squeeze(1)))
    usable = cost.isfinite() & affine.isfinite().all(0) & held.isfinite()
    misfit = torch.where(usable, misfit, math.inf)
    return Fits(affine, misfit, held, cancellation)


def _evaluate(functions: Sequence[Function], t: Tensor) -> tuple[Tensor, Tensor]:
    """Values and derivatives ``(F, Q, N)`` of each function at its own arguments."""
    pairs = [evaluate(function, t[k]) for k, function in enumerate(functions)]
    return torch.stack([value for value, _ in pairs]), torch.stack([slope for _, slope in pairs])


def _project(values: Tensor, z: Tensor, used: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``a, d`` of least squares at the points ``used``, and the misfit ``1 - R^2`` there."""
    f, target = values[..., used], z[..., used]
    centred, aim = f - f.mean(-1, keepdim=True), target - target.mean(-1, keepdim=True)
    size = centred.square().sum(-1)
    a = torch.where(size > 0, (centred * aim).sum(-1) / torch.where(size > 0, size, 1.0), 0.0)
    d = target.mean(-1) - a * f.mean(-1)
    misfit = (aim - a.unsqueeze(-1) * centred).square().sum(-1) / aim.square().sum(-1)
    return a, d, misfit


class _Problem:
    """Levenberg-Marquardt over ``(b, c)`` of all functions ``(F)`` and curves with starts ``(Q)``."""

    def __init__(self, u: Tensor, z: Tensor, used: Tensor, functions: Sequence[Function]) -> None:
        self.u, self.z, self.used, self.functions = u, z, used, functions
        self.u_used, self.gaps = u[:, used], wide_gaps(u)
        aim = z[:, used]
        self.aim = aim - aim.mean(-1, keepdim=True)
        self.total = self.aim.square().sum(-1)
        ends = torch.tensor([function.domain for function in functions], dtype=u.dtype, device=u.device)
        self.low, self.high = ends[:, :1], ends[:, 1:]

    def minimize(self, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``b, c, cost`` ``(F, Q)`` from starts; an infinite cost where no point within the domain was found."""
        active = torch.arange(len(self.functions), device=b.device)
        b, c, slack = self._clipped(b, c, active, (10 * _SLACK * b.abs().clamp(max=1.0)).expand(2, -1, -1))
        cost, gradient, curvature = self._model(b, c, active)
        result = torch.stack((b, c, cost))
        damping = torch.full_like(cost, 1e-3)
        for _ in range(_STEPS):
            (p, q), (pp, pq, qq) = gradient, curvature
            pp, qq = pp * (1 + damping) + 1e-30, qq * (1 + damping) + 1e-30
            determinant = pp * qq - pq * pq
            determinant = torch.where(determinant > 0, determinant, math.inf)
            step = (qq * p - pq * q) / determinant, (pp * q - pq * p) / determinant
            new_b, new_c, new_slack = self._clipped(b + step[0], c + step[1], active, slack)
            new_cost, new_gradient, new_curvature = self._model(new_b, new_c, active)
            better = new_cost < cost
            moving = better & (cost - new_cost > _CONVERGED * cost) & (new_cost > _ROUNDING)
            b, c, cost = torch.where(better, new_b, b), torch.where(better, new_c, c), torch.where(better, new_cost, cost)
            slack = torch.where(better, new_slack, slack)
            gradient = torch.where(better, new_gradient, gradient)
            curvature = torch.where(better, new_curvature, curvature)
            damping = torch.where(better, damping * 0.1, damping * 10).clamp(*_DAMPING)
            moving |= ~better & (damping < _DAMPING[1]) & (cost > _ROUNDING) & cost.isfinite()
            result[:, active] = torch.stack((b, c, cost))
            going = moving.any(1)
            if not bool(going.any()):
                break
            if not bool(going.all()):  # functions whose fits have all converged rest
                active, b, c, cost, damping = (values[going] for values in (active, b, c, cost, damping))
                gradient, curvature, slack = gradient[:, going], curvature[:, going], slack[:, going]
        return result[0], result[1], result[2]

    def _clipped(self, b: Tensor, c: Tensor, active: Tensor, slack: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``b, c`` so that arguments, which span ``c ± |b|``, stay in the domains of the functions ``active``.

        They keep a tenth of the distance ``slack`` ``(2, F, Q)`` from the ends that they had before: fits on the very end,
        where functions such as the square root have infinite slopes, would stay there. Returns the new distances, too.
        """
        low, high = self.low[active], self.high[active]
        kept = torch.where(slack.isfinite(), slack / 10, 0.0)
        width = (high - low - kept.sum(0)) / 2
        b = torch.where(b.abs() > width, b.sign() * width, b)
        c = torch.minimum(torch.maximum(c, low + b.abs() + kept[0]), high - b.abs() - kept[1])
        return b, c, torch.stack((c - b.abs() - low, high - c - b.abs()))

    def _model(self, b: Tensor, c: Tensor, active: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of ``active`` ones: ``1 - R^2``, gradient ``(2, F, Q)``, Gauss-Newton matrix ``(3, F, Q)``."""
        t = b.unsqueeze(-1) * self.u + c.unsqueeze(-1)
        functions = [self.functions[k] for k in active.tolist()]
        valid = torch.stack([inside(function, t[k], self.gaps) for k, function in enumerate(functions)])
        f, slope = _evaluate(functions, t[..., self.used])
        valid &= f.isfinite().all(-1)
        f = torch.where(valid.unsqueeze(-1), f, 0.0)
        slope = torch.where(valid.unsqueeze(-1) & slope.isfinite(), slope, 0.0)
        f = f - f.mean(-1, keepdim=True)
        size = f.square().sum(-1)
        safe = torch.where(size > 0, size, 1.0)
        a = (f * self.aim).sum(-1) / safe
        residual = self.aim - a.unsqueeze(-1) * f
        cost = torch.where(valid, residual.square().sum(-1) / self.total, math.inf)

        def along(direction: Tensor) -> Tensor:
            direction = direction - direction.mean(-1, keepdim=True)
            return a.unsqueeze(-1) * (direction - f * ((f * direction).sum(-1) / safe).unsqueeze(-1))

        by_b, by_c = along(slope * self.u_used), along(slope)
        gradient = torch.stack(((by_b * residual).sum(-1), (by_c * residual).sum(-1)))
        curvature = torch.stack(((by_b * by_b).sum(-1), (by_b * by_c).sum(-1), (by_c * by_c).sum(-1)))
        return cost, gradient, curvature
