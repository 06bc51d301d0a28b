"""Mean absolute values of all edges and their gradients, by one pass over samples, inputs and outputs each.

Shape legend: ``B`` samples, ``I`` inputs, ``O`` outputs, ``M = G + k + 1`` features, ``T = G + 2k + 1`` knots, ``W`` lanes.

``sum_b |phi_oi| = v_oi . g_oi`` with ``g_oi = sum_b sign(phi_oi) Phi_i``, which is also the gradient with respect to ``v_oi``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from efficient_kan.kernels.cpu.compiled import STAMP, compiled, summing
from efficient_kan.kernels.cpu.lanes import pull, signs
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
def sums(order: int, W: int, stamp: int = STAMP) -> Callable[..., None]:
    """``sum_signs(x, base, silu, knots, weight, norms, gradient, first, stop)``.

    Means over samples of ``|phi|`` and of ``sign(phi) Phi``; ``W`` is the number of lanes of the weights' dtype.

    ``norms (O, I)`` and ``gradient (O, I, M)`` are filled for inputs ``first <= i < stop``.
    """
    F = order + 2

    def sum_signs(
        x: Any, base: Any, silu: bool, knots: Any, weight: Any, norms: Any, gradient: Any, first: int, stop: int
    ) -> None:
        assert stamp
        B, (O, _, M), T = x.shape[0], weight.shape, knots.shape[1]
        tiles, rows = (O + W - 1) // W, T + order
        columns = max(1, min(COLUMNS, _SUMS // (8 * tiles * rows * W)))
        size = min(B, CHUNK)
        xs, bases = np.empty((columns, size), x.dtype), np.empty((columns, size), x.dtype)
        counts, places, starts = np.empty(size, np.int32), np.empty(size, np.int32), np.empty(T + 1, np.int32)
        sorted_x, sorted_base = np.empty(size, np.float64), np.empty(size, x.dtype)
        values, no_slopes = np.empty((F, RUN), np.float64), np.empty((0, RUN), np.float64)
        features, part = np.empty((F, RUN), weight.dtype), np.empty((F, W), weight.dtype)
        vectors = np.zeros((tiles, rows, W), weight.dtype)
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
                        at = run if run < T - 1 else 0
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
                                signs(order, features, end - start, vectors, tile, at, part)
                                total = totals[c, tile]
                                for r in range(F):
                                    row = total[at + r] if r < F - 1 else total[rows - 1]
                                    for lane in range(W):
                                        row[lane] += part[r, lane]
            for c in range(width):
                for o in range(O):
                    tile, lane = o // W, o % W
                    norm = 0.0
                    for m in range(M):
                        norm += totals[c, tile, order + m if m < M - 1 else rows - 1, lane] * weight[o, left + c, m]
                    norms[o, left + c] = (0.0 if norm < 0.0 else norm) / B
                    for m in range(M):
                        gradient[o, left + c, m] = totals[c, tile, order + m if m < M - 1 else rows - 1, lane] / B

    return compiled(sum_signs, reassociate=True)


@cache
def slopes(order: int, W: int, stamp: int = STAMP) -> Callable[..., None]:
    """``pull_back(x, base, silu, knots, weight, scale, of_x, of_base, first, stop)``: gradients with respect to samples.

    ``scale (O, I)`` is the gradient with respect to the norms over ``B``.
    """
    F = order + 2

    def pull_back(
        x: Any,
        base: Any,
        silu: bool,
        knots: Any,
        weight: Any,
        scale: Any,
        of_x: Any,
        of_base: Any,
        first: int,
        stop: int,
    ) -> None:
        assert stamp
        B, O, T = x.shape[0], weight.shape[0], knots.shape[1]
        tiles, rows = (O + W - 1) // W, T + order
        size = min(B, CHUNK)
        xs, bases = np.empty((COLUMNS, size), x.dtype), np.empty((COLUMNS, size), x.dtype)
        counts, places, starts = np.empty(size, np.int32), np.empty(size, np.int32), np.empty(T + 1, np.int32)
        sorted_x, sorted_base = np.empty(size, np.float64), np.empty(size, x.dtype)
        sorted_of_x, sorted_of_base, of_samples = np.empty(size, x.dtype), np.empty(size, x.dtype), np.empty(size, x.dtype)
        values, steep = np.empty((F, RUN), np.float64), np.empty((F - 1, RUN), np.float64)
        features, derivatives = np.empty((F, RUN), weight.dtype), np.empty((F - 1, RUN), weight.dtype)
        vectors = np.zeros((tiles, rows, W), weight.dtype)
        factors = np.zeros((tiles, W), weight.dtype)
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
                        at = run if run < T - 1 else 0
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
                                pulled = pull(order, features, derivatives, b, vectors, factors, at)
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

    return compiled(pull_back, reassociate=True)
