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
    RUN,
    bases_of,
    into_columns,
    run_bases,
    scatter_to,
    sort_into_runs,
    through_silu,
)

# Bytes of float64 sums that live at a time.
_SUMS = 2**20


@summing
def _load_vectors(weight: Any, i: int, order: int, vectors: Any) -> None:
    """``weight[:, i]`` as ``(tiles, rows, W)``: ``k`` zero rows, the ``G + k`` bases, ``k`` zero rows, the base activation."""
    O, M, W = weight.shape[0], weight.shape[2], vectors.shape[2]
    for o in range(O):
        tile, lane = o // W, o % W
        for m in range(M - 1):
            vectors[tile, order + m, lane] = weight[o, i, m]
        vectors[tile, vectors.shape[1] - 1, lane] = weight[o, i, M - 1]


@cache
def sums(order: int, real: Any) -> Entry:
    """``sum_signs(x, base, knots, weight, norms, gradient, B, I, O, T, first, stop)``: addresses, sizes, a part of the inputs.

    Means over samples of ``|phi|`` and of ``sign(phi) Phi``: ``norms (O, I)`` and ``gradient (O, I, M)`` are filled for inputs
    ``first <= i < stop``. A ``base`` of 0 is SiLU.
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
        first: int,
        stop: int,
    ) -> None:
        assert stamp
        M, silu = T - order, base_at == 0
        x, base = carray(at(x_at, real(0)), (B, I)), carray(at(x_at if silu else base_at, real(0)), (B, I))
        knots, weight = carray(at(knots_at, real(0)), (I, T)), carray(at(weight_at, real(0)), (O, I, M))
        norms, gradient = carray(at(norms_at, real(0)), (O, I)), carray(at(gradient_at, real(0)), (O, I, M))
        tiles, rows = (O + W - 1) // W, T + order
        columns = max(1, min(COLUMNS, _SUMS // (8 * tiles * rows * W)))
        size = min(B, CHUNK)
        xs, bases = np.empty((columns, size), real), np.empty((columns, size), real)
        counts, places, starts = np.empty(size, np.int32), np.empty(size, np.int32), np.empty(T + 1, np.int32)
        sorted_x, sorted_base = np.empty(size, np.float64), np.empty(size, real)
        values, no_slopes = np.empty((F, RUN), np.float64), np.empty((0, RUN), np.float64)
        features, part = np.empty((F, RUN), real), np.empty((F, W), real)
        vectors = np.zeros((tiles, rows, W), real)
        totals = np.empty((columns, tiles, rows, W), np.float64)
        for left in range(first, stop, columns):
            width = min(columns, stop - left)
            totals[:] = 0.0
            for top in range(0, B, size):
                n = min(size, B - top)
                bases_of(x, base, silu, top, left, width, n, xs, bases)
                for c in range(width):
                    i = left + c
                    _load_vectors(weight, i, order, vectors)
                    sort_into_runs(xs[c][:n], knots[i], counts, starts, places)
                    scatter_to(places, xs[c][:n], sorted_x)
                    scatter_to(places, bases[c][:n], sorted_base)
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
                for o in range(O):
                    tile, lane = o // W, o % W
                    norm = 0.0
                    for m in range(M):
                        norm += totals[c, tile, order + m if m < M - 1 else rows - 1, lane] * weight[o, left + c, m]
                    norms[o, left + c] = (0.0 if norm < 0.0 else norm) / B
                    for m in range(M):
                        gradient[o, left + c, m] = totals[c, tile, order + m if m < M - 1 else rows - 1, lane] / B

    return Entry(sum_signs, reassociate=True)


@cache
def slopes(order: int, real: Any) -> Entry:
    """``pull_back(x, base, knots, weight, scale, of_x, of_base, B, I, O, T, first, stop)``: gradients of samples.

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
        first: int,
        stop: int,
    ) -> None:
        assert stamp
        silu = base_at == 0
        x, base = carray(at(x_at, real(0)), (B, I)), carray(at(x_at if silu else base_at, real(0)), (B, I))
        knots, weight = carray(at(knots_at, real(0)), (I, T)), carray(at(weight_at, real(0)), (O, I, T - order))
        scale, of_x = carray(at(scale_at, real(0)), (O, I)), carray(at(of_x_at, real(0)), (B, I))
        of_base = carray(at(of_x_at if silu else of_base_at, real(0)), (B, I))
        tiles, rows = (O + W - 1) // W, T + order
        size = min(B, CHUNK)
        xs, bases = np.empty((COLUMNS, size), real), np.empty((COLUMNS, size), real)
        counts, places, starts = np.empty(size, np.int32), np.empty(size, np.int32), np.empty(T + 1, np.int32)
        sorted_x, sorted_base = np.empty(size, np.float64), np.empty(size, real)
        sorted_of_x, sorted_of_base, of_samples = np.empty(size, real), np.empty(size, real), np.empty(size, real)
        values, steep = np.empty((F, RUN), np.float64), np.empty((F - 1, RUN), np.float64)
        features, derivatives = np.empty((F, RUN), real), np.empty((F - 1, RUN), real)
        vectors = np.zeros((tiles, rows, W), real)
        factors = np.zeros((tiles, W), real)
        for left in range(first, stop, COLUMNS):
            width = min(COLUMNS, stop - left)
            for top in range(0, B, size):
                n = min(size, B - top)
                bases_of(x, base, silu, top, left, width, n, xs, bases)
                for c in range(width):
                    i = left + c
                    _load_vectors(weight, i, order, vectors)
                    for o in range(O):
                        factors[o // W, o % W] = scale[o, i]
                    sort_into_runs(xs[c][:n], knots[i], counts, starts, places)
                    scatter_to(places, xs[c][:n], sorted_x)
                    scatter_to(places, bases[c][:n], sorted_base)
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
                    if silu:
                        through_silu(xs[c][:n], of_samples, bases[c][:n])
                    xs[c][:n] = of_samples[:n]
                into_columns(xs, top, left, width, n, of_x)
                if not silu:
                    into_columns(bases, top, left, width, n, of_base)

    return Entry(pull_back, reassociate=True)
