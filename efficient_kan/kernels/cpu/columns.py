"""Standard deviations of inputs, in one pass over the samples: torch's own loop along columns takes ten times as long."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import carray

from efficient_kan.kernels.cpu.compiled import STAMP, Entry, at, summing
from efficient_kan.kernels.cpu.runs import CHUNK, COLUMNS, columns_of
from efficient_kan.kernels.cpu.transpose import APART


@summing
def _sum(x: Any, n: int, origin: Any) -> Any:
    """Of ``x[:n] - origin`` in float64."""
    total = 0.0
    for b in range(n):
        total += np.float64(x[b]) - origin
    return total


@summing
def _squares(x: Any, n: int, origin: Any, mean: Any) -> Any:
    """The sum of ``(x[:n] - origin - mean)**2`` in float64."""
    total = 0.0
    for b in range(n):
        away = (np.float64(x[b]) - origin) - mean
        total += away * away
    return total


@cache
def deviations(real: Any) -> Entry:
    """``fill(x, mean, deviation, B, I, first, stop)``: addresses, sizes, a part of the inputs of ``x (B, I)``.

    Fills ``deviation (I,)``, with divisor ``B - 1``, and ``mean (I,)``, that of ``x - x[0]``: so a large mean costs no digits.
    Moments of parts of the samples are merged (Chan et al. 1979).
    """
    stamp = STAMP

    def fill(x_at: int, mean_at: int, deviation_at: int, B: int, I: int, first: int, stop: int) -> None:
        assert stamp
        x, size = carray(at(x_at, real(0)), (B, I)), min(B, CHUNK)
        mean, deviation = at(mean_at, real(0)), at(deviation_at, real(0))
        xs, origins = np.empty((COLUMNS, size + APART), real), np.empty(COLUMNS)
        means, squares = np.empty(COLUMNS), np.empty(COLUMNS)
        for left in range(first, stop, COLUMNS):
            width = min(COLUMNS, stop - left)
            means[:] = 0.0
            squares[:] = 0.0
            for top in range(0, B, size):
                n = min(size, B - top)
                columns_of(x, top, left, width, n, xs)
                for c in range(width):
                    if top == 0:
                        origins[c] = xs[c, 0]
                    part = _sum(xs[c], n, origins[c]) / n
                    shift = part - means[c]
                    squares[c] += _squares(xs[c], n, origins[c], part) + shift * shift * (top * n / (top + n))
                    means[c] += shift * (n / (top + n))
            for c in range(width):
                mean[left + c] = means[c]
                deviation[left + c] = np.sqrt(squares[c] / (B - 1))

    return Entry(fill, reassociate=True)
