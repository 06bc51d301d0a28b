r"""From one spline space to another: exact knot insertion, and the closest splines on other knots.

Shape legend: ``I`` features, ``O`` curves per feature, ``k`` spline order, ``T`` knots, ``n = T - k - 1`` coefficients; primes
mark the new knots. A spline is known everywhere, so no samples are needed. Work is done in float64 (:mod:`._precision`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from efficient_kan._precision import widest
from efficient_kan.basis import bspline_basis
from efficient_kan.fit import least_squares
from efficient_kan.knots import interior_of

# Bytes that one step may hold for a moment; features are worked on in groups of this size.
_GROUP_BYTES = 2**26


class Quadrature(NamedTuple):
    """Gauss-Legendre points that integrate products of old and new splines exactly over the new grid."""

    points: Tensor  # shape: (I, P)
    weights: Tensor  # shape: (I, P), lengths: they sum to that of the grid
    breaks: Tensor  # shape: (I, P / (k+1) + 1), between the polynomial pieces


def inserted(coefficients: Tensor, knots: Tensor, new_knots: Tensor, spline_order: int) -> Tensor:
    r"""Coefficients of the same splines on more knots, ``(O, I, n')``.

    ``new_knots`` ``(I, T')`` contain all ``knots`` ``(I, T)``. The result is exact to rounding on the whole line: every new
    coefficient is a convex combination of old ones, :math:`d_i = \sum_j \alpha_{ijk} c_j` with the discrete B-splines
    :math:`\alpha` of Cohen, Lyche and Riesenfeld, *Discrete B-splines and subdivision techniques* (1980), the Oslo algorithm.
    """
    place = widest(knots.device)
    t, tau, c = (place.take(tensor) for tensor in (knots, new_knots, coefficients))
    k, count = spline_order, new_knots.shape[1] - spline_order - 1
    parts = []
    for cols in _groups(t.shape[0], 4 * count * t.shape[1]):
        old, new = t[cols].unsqueeze(1), tau[cols].unsqueeze(2)  # shapes: (cols, 1, T), (cols, T', 1)
        at = new[:, :count]
        alpha = ((old[..., :-1] <= at) & (at < old[..., 1:])).to(t.dtype)  # shape: (cols, n', T-1)
        for p in range(1, k + 1):
            at = new[:, p : p + count]
            span = old[..., p:] - old[..., :-p]
            inverse = torch.where(span > 0, 1 / torch.where(span > 0, span, 1.0), 0.0)
            rising, falling = (at - old[..., :-p]) * inverse, (old[..., p:] - at) * inverse
            alpha = rising[..., :-1] * alpha[..., :-1] + falling[..., 1:] * alpha[..., 1:]
        parts.append(alpha @ c[:, cols].permute(1, 2, 0))  # shape: (cols, n', O)
    return torch.cat(parts).permute(2, 0, 1).to(coefficients)


def projected(coefficients: Tensor, knots: Tensor, new_knots: Tensor, spline_order: int) -> Tensor:
    """Coefficients ``(O, I, n')`` of the closest splines on ``new_knots`` ``(I, T')`` over the whole of their grid.

    Least squares with the same weight for every new interval: knots that follow samples so give every sample the same weight.
    Exact to rounding where the old splines are splines on the new knots.
    """
    place = widest(knots.device)
    t, tau, c = (place.take(tensor) for tensor in (knots, new_knots, coefficients))
    k = spline_order
    points_per_feature = (t.shape[1] + tau.shape[1]) * (k + 1)
    parts = []
    for cols in _groups(t.shape[0], points_per_feature * (2 * (t.shape[1] + tau.shape[1]) + 2 * c.shape[0])):
        points, weights, _ = quadrature(t[cols], tau[cols], k)
        interior = interior_of(tau[cols], k).clone(memory_format=torch.contiguous_format)
        lengths = interior.diff(dim=1)
        number = (torch.searchsorted(interior, points, right=True) - 1).clamp(0, lengths.shape[1] - 1)
        own = lengths.gather(1, number)
        roots = torch.where(own > 0, weights / torch.where(own > 0, own, 1.0), 0.0).sqrt().unsqueeze(-1)
        design = bspline_basis(points.T, tau[cols], k).transpose(0, 1)
        curves = evaluated(points, t[cols], c[:, cols], k)
        tolerance = torch.finfo(place.dtype).eps * design.shape[2]
        parts.append(least_squares(design * roots, curves * roots, tolerance))
    return torch.cat(parts).permute(2, 0, 1).to(coefficients)


def evaluated(points: Tensor, knots: Tensor, coefficients: Tensor, spline_order: int) -> Tensor:
    """The splines at each feature's own ``points`` ``(I, P)``: ``(I, P, O)``."""
    bases = bspline_basis(points.T, knots, spline_order).transpose(0, 1)
    return bases @ coefficients.permute(1, 2, 0)


def quadrature(knots: Tensor, new_knots: Tensor, spline_order: int) -> Quadrature:
    """Points for the squares of differences between splines on ``knots`` ``(I, T)`` and ``new_knots`` ``(I, T')``.

    ``k + 1`` Gauss-Legendre points in every piece between neighbouring knots of either, within the new grid.
    """
    interior = interior_of(new_knots, spline_order)
    inside = torch.minimum(torch.maximum(knots, interior[:, :1]), interior[:, -1:])
    breaks = torch.cat((inside, interior), dim=1).sort(dim=1).values
    nodes, shares = _gauss_legendre(spline_order + 1, knots)
    half = breaks.diff(dim=1).unsqueeze(-1) / 2
    points = breaks[:, :-1].unsqueeze(-1) + half * (1 + nodes)
    return Quadrature(points.flatten(1), (half * shares).flatten(1), breaks)


def _gauss_legendre(count: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [-1, 1], by the eigenvalues of the Jacobi matrix (Golub and Welsch 1969)."""
    n = torch.arange(1, count, device=like.device, dtype=like.dtype)
    beside = n / (4 * n.square() - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(beside, 1) + torch.diag(beside, -1))
    return nodes, 2 * vectors[0].square()


def _groups(features: int, elements: int) -> Iterator[slice]:
    """Slices over features that hold so many float64 ``elements`` each."""
    size = max(1, _GROUP_BYTES // (8 * elements))
    return (slice(start, min(start + size, features)) for start in range(0, features, size))
