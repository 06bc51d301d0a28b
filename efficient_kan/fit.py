"""Least squares: from samples of curves to spline coefficients, whatever the rank.

Shape legend: ``B`` samples, ``I`` features, ``O`` curves per feature, ``n = G + k`` coefficients.

torch's default CPU driver for ``lstsq`` returns wrong ranks on underdetermined matrices (pytorch issue #187411), its CUDA
driver assumes full rank. So the minimum-norm solution is built from a QR and a singular value decomposition, in float64
(:mod:`efficient_kan._precision`), one factorisation per feature shared by all its curves, alike on every device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from efficient_kan._precision import widest
from efficient_kan.basis import bspline_basis


def least_squares(design: Tensor, targets: Tensor, relative_tolerance: float) -> Tensor:
    """The minimum-norm solution of ``min ||design @ c - targets||`` for each feature.

    Args:
        design: ``(I, B, n)``.
        targets: ``(I, B, O)``.
        relative_tolerance: singular values up to this share of the largest count as zero.

    Returns:
        ``(I, n, O)``.
    """
    q, r = torch.linalg.qr(design)
    u, s, vh = torch.linalg.svd(r, full_matrices=False)
    keep = s > relative_tolerance * s[:, :1]
    inverse = torch.where(keep, 1 / torch.where(keep, s, 1.0), 0.0)
    solution: Tensor = vh.mT @ (inverse.unsqueeze(-1) * (u.mT @ (q.mT @ targets)))
    return solution


def fit_coefficients(x: Tensor, curves: Tensor, knots: Tensor, spline_order: int) -> Tensor:
    """Coefficients of the splines on ``knots`` that come closest to the curves at the samples.

    The rank is judged at the precision of ``x``: directions that its rounding decides are left at zero. The tolerance is the
    same for any number of samples: one that grew with it would drop bases that few of many samples reach.

    Args:
        x: ``(B, I)`` sample positions, in the precision the layer works in.
        curves: ``(I, B, O)`` values of the curves there.
        knots: ``(I, G + 2k + 1)`` in the dtype of ``x``.
        spline_order: ``k``.

    Returns:
        ``(O, I, G + k)`` in the dtype of ``x``.
    """
    place = widest(x.device)
    design = bspline_basis(place.take(x), place.take(knots), spline_order).transpose(0, 1)
    tolerance = torch.finfo(x.dtype).eps * design.shape[2]
    return least_squares(design, place.take(curves), tolerance).permute(2, 0, 1).to(x)
