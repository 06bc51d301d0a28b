"""Moving and refining knots without changing the function: pure functions from one spline layer to another.

Shape legend: ``B`` samples, ``I`` features, ``O`` outputs, ``G`` grid_size, ``k`` spline_order. The knots follow pykan 0.2.8
(``KANLayer.update_grid_from_samples`` and ``initialize_grid_from_parent``); the coefficients are the minimum-norm least
squares solution whatever the rank (:mod:`efficient_kan.fit`).
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from efficient_kan import _checks
from efficient_kan.basis import bspline_basis
from efficient_kan.fit import fit_coefficients
from efficient_kan.knots import adaptive_knots, extend, interior_of, refined_knots

# Bytes of float64 that one fit may hold for a moment; features are fitted in groups of this size.
_FIT_BYTES = 2**26


def updated_spline(x: Tensor, knots: Tensor, coefficients: Tensor, spline_order: int, grid_eps: float) -> tuple[Tensor, Tensor]:
    """Knots adapted to the samples, and coefficients that keep the curves.

    Args:
        x: ``(B, I)`` finite samples, ``B >= 1``.
        knots: ``(I, G + 2k + 1)``.
        coefficients: ``(O, I, G + k)`` of the curves to keep, without scale.
        spline_order: ``k``.
        grid_eps: share of uniform spacing.

    Returns:
        New knots and coefficients of the same shapes and dtypes. A feature without a usable range keeps both, and a
        ``UserWarning`` says which.

    Raises:
        ValueError: if there is no sample or one is not finite.
    """
    x = _check_samples(x, knots)
    grid_size = knots.shape[1] - 1 - 2 * spline_order
    interior, usable = adaptive_knots(x, grid_size, grid_eps)
    adapted = extend(interior, spline_order)
    usable &= adapted.isfinite().all(dim=1)
    if _checks.has_values(usable) and not bool(usable.all()):
        constant = (~usable).nonzero().flatten().tolist()
        warnings.warn(
            f"update_grid: {len(constant)} of {len(usable)} features are constant over the samples, or range too far, "
            f"and keep their knots: {constant[:10]}{' ...' if len(constant) > 10 else ''}",
            stacklevel=4,
        )
    new_knots = torch.where(usable.unsqueeze(1), adapted, knots)
    fitted = _refit(x, knots, coefficients, new_knots, spline_order)
    return new_knots, torch.where(usable.view(1, -1, 1), fitted, coefficients)


def refined_spline(x: Tensor, knots: Tensor, coefficients: Tensor, spline_order: int, grid_size: int) -> tuple[Tensor, Tensor]:
    """Knots with ``grid_size`` intervals, spread like the given ones, and coefficients that keep the curves.

    Arguments, returns and errors as in :func:`updated_spline`; the shapes follow the new ``grid_size``. The bases taper off
    within ``k`` intervals beyond the grid, so samples out there cannot be kept, and a ``UserWarning`` counts them.
    """
    x = _check_samples(x, knots)
    interior = interior_of(knots, spline_order)
    # Adapted grids end at the outermost samples, to rounding.
    slack = 16 * torch.finfo(x.dtype).eps * interior.abs().amax(dim=1)
    outside = ((x < interior[:, 0] - slack) | (x > interior[:, -1] + slack)).sum()
    if _checks.has_values(outside) and int(outside):
        warnings.warn(
            f"refine: {int(outside)} of {x.numel()} sample values lie outside the grid, where finer splines taper off sooner "
            "and cannot keep the function; call update_grid first",
            stacklevel=4,
        )
    new_knots = extend(refined_knots(interior, grid_size), spline_order)
    return new_knots, _refit(x, knots, coefficients, new_knots, spline_order)


def _check_samples(x: Tensor, knots: Tensor) -> Tensor:
    _checks.require(x.shape[0] >= 1, "x", "at least 1 sample", x.shape)
    _checks.finite(x, "x")
    return x.to(knots.dtype)


def _refit(x: Tensor, knots: Tensor, coefficients: Tensor, new_knots: Tensor, spline_order: int) -> Tensor:
    samples, features = x.shape
    outputs, new_width = coefficients.shape[0], new_knots.shape[1] - spline_order - 1
    per_feature = 8 * samples * (2 * (coefficients.shape[2] + new_width) + 3 * outputs)
    group = max(1, _FIT_BYTES // per_feature)
    fitted = []
    for start in range(0, features, group):
        cols = slice(start, start + group)
        bases = bspline_basis(x[:, cols].double(), knots[cols].double(), spline_order)  # shape: (B, cols, G+k)
        curves = bases.transpose(0, 1) @ coefficients[:, cols].double().permute(1, 2, 0)  # shape: (cols, B, O)
        fitted.append(fit_coefficients(x[:, cols], curves, new_knots[cols], spline_order))
    return torch.cat(fitted, dim=1).to(coefficients.dtype)
