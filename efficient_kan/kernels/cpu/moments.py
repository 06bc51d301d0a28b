r"""Standard deviations of all edges and their gradients, from moments of the features that are non-zero together.

Shape legend: ``B`` samples, ``I`` inputs, ``O`` outputs, ``M = G + k + 1`` features, ``T = G + 2k + 1`` knots, ``D = k + 1``.

Inside run ``j`` (see :mod:`efficient_kan.kernels.cpu.runs`) an edge is ``phi = v_0 + u . f``: ``v_0`` the coefficient of the
run's first basis, ``f (D,)`` its other ``k`` bases and the base activation, ``u`` their coefficients, those of bases less
``v_0``, since the bases add up to one. With ``m_j`` and ``C_j`` mean and scatter matrix of ``f`` over the ``n_j`` samples,

.. math::
    \sum_b (\phi_b - \mu)^2 = \sum_j u_j^T C_j u_j + n_j (\mu_j - \mu)^2, \qquad \mu_j = v_{0j} + u_j^T m_j.

Moments are summed up of the powers of ``s``, the place in the run's interval, which are centred first; those of ``f`` follow,
since bases are polynomials in ``s``. No constant enters a square, neither of an edge nor of a feature, so nothing cancels; sums
are in float64, because rounding errors of a covariance can exceed a small variance. Nothing grows with the square of ``M``.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import carray

from efficient_kan.kernels.cpu.compiled import STAMP, Entry, at, summing
from efficient_kan.kernels.cpu.lanes import add_mean, add_square, block_moments, contract, lanes
from efficient_kan.kernels.cpu.runs import (
    CHUNK,
    COLUMNS,
    PARTS,
    RUN,
    into_columns,
    run_bases,
    samples_of,
    sort_samples,
    through_silu,
)
from efficient_kan.kernels.cpu.transpose import APART

LANES = lanes(64)
# Bytes of coefficients and their gradients that live at a time: what a core's own cache holds.
_ROWS = 2**19


@summing
def _merge(n: int, block_mean: Any, block_scatter: Any, size: Any, mean: Any, scatter: Any) -> None:
    """Add the moments of ``n`` samples to those of ``size`` samples (Chan et al. 1979)."""
    D, total, at = mean.shape[0], size + n, 0
    for a in range(D):
        for c in range(a + 1):
            shifts = (block_mean[a] - mean[a]) * (block_mean[c] - mean[c])
            scatter[at] += block_scatter[at] + shifts * (size * n / total)
            at += 1
    for a in range(D):
        mean[a] += (block_mean[a] - mean[a]) * (n / total)


@summing
def _cell(knots: Any, run: int) -> Any:
    """Middle and scale of a run's interval, where ``s = (x - middle) scale`` is in [-1/2, 1/2); scale 0 without bases."""
    if run == knots.shape[0] - 1:
        return 0.0, 0.0
    left, right = np.float64(knots[run]), np.float64(knots[run + 1])
    return left + (right - left) / 2, 1.0 / (right - left)


@summing
def _polynomials(knots: Any, run: int, order: int, values: Any, carried: Any) -> None:
    """``values[r, p]``: the coefficient of ``s**p`` in basis ``r`` of a run, as in `runs.run_bases` with ``carried (D,)``."""
    last, (middle, scale) = knots.shape[0] - 1, _cell(knots, run)
    width = 1.0 / scale
    values[:] = 0.0
    values[0, 0] = 1.0
    for p in range(1, order + 1):
        carried[:] = 0.0
        for r in range(p):
            left = np.float64(knots[max(run + 1 - p + r, 0)])
            right = np.float64(knots[min(run + 1 + r, last)])
            row, inverse = values[r], 1.0 / (right - left)
            below = 0.0
            for q in range(p + 1):
                ratio = row[q] * inverse
                row[q] = carried[q] + (right - middle) * ratio - width * below
                carried[q] = (middle - left) * ratio + width * below
                below = ratio
        values[p] = carried


@summing
def _to_bases(knots: Any, run: int, order: int, mean: Any, scatter: Any, room: Any) -> None:
    """Turn moments of powers of ``s`` and of the base activation into those of ``f``, in place."""
    if run == knots.shape[0] - 1:
        return
    values, carried, along = room
    _polynomials(knots, run, order, values, carried)
    D = order + 1
    for r in range(order):
        total = values[r + 1, 0]
        for p in range(order):
            total += values[r + 1, p + 1] * mean[p]
        carried[r] = total
        for c in range(D):
            total = 0.0
            for p in range(order):
                total += values[r + 1, p + 1] * scatter[max(p, c) * (max(p, c) + 1) // 2 + min(p, c)]
            along[r, c] = total
    at = 0
    for r in range(order):
        mean[r] = carried[r]
        for q in range(r + 1):
            total = 0.0
            for p in range(order):
                total += values[q + 1, p + 1] * along[r, p]
            scatter[at] = total
            at += 1
    for r in range(order):
        scatter[at + r] = along[r, order]


@summing
def _rows_of(weight: Any, across: int, left: int, columns: int, order: int, rows: Any) -> None:
    """Weights of ``columns`` inputs from ``left`` on as ``(columns, rows, >= O)`` in float64.

    Rows are ``k`` of zeros, the bases, ``k`` of zeros, the base activation. ``weight`` is as in :func:`deviations`.
    """
    (O, I, M), (_, R, stride) = weight.shape, rows.shape
    if across:
        I, M, O = weight.shape
        for c in range(columns):
            of_input, to_rows = weight[left + c], rows[c]
            for m in range(M):
                from_row, to_row = of_input[m], to_rows[order + m if m < M - 1 else R - 1]
                for o in range(O):
                    to_row[o] = from_row[o]
        return
    source, target = weight.ravel(), rows.ravel()
    for o in range(O):
        for c in range(columns):
            begin, place = np.uint64((o * I + left + c) * M), np.uint64((c * R + order) * stride + o)
            for m in range(M - 1):
                target[place + np.uint64(m * stride)] = source[begin + np.uint64(m)]
            target[np.uint64((c * R + R - 1) * stride + o)] = source[begin + np.uint64(M - 1)]


@summing
def _write_gradient(of_rows: Any, factors: Any, across: int, left: int, columns: int, order: int, gradient: Any) -> None:
    """The inverse of :func:`_rows_of`, times ``factors (columns, >= O)``."""
    (O, I, M), (_, R, stride) = gradient.shape, of_rows.shape
    if across:
        I, M, O = gradient.shape
        for c in range(columns):
            of_input, from_rows, factor_of = gradient[left + c], of_rows[c], factors[c]
            for m in range(M):
                from_row, to_row = from_rows[order + m if m < M - 1 else R - 1], of_input[m]
                for o in range(O):
                    to_row[o] = from_row[o] * factor_of[o]
        return
    source, target = of_rows.ravel(), gradient.ravel()
    for o in range(O):
        for c in range(columns):
            begin, place = np.uint64((o * I + left + c) * M), np.uint64((c * R + order) * stride + o)
            factor = factors[c, o]
            for m in range(M - 1):
                target[begin + np.uint64(m)] = source[place + np.uint64(m * stride)] * factor
            target[begin + np.uint64(M - 1)] = source[np.uint64((c * R + R - 1) * stride + o)] * factor


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


@summing
def _roots(square: Any, divisor: int, roots: Any, factors: Any) -> None:
    """Deviations, and what turns half the gradient of the sum of squares into theirs."""
    for o in range(square.shape[0]):
        value = np.sqrt(0.0 if square[o] < 0.0 else square[o] / divisor)
        roots[o] = value
        factors[o] = 1.0 / (value * divisor) if value > 0.0 else 0.0


@cache
def deviations(order: int, real: Any) -> Entry:
    """``fill(x, base, knots, weight, deviation, middle, gradient, sizes, B, I, O, T, across, first, stop)``.

    Addresses, sizes, and a part of the inputs, for which it fills ``deviation (O, I)``, its ``gradient``, and in float64 the
    means ``middle (I, O)`` and the numbers of samples in runs ``sizes (I, T)``. ``weight`` and ``gradient`` are ``(O, I, M)``
    or, if ``across`` is 1, ``(I, M, O)``. A ``base`` of 0 is SiLU.
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
        across: int,
        first: int,
        stop: int,
    ) -> None:
        assert stamp
        M, is_silu = T - order, base_at == 0
        x, base = carray(at(x_at, real(0)), (B, I)), carray(at(x_at if is_silu else base_at, real(0)), (B, I))
        shape = (I, M, O) if across else (O, I, M)
        knots, weight = carray(at(knots_at, real(0)), (I, T)), carray(at(weight_at, real(0)), shape)
        deviation, gradient = carray(at(deviation_at, real(0)), (O, I)), carray(at(gradient_at, real(0)), shape)
        middle, sizes = carray(at(middle_at, 0.0), (I, O)), carray(at(sizes_at, 0.0), (I, T))
        means, scatters = np.empty((COLUMNS, T, D)), np.empty((COLUMNS, T, D * (D + 1) // 2))
        size = min(B, CHUNK)
        xs, bases = np.empty((COLUMNS, size + APART), real), np.empty((COLUMNS, size + APART), real)
        counts, places, starts = np.empty(size, np.int32), np.empty(size, np.int32), np.empty(T + 1, np.int32)
        heads = np.empty((PARTS, T), np.int32)
        sorted_x, sorted_base = np.empty(size + LANES, real), np.empty(size + LANES, real)
        block_mean, block_scatter = np.empty(D), np.empty(D * (D + 1) // 2)
        room = np.empty((D, D)), np.empty(D), np.empty((order, D))
        P = (O + LANES - 1) // LANES * LANES
        # Between rows a vector is left free: rows a power of two apart would share few lines of the cache.
        columns = max(1, min(COLUMNS, _ROWS // (16 * (T + order) * (P + LANES))))
        rows, of_rows = np.zeros((columns, T + order, P + LANES)), np.empty((columns, T + order, P + LANES))
        square, mu, roots, factors = np.empty(P), np.empty(P), np.empty((columns, P)), np.empty((columns, P))
        for left in range(first, stop, COLUMNS):
            width = min(COLUMNS, stop - left)
            sizes[left : left + width] = 0.0
            means[:] = 0.0
            scatters[:] = 0.0
            for top in range(0, B, size):
                n = min(size, B - top)
                samples_of(x, base, is_silu, top, left, width, n, xs, bases)
                for c in range(width):
                    of_size = sizes[left + c]
                    in_runs = counts, starts, heads, places, sorted_x, sorted_base
                    sort_samples(xs[c][:n], bases[c][:n], is_silu, knots[left + c], *in_runs)
                    for run in range(T):
                        if starts[run + 1] > starts[run]:
                            centre, scale = _cell(knots[left + c], run)
                            begin, number = starts[run], starts[run + 1] - starts[run]
                            block_moments(order, sorted_x, sorted_base, begin, number, centre, scale, block_mean, block_scatter)
                            _merge(number, block_mean, block_scatter, of_size[run], means[c, run], scatters[c, run])
                            of_size[run] += number
            for begin in range(0, width, columns):
                count = min(columns, width - begin)
                _rows_of(weight, across, left + begin, count, order, rows)
                for group in range(count):
                    c, i = begin + group, left + begin + group
                    own, of_own = rows[group], of_rows[group]
                    origin = _origin(own, sizes[i], T)
                    mu[:] = 0.0
                    for run in range(T):
                        if sizes[i, run] > 0:
                            _to_bases(knots[i], run, order, means[c, run], scatters[c, run], room)
                            add_mean(order, own, _first_row(run, T), origin, means[c, run], sizes[i, run] / B, mu)
                    middle[i] = mu[:O]
                    of_own[:] = 0.0
                    square[:] = 0.0
                    for run in range(T):
                        if sizes[i, run] > 0:
                            row, of_run, number = _first_row(run, T), scatters[c, run], sizes[i, run]
                            add_square(order, own, row, origin, means[c, run], of_run, number, mu, square, of_own)
                    _roots(square, B - 1, roots[group], factors[group])
                for o in range(O):
                    for group in range(count):
                        deviation[o, left + begin + group] = roots[group, o]
                _write_gradient(of_rows, factors, across, left + begin, count, order, gradient)

    return Entry(fill, reassociate=True)


@cache
def pull_back(order: int, real: Any) -> Entry:
    """``fill(x, base, knots, weight, scale, middle, sizes, of_x, of_base, B, I, O, T, across, first, stop)``.

    Gradients of samples. ``scale (O, I)`` is the incoming gradient over deviation and ``B - 1``. Where ``base`` is 0, so is
    ``of_base``. ``weight`` is as in :func:`deviations`.

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
        across: int,
        first: int,
        stop: int,
    ) -> None:
        assert stamp
        is_silu = base_at == 0
        x, base = carray(at(x_at, real(0)), (B, I)), carray(at(x_at if is_silu else base_at, real(0)), (B, I))
        M = T - order
        shape = (I, M, O) if across else (O, I, M)
        knots, weight = carray(at(knots_at, real(0)), (I, T)), carray(at(weight_at, real(0)), shape)
        scale, middle, sizes = (
            carray(at(scale_at, real(0)), (O, I)),
            carray(at(middle_at, 0.0), (I, O)),
            carray(at(sizes_at, 0.0), (I, T)),
        )
        of_x, of_base = carray(at(of_x_at, real(0)), (B, I)), carray(at(of_x_at if is_silu else of_base_at, real(0)), (B, I))
        size = min(B, CHUNK)
        counts, places, starts = np.empty(size, np.int32), np.empty(size, np.int32), np.empty(T + 1, np.int32)
        heads = np.empty((PARTS, T), np.int32)
        sorted_x, sorted_base = np.empty(size, real), np.empty(size, real)
        values, slopes = np.empty((order + 2, RUN)), np.empty((D, RUN))
        xs, bases = np.empty((COLUMNS, size + APART), real), np.empty((COLUMNS, size + APART), real)
        # A run is written in whole vectors: what is too much is overwritten by the next one.
        of_sorted_x, of_sorted_base, of_samples = np.empty(size + LANES), np.empty(size + LANES), np.empty(size)
        all_rows, u = np.zeros((1, T + order, O)), np.empty((D, O))
        rows = all_rows[0]
        forms = np.empty((T, D, D + 1))
        scaled, factors, rest = np.empty(O), np.empty(O), np.empty(O)
        for left in range(first, stop, COLUMNS):
            width = min(COLUMNS, stop - left)
            for top in range(0, B, size):
                n = min(size, B - top)
                samples_of(x, base, is_silu, top, left, width, n, xs, bases)
                for c in range(width):
                    i = left + c
                    knot = knots[i]
                    _rows_of(weight, across, i, 1, order, all_rows)
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
                    in_runs = counts, starts, heads, places, sorted_x, sorted_base
                    sort_samples(xs[c][:n], bases[c][:n], is_silu, knot, *in_runs)
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
                    if is_silu:
                        through_silu(xs[c][:n], of_samples, bases[c][:n])
                    xs[c][:n] = of_samples[:n]
                into_columns(xs, top, left, width, n, of_x)
                if not is_silu:
                    into_columns(bases, top, left, width, n, of_base)

    return Entry(fill, reassociate=True)
