"""Knot vectors: uniform, adapted to samples, refined, and their extension beyond the grid.

Shape legend: ``B`` samples, ``I`` features, ``G`` grid intervals, ``k`` spline order. *Interior* knots ``(I, G + 1)`` span
the grid; extended knots ``(I, G + 2k + 1)`` add ``k`` on each side. All functions are pure and unchecked.
:func:`extend`, :func:`adaptive_knots` and :func:`refined_knots` have the rules of pykan 0.2.8, so that grids agree with it to
rounding.
"""

from __future__ import annotations

import itertools
from fractions import Fraction

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


def adaptive_knots(x: Tensor, grid_size: int, grid_eps: float, margin: float = 0.0) -> tuple[Tensor, Tensor]:
    """Interior knots that follow the samples: ``grid_eps`` parts uniform over the samples' range, the rest their quantiles.

    ``x`` is ``(B, I)``; its smallest and largest values are moved outwards by ``margin``. Returns the knots
    ``(I, G + 1)`` and a boolean ``(I,)``, false for features whose samples span no interval that ``G`` distinct knots fit into
    (constant features) or one too wide for the dtype: their knots are of no use.
    """
    ordered = x.sort(dim=0).values
    picks = [int(x.shape[0] / grid_size * i) for i in range(grid_size)] + [x.shape[0] - 1]
    quantiles = ordered[picks].T
    if margin:
        quantiles = torch.cat((quantiles[:, :1] - margin, quantiles[:, 1:-1], quantiles[:, -1:] + margin), dim=1)
    step = (quantiles[:, -1:] - quantiles[:, :1]) / grid_size
    uniform = quantiles[:, :1] + step * torch.arange(grid_size + 1, device=x.device, dtype=x.dtype)
    # Below the smallest normal number, slopes of the bases would overflow.
    usable = (uniform.diff(dim=1) > torch.finfo(x.dtype).tiny).all(dim=1)
    return grid_eps * uniform + (1 - grid_eps) * quantiles, usable


def following_knots(ordered: Tensor, ends: Tensor, grid_size: int, grid_eps: float) -> Tensor:
    """Interior knots ``(I, G + 1)`` from end to end whose inner ones follow the samples.

    ``ordered`` ``(B, I)`` are the sorted samples, ``ends`` ``(I, 2)`` the first and the last knot. Inner knots are ``grid_eps``
    parts equally spaced and for the rest the samples' quantiles, between samples in proportion.
    """
    shares = torch.arange(1, grid_size, device=ordered.device, dtype=ordered.dtype) / grid_size
    position = shares * (ordered.shape[0] - 1)
    below = position.floor().long().clamp(max=max(ordered.shape[0] - 2, 0))
    above = (below + 1).clamp(max=ordered.shape[0] - 1)
    quantiles = torch.lerp(ordered[below], ordered[above], (position - below).unsqueeze(1)).T
    low, high = ends[:, :1], ends[:, 1:]
    spaced = low + (high - low) * shares
    return torch.cat((low, grid_eps * spaced + (1 - grid_eps) * quantiles, high), dim=1)


def inserted_knots(knots: Tensor, grid_size: int, spline_order: int) -> Tensor:
    """Extended knots of ``grid_size >= G`` intervals that contain all given extended ``knots`` ``(I, G + 2k + 1)``.

    Every interval of the grid is cut into equal parts, as many as its share of ``grid_size``; ``k`` knots on each side stay.
    """
    interior = interior_of(knots, spline_order)
    old = interior.shape[1] - 1
    starts = [n * grid_size // old for n in range(old + 1)]
    cuts = itertools.pairwise(starts)
    pieces = [(n, Fraction(cut, after - first)) for n, (first, after) in enumerate(cuts) for cut in range(after - first)]
    refined = _between(interior, [*pieces, (old - 1, Fraction(1))])
    return torch.cat((knots[:, :spline_order], refined, knots[:, knots.shape[1] - spline_order :]), dim=1)


def refined_knots(interior: Tensor, grid_size: int) -> Tensor:
    """``grid_size`` intervals that follow the density of the given ones: ``(I, G + 1) -> (I, grid_size + 1)``.

    The given knots are taken as a piecewise linear function of their number and read off at equal steps. Where
    ``grid_size`` is a multiple of ``G`` every given knot is kept, so the old splines lie in the span of the new bases.
    """
    old = interior.shape[1] - 1
    places = [divmod(Fraction(n * old, grid_size), 1) for n in range(grid_size)]
    return _between(interior, [*places, (old - 1, Fraction(1))])


def _between(interior: Tensor, places: list[tuple[int, Fraction]]) -> Tensor:
    """Knots at a fraction of the way from the knot of a number to the next; 0 and 1 give the knots themselves."""
    numbers, above, below = torch.tensor(
        [(number, fraction.numerator, fraction.denominator) for number, fraction in places], device=interior.device
    ).T
    fractions = above.to(interior.dtype) / below
    return torch.lerp(interior[:, numbers], interior[:, numbers + 1], fractions)
