r"""All bases of some samples in few operations, for knots that change rarely.

Shape legend: ``B`` samples, ``I`` in_features, ``G`` grid_size, ``k`` spline_order, ``N = G + k`` bases of an input.

The Cox-de Boor recursion (:mod:`efficient_kan.basis`) with what rises written as the rest of what falls:

.. math::
    B_{j,p} = B_{j,p-1} - f_{j,p} B_{j,p-1} + f_{j+1,p} B_{j+1,p-1}, \qquad f_{j,p} = \frac{t_{j+p} - x}{t_{j+p} - t_j}

Where :math:`B_{j,p-1}` is not zero, :math:`f_{j,p}` is in [0, 1]; clamped to that it is finite everywhere, and for p = 1 it is
a ramp from 1 to 0, of which :math:`B_{j,1} = f_{j+1,1} - f_{j,1}`. The ramp of an empty span is a step. All factors are
linear in ``x`` and are computed at once, from a table of the knots; a step takes 4 operations more.

Tables of small layers are kept, and compared with the knots at each use: to compare takes one operation, a table thirty, and
knots can be written in ways that leave no trace (``.data``, numpy).
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# Knots of a layer up to which its table is kept.
_LARGEST_KEPT = 2**14
# Samples of all inputs up to which an input's bases lie side by side, not its samples: short loops, but nothing is transposed.
_SAMPLES_LAST = 2**8
# Numbers from which on torch's operations share their work among threads: more of them at once would only wake threads.
_ONE_THREAD = 2**15


class Bases(NamedTuple):
    """Bases ``(B, I * N)`` and, where asked for, their derivatives with respect to ``x``.

    An input's bases lie in dimension ``dim`` of the derivatives: ``(B, I, N)`` for few samples, ``(I, N, B)`` for many.
    """

    matrix: Tensor
    slopes: Tensor | None
    dim: int


class Table:
    """What the recursion needs of knots ``(I, G + 2k + 1)``: its factors are ``(x - ends) * slopes``, clamped."""

    def __init__(self, knots: Tensor, order: int) -> None:
        self.order, self.knots = order, knots.clone()
        t, limits = self.knots, torch.finfo(knots.dtype)
        least = 8 * limits.tiny  # its inverse, times an order, is finite
        ends = [t[:, p:] for p in range(1, order + 1)]
        inverses = [1 / (t[:, p:] - t[:, :-p]).clamp(min=least) for p in range(1, order + 1)]
        of_slopes = -order * inverses[-1]
        # Both terms of a difference have a part of their own: to take parts costs less than to shift one.
        ends[:1], inverses[:1] = _pair(ends[0]), _pair(inverses[0])
        if order == 1:  # whose slopes need bases of order 0: the differences of steps
            ends += _pair(t)
            inverses += _pair(torch.full_like(t, limits.max))
        self.sizes = [part.shape[1] for part in ends]
        self._length = sum(self.sizes)
        rows = torch.cat(ends, dim=1), -torch.cat(inverses, dim=1), of_slopes
        self._few = rows
        self._many = rows[0].unsqueeze(-1), rows[1].unsqueeze(-1), rows[2].unsqueeze(-1)

    def bases(self, x: Tensor, *, slopes: bool) -> Bases:
        """Of samples ``(B, I)`` of the knots' dtype. Where a sample is no number, all bases are 0."""
        if x.numel() <= _SAMPLES_LAST:
            samples, dim, rows = x.unsqueeze(-1), 2, self._few
        else:
            samples, dim, rows = x.t().contiguous().unsqueeze(1), 1, self._many
        ends, factors, of_slopes = rows
        falling: Sequence[Tensor]
        if samples.numel() * self._length <= _ONE_THREAD:
            falling = _clamped(samples, ends, factors).split_with_sizes(self.sizes, dim)
        else:
            of_parts = zip(ends.split_with_sizes(self.sizes, 1), factors.split_with_sizes(self.sizes, 1), strict=True)
            falling = [_clamped(samples, *of_part) for of_part in of_parts]
        level = falling[1] - falling[0]
        if self.order == 1:
            former = falling[3] - falling[2] if slopes else level
        else:
            for part in falling[2:]:
                former = level
                level = (level * part).diff(dim=dim).add_(level.narrow(dim, 0, level.shape[dim] - 1))
        matrix = level.flatten(1) if dim == 2 else level.flatten(0, 1).t()
        return Bases(matrix, (former * of_slopes).diff(dim=dim) if slopes else None, dim)


def _clamped(samples: Tensor, ends: Tensor, factors: Tensor) -> Tensor:
    return (samples - ends).mul_(factors).nan_to_num_(0.0).clamp_(0.0, 1.0)


def _pair(rows: Tensor) -> list[Tensor]:
    return [rows[:, :-1], rows[:, 1:]]


_tables: dict[tuple[int, int], Table] = {}


def table(knots: Tensor, order: int) -> Table:
    """The table of these knots, kept while they are."""
    key = id(knots), order
    found = _tables.get(key)
    plain = torch._C._len_torch_dispatch_stack() == 0  # no fake tensors
    if plain and found is not None and found.knots.dtype == knots.dtype and torch.equal(found.knots, knots):
        return found
    made = Table(knots.detach(), order)
    if plain and type(knots) is Tensor and knots.numel() <= _LARGEST_KEPT:
        if found is None:
            weakref.finalize(knots, _tables.pop, key, None)
        _tables[key] = made
    return made
