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

# Knots of a layer up to which its table is kept: at most 1.3 MiB for order 3 in float32.
_LARGEST_KEPT = 2**16
# An input's bases lie side by side, and nothing is transposed, where its samples would make too short a loop ...
_SHORT_LOOP = 8
# ... or where there are too few numbers for that to matter.
_FEW_NUMBERS = 2**8
# Numbers from which on torch's operations share their work among threads: more of them at once would only wake threads.
_ONE_THREAD = 2**15


class Bases(NamedTuple):
    """Bases ``(B, I * N)`` and, where asked for, their derivatives with respect to ``x``.

    An input's bases lie in dimension ``dim`` of the derivatives: ``(B, I, N)`` or ``(I, N, B)``.
    """

    matrix: Tensor
    slopes: Tensor | None
    dim: int


class Table:
    """What the recursion needs of knots ``(I, G + 2k + 1)``: its factors are ``(x - ends) * slopes``, clamped.

    Few numbers are computed at once, with both terms of a difference: to compute a term costs less than to shift the other. Of
    many numbers each order is computed by itself, and shifted.
    """

    def __init__(self, knots: Tensor, order: int) -> None:
        self.order, self.knots = order, knots.clone()
        t, limits = self.knots, torch.finfo(knots.dtype)
        least = 8 * limits.tiny  # its inverse, times an order, is finite
        ends = [t[:, p:] for p in range(1, order + 1)]
        inverses = [1 / (t[:, p:] - t[:, :-p]).clamp(min=least) for p in range(1, order + 1)]
        of_slopes = -order * inverses[-1]
        if order == 1:  # whose slopes need bases of order 0: the differences of steps
            ends.append(t)
            inverses.append(torch.full_like(t, limits.max))
        self._pairs = 2 if order == 1 else 1  # the first orders, which are in differences
        self._orders = [(row, -inverse) for row, inverse in zip(ends, inverses, strict=True)]
        parts = [part for rows in self._orders[: self._pairs] for part in zip(*map(_pair, rows), strict=True)]
        parts += self._orders[self._pairs :]
        self._sizes = [row.shape[1] for row, _ in parts]
        self._most_together = _ONE_THREAD // sum(self._sizes)  # of samples of all inputs
        together = [torch.cat(rows, dim=1) for rows in zip(*parts, strict=True)] if len(t) <= self._most_together else []
        side_by_side = *together, of_slopes
        self._rows = {2: side_by_side, 1: tuple(rows.unsqueeze(-1) for rows in side_by_side)}

    def bases(self, x: Tensor, *, slopes: bool) -> Bases:
        """Of samples ``(B, I)`` of the knots' dtype. Where a sample is no number, all bases are 0."""
        dim = 2 if x.shape[0] <= _SHORT_LOOP or x.numel() <= _FEW_NUMBERS else 1
        samples = x.unsqueeze(-1) if dim == 2 else x.t().contiguous().unsqueeze(1)
        *together, of_slopes = self._rows[dim]
        falling: Sequence[Tensor]
        if together and x.numel() <= self._most_together:
            ends, factors = together
            falling = (samples - ends).mul_(factors).nan_to_num_(0.0).clamp_(0.0, 1.0).split_with_sizes(self._sizes, dim)
        else:
            falling = self._one_by_one(samples, dim, slopes=slopes)
        level = falling[1] - falling[0]
        if self.order == 1:
            former = falling[3] - falling[2] if slopes else level
        else:
            for part in falling[2:]:
                former = level
                level = (level * part).diff(dim=dim).add_(level.narrow(dim, 0, level.shape[dim] - 1))
        matrix = level.flatten(1) if dim == 2 else level.flatten(0, 1).t()
        return Bases(matrix, (former * of_slopes).diff(dim=dim) if slopes else None, dim)

    def _one_by_one(self, samples: Tensor, dim: int, *, slopes: bool) -> list[Tensor]:
        """The factors of each order by itself; those in differences as two parts. Steps only where ``slopes`` need them."""
        samples = samples.nan_to_num(torch.inf, torch.inf, -torch.inf)  # beyond all knots
        found: list[Tensor] = []
        for n, rows in enumerate(self._orders[: None if slopes or self.order > 1 else 1]):
            ends, factors = rows if dim == 2 else (row.unsqueeze(-1) for row in rows)
            factor = (samples - ends).mul_(factors).clamp_(0.0, 1.0)
            length = factor.shape[dim] - 1
            found += [factor.narrow(dim, 0, length), factor.narrow(dim, 1, length)] if n < self._pairs else [factor]
        return found


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
