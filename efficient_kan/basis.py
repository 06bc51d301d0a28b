r"""B-spline basis functions and their derivative on arbitrary knots, one knot vector per feature.

Shape legend: ``B`` samples, ``I`` features, ``G`` grid intervals, ``k`` spline order (degree), ``T = G + 2k + 1`` knots.

With knots :math:`t_0 \le \dots \le t_{T-1}` the bases are defined by the Cox-de Boor recursion

.. math::
    B_{j,0}(x) = [t_j \le x < t_{j+1}], \qquad
    B_{j,p}(x) = \frac{x - t_j}{t_{j+p} - t_j} B_{j,p-1}(x) + \frac{t_{j+p+1} - x}{t_{j+p+1} - t_{j+1}} B_{j+1,p-1}(x)

with the convention 0/0 := 0 (de Boor, *A Practical Guide to Splines*, ch. IX). Intervals are half-open: at a knot the
piece on its right counts, and every basis is zero at ``x >= t_{T-1}``, ``x < t_0``, NaN and infinities. Between the
outermost knots and the grid's ends the bases taper off, as in pykan.

Where knots repeat, the convention keeps partition of unity and finite derivatives. pykan 0.2.8 differs there: it sets the
whole basis to zero where either term is 0/0, and its gradient with respect to ``x`` is NaN.

Only the ``k + 1`` bases that can be non-zero at a sample are computed, by the triangular scheme of Piegl and Tiller,
*The NURBS Book*, algorithms A2.1-A2.3. It never divides by an empty span, so values and gradients are always finite.
:func:`dense_basis` evaluates all of them by comparisons and arithmetic alone, for exporters and for few samples.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from efficient_kan import _checks


class LocalBasis(NamedTuple):
    """The non-zero bases of each sample. Number ``G + k`` is a bin for bases that do not exist."""

    which: Tensor  # shape: (I, k+1, B), int64, number of the basis, 0..G+k
    values: Tensor  # shape: (I, k+1, B)
    derivatives: Tensor  # shape: (I, k+1, B), d values / d x, zero where the basis does not exist


def local_basis(x: Tensor, knots: Tensor, spline_order: int) -> LocalBasis:
    """Evaluate the bases that can be non-zero, without checks.

    ``x`` is feature-major ``(I, B)``, ``knots`` is ``(I, T)`` of the same dtype. Composed of differentiable operations,
    so that derivatives of every order exist; gradients with respect to knots are not defined.
    """
    k, last = spline_order, knots.shape[1] - 1
    bases = last - k
    knots = knots.detach()
    x = x.clone(memory_format=torch.contiguous_format)
    span = torch.searchsorted(knots, x.detach(), right=True) - 1  # shape: (I, B)
    inside = (span >= 0) & (span < last)
    # Samples outside look up a synthetic run of knots 0, 1, ..., 2k-1, so that no division can go wrong for them.
    # The ends are repeated because spans near them reach for knots beyond: only bases that do not exist use those.
    synthetic = torch.arange(2 * k, device=knots.device, dtype=knots.dtype).expand(knots.shape[0], -1)
    table = torch.cat((knots[:, :1].expand(-1, k - 1), knots, knots[:, -1:].expand(-1, k - 1), synthetic), dim=1)
    start = torch.where(inside, span, last + 2 * k - 1)
    t = [table.gather(1, start + j) for j in range(2 * k)]  # t[k-1] <= x < t[k]
    x = torch.where(inside, x, k - 0.5)

    level = [inside.to(x.dtype)]
    ratios: list[Tensor] = []
    for p in range(1, k + 1):
        ratios = [level[r] / (t[k + r] - t[k - p + r]) for r in range(p)]
        level = [(t[k] - x) * ratios[0]]
        level += [(x - t[k - 1 - p + r]) * ratios[r - 1] + (t[k + r] - x) * ratios[r] for r in range(1, p)]
        level += [(x - t[k - 1]) * ratios[p - 1]]
    slopes = [-ratios[0]] + [ratios[r - 1] - ratios[r] for r in range(1, k)] + [ratios[k - 1]]

    which = (span - k).unsqueeze(1) + torch.arange(k + 1, device=x.device).unsqueeze(1)
    exists = (which >= 0) & (which < bases)
    derivatives = torch.where(exists, k * torch.stack(slopes, dim=1), 0.0)
    return LocalBasis(torch.where(exists, which, bases), torch.stack(level, dim=1), derivatives)


def dense_basis(x: Tensor, knots: Tensor, spline_order: int) -> Tensor:
    """All ``G + k`` bases ``(G + k, I, B)`` of ``x`` ``(I, B)`` on ``knots`` ``(I, T)`` of the same dtype, without checks.

    The recursion as it is defined, with the second factor written as one less that of the next basis. Its operations exist in
    TorchScript and ONNX and are differentiable in both modes and any number of times; gradients with respect to knots are not
    defined. Where a basis is not zero the factor is in [0, 1]: clamping it there keeps it finite elsewhere.
    """
    knots = knots.detach().T.unsqueeze(-1)
    reached = x >= knots  # shape: (T, I, B), true up to the span of x
    level = (reached[:-1] ^ reached[1:]).to(x.dtype)
    distance = torch.where(x.isnan(), 0.0, x) - knots
    least = torch.finfo(knots.dtype).tiny
    for p in range(1, spline_order + 1):
        spans = (knots[p:] - knots[:-p]).clamp(min=least)
        rising = (distance[:-p] / spans).clamp(0.0, 1.0) * level
        level = (level - rising)[1:] + rising[:-1]
    return level


def bspline_basis(x: Tensor, knots: Tensor, spline_order: int) -> Tensor:
    """All ``G + k`` basis values of each feature.

    Args:
        x: ``(..., I)`` floating-point samples.
        knots: ``(I, G + 2k + 1)`` non-decreasing knots of the same dtype and device.
        spline_order: the order ``k >= 1``.

    Returns:
        ``(..., I, G + k)`` in the dtype of ``x``; differentiable with respect to ``x``.

    Raises:
        ValueError: if an argument has the wrong type, dtype, shape or order of knots.
    """
    x, knots = _check(x, knots, spline_order)
    local = local_basis(x.reshape(-1, x.shape[-1]).T, knots, spline_order)
    return _dense(local.which, local.values, knots, spline_order).reshape(*x.shape, knots.shape[1] - spline_order - 1)


def bspline_basis_derivative(x: Tensor, knots: Tensor, spline_order: int) -> Tensor:
    """The first derivative of :func:`bspline_basis` with respect to ``x``, at knots from the right; called alike."""
    x, knots = _check(x, knots, spline_order)
    local = local_basis(x.reshape(-1, x.shape[-1]).T, knots, spline_order)
    return _dense(local.which, local.derivatives, knots, spline_order).reshape(*x.shape, knots.shape[1] - spline_order - 1)


def _dense(which: Tensor, values: Tensor, knots: Tensor, spline_order: int) -> Tensor:
    bases = knots.shape[1] - spline_order - 1
    rows = values.new_zeros(()).expand(values.shape[0], bases + 1, values.shape[2]).scatter(1, which, values)
    return rows[:, :bases].permute(2, 0, 1)


def _check(x: Tensor, knots: Tensor, spline_order: int) -> tuple[Tensor, Tensor]:
    k = _checks.integer(spline_order, "spline_order", 1)
    _checks.floating(x, "x")
    check_knots(knots, k)
    _checks.require(x.dim() >= 1, "x", "at least one dimension (..., features)", x.shape)
    _checks.require(x.shape[-1] == knots.shape[0], "x", f"last dimension {knots.shape[0]} (rows of knots)", x.shape)
    _checks.require(x.dtype == knots.dtype, "x", f"dtype {knots.dtype} (that of knots)", x.dtype)
    _checks.require(x.device == knots.device, "x", f"device {knots.device} (that of knots)", x.device)
    return x, knots


def check_knots(knots: Tensor, spline_order: int, name: str = "knots") -> None:
    """Raise ``ValueError`` unless ``knots`` is ``(I, >= 2k + 2)``, floating-point, finite and non-decreasing along rows."""
    _checks.floating(knots, name)
    enough = 2 * spline_order + 2
    ok = knots.dim() == 2 and knots.shape[0] >= 1 and knots.shape[1] >= enough
    _checks.require(ok, name, f"shape (features, at least {enough})", knots.shape)
    _checks.finite(knots, name)
    if _checks.has_values(knots):
        falls = int((knots.diff(dim=1) < 0).sum())
        if falls:
            raise ValueError(f"{name}: expected non-decreasing rows, got {falls} decreasing steps")
