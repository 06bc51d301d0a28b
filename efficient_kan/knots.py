"""Knot vectors: uniform, adapted to samples, refined, and their extension beyond the grid.

Shape legend: ``B`` samples, ``I`` features, ``G`` grid intervals, ``k`` spline order. *Interior* knots ``(I, G + 1)`` span
the grid; extended knots ``(I, G + 2k + 1)`` add ``k`` on each side. All functions are pure and unchecked; their rules are
those of pykan 0.2.8, so that grids agree with it to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor


def uniform_knots(
    in_features: int,
    grid_size: int,
    spline_order: int,
    grid_range: tuple[float, float],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Extended knots ``(I, G + 2k + 1)``, equally spaced so that ``G`` intervals cover ``grid_range``."""
    low, high = grid_range
    interior = torch.linspace(low, high, grid_size + 1, device=device, dtype=dtype)
    return extend(interior.expand(in_features, -1), spline_order)


def extend(interior: Tensor, spline_order: int) -> Tensor:
    """Add ``k`` knots on each side at the mean spacing of the interior ones: ``(I, G + 1) -> (I, G + 2k + 1)``."""
    first, final = interior[:, :1], interior[:, -1:]
    step = (final - first) / (interior.shape[1] - 1)
    below, above = [first], [final]
    for _ in range(spline_order):
        below.append(below[-1] - step)
        above.append(above[-1] + step)
    return torch.cat((*below[:0:-1], interior, *above[1:]), dim=1)


def interior_of(knots: Tensor, spline_order: int) -> Tensor:
    """The interior knots ``(I, G + 1)`` of extended ones."""
    return knots[:, spline_order : knots.shape[1] - spline_order]


def adaptive_knots(x: Tensor, grid_size: int, grid_eps: float) -> tuple[Tensor, Tensor]:
    """Interior knots that follow the samples: ``grid_eps`` parts uniform over the samples' range, the rest their quantiles.

    ``x`` is ``(B, I)``. Returns the knots ``(I, G + 1)`` and a boolean ``(I,)``, false for features whose samples span no
    interval that ``G`` distinct knots fit into (constant features) or one too wide for the dtype: their knots are of no use.
    """
    ordered = x.sort(dim=0).values
    picks = [int(x.shape[0] / grid_size * i) for i in range(grid_size)] + [x.shape[0] - 1]
    quantiles = ordered[picks].T
    step = (quantiles[:, -1:] - quantiles[:, :1]) / grid_size
    uniform = quantiles[:, :1] + step * torch.arange(grid_size + 1, device=x.device, dtype=x.dtype)
    # Below the smallest normal number, slopes of the bases would overflow.
    usable = (uniform.diff(dim=1) > torch.finfo(x.dtype).tiny).all(dim=1)
    return grid_eps * uniform + (1 - grid_eps) * quantiles, usable


def refined_knots(interior: Tensor, grid_size: int) -> Tensor:
    """``grid_size`` intervals that follow the density of the given ones: ``(I, G + 1) -> (I, grid_size + 1)``.

    The given knots are taken as a piecewise linear function of their number and read off at equal steps. Where
    ``grid_size`` is a multiple of ``G`` every given knot is kept, so the old splines lie in the span of the new bases.
    """
    old = interior.shape[1] - 1
    position = torch.arange(grid_size + 1, device=interior.device, dtype=torch.float64) * old / grid_size
    left = position.floor().long().clamp(max=old - 1)
    weight = (position - left).to(interior.dtype)
    return torch.lerp(interior[:, left], interior[:, left + 1], weight)
