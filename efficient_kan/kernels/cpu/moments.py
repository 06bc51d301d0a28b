r"""Standard deviations of all edges and their gradients, from moments of the features that are non-zero together.

Shape legend: ``B`` samples, ``I`` inputs, ``O`` outputs, ``M = G + k + 1`` features, ``T = G + 2k + 1`` knots, ``D = k + 1``.

Inside run ``j`` (see :mod:`efficient_kan.kernels.cpu.runs`) an edge is ``phi = v_0 + u . f``: ``v_0`` the coefficient of the
run's first basis, ``f (D,)`` its other ``k`` bases and the base activation, ``u`` their coefficients, those of bases less
``v_0``, since the bases add up to one. With ``m_j`` and ``C_j`` mean and scatter matrix of ``f`` over the ``n_j`` samples,

.. math::
    \sum_b (\phi_b - \mu)^2 = \sum_j u_j^T C_j u_j + n_j (\mu_j - \mu)^2, \qquad \mu_j = v_{0j} + u_j^T m_j.

No constant enters a square, neither of an edge nor of a feature, so nothing cancels; sums are in float64, because rounding
errors of a covariance can exceed a small variance. Nothing grows with the square of ``M``.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import carray

from efficient_kan.kernels.cpu.compiled import STAMP, Entry, at, summing
from efficient_kan.kernels.cpu.lanes import add_mean, add_square, contract, lanes
from efficient_kan.kernels.cpu.runs import (
    CHUNK,
    COLUMNS,
    RUN,
    bases_of,
    into_columns,
    run_bases,
    scatter_to,
    sort_into_runs,
    through_silu,
)

LANES = lanes(64)


@summing
def _merge(features: Any, n: int, size: int, mean: Any, scatter: Any) -> None:
    """Add ``features (D, n)``, which are centred in place, to the moments of ``size`` samples (Chan et al. 1979)."""
    D = mean.shape[0]
    total = size + n
    shift = np.empty(D)
    for a in range(D):
        row = features[a]
        pilot = row[0]
        middle = 0.0
        for b in range(n):
            middle += row[b] - pilot
        middle = pilot + middle / n
        for b in range(n):
            row[b] -= middle
        shift[a] = middle - mean[a]
    at = 0
    for a in range(D):
        left = features[a]
        for c in range(a + 1):
            right = features[c]
            product = 0.0
            for b in range(n):
                product += left[b] * right[b]
            scatter[at] += product + shift[a] * shift[c] * (size * n / total)
            at += 1
    for a in range(D):
        mean[a] += shift[a] * (n / total)


@summing
def run_moments(x: Any, base: Any, knots: Any, order: int, sizes: Any, means: Any, scatters: Any, scratch: Any) -> None:
    """Of one input's samples, added to ``sizes (T,)``, ``means (T, D)``, ``scatters (T, D (D + 1) / 2)``."""
    T = knots.shape[0]
    counts, places, starts, sorted_x, sorted_base, values, no_slopes = scratch
    sort_into_runs(x, knots, counts, starts, places)
    scatter_to(places, x, sorted_x)
    scatter_to(places, base, sorted_base)
    for run in range(T):
        for start in range(starts[run], starts[run + 1], RUN):
            end = min(start + RUN, starts[run + 1])
            run_bases(sorted_x[start:end], knots, run, order, values, no_slopes)
            values[order + 1, : end - start] = sorted_base[start:end]
            _merge(values[1:], end - start, sizes[run], means[run], scatters[run])
            sizes[run] += end - start


@summing
def _scratch(size: int, T: int, order: int) -> Any:
    return (
        np.empty(size, np.int32),
        np.empty(size, np.int32),
        np.empty(T + 1, np.int32),
        np.empty(size, np.float64),
        np.empty(size, np.float64),
        np.empty((order + 2, RUN), np.float64),
        np.empty((0, RUN), np.float64),
    )


@summing
def _rows_of(weight: Any, i: int, order: int, rows: Any) -> None:
    """``weight[:, i]`` as ``(rows, O)`` in float64: ``k`` zero rows, the bases, ``k`` zero rows, the base activation."""
    O, M = weight.shape[0], weight.shape[2]
    for o in range(O):
        for m in range(M - 1):
            rows[order + m, o] = weight[o, i, m]
        rows[rows.shape[0] - 1, o] = weight[o, i, M - 1]


@summing
def _first_row(run: Any, T: int) -> Any:
    """Row of the run's first basis. Without bases, an empty row: their features are zero."""
    return run if run < T - 1 else 0


@summing
def _coefficients(rows: Any, run: int, T: int, order: int, u: Any) -> None:
    """``u (D, O)`` of a run."""
    D, O = u.shape
    at = _first_row(run, T)
    first = rows[at]
    for a in range(D - 1):
        row, of_a = rows[at + a + 1], u[a]
        for o in range(O):
            of_a[o] = row[o] - first[o]
    row, of_a = rows[rows.shape[0] - 1], u[D - 1]
    for o in range(O):
        of_a[o] = row[o]


@summing
def _origin(rows: Any, sizes: Any, T: int) -> Any:
    """A value that every edge takes often: its first coefficient in the fullest run."""
    return rows[_first_row(np.argmax(sizes), T)]


@cache
def deviations(order: int, real: Any) -> Entry:
    """``fill(x, base, knots, weight, deviation, middle, gradient, sizes, B, I, O, T, first, stop)``: addresses, sizes, a part.

    Fills ``deviation (O, I)``, ``gradient (O, I, M)``, that of the deviation, and in float64 the means ``middle (I, O)`` and
    the numbers of samples in runs ``sizes (I, T)``, for inputs ``first <= i < stop``. A ``base`` of 0 is SiLU.
    """
    D, stamp = order + 1, STAMP

    def fill(
        x_at: int,
        base_at: int,
        knots_at: int,
        weight_at: int,
        deviation_at: int,
        middle_at: int,
        gradient_at: int,
        sizes_at: int,
        B: int,
        I: int,
        O: int,
        T: int,
        first: int,
        stop: int,
    ) -> None:
        assert stamp
        M, silu = T - order, base_at == 0
        x, base = carray(at(x_at, real(0)), (B, I)), carray(at(x_at if silu else base_at, real(0)), (B, I))
        knots, weight = carray(at(knots_at, real(0)), (I, T)), carray(at(weight_at, real(0)), (O, I, M))
        deviation, gradient = carray(at(deviation_at, real(0)), (O, I)), carray(at(gradient_at, real(0)), (O, I, M))
        middle, sizes = carray(at(middle_at, 0.0), (I, O)), carray(at(sizes_at, 0.0), (I, T))
        means, scatters = np.empty((COLUMNS, T, D)), np.empty((COLUMNS, T, D * (D + 1) // 2))
        size = min(B, CHUNK)
        scratch = _scratch(size, T, order)
        xs, bases = np.empty((COLUMNS, size), real), np.empty((COLUMNS, size), real)
        P = (O + LANES - 1) // LANES * LANES
        rows, of_rows = np.zeros((T + order, P)), np.empty((T + order, P))
        square, mu = np.empty(P), np.empty(P)
        for left in range(first, stop, COLUMNS):
            width = min(COLUMNS, stop - left)
            sizes[left : left + width] = 0.0
            means[:] = 0.0
            scatters[:] = 0.0
            for top in range(0, B, size):
                n = min(size, B - top)
                bases_of(x, base, silu, top, left, width, n, xs, bases)
                for c in range(width):
                    i = left + c
                    run_moments(xs[c][:n], bases[c][:n], knots[i], order, sizes[i], means[c], scatters[c], scratch)
            for c in range(width):
                i = left + c
                _rows_of(weight, i, order, rows)
                origin = _origin(rows, sizes[i], T)
                mu[:] = 0.0
                for run in range(T):
                    if sizes[i, run] > 0:
                        share = sizes[i, run] / B
                        add_mean(order, rows, _first_row(run, T), origin, means[c, run], share, mu)
                middle[i] = mu[:O]
                of_rows[:] = 0.0
                square[:] = 0.0
                for run in range(T):
                    if sizes[i, run] > 0:
                        row, of_run, count = _first_row(run, T), scatters[c, run], sizes[i, run]
                        add_square(order, rows, row, origin, means[c, run], of_run, count, mu, square, of_rows)
                for o in range(O):
                    value = np.sqrt(0.0 if square[o] < 0.0 else square[o] / (B - 1))
                    deviation[o, i] = value
                    factor = 1.0 / (value * (B - 1)) if value > 0.0 else 0.0
                    for m in range(M - 1):
                        gradient[o, i, m] = of_rows[order + m, o] * factor
                    gradient[o, i, M - 1] = of_rows[rows.shape[0] - 1, o] * factor

    return Entry(fill, reassociate=True)


@cache
def pull_back(order: int, real: Any) -> Entry:
    """``fill(x, base, knots, weight, scale, middle, sizes, of_x, of_base, B, I, O, T, first, stop)``: gradients of samples.

    ``scale (O, I)`` is the incoming gradient over deviation and ``B - 1``. Where ``base`` is 0, so is ``of_base``.

    The gradient with respect to ``phi_b`` is ``scale (phi_b - mu)``, and both ``phi`` and its slope are linear in the run's
    coefficients: summed over outputs, ``form = sum_o scale (v_0 - mu, u) u^T`` is all that a sample meets.
    """
    D, stamp = order + 1, STAMP

    def fill(
        x_at: int,
        base_at: int,
        knots_at: int,
        weight_at: int,
        scale_at: int,
        middle_at: int,
        sizes_at: int,
        of_x_at: int,
        of_base_at: int,
        B: int,
        I: int,
        O: int,
        T: int,
        first: int,
        stop: int,
    ) -> None:
        assert stamp
        silu = base_at == 0
        x, base = carray(at(x_at, real(0)), (B, I)), carray(at(x_at if silu else base_at, real(0)), (B, I))
        knots, weight = carray(at(knots_at, real(0)), (I, T)), carray(at(weight_at, real(0)), (O, I, T - order))
        scale, middle, sizes = (
            carray(at(scale_at, real(0)), (O, I)),
            carray(at(middle_at, 0.0), (I, O)),
            carray(at(sizes_at, 0.0), (I, T)),
        )
        of_x, of_base = carray(at(of_x_at, real(0)), (B, I)), carray(at(of_x_at if silu else of_base_at, real(0)), (B, I))
        size = min(B, CHUNK)
        counts, places, starts, sorted_x, sorted_base, values, _ = _scratch(size, T, order)
        slopes = np.empty((D, RUN))
        xs, bases = np.empty((COLUMNS, size), real), np.empty((COLUMNS, size), real)
        # A run is written in whole vectors: what is too much is overwritten by the next one.
        of_sorted_x, of_sorted_base, of_samples = np.empty(size + LANES), np.empty(size + LANES), np.empty(size)
        rows, u = np.zeros((T + order, O)), np.empty((D, O))
        forms = np.empty((T, D, D + 1))
        scaled, factors, rest = np.empty(O), np.empty(O), np.empty(O)
        for left in range(first, stop, COLUMNS):
            width = min(COLUMNS, stop - left)
            for top in range(0, B, size):
                n = min(size, B - top)
                bases_of(x, base, silu, top, left, width, n, xs, bases)
                for c in range(width):
                    i = left + c
                    knot = knots[i]
                    _rows_of(weight, i, order, rows)
                    origin, mu = _origin(rows, sizes[i], T), middle[i]
                    for o in range(O):
                        factors[o] = scale[o, i]
                    for run in range(T):
                        if sizes[i, run] > 0:
                            _coefficients(rows, run, T, order, u)
                            start_row = rows[_first_row(run, T)]
                            for o in range(O):
                                rest[o] = start_row[o] - origin[o] - mu[o]
                            for a in range(D):
                                u_a = u[a]
                                for o in range(O):
                                    scaled[o] = factors[o] * u_a[o]
                                total = 0.0
                                for o in range(O):
                                    total += scaled[o] * rest[o]
                                forms[run, a, D] = total
                                for e in range(D):
                                    u_e, total = u[e], 0.0
                                    for o in range(O):
                                        total += scaled[o] * u_e[o]
                                    forms[run, a, e] = total
                    sort_into_runs(xs[c][:n], knot, counts, starts, places)
                    scatter_to(places, xs[c][:n], sorted_x)
                    scatter_to(places, bases[c][:n], sorted_base)
                    for run in range(T):
                        form = forms[run]
                        for start in range(starts[run], starts[run + 1], RUN):
                            end = min(start + RUN, starts[run + 1])
                            m = end - start
                            run_bases(sorted_x[start:end], knot, run, order, values, slopes)
                            values[D, :m] = sorted_base[start:end]
                            contract(order, form, values, slopes, m, of_sorted_x[start:], of_sorted_base[start:])
                    for b in range(n):
                        of_samples[b] = of_sorted_x[places[b]]
                        bases[c, b] = of_sorted_base[places[b]]
                    if silu:
                        through_silu(xs[c][:n], of_samples, bases[c][:n])
                    xs[c][:n] = of_samples[:n]
                into_columns(xs, top, left, width, n, of_x)
                if not silu:
                    into_columns(bases, top, left, width, n, of_base)

    return Entry(fill, reassociate=True)
