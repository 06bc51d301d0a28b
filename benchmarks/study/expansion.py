"""Features of samples for stacked layers: B-splines of any order on uniform knots, or on knots of each seed's own.

Shape legend: ``S`` seeds, ``I`` inputs, ``G`` intervals, ``k`` order, ``T = G + 2k + 1`` knots, ``M = G + k + 3`` features of
an input: its ``G + k`` B-splines between two rows that count for nothing, and its SiLU. Samples ``B`` come last in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from efficient_kan.basis import local_basis

CUBIC = 3


@dataclass(frozen=True)
class Grid:
    """The knots of one layer: uniform ones that all inputs of all networks share, or `knots` `(S, I, T)`."""

    size: int
    low: float = -1.0
    high: float = 1.0
    order: int = CUBIC
    knots: Tensor | None = None

    @property
    def step(self) -> float:
        """Distance of two uniform knots."""
        return (self.high - self.low) / self.size

    @property
    def features(self) -> int:
        """``M``."""
        return self.size + self.order + 3

    def expand(self, x: Tensor) -> Tensor:
        """Features of every value: `(S, ..., I, B) -> (S, ..., I, M, B)`."""
        if self.knots is None and self.order == CUBIC:
            found: Tensor = _UniformCubic.apply(x, self)  # type: ignore[no-untyped-call]
            return found
        return self._expand_on_knots(x)

    def _expand_on_knots(self, x: Tensor) -> Tensor:
        knots = self.knots
        if knots is None:
            places = torch.arange(-self.order, self.size + self.order + 1, device=x.device, dtype=x.dtype)
            knots = (self.low + self.step * places).expand(x.shape[0], x.shape[-2], -1)
        between = x.dim() - 3  # dimensions from S to I, such as the networks of a seed
        knots = knots[(slice(None), *(None,) * between)].expand(*x.shape[:-1], -1).contiguous()
        local = local_basis(x.flatten(0, -2), knots.reshape(-1, knots.shape[-1]), self.order)
        rows = x.new_zeros(()).expand(x.shape[:-1].numel(), self.size + self.order + 2, x.shape[-1])
        splines = rows.scatter(1, local.which + 1, local.values).unflatten(0, x.shape[:-1])
        return torch.cat((splines, nn.functional.silu(x).unsqueeze(-2)), dim=-2)


class _UniformCubic(torch.autograd.Function):
    """On uniform knots the four cubic bases that can be non-zero are fixed polynomials of the place within the interval.

    They are written to their rows; those of bases that do not exist go to the first or the last but one, which all weights
    leave out.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Grid) -> Tensor:
        place = torch.add(CUBIC - grid.low / grid.step, x, alpha=1 / grid.step).clamp_(-1, grid.size + 2 * CUBIC)
        cell = place.floor()
        t = place.sub_(cell)
        ranks = torch.arange(1 - CUBIC, 2, device=x.device).unsqueeze(-1)  # rows of the bases non-zero in interval 0
        which = ranks + cell.nan_to_num_(-1.0).long().unsqueeze(-2)
        which.clamp_(0, grid.size + CUBIC + 1)
        rest, square = 1 - t, t * t
        values = x.new_empty((*x.shape[:-1], CUBIC + 1, x.shape[-1]))
        first, second, third, last = values.unbind(-2)
        torch.mul(rest, rest, out=first).mul_(rest).div_(6)
        torch.mul(square, t, out=last).div_(6)
        torch.mul(square, t / 2 - 1, out=second).add_(2 / 3)
        torch.sub(1 - first, second, out=third).sub_(last)
        features = x.new_zeros((*x.shape[:-1], grid.features, x.shape[-1])).scatter_(-2, which, values)
        gate = torch.sigmoid(x)
        torch.mul(x, gate, out=features[..., -1, :])
        if ctx.needs_input_grad[0]:
            torch.mul(rest, rest, out=first).mul_(-0.5 / grid.step)
            torch.mul(square, 0.5 / grid.step, out=last)
            torch.mul(t, (1.5 * t).sub_(2), out=second).div_(grid.step)
            torch.add(first, second, out=third).add_(last).neg_()
            ctx.save_for_backward(which, values, x.mul(1 - gate).add_(1).mul_(gate))
        return features

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        which, slopes, of_silu = ctx.saved_tensors
        return grad.gather(-2, which).mul_(slopes).sum(-2).addcmul_(grad[..., -1, :], of_silu), None
