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
from efficient_kan.kernels.cpu.compiled import summing

# Samples whose bases exist at a time: a few kilobytes, and short enough to be summed up in float32.
RUN = 256
# Samples that are sorted at a time.
CHUNK = 8192
# Inputs whose samples are transposed at a time: one cache line of float32.
COLUMNS = 16
_FEW_KNOTS = 128
_ROWS = 16


# Arrays are passed whole, with counts beside them: of a slice the compiler does not know that its rows are contiguous.


@summing
def columns_of(source: Any, row: int, column: int, columns: int, n: int, target: Any) -> None:
    """Copy ``source[row : row + n, column : column + columns]`` into ``target (>= columns, >= n)``."""
    for start in range(0, n, _ROWS):
        for c in range(columns):
            to_row = target[c]
            for b in range(start, min(start + _ROWS, n)):
                to_row[b] = source[row + b, column + c]


@summing
def into_columns(source: Any, row: int, column: int, columns: int, n: int, target: Any) -> None:
    """Copy ``source (>= columns, >= n)`` into ``target[row : row + n, column : column + columns]``."""
    for start in range(0, n, _ROWS):
        for c in range(columns):
            from_row = source[c]
            for b in range(start, min(start + _ROWS, n)):
                target[row + b, column + c] = from_row[b]


@summing
def bases_of(x: Any, base: Any, silu: bool, row: int, column: int, columns: int, n: int, xs: Any, bases: Any) -> None:
    """Columns of ``x`` and of the base activation, which is computed if ``silu``."""
    columns_of(x, row, column, columns, n, xs)
    if not silu:
        columns_of(base, row, column, columns, n, bases)
        return
    for c in range(columns):
        from_row, to_row = xs[c], bases[c]
        for b in range(n):
            to_row[b] = from_row[b] * sigmoid(from_row[b])


@summing
def scatter_to(places: Any, values: Any, target: Any) -> None:
    """``target[places] = values``."""
    for b in range(values.shape[0]):
        target[places[b]] = values[b]


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
def _find_runs(x: Any, knots: Any, runs: Any, starts: Any) -> None:
    """``runs[b]``: the run of each sample; ``starts (T + 1,)``: where each run begins among sorted samples."""
    count_knots(x, knots, runs)
    T = knots.shape[0]
    starts[:] = 0
    for b in range(x.shape[0]):
        run = runs[b] - 1 if runs[b] > 0 else T - 1
        runs[b] = run
        starts[run + 1] += 1
    for run in range(T):
        starts[run + 1] += starts[run]


@summing
def _restart(starts: Any) -> None:
    """After each start has moved to the end of its run."""
    for run in range(starts.shape[0] - 1, 0, -1):
        starts[run] = starts[run - 1]
    starts[0] = 0


@summing
def sort_into_runs(x: Any, knots: Any, counts: Any, starts: Any, places: Any) -> None:
    """Fill ``starts (T + 1,)``, where each run begins, and ``places (n,)``, where each sample goes."""
    _find_runs(x, knots, counts, starts)
    for b in range(x.shape[0]):
        run = counts[b]
        places[b] = starts[run]
        starts[run] += 1
    _restart(starts)


@summing
def sort_samples(x: Any, base: Any, knots: Any, runs: Any, starts: Any, sorted_x: Any, sorted_base: Any) -> None:
    """Copy samples and base activations in the order of their runs, and fill ``starts``."""
    _find_runs(x, knots, runs, starts)
    for b in range(x.shape[0]):
        run = np.uint32(runs[b])  # unsigned, for else negative numbers would count from the end
        place = np.uint32(starts[run])
        sorted_x[place] = x[b]
        sorted_base[place] = base[b]
        starts[run] = place + np.uint32(1)
    _restart(starts)


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
