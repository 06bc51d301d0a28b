r"""Which function an edge becomes: complexity weighed against fit, as in pykan 0.2.8 (``MultKAN.suggest_symbolic``).

.. math::
    \text{score} = w\, C + (1 - w) \big( \log_2(1 - R^2 + \varepsilon) + \tfrac14 \log_2 \max(1, \kappa) \big)

The lowest wins. ``C`` is the complexity of the function, ``w`` the ``weight_simple``, 0.8 by default; both are pykan's. So is
:math:`\varepsilon = 10^{-5}`, the misfit below which fits count as equal, but where the library fits an edge much better than
that, it is 100 times the smallest misfit of any function: then the spline is exact enough to tell similar functions apart.
:math:`\kappa` is by how much ``a f`` and ``d`` are larger than what they sum to: any smooth function fits a parabola as its own
limit for small ``b`` and huge ``a``, and should not win by that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from efficient_kan.symbolic import affine, canonical
from efficient_kan.symbolic.curves import Curves
from efficient_kan.symbolic.library import ZERO, Function

WEIGHT_SIMPLE = 0.8
_SAME_MISFIT = 1e-5
_OF_SMALLEST = 100.0
_SAME_SCORE = 0.01
_CANCELLATION = 0.25


class Candidate(NamedTuple):
    """A function ``a f(b x + c) + d`` fitted to an edge."""

    name: str
    a: float
    b: float
    c: float
    d: float
    r2: float  # coefficient of determination at the points of the fit
    held_out: float  # RMS error at points held out, in the units of the edge
    complexity: float
    score: float  # the lower the better; infinite if the function does not fit within its domain

    def __str__(self) -> str:
        name = "" if self.name == "x" else self.name  # the identity
        formula = f"{self.a:.6g} * {name}({self.b:.6g} * x + {self.c:.6g}) + {self.d:.6g}"
        return f"{formula}: R^2 = {self.r2:.8f}, held-out error {self.held_out:.2g}, complexity {self.complexity:g}"


class Ranking(NamedTuple):
    """All functions fitted to all edges: ``(F, E)``, functions in the order of ``names``."""

    names: list[str]
    affine: Tensor  # shape: (4, F, E), for the inputs of the edges as they are
    r2: Tensor
    held_out: Tensor
    complexity: Tensor  # shape: (F,)
    score: Tensor
    order: Tensor  # shape: (F, E), functions from best to worst
    constant: Tensor  # shape: (E,), whether the curve is constant

    def fitted(self, function: Function, edge: int) -> int | None:
        """The number of a function, or of ``0`` for a constant curve; ``None`` if it has no fit within its domain."""
        if bool(self.constant[edge]) or function.name == ZERO.name:
            return len(self.names) - 1
        number = self.names.index(function.name)
        return number if bool(self.score[number, edge].isfinite()) else None

    def candidates(self, edge: int) -> list[Candidate]:
        """The candidates of one edge, best first."""
        return [self.candidate(f, edge) for f in self.order[:, edge].tolist()]

    def candidate(self, f: int, edge: int) -> Candidate:
        """Function ``f`` at an edge."""
        a, b, c, d = self.affine[:, f, edge].tolist()
        r2, held_out, score = (float(values[f, edge]) for values in (self.r2, self.held_out, self.score))
        return Candidate(self.names[f], a, b, c, d, r2, held_out, float(self.complexity[f]), score)


def rank(curves: Curves, library: Sequence[Function], weight_simple: float) -> Ranking:
    """Fit all functions to all curves and rank them.

    A constant curve becomes ``0`` with its mean as ``d``, whether or not the library has ``0``; no other curve does.
    """
    functions = [function for function in library if function.name != ZERO.name]
    y, live = curves.y, ~curves.constant
    E, F = y.shape[0], len(functions)
    numbers = y.new_zeros(4, F + 1, E)
    misfit, held_out = y.new_full((F + 1, E), math.inf), y.new_zeros(F + 1, E)
    cancellation = y.new_ones(F + 1, E)
    numbers[3] = y.mean(1)
    misfit[F] = torch.where(curves.constant, 0.0, 1.0)
    held_out[F] = (y[:, curves.held_out] - y.mean(1, keepdim=True)).square().mean(1).sqrt()
    if F and bool(live.any()):
        fits = affine.fit(curves.u[live], y[live], curves.held_out, functions)
        numbers[:, :F, live], misfit[:F, live] = fits.affine, fits.misfit
        held_out[:F, live], cancellation[:F, live] = fits.held_out, fits.cancellation
    deviation = torch.where(curves.constant, 1.0, y.std(1, correction=0))
    worst = torch.maximum(misfit, (held_out / deviation).square())
    worst[F] = misfit[F]
    numbers = curves.affine_of_inputs(numbers)
    numbers = torch.stack([canonical.apply(f.canonical, numbers[:, k]) for k, f in enumerate((*functions, ZERO))], dim=1)
    complexity = y.new_tensor([*(f.complexity for f in functions), ZERO.complexity])
    score = _score(worst, cancellation, complexity, weight_simple)
    score[F] = torch.where(curves.constant, score[F], math.inf)
    r2 = torch.where(misfit.isfinite(), 1 - misfit, -math.inf)
    names = [*(f.name for f in functions), ZERO.name]
    return Ranking(names, numbers, r2, held_out, complexity, score, _order(score, complexity, numbers[2]), curves.constant)


def _score(misfit: Tensor, cancellation: Tensor, complexity: Tensor, weight_simple: float) -> Tensor:
    same = (_OF_SMALLEST * misfit.amin(0)).clamp(1e-14, _SAME_MISFIT)
    bits = (misfit + same).log2() + _CANCELLATION * cancellation.clamp(min=1).log2()
    return weight_simple * complexity.unsqueeze(1) + (1 - weight_simple) * bits


def _order(score: Tensor, complexity: Tensor, shift: Tensor) -> Tensor:
    """Best first. Of equally complex functions as good as the best, such as sine and cosine, that of the smallest shift is."""
    order = score.argsort(dim=0, stable=True)
    first = order[:1]
    equal = (score <= score.gather(0, first) + _SAME_SCORE) & (complexity.unsqueeze(1) == complexity[first])
    chosen = torch.where(equal, shift.abs(), math.inf)
    preferred = torch.where(equal & (chosen < chosen.gather(0, first) - 1e-6), chosen, math.inf)
    least = preferred.argmin(0, keepdim=True)
    use = preferred.gather(0, least).isfinite()
    key = score.scatter(0, torch.where(use, least, first), -math.inf)
    return key.argsort(dim=0, stable=True)
