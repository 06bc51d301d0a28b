"""Covariance of the constant first-layer features, so that a deviation of an edge costs no pass over the samples."""

from __future__ import annotations

from torch import Tensor, cat, where


class Moments:
    """Of samples `x` `(S, I, B)` with their `features` `(S, I, M, B)`.

    In float64, and with the mean coefficient of a spline taken out: the bases sum to one on the grid, where all first-layer
    samples are, so it adds nothing to a variance and would cancel only to rounding.
    """

    def __init__(self, x: Tensor, features: Tensor) -> None:
        centred = features.double() - features.double().mean(-1, keepdim=True)
        self.covariance = centred @ centred.mT / (features.shape[-1] - 1)  # shape: (S, I, M, M)
        self.spread = x.std(-1)[:, None, None, :]  # shape: (S, 1, 1, I)

    def deviations(self, weight: Tensor) -> Tensor:
        """Deviation of every edge with folded weights `(S, N, O, I, M)`: `(S, N, O, I)`."""
        s, n, o, i, m = weight.shape
        vectors = weight.double().permute(0, 3, 1, 2, 4).reshape(s, i, n * o, m)
        splines = vectors[..., 1:-2]
        vectors = cat((vectors[..., :1], splines - splines.mean(-1, keepdim=True), vectors[..., -2:]), dim=-1)
        variance = ((vectors @ self.covariance) * vectors).sum(-1).clamp(min=0)
        found = where(variance > 0, where(variance > 0, variance, 1.0).sqrt(), 0.0)
        return found.view(s, i, n, o).permute(0, 2, 3, 1).to(weight.dtype)
