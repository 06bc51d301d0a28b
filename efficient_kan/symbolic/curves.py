"""The curves that edges of a layer draw over the range of its samples.

Shape legend: ``I`` inputs and ``O`` outputs of a layer, ``E`` chosen edges, ``N`` points of each curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from efficient_kan.basis import bspline_basis

if TYPE_CHECKING:
    from efficient_kan.linear import KANLinear

_POINTS = 180
_CONSTANT = 1e-6  # deviation of a constant curve, relative to its values and to the node's deviation


class Curves(NamedTuple):
    """Curves of ``E`` edges, inputs scaled to ``u = (x - middle) / half`` in [-1, 1]."""

    u: Tensor  # shape: (E, N), ascending
    y: Tensor  # shape: (E, N)
    middle: Tensor  # shape: (E,)
    half: Tensor  # shape: (E,), 1 where all samples are equal
    constant: Tensor  # shape: (E,)
    held_out: Tensor  # shape: (N,)

    def affine_of_inputs(self, affine: Tensor) -> Tensor:
        """``(a, b, c, d)`` ``(4, ..., E)`` for inputs ``u``, for inputs ``x``."""
        a, b, c, d = affine
        slope = b / self.half
        return torch.stack((a, slope, c - slope * self.middle, d))


def quantiles(x: Tensor) -> Tensor:
    """Samples ``(B, I)`` as at most ``_POINTS`` of each input, at equal steps of rank: ``(N, I)``, ascending."""
    ranks = torch.linspace(0, len(x) - 1, min(len(x), _POINTS), device=x.device).round().long()
    points: Tensor = x.sort(dim=0).values[ranks]
    return points


def of_splines(layer: KANLinear, points: Tensor, o: Tensor, i: Tensor) -> Tensor:
    """``(E, N)``: the values of the edges ``(o, i)`` at ``points`` ``(N, I)``, whatever their mask."""
    base = layer.base_activation(points)
    scaler = torch.ones_like(layer.base_weight) if layer.spline_scaler is None else layer.spline_scaler
    weight = layer.spline_weight[o, i] * scaler[o, i].unsqueeze(-1)  # shape: (E, G+k)
    basis = bspline_basis(points, layer.grid, layer.spline_order)  # shape: (N, I, G+k)
    inputs, place = i.unique(return_inverse=True)
    curves = torch.empty(len(o), len(points), dtype=points.dtype, device=points.device)
    for n, number in enumerate(inputs.tolist()):
        chosen = place == n
        curves[chosen] = weight[chosen] @ basis[:, number].T
    result: Tensor = curves + layer.base_weight[o, i].unsqueeze(-1) * base[:, i].T
    return result


def curves(points: Tensor, values: Tensor, i: Tensor, spread: Tensor) -> Curves:
    """Curves of edges from the points of their inputs.

    Args:
        points: ``(N, I)``, see :func:`quantiles`.
        values: ``(E, N)``.
        i: ``(E,)``, the input of each edge.
        spread: ``(E,)``, the standard deviation of the output of each edge's node.
    """
    x = points[:, i].T
    low, high = x[:, 0], x[:, -1]
    half, middle = (high - low) / 2, (high + low) / 2
    flat = ~(half > 4 * torch.finfo(x.dtype).eps * middle.abs()) | ~(half > 0)
    half = torch.where(flat, 1.0, half)
    deviation = values.std(1, correction=0)
    size = torch.maximum(values.abs().amax(1), spread)
    held_out = torch.arange(x.shape[1], device=x.device) % 3 == 1
    held_out[-1] = False
    u = (x - middle.unsqueeze(1)) / half.unsqueeze(1)
    return Curves(u.clamp(-1, 1), values, middle, half, flat | ~(deviation > _CONSTANT * size), held_out)


def joined(parts: Sequence[Curves]) -> Curves:
    """The curves of several layers, of equally many points."""
    u, y, middle, half, constant = (torch.cat(values) for values in zip(*(part[:-1] for part in parts), strict=True))
    return Curves(u, y, middle, half, constant, parts[0].held_out)
