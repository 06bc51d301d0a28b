r"""Moving and refining the knots of one layer: pure functions from splines to splines.

Shape legend: ``B`` samples, ``I`` features, ``O`` outputs, ``G`` grid_size, ``k`` spline_order, ``T = G + 2k + 1`` knots.

Two ways to find the new coefficients:

- :func:`adapted` and :func:`refined` keep the *function*: the old splines are known everywhere and are projected onto the new
  ones (:mod:`efficient_kan.projection`);
- :func:`resampled` and :func:`refitted` keep its values *at the samples*, in least squares, as pykan 0.2.8 does
  (``KANLayer.update_grid_from_samples``, ``initialize_grid_from_parent``). Between few samples the splines are then free.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from efficient_kan import _checks
from efficient_kan._precision import widest
from efficient_kan.basis import bspline_basis
from efficient_kan.fit import fit_coefficients
from efficient_kan.knots import adaptive_knots, extend, following_knots, inserted_knots, interior_of, refined_knots
from efficient_kan.projection import evaluated, inserted, projected, quadrature

# Samples per coefficient from which on quantiles and shares of samples are known well enough to place knots by.
_PER_COEFFICIENT = 12
# A grid fits its samples if at most this share of them lies outside ...
_OUTSIDE = 0.05
# ... and if they fill as much of it as equal shares in this part of its intervals would. New knots must do better by half.
_FILLED, _BETTER = 0.5, 1.5
# From this share of samples outside on the knots move, whatever that does to the function.
_MISSED = 0.2
# How far beyond the samples, in lengths of their range, an old grid stays as it was: others may still come.
_KEPT = 1.0
# Bytes that one fit may hold for a moment; features are fitted in groups of this size.
_FIT_BYTES = 2**26


class Splines(NamedTuple):
    """A layer's knots and coefficients, and what became of its features."""

    knots: Tensor  # shape: (I, T)
    coefficients: Tensor  # shape: (O, I, G+k), without scale
    constant: Tensor  # shape: (I,), bool: no range that knots could follow
    held: Tensor  # shape: (I,), bool: kept its knots, because moving them would change the function too much
    change: Tensor  # shape: (I,), of the outputs by moving the knots, relative to `max_change`'s measure; 0 if not tried


def samples_needed(grid_size: int, spline_order: int) -> int:
    """How many samples :func:`adapted` needs to place knots: a dozen for each of the ``G + k`` coefficients."""
    return _PER_COEFFICIENT * (grid_size + spline_order)


def adapted(
    x: Tensor,
    knots: Tensor,
    coefficients: Tensor,
    spline_order: int,
    grid_eps: float,
    *,
    sensitivity: Tensor,
    margin: float = 0.0,
    max_change: float = 0.01,
) -> Splines:
    r"""Knots that follow the samples where they must, with the function kept.

    A feature's knots move if more than 5 % of its samples lie outside the grid, or if the samples crowd in few intervals: with
    shares :math:`p_j` of the samples, :math:`1 / \sum_j p_j^2` is below half of ``G``, and the new knots raise it by half or
    more. New knots are quantiles between the ends of the new grid. That contains the samples and, up to one length of their
    range beyond them on either side, the old grid: a batch shows part of the range. If such knots would change the outputs too
    much, only the first and the last knot move; if that does too, the feature keeps its knots, unless more than 20 % of its
    samples lie outside.

    Args:
        x: ``(B, I)`` finite samples, at least :func:`samples_needed`.
        knots: ``(I, T)``.
        coefficients: ``(O, I, G + k)`` of the curves to keep, without scale.
        spline_order: ``k``.
        grid_eps: share of equal spacing in the new inner knots.
        sensitivity: ``(O, I)``: how much an output moves with a curve, relative to the output's deviation.
        margin: by how much the samples' range is widened on each side.
        max_change: the largest change of an output that a layer's moves may make together, root mean square over the samples
            relative to the output's deviation; each feature has its share, ``max_change / sqrt(I)``.
    """
    x = x.to(knots.dtype)
    grid_size, interior = knots.shape[1] - 1 - 2 * spline_order, interior_of(knots, spline_order)
    ordered = x.sort(dim=0).values
    low, high = ordered[0] - margin, ordered[-1] + margin
    spread = _KEPT * (high - low)
    first, last = interior[:, 0], interior[:, -1]
    low = torch.where(low < first, low, torch.maximum(first, low - spread))
    high = torch.where(high > last, high, torch.minimum(last, high + spread))
    following = following_knots(ordered, torch.stack((low, high), dim=1), grid_size, grid_eps)
    stretched = torch.cat((low.unsqueeze(1), interior[:, 1:-1], high.unsqueeze(1)), dim=1)

    usable = _usable(following, spline_order)
    outside = ((x < first) | (x > last)).to(x.dtype).mean(dim=0)
    fill, new_fill = _filled(ordered, interior), _filled(ordered, following)
    crowded = (fill < _FILLED) & (new_fill > _BETTER * fill)
    wanted = usable & ((outside > _OUTSIDE) | crowded)
    nothing = torch.zeros_like(outside)
    if _checks.has_values(wanted) and not bool(wanted.any()):
        return Splines(knots, coefficients, usable.logical_not(), torch.zeros_like(usable), nothing)

    old = knots, coefficients
    moved = _kept_on(extend(torch.where(usable.unsqueeze(1), following, interior), spline_order), *old, spline_order)
    change = _change(ordered.T, *old, *moved, spline_order, sensitivity)
    share = max_change / x.shape[1] ** 0.5
    in_order = _usable(stretched, spline_order)
    ends = _kept_on(extend(torch.where(in_order.unsqueeze(1), stretched, interior), spline_order), *old, spline_order)
    of_ends = _change(ordered.T, *old, *ends, spline_order, sensitivity)
    better = in_order & (outside > _OUTSIDE) & (change > share) & (of_ends < change)
    change = torch.where(wanted, torch.where(better, of_ends, change), nothing)
    held = wanted & (change > share) & (outside <= _MISSED)
    moves = wanted & held.logical_not()
    return Splines(
        torch.where(moves.unsqueeze(1), torch.where(better.unsqueeze(1), ends[0], moved[0]), knots),
        torch.where(moves.view(1, -1, 1), torch.where(better.view(1, -1, 1), ends[1], moved[1]), coefficients),
        usable.logical_not(),
        held,
        change,
    )


def resampled(
    x: Tensor, knots: Tensor, coefficients: Tensor, spline_order: int, grid_eps: float, *, margin: float = 0.0
) -> Splines:
    """Knots at the samples' quantiles over their range, and the coefficients closest to the old splines at the samples.

    Arguments as for :func:`adapted`; any number of samples. With ``margin=0`` knots and coefficients are pykan's.
    """
    x = x.to(knots.dtype)
    grid_size = knots.shape[1] - 1 - 2 * spline_order
    interior, usable = adaptive_knots(x, grid_size, grid_eps, margin)
    new_knots = extend(interior, spline_order)
    usable &= new_knots.isfinite().all(dim=1)
    new_knots = torch.where(usable.unsqueeze(1), new_knots, knots)
    fitted = _refit(x, knots, coefficients, new_knots, spline_order)
    coefficients = torch.where(usable.view(1, -1, 1), fitted, coefficients)
    return Splines(new_knots, coefficients, usable.logical_not(), torch.zeros_like(usable), torch.zeros_like(x[0]))


def refined(knots: Tensor, coefficients: Tensor, spline_order: int, grid_size: int) -> tuple[Tensor, Tensor]:
    """Knots with ``grid_size`` intervals, spread like the given ones, and coefficients of the same function.

    For ``grid_size >= G`` the new knots contain the old ones, and the splines stay the same on the whole line, to rounding. For
    a smaller one they are the closest ones over the grid.
    """
    old = knots.shape[1] - 1 - 2 * spline_order
    if grid_size >= old:
        new_knots = inserted_knots(knots, grid_size, spline_order)
        return new_knots, inserted(coefficients, knots, new_knots, spline_order)
    new_knots = extend(refined_knots(interior_of(knots, spline_order), grid_size), spline_order)
    return new_knots, projected(coefficients, knots, new_knots, spline_order)


def refitted(x: Tensor, knots: Tensor, coefficients: Tensor, spline_order: int, grid_size: int) -> tuple[Tensor, Tensor]:
    """Knots with ``grid_size`` intervals as pykan places them, and coefficients fitted to the old splines at the samples."""
    new_knots = extend(refined_knots(interior_of(knots, spline_order), grid_size), spline_order)
    return new_knots, _refit(x.to(knots.dtype), knots, coefficients, new_knots, spline_order)


def _usable(interior: Tensor, spline_order: int) -> Tensor:
    """Whether knots ascend, with spans whose inverses the dtype can hold, and extend to finite ones: ``(I,)``."""
    mean_span = (interior[:, -1] - interior[:, 0]) / (interior.shape[1] - 1)
    wide_enough = mean_span > torch.finfo(interior.dtype).tiny
    return wide_enough & (interior.diff(dim=1) >= 0).all(dim=1) & extend(interior, spline_order).isfinite().all(dim=1)


def _filled(ordered: Tensor, interior: Tensor) -> Tensor:
    """``1 / (G sum_j p_j^2)`` ``(I,)``, by the pairs of samples that share an interval; 0 where no two lie in the grid."""
    counts = _counts(ordered.T, interior)
    inside = counts.sum(dim=1)
    pairs = (counts * (counts - 1)).sum(dim=1)
    return torch.where(
        pairs > 0, inside * (inside - 1) / (counts.shape[1] * pairs.clamp(min=1)), (inside > 1).to(ordered.dtype)
    )


def _counts(ordered: Tensor, edges: Tensor) -> Tensor:
    """How many of the ``ordered`` samples ``(I, B)`` lie between neighbouring ``edges`` ``(I, N)``: ``(I, N - 1)``.

    Those at an edge lie above it; those at the last one, which may be repeated, below.
    """
    rows, edges = (tensor.clone(memory_format=torch.contiguous_format) for tensor in (ordered, edges))
    below, up_to = (torch.searchsorted(rows, edges, right=right) for right in (False, True))
    return torch.where(edges == edges[:, -1:], up_to, below).diff(dim=1).to(ordered.dtype)


def _kept_on(new_knots: Tensor, knots: Tensor, coefficients: Tensor, spline_order: int) -> tuple[Tensor, Tensor]:
    return new_knots, projected(coefficients, knots, new_knots, spline_order)


def _change(
    ordered: Tensor,
    knots: Tensor,
    coefficients: Tensor,
    new_knots: Tensor,
    new_coefficients: Tensor,
    spline_order: int,
    sensitivity: Tensor,
) -> Tensor:
    """The largest change of an output by one feature's new splines ``(I,)``, root mean square over the ``ordered`` samples.

    The mean over samples is taken piece by piece: over the polynomial piece that a sample lies in, instead of at the sample.
    """
    place = widest(knots.device)
    s, t, c, tau, d, weight = (
        place.take(tensor) for tensor in (ordered, knots, coefficients, new_knots, new_coefficients, sensitivity)
    )
    changes = []
    group = max(1, _FIT_BYTES // (8 * (spline_order + 1) * (t.shape[1] + tau.shape[1]) * 4 * c.shape[0]))
    for start in range(0, t.shape[0], group):
        cols = slice(start, start + group)
        points, weights, breaks = quadrature(t[cols], tau[cols], spline_order)
        lengths = breaks.diff(dim=1)
        density = torch.where(lengths > 0, _counts(s[cols], breaks) / torch.where(lengths > 0, lengths, 1.0), 0.0) / s.shape[1]
        masses = weights * density.repeat_interleave(spline_order + 1, dim=1)
        difference = evaluated(points, tau[cols], d[:, cols], spline_order) - evaluated(
            points, t[cols], c[:, cols], spline_order
        )
        squares = (masses.unsqueeze(1) @ difference.square()).squeeze(1)  # shape: (cols, O)
        changes.append((squares.sqrt() * weight.T[cols].abs()).amax(dim=1))
    return torch.cat(changes).to(knots)


def _refit(x: Tensor, knots: Tensor, coefficients: Tensor, new_knots: Tensor, spline_order: int) -> Tensor:
    place = widest(knots.device)
    samples, features = x.shape
    outputs, new_width = coefficients.shape[0], new_knots.shape[1] - spline_order - 1
    per_feature = 8 * samples * (2 * (coefficients.shape[2] + new_width) + 3 * outputs)
    group = max(1, _FIT_BYTES // per_feature)
    fitted = []
    for start in range(0, features, group):
        cols = slice(start, start + group)
        bases = bspline_basis(place.take(x[:, cols]), place.take(knots[cols]), spline_order)  # shape: (B, cols, G+k)
        curves = bases.transpose(0, 1) @ place.take(coefficients[:, cols]).permute(1, 2, 0)  # shape: (cols, B, O)
        fitted.append(fit_coefficients(x[:, cols], curves, new_knots[cols], spline_order))
    return torch.cat(fitted, dim=1).to(coefficients)
