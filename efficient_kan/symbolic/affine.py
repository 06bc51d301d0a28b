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

_BINS = 129
_STARTS = 5
_SLOW = 1.5  # |b| of starts that vary little over the range
_STEPS = 60
_CONVERGED = 1e-9  # relative decrease of the cost
_ROUNDING = 1e-30  # a cost that is 0
_DAMPING = 1e-15, 1e9  # the least; where no step lowers the cost
_ELEMENTS = 2**21  # of one tensor (F, Q, N)
_GAP = 0.05  # share of the range without samples, in which a pole may lie
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
    size = max(1, _ELEMENTS // (len(functions) * _STARTS * u.shape[1]))
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
    return (steps >= _GAP * span) & (steps >= _TYPICAL_GAPS * typical)


def _fit(u: Tensor, y: Tensor, held_out: Tensor, functions: Sequence[Function]) -> Fits:
    mean, size = y.mean(1, keepdim=True), y.std(1, keepdim=True, correction=0)
    z = (y - mean) / size
    E, F = len(u), len(functions)
    starts = _starts(u[:, ~held_out], z[:, ~held_out], functions)  # shape: (2, F, E, S)
    problem = _Problem(u.repeat_interleave(_STARTS, 0), z.repeat_interleave(_STARTS, 0), ~held_out, functions)
    b, c, cost = problem.minimize(*starts.flatten(-2))
    best = cost.view(F, E, _STARTS).argmin(-1, keepdim=True)
    b, c, cost = (values.view(F, E, _STARTS).gather(-1, best).squeeze(-1) for values in (b, c, cost))
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

        They keep a tenth of the distance ``slack`` ``(2, F, Q)`` from the ends that they had before: fits on the very end, where
        functions such as the square root have infinite slopes, would stay there. Returns the new distances, too.
        """
        low, high = self.low[active], self.high[active]
        kept = torch.where(slack.isfinite(), slack / 10, 0.0)
        width = (high - low - kept.sum(0)) / 2
        b = torch.where(b.abs() > width, b.sign() * width, b)
        c = torch.minimum(torch.maximum(c, low + b.abs() + kept[0]), high - b.abs() - kept[1])
        return b, c, torch.stack((c - b.abs() - low, high - c - b.abs()))

    def _model(self, b: Tensor, c: Tensor, active: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of the functions ``active``: cost ``1 - R^2``, gradient ``(2, F, Q)``, Gauss-Newton matrix ``(3, F, Q)``."""
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


def _starts(u: Tensor, z: Tensor, functions: Sequence[Function]) -> Tensor:
    """``(2, F, E, S)``: the best ``(b, c)`` of each part of the grid."""
    b, c, part = _grid(u)
    weight, mean = _binned(u, z)
    centres = torch.linspace(-1, 1, _BINS, dtype=u.dtype, device=u.device)
    t = b.unsqueeze(1) * centres + c.unsqueeze(1)  # shape: (K, bins)
    passable = _gaps_of_bins(weight)
    found = []
    for function in functions:
        values = function.torch(t)
        bad = ~(values.isfinite() & function.contains(t))
        values = torch.where(bad, 0.0, values)
        values = values / values.abs().amax(1, keepdim=True).clamp(min=torch.finfo(u.dtype).tiny)
        first = weight @ values.T
        variance = weight @ values.square().T - first.square()
        covariance = (weight * mean) @ values.T
        score = torch.where(variance > 1e-11, covariance.square() / variance.clamp(min=1e-11), 0.0)
        score = torch.where(weight @ bad.to(u.dtype).T > 0, -1.0, score)
        if function.branch is not None:
            poles = (function.branch(t).diff(dim=1) != 0).to(u.dtype)
            score = torch.where((~passable).to(u.dtype) @ poles.T > 0, -1.0, score)
        chosen = torch.stack([score.masked_fill(part != number, -math.inf).argmax(1) for number in range(_STARTS)], 1)
        found.append(torch.stack((b[chosen], c[chosen])))
    return torch.stack(found, dim=1)


def _grid(like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``b, c`` ``(K,)`` and of each point the number of its part of the plane, of which each gives one start.

    Parts keep starts apart: far out the functions' asymptotes, powers mostly, fit alike along whole curves of ``(b, c)``.
    """
    size = torch.logspace(math.log10(0.05), math.log10(50), 24, dtype=like.dtype, device=like.device)
    within = torch.linspace(-1, 1, 33, dtype=like.dtype, device=like.device)
    beyond = 1 + torch.logspace(-3, 1, 8, dtype=like.dtype, device=like.device)
    # Where the argument is zero, inside the range of u and beyond, for both signs of b.
    zero = torch.cat((within, beyond, -beyond)).repeat(2 * len(size))
    b = torch.stack((size, -size), 1).flatten().repeat_interleave(len(within) + 2 * len(beyond))
    part = torch.where(b.abs() <= _SLOW, torch.where(zero <= 0, 0, 1), torch.where(zero.abs() <= 1, 2, 3))
    # Of waves, equal steps of frequency and phase.
    frequency = torch.linspace(0.5, 42, 84, dtype=like.dtype, device=like.device).repeat_interleave(8)
    phase = (torch.arange(8, dtype=like.dtype, device=like.device) * (math.pi / 4)).repeat(84)
    waves = torch.full_like(part[: len(phase)], 4)
    return torch.cat((b, frequency)), torch.cat((-b * zero, phase)), torch.cat((part, waves))


def _binned(u: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Of each curve's bins ``(E, bins)``: the share of its points, and their mean."""
    place = ((u + 1) / 2 * (_BINS - 1)).round().long().clamp(0, _BINS - 1)
    count = torch.zeros(len(u), _BINS, dtype=u.dtype, device=u.device).scatter_add(1, place, torch.ones_like(u))
    total = torch.zeros_like(count).scatter_add(1, place, z)
    return count / u.shape[1], total / count.clamp(min=1)


def _gaps_of_bins(weight: Tensor) -> Tensor:
    """``(E, bins - 1)``: steps between bins that lie in a gap of at least ``_GAP`` of the range."""
    empty = weight == 0
    width = max(1, round(_GAP * (_BINS - 1)) - 1)
    wide = empty.unfold(1, width, 1).all(-1)  # shape: (E, bins - width + 1)
    covered = torch.zeros_like(empty)
    for shift in range(width):
        covered[:, shift : shift + wide.shape[1]] |= wide
    return covered[:, 1:] | covered[:, :-1]
