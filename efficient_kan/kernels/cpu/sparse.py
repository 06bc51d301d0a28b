"""The product with the ``k + 1`` bases of each sample that are not zero, and no others.

Shape legend: ``B`` samples, ``I`` inputs, ``O`` outputs, ``S`` outputs rounded up to whole vectors, ``T`` knots of an input,
``k`` the spline order, ``M = G + k + 1`` features per input, ``E = k + 2`` terms of a sample and an input: its ``k + 1`` bases
and its base activation. Weights are ``(I, M, S)``, so that the row of every feature is one run of memory.

All loops go over panels of samples and inputs, a few dozen where their terms and weights fit the nearest cache: first terms of
the panel, then tiles of outputs that fit the registers. See :mod:`efficient_kan.kernels.cpu.vectors`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import literally
from torch import Tensor

from efficient_kan.kernels.cpu import threads
from efficient_kan.kernels.cpu.activation import sigmoid
from efficient_kan.kernels.cpu.basis import first_basis, local, locate_run, row_length, slopes, values
from efficient_kan.kernels.cpu.compiled import REAL, STAMP, Entry, addresses, aligned_zeros, apart, at, inlined, stored
from efficient_kan.kernels.cpu.vectors import TILE, VECTOR_BYTES, combine, contract, spread, whole_vectors

_PANEL = 64  # samples of a panel of many inputs
_LONGEST = 1024  # samples of a panel of one input
_CACHE = 2**14  # bytes of weights of a panel
_MOST = 16  # inputs of a panel
_PARTS = 8  # panels whose gradients are summed up before they are added to those of the others
_SUMMED = 64  # features of an input up to which that is done


@inlined
def _panel_inputs(features: int, stride: int, inputs: int, lanes: int, size: int) -> int:
    row = min(stride, TILE * lanes) * size * features
    return min(max(_CACHE // row, 1), min(_MOST, inputs))


@inlined
def _panel_samples(features: int, stride: int, lanes: int, size: int) -> int:
    """The more samples, the larger the weights of an input, which are fetched from further away once for each panel."""
    row = min(stride, TILE * lanes) * size * features
    return min(max(row // _CACHE, 1) * _PANEL, _LONGEST)


@inlined
def _fill(
    x_at: int,
    base_at: int,
    knots_at: int,
    table_at: int,
    inputs: int,
    count: int,
    stride: int,
    samples: int,
    width: int,
    order: int,
    derivative: bool,
    column: Any,
    cells: Any,
    active: Any,
    offsets: Any,
    terms_at: int,
    size: int,
    zero: Any,
) -> None:
    """A panel's terms: values, or derivatives with respect to x, and where their rows of weights start."""
    k = literally(order)
    features, terms, length, one = count - order, order + 2, 2 + (order + 1) * (order + 1), type(zero)(1)
    for n in range(width):
        x = at(x_at + n * size, zero)
        for b in range(samples):
            column[b] = x[b * inputs]
        locate_run(column, at(knots_at + n * count * size, zero), count, samples, cells)
        if base_at:
            base = at(base_at + n * size, zero)
            for b in range(samples):
                active[b] = zero if derivative else base[b * inputs]
        else:
            for b in range(samples):
                share = sigmoid(column[b])
                active[b] = share * (one + column[b] * (one - share)) if derivative else column[b] * share
        rows_at, place = table_at + n * (count + 1) * length * size, terms_at + n * terms * size
        for b in range(samples):
            cell: Any = np.int64(cells[b])
            row = at(rows_at + cell * (length * size), zero)
            s = local(column[b], cell, row, count)
            if derivative:
                slopes(s, row, k, at(place, zero))
            else:
                values(s, row, k, at(place, zero))
            at(place, zero)[k + 1] = active[b]
            offsets[b * width + n] = (n * features + first_basis(cell, count, k)) * stride
            place += width * terms * size


@apart
def _add_outputs(
    y_at: int, weights: Any, offsets_at: int, terms_at: int, samples: int, width: int, features: int, stride: int,
    terms: int, vectors: int, size: int, zero: Any,
) -> None:  # fmt: skip
    """Add to rows of outputs what a panel's inputs give a tile of them."""
    for p in range(samples):
        y, offsets = at(y_at + p * stride * size, zero), at(offsets_at + p * width * 8, 0)
        of = at(terms_at + p * width * terms * size, zero)
        combine(y, weights, offsets, of, width, features, stride, terms, vectors)


@apart
def _add_traces(
    g_at: int, weights: Any, offsets_at: int, terms_at: int, of_x_at: int, samples: int, width: int, inputs: int,
    features: int, stride: int, terms: int, vectors: int, size: int, zero: Any,
) -> None:  # fmt: skip
    """Add to the gradients of a panel's samples what a tile of outputs gives them."""
    for p in range(samples):
        g, of_x = at(g_at + p * stride * size, zero), at(of_x_at + p * inputs * size, zero)
        offsets, of = at(offsets_at + p * width * 8, 0), at(terms_at + p * width * terms * size, zero)
        contract(g, weights, offsets, of, width, features, stride, of_x, terms, vectors)


@cache
def _multiply(order: int, real: Any) -> Entry:
    """``y += features @ weights`` for rows ``start..stop`` of ``y`` ``(B, S)``."""
    terms, length, size, stamp = order + 2, row_length(order), np.dtype(real).itemsize, STAMP
    lanes = VECTOR_BYTES // size

    def multiply(
        x_at: int, base_at: int, knots_at: int, table_at: int, weight_at: int, y_at: int,
        inputs: int, count: int, stride: int, start: int, stop: int,
    ) -> None:  # fmt: skip
        assert stamp
        features, zero = count - order, real(0)
        most, panel = _panel_inputs(features, stride, inputs, lanes, size), _panel_samples(features, stride, lanes, size)
        offsets, found = np.empty(panel * most, np.int64), np.empty(panel * most * terms, real)
        column, cells, active = np.empty(panel, real), np.empty(panel, np.int32), np.empty(panel, real)
        for sample in range(start, stop, panel):
            found_at = found.ctypes.data
            samples = min(panel, stop - sample)
            for n in range(0, inputs, most):
                width = min(most, inputs - n)
                base_panel = base_at + (sample * inputs + n) * size if base_at else 0
                _fill(
                    x_at + (sample * inputs + n) * size, base_panel, knots_at + n * count * size,
                    table_at + n * (count + 1) * length * size, inputs, count, stride, samples, width, order, False,
                    column, cells, active, offsets, found_at, size, zero,
                )  # fmt: skip
                for o in range(0, stride, TILE * lanes):
                    weights = at(weight_at + (n * features * stride + o) * size, zero)
                    vectors = min(TILE, (stride - o) // lanes)
                    _add_outputs(
                        y_at + (sample * stride + o) * size, weights, offsets.ctypes.data, found_at, samples, width,
                        features, stride, terms, vectors, size, zero,
                    )  # fmt: skip

    return Entry(multiply)


@cache
def _weigh(order: int, real: Any) -> Entry:
    """The gradient of the weights of inputs ``start..stop``, ``of_weight += features^T g``."""
    terms, length, size, stamp = order + 2, row_length(order), np.dtype(real).itemsize, STAMP
    lanes = VECTOR_BYTES // size

    def weigh(
        x_at: int, base_at: int, knots_at: int, table_at: int, g_at: int, of_weight_at: int,
        batch: int, inputs: int, count: int, stride: int, start: int, stop: int,
    ) -> None:  # fmt: skip
        assert stamp
        features, zero = count - order, real(0)
        most, panel = _panel_inputs(features, stride, inputs, lanes, size), _PANEL
        offsets, found = np.empty(panel * most, np.int64), np.empty(panel * most * terms, real)
        column, cells, active = np.empty(panel, real), np.empty(panel, np.int32), np.empty(panel, real)
        # Sums over many samples are sums of sums: rounding errors of a long one would add up. Fine grids spread samples thinly.
        summed = features <= _SUMMED
        part = aligned_zeros(most * features * stride if summed else 0, real)
        for n in range(start, stop, most):
            width = min(most, stop - n)
            panel_at = of_weight_at + n * features * stride * size
            target_at = np.int64(part.ctypes.data) if summed else panel_at
            for sample in range(0, batch, panel):
                found_at = found.ctypes.data
                samples = min(panel, batch - sample)
                base_panel = base_at + (sample * inputs + n) * size if base_at else 0
                _fill(
                    x_at + (sample * inputs + n) * size, base_panel, knots_at + n * count * size,
                    table_at + n * (count + 1) * length * size, inputs, count, stride, samples, width, order, False,
                    column, cells, active, offsets, found_at, size, zero,
                )  # fmt: skip
                for o in range(0, stride, TILE * lanes):
                    weights = at(target_at + o * size, zero)
                    vectors = min(TILE, (stride - o) // lanes)
                    g = at(g_at + (sample * stride + o) * size, zero)
                    for i in range(width):
                        places, of = at(offsets.ctypes.data + i * 8, 0), at(found_at + i * terms * size, zero)
                        last = ((i + 1) * features - 1) * stride
                        spread(weights, g, places, of, samples, width, last, stride, stride, terms, vectors)
                if summed and ((sample // panel + 1) % _PARTS == 0 or sample + panel >= batch):
                    of_panel, of_part = at(panel_at, zero), at(target_at, zero)
                    for place in range(width * features * stride):
                        of_panel[place] += of_part[place]
                        of_part[place] = zero

    return Entry(weigh)


@cache
def _trace_back(order: int, real: Any) -> Entry:
    """The gradient of the samples (and of a given base) for rows ``start..stop`` of ``x``."""
    terms, length, size, stamp = order + 2, row_length(order), np.dtype(real).itemsize, STAMP
    lanes = VECTOR_BYTES // size

    def trace_back(
        x_at: int, base_at: int, knots_at: int, table_at: int, weight_at: int, g_at: int, of_x_at: int,
        inputs: int, count: int, stride: int, start: int, stop: int,
    ) -> None:  # fmt: skip
        assert stamp
        features, zero = count - order, real(0)
        most, panel = _panel_inputs(features, stride, inputs, lanes, size), _panel_samples(features, stride, lanes, size)
        offsets, found = np.empty(panel * most, np.int64), np.empty(panel * most * terms, real)
        column, cells, active = np.empty(panel, real), np.empty(panel, np.int32), np.empty(panel, real)
        for sample in range(start, stop, panel):
            found_at = found.ctypes.data
            samples = min(panel, stop - sample)
            for n in range(0, inputs, most):
                width = min(most, inputs - n)
                _fill(
                    x_at + (sample * inputs + n) * size, base_at, knots_at + n * count * size,
                    table_at + n * (count + 1) * length * size, inputs, count, stride, samples, width, order, True,
                    column, cells, active, offsets, found_at, size, zero,
                )  # fmt: skip
                for b in range(samples):
                    of_x = at(of_x_at + ((sample + b) * inputs + n) * size, zero)
                    for i in range(width):
                        of_x[i] = zero
                for o in range(0, stride, TILE * lanes):
                    weights = at(weight_at + (n * features * stride + o) * size, zero)
                    vectors = min(TILE, (stride - o) // lanes)
                    _add_traces(
                        g_at + (sample * stride + o) * size, weights, offsets.ctypes.data, found_at,
                        of_x_at + (sample * inputs + n) * size, samples, width, inputs, features, stride, terms, vectors,
                        size, zero,
                    )  # fmt: skip

    return Entry(trace_back)


def rows(weight: Tensor) -> Tensor:
    """Weights ``(O, I, M)`` as ``(I, M, S)``, zero beyond ``O``; the very same where they lie so in memory."""
    outputs, inputs, features = weight.shape
    lying = weight.permute(1, 2, 0)
    if lying.is_contiguous() and outputs == whole_vectors(outputs, weight.dtype):
        return lying
    result = weight.new_empty((inputs, features, whole_vectors(outputs, weight.dtype)))
    result[..., :outputs].copy_(lying)
    result[..., outputs:].zero_()
    return result


def multiply(x: Tensor, base: Tensor | None, knots: Tensor, table: Tensor, weight: Tensor, order: int, y: Tensor) -> None:
    """Write ``features(x) @ weight`` to ``y`` ``(B, S)``, for weights ``(I, M, S)``."""
    y.zero_()
    if stored(y):
        sources = addresses(x, base, knots, table, weight, y)
        sizes = (*knots.shape, y.shape[1])
        threads.run(_multiply(order, REAL[x.dtype]), x.shape[0], *sources, *sizes, least=_PANEL)


def weigh(x: Tensor, base: Tensor | None, knots: Tensor, table: Tensor, g: Tensor, order: int, of_weight: Tensor) -> None:
    """Write ``features(x)^T @ g`` for ``g`` ``(B, S)`` to ``of_weight`` ``(I, M, S)``."""
    of_weight.zero_()
    if stored(of_weight):
        sources = addresses(x, base, knots, table, g, of_weight)
        sizes = (x.shape[0], *knots.shape, g.shape[1])
        threads.run(_weigh(order, REAL[x.dtype]), x.shape[1], *sources, *sizes)


def trace_back(
    x: Tensor, has_base: bool, knots: Tensor, table: Tensor, weight: Tensor, g: Tensor, order: int, of_x: Tensor
) -> None:
    """Write the gradient of ``x`` to ``of_x``, its way through SiLU included unless there is a base."""
    if stored(of_x):
        places = (x.data_ptr(), int(has_base), knots.data_ptr(), table.data_ptr(), weight.data_ptr(), g.data_ptr())
        sizes = (*knots.shape, g.shape[1])
        threads.run(_trace_back(order, REAL[x.dtype]), x.shape[0], *places, of_x.data_ptr(), *sizes, least=_PANEL)
