"""Mean absolute values of all edges and their gradients, by one pass over samples, inputs and outputs each.

Shape legend: ``B`` samples, ``I`` inputs, ``O`` outputs, ``M = G + k + 1`` features, ``T = G + 2k + 1`` knots, ``W`` lanes.

``sum_b |phi_oi| = v_oi . g_oi`` with ``g_oi = sum_b sign(phi_oi) Phi_i``, which is also the gradient with respect to ``v_oi``.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import carray

from efficient_kan.kernels.cpu.compiled import STAMP, Entry, at, summing
from efficient_kan.kernels.cpu.lanes import lanes, pull, signs
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

# Bytes of float64 sums that live at a time.
_SUMS = 2**20


@summing
def _sizes(weight: Any, across: int) -> Any:
    """Outputs and features of a weight as in :func:`sums`."""
    return (weight.shape[2], weight.shape[1]) if across else (weight.shape[0], weight.shape[2])


@summing
def _row(m: int, M: int, order: int, rows: int) -> Any:
    """Where feature ``m`` of ``M`` is among ``rows`` as in :func:`_load_vectors`."""
    return order + m if m < M - 1 else rows - 1


@summing
def _load_vectors(weight: Any, across: int, i: int, order: int, vectors: Any) -> None:
    """Weights of an input as ``(tiles, rows, W)``: ``k`` zero rows, the ``G + k`` bases, ``k`` zero rows, the base activation.

    ``weight`` is as in :func:`sums`.
    """
    tiles, rows, W = vectors.shape
    O, M = _sizes(weight, across)
    for tile in range(tiles):
        first, of_tile = tile * W, vectors[tile]
        width = min(W, O - first)
        if across:
            for m in range(M):
                from_row, to_row = weight[i, m], of_tile[_row(m, M, order, rows)]
                for lane in range(width):
                    to_row[lane] = from_row[first + lane]
        else:
            for lane in range(width):
                from_row = weight[first + lane, i]
                for m in range(M):
                    of_tile[_row(m, M, order, rows), lane] = from_row[m]


@summing
def _write_means(totals: Any, order: int, across: int, i: int, B: int, weight: Any, norms: Any, gradient: Any) -> None:
    """The inverse of :func:`_load_vectors`, over ``B`` samples, and the norms that follow."""
    tiles, rows, W = totals.shape
    O, M = _sizes(weight, across)
    for tile in range(tiles):
        first, of_tile = tile * W, totals[tile]
        width = min(W, O - first)
        if across:
            for m in range(M):
                from_row, to_row = of_tile[_row(m, M, order, rows)], gradient[i, m]
                for lane in range(width):
                    to_row[first + lane] = from_row[lane] / B
        for lane in range(width):
            o, norm = first + lane, 0.0
            for m in range(M):
                total = of_tile[_row(m, M, order, rows), lane]
                norm += total * (weight[i, m, o] if across else weight[o, i, m])
                if not across:
                    gradient[o, i, m] = total / B
            norms[o, i] = (0.0 if norm < 0.0 else norm) / B


@cache
def sums(order: int, real: Any) -> Entry:
    """``sum_signs(x, base, knots, weight, norms, gradient, B, I, O, T, across, first, stop)``.

    Addresses, sizes, and a part of the inputs, for which it fills ``norms (O, I)`` and ``gradient``, the means over samples
    of ``|phi|`` and of ``sign(phi) Phi``. ``weight`` and ``gradient`` are ``(O, I, M)`` or, if ``across`` is 1, ``(I, M, O)``.
    A ``base`` of 0 is SiLU.
    """
    F, W, stamp = order + 2, lanes(8 * np.dtype(real).itemsize), STAMP

    def sum_signs(
        x_at: int,
        base_at: int,
        knots_at: int,
        weight_at: int,
        norms_at: int,
        gradient_at: int,
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
        norms, gradient = carray(at(norms_at, real(0)), (O, I)), carray(at(gradient_at, real(0)), shape)
        tiles, rows = (O + W - 1) // W, T + order
        columns = max(1, min(COLUMNS, _SUMS // (8 * tiles * rows * W)))
        size = min(B, CHUNK)
        xs, bases = np.empty((columns, size + APART), real), np.empty((columns, size + APART), real)
        counts, places, starts = np.empty(size, np.int32), np.empty(size, np.int32), np.empty(T + 1, np.int32)
        heads = np.empty((PARTS, T), np.int32)
        sorted_x, sorted_base = np.empty(size, real), np.empty(size, real)
        values, no_slopes = np.empty((F, RUN), np.float64), np.empty((0, RUN), np.float64)
        features, part = np.empty((F, RUN), real), np.empty((F, W), real)
        vectors = np.zeros((tiles, rows, W), real)
        totals = np.empty((columns, tiles, rows, W), np.float64)
        for left in range(first, stop, columns):
            width = min(columns, stop - left)
            totals[:] = 0.0
            for top in range(0, B, size):
                n = min(size, B - top)
                samples_of(x, base, is_silu, top, left, width, n, xs, bases)
                for c in range(width):
                    i = left + c
                    _load_vectors(weight, across, i, order, vectors)
                    in_runs = counts, starts, heads, places, sorted_x, sorted_base
                    sort_samples(xs[c][:n], bases[c][:n], is_silu, knots[i], *in_runs)
                    for run in range(T):
                        row = run if run < T - 1 else 0
                        for start in range(starts[run], starts[run + 1], RUN):
                            end = min(start + RUN, starts[run + 1])
                            run_bases(sorted_x[start:end], knots[i], run, order, values, no_slopes)
                            for r in range(F - 1):
                                for b in range(end - start):
                                    features[r, b] = values[r, b]
                            for b in range(end - start):
                                features[F - 1, b] = sorted_base[start + b]
                            for tile in range(tiles):
                                part[:] = 0.0
                                signs(order, features, end - start, vectors, tile, row, part)
                                total = totals[c, tile]
                                for r in range(F):
                                    of_row = total[row + r] if r < F - 1 else total[rows - 1]
                                    for lane in range(W):
                                        of_row[lane] += part[r, lane]
            for c in range(width):
                _write_means(totals[c], order, across, left + c, B, weight, norms, gradient)

    return Entry(sum_signs, reassociate=True)


@cache
def slopes(order: int, real: Any) -> Entry:
    """``pull_back(x, base, knots, weight, scale, of_x, of_base, B, I, O, T, across, first, stop)``: gradients of samples.

    ``scale (O, I)`` is the gradient with respect to the norms over ``B``. Where ``base`` is 0, so is ``of_base``.
    """
    F, W, stamp = order + 2, lanes(8 * np.dtype(real).itemsize), STAMP

    def pull_back(
        x_at: int,
        base_at: int,
        knots_at: int,
        weight_at: int,
        scale_at: int,
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
        scale, of_x = carray(at(scale_at, real(0)), (O, I)), carray(at(of_x_at, real(0)), (B, I))
        of_base = carray(at(of_x_at if is_silu else of_base_at, real(0)), (B, I))
        tiles, rows = (O + W - 1) // W, T + order
        size = min(B, CHUNK)
        xs, bases = np.empty((COLUMNS, size + APART), real), np.empty((COLUMNS, size + APART), real)
        counts, places, starts = np.empty(size, np.int32), np.empty(size, np.int32), np.empty(T + 1, np.int32)
        heads = np.empty((PARTS, T), np.int32)
        sorted_x, sorted_base = np.empty(size, real), np.empty(size, real)
        sorted_of_x, sorted_of_base, of_samples = np.empty(size, real), np.empty(size, real), np.empty(size, real)
        values, steep = np.empty((F, RUN), np.float64), np.empty((F - 1, RUN), np.float64)
        features, derivatives = np.empty((F, RUN), real), np.empty((F - 1, RUN), real)
        vectors = np.zeros((tiles, rows, W), real)
        factors = np.zeros((tiles, W), real)
        for left in range(first, stop, COLUMNS):
            width = min(COLUMNS, stop - left)
            for top in range(0, B, size):
                n = min(size, B - top)
                samples_of(x, base, is_silu, top, left, width, n, xs, bases)
                for c in range(width):
                    i = left + c
                    _load_vectors(weight, across, i, order, vectors)
                    for o in range(O):
                        factors[o // W, o % W] = scale[o, i]
                    in_runs = counts, starts, heads, places, sorted_x, sorted_base
                    sort_samples(xs[c][:n], bases[c][:n], is_silu, knots[i], *in_runs)
                    for run in range(T):
                        row = run if run < T - 1 else 0
                        for start in range(starts[run], starts[run + 1], RUN):
                            end = min(start + RUN, starts[run + 1])
                            run_bases(sorted_x[start:end], knots[i], run, order, values, steep)
                            for r in range(F - 1):
                                for b in range(end - start):
                                    features[r, b] = values[r, b]
                                    derivatives[r, b] = steep[r, b]
                            for b in range(end - start):
                                features[F - 1, b] = sorted_base[start + b]
                            for b in range(end - start):
                                pulled = pull(order, features, derivatives, b, vectors, factors, row)
                                sorted_of_x[start + b], sorted_of_base[start + b] = pulled
                    for b in range(n):
                        of_samples[b] = sorted_of_x[places[b]]
                        bases[c, b] = sorted_of_base[places[b]]
                    if is_silu:
                        through_silu(xs[c][:n], of_samples, bases[c][:n])
                    xs[c][:n] = of_samples[:n]
                into_columns(xs, top, left, width, n, of_x)
                if not is_silu:
                    into_columns(bases, top, left, width, n, of_base)

    return Entry(pull_back, reassociate=True)
