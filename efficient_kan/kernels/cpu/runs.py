"""Samples of one input in runs: those of one knot interval side by side, where the same bases are non-zero.

Shape legend: ``B`` samples, ``I`` inputs, ``O`` outputs, ``T = G + 2k + 1`` knots. Run ``j < T - 1`` holds the samples in
``[t_j, t_{j+1})``, where bases ``j - k`` to ``j`` live; run ``T - 1`` holds those without bases: outside the knots, or NaN.

Within a run nothing depends on the interval any more, so its bases are computed for many samples at once. They are computed in
float64 for every dtype, since a division per interval costs nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from efficient_kan.kernels.cpu.activation import sigmoid
from efficient_kan.kernels.cpu.compiled import at, moved, summing
from efficient_kan.kernels.cpu.transpose import turned
from efficient_kan.kernels.cpu.vectors import VECTOR_BYTES

# Samples whose bases exist at a time: a few kilobytes, and short enough to be summed up in float32.
RUN = 256
# Samples that are sorted at a time.
CHUNK = 8192
# Inputs whose samples are transposed at a time: one cache line of float32.
COLUMNS = 16
# Parts of the samples that are sorted side by side: where neighbours are of one run, the second would wait for the first.
PARTS = 4
_FEW_KNOTS = 128


# Arrays are passed whole, with counts beside them: of a slice the compiler does not know that its rows are contiguous.


@summing
def columns_of(source: Any, row: int, column: int, columns: int, n: int, target: Any) -> None:
    """Copy ``source[row : row + n, column : column + columns]`` into ``target (>= columns, >= n)``."""
    zero, stride = source.dtype.type(0), source.shape[1]
    first = moved(at(source.ctypes.data, zero), row * stride + column)
    turned(first, stride, at(target.ctypes.data, zero), target.shape[1], n, columns, VECTOR_BYTES // source.itemsize)


@summing
def into_columns(source: Any, row: int, column: int, columns: int, n: int, target: Any) -> None:
    """Copy ``source (>= columns, >= n)`` into ``target[row : row + n, column : column + columns]``."""
    zero, stride = source.dtype.type(0), target.shape[1]
    first = moved(at(target.ctypes.data, zero), row * stride + column)
    turned(at(source.ctypes.data, zero), source.shape[1], first, stride, columns, n, VECTOR_BYTES // source.itemsize)


@summing
def samples_of(x: Any, base: Any, is_silu: bool, row: int, column: int, columns: int, n: int, xs: Any, bases: Any) -> None:
    """Columns of ``x`` and, unless it is SiLU, of the base activation; see :func:`columns_of`."""
    columns_of(x, row, column, columns, n, xs)
    if not is_silu:
        columns_of(base, row, column, columns, n, bases)


@summing
def _scatter_to(places: Any, values: Any, target: Any) -> None:
    """``target[places] = values``."""
    for b in range(values.shape[0]):
        target[np.uint64(places[b])] = values[b]


@summing
def through_silu(x: Any, of_x: Any, of_base: Any) -> None:
    """Add the gradient with respect to SiLU of ``x`` to that with respect to ``x``."""
    for b in range(x.shape[0]):
        share = sigmoid(x[b])
        of_x[b] += of_base[b] * share * (1 + x[b] * (1 - share))


@summing
def count_knots(x: Any, knots: Any, counts: Any) -> None:
    """``counts[b]``: the number of knots that are not above ``x[b]``, zero for NaN."""
    if knots.shape[0] <= _FEW_KNOTS:
        for start in range(0, x.shape[0], 1024):
            part, of_part = x[start : start + 1024], counts[start : start + 1024]
            of_part[:] = 0
            for t in range(knots.shape[0]):
                knot = knots[t]
                for b in range(part.shape[0]):
                    of_part[b] += np.int32(part[b] >= knot)
    else:
        for b in range(x.shape[0]):
            low, high = 0, knots.shape[0]
            while low < high:
                middle = (low + high) // 2
                if x[b] >= knots[middle]:
                    low = middle + 1
                else:
                    high = middle
            counts[b] = low


@summing
def _find_runs(x: Any, knots: Any, runs: Any, starts: Any, heads: Any) -> None:
    """The run of each sample ``runs (n,)``, and where runs begin among sorted samples ``starts (T + 1,)``.

    ``heads (PARTS, T)``: where the samples of each part of ``n // PARTS`` begin in each run; the last part takes the rest, too.
    """
    count_knots(x, knots, runs)
    n, T = x.shape[0], knots.shape[0]
    last, one, length = np.int32(T - 1), np.int32(1), n // PARTS
    for b in range(n):
        runs[b] = runs[b] - one if runs[b] > 0 else last
    heads[:] = 0
    # Indices are unsigned, for else negative ones would count from the end.
    for b in range(length):
        for part in range(PARTS):
            heads[np.uint64(part), np.uint64(runs[np.uint64(part * length + b)])] += one
    for b in range(PARTS * length, n):
        heads[PARTS - 1, np.uint64(runs[b])] += one
    total = np.int32(0)
    for run in range(T):
        starts[run] = total
        for part in range(PARTS):
            count = heads[part, run]
            heads[part, run] = total
            total += count
    starts[T] = total


@summing
def _sort_into_runs(x: Any, knots: Any, runs: Any, starts: Any, heads: Any, places: Any) -> None:
    """Fill ``starts (T + 1,)``, where each run begins, and ``places (n,)``, where each sample goes."""
    _find_runs(x, knots, runs, starts, heads)
    n, length = x.shape[0], x.shape[0] // PARTS
    for b in range(length):
        for part in range(PARTS):
            sample = np.uint64(part * length + b)
            run = np.uint64(runs[sample])
            place = heads[np.uint64(part), run]
            places[sample] = place
            heads[np.uint64(part), run] = place + np.int32(1)
    for b in range(PARTS * length, n):
        run = np.uint64(runs[b])
        places[b] = heads[PARTS - 1, run]
        heads[PARTS - 1, run] += np.int32(1)


@summing
def sort_samples(
    x: Any,
    base: Any,
    is_silu: bool,
    knots: Any,
    runs: Any,
    starts: Any,
    heads: Any,
    places: Any,
    sorted_x: Any,
    sorted_base: Any,
) -> None:
    """Samples and their base activations, which are computed if ``is_silu``, in runs; fills ``starts`` and ``places``, too.

    ``runs`` and ``heads (PARTS, T)`` are room to work in.
    """
    _sort_into_runs(x, knots, runs, starts, heads, places)
    _scatter_to(places, x, sorted_x)
    if is_silu:
        for b in range(x.shape[0]):
            sorted_base[b] = sorted_x[b] * sigmoid(sorted_x[b])
    else:
        _scatter_to(places, base, sorted_base)


@summing
def run_bases(x: Any, knots: Any, run: int, order: int, values: Any, slopes: Any) -> None:
    """The ``k + 1`` bases on one interval, ``values (>= k+1, n)``, and unless ``slopes`` is empty their derivatives.

    Those that do not exist, below the first or beyond the last, fill their rows with the remainder to one.
    """
    n, last = x.shape[0], knots.shape[0] - 1
    if run == last:
        values[: order + 1, :n] = 0.0
        slopes[: order + 1, :n] = 0.0
        return
    values[0, :n] = 1.0
    for p in range(1, order + 1):
        carried = values[p]
        for r in range(p):
            left = np.float64(knots[max(run + 1 - p + r, 0)])
            right = np.float64(knots[min(run + 1 + r, last)])
            row, inverse = values[r], 1.0 / (right - left)
            if p == order and slopes.shape[0] > 0:
                scale = order * inverse
                if r == 0:
                    for b in range(n):
                        slopes[0, b] = -scale * row[b]
                else:
                    for b in range(n):
                        slopes[r, b] -= scale * row[b]
                for b in range(n):
                    slopes[r + 1, b] = scale * row[b]
            if r == 0:
                for b in range(n):
                    ratio = row[b] * inverse
                    row[b] = (right - x[b]) * ratio
                    carried[b] = (x[b] - left) * ratio
            else:
                for b in range(n):
                    ratio = row[b] * inverse
                    row[b] = carried[b] + (right - x[b]) * ratio
                    carried[b] = (x[b] - left) * ratio
