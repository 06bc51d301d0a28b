"""The product with the ``k + 1`` bases of each sample that are not zero, sample by sample, for layers of few samples or edges.

Shape legend: ``B`` samples, ``I`` inputs, ``O`` outputs, ``T`` knots of an input, ``k`` the spline order, ``N = T - k - 1``.

Loops go over groups of inputs, whose weights are transposed once, outputs-last; panels of ``PANEL`` samples; inputs; and
tiles of outputs. Nothing is sorted: each sample reads the ``k + 1`` rows of weights of its bases (`sample_loops`), which are in
the nearest cache while grids are not fine, and its gradient is added to the same rows of gradients. So there is little to do
before and after, but weights are read for each sample where `by_span` keeps polynomials in registers.

The pass forward also takes from the values of edges what a penalty needs of them, ``statistics``; backward,
`penalties.of_layer` has put there what it adds to their gradients.

Operations: ``2 B I O (k + 2)`` forward, twice as many backward, one and a half times as many again with a penalty of samples.
Bytes: the parameters once forward, twice backward, their gradients once.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
from numba import literally

from efficient_kan.kernels.cpu.codegen.jit import (
    LINE_BYTES,
    STAMP,
    at,
    function_of,
    inlined,
    moved,
    noinline,
    reader,
    size_of,
    summing,
)
from efficient_kan.kernels.cpu.codegen.simd import VECTOR_BYTES
from efficient_kan.kernels.cpu.common.silu import sigmoid
from efficient_kan.kernels.cpu.common.spans import locate
from efficient_kan.kernels.cpu.common.transpose import APART, transpose
from efficient_kan.kernels.cpu.penalties.value_loops import add_absolute, column_moments
from efficient_kan.kernels.cpu.products.sample_loops import (
    TILE,
    Edges,
    Gradients,
    Samples,
    Sparse,
    add_samples,
    fill_rows,
    local_bases,
    pull_samples,
    sum_rows,
)

PANEL = 128  # samples whose bases and outputs stay in the nearest cache
_ROW = PANEL + APART  # numbers between rows of them
_GROUP_BYTES = 2**17  # of the weights of a group: half of the smallest second caches


class Layer(NamedTuple):
    """Addresses, 0 for what is not there; sizes; and where things are in scratch memory, in bytes."""

    x: int  # (B, I)
    y: int  # (B, O), or the gradient of that
    grid: int  # (I, T)
    guide: int  # see common.spans
    table: int
    coefficients: int  # (O, I, N)
    scaler: int  # (O, I)
    mask: int
    base: int
    bias: int  # (O,)
    of_x: int
    of_coefficients: int
    of_scaler: int
    of_base: int
    of_bias: int
    of_loss: int  # gradient of the penalty, one number
    statistics: int  # float64; see `Statistics`
    kind: int  # what a penalty takes of edges' values: 0 nothing, 1 their absolute values, 2 their deviations
    room: int
    batch: int
    inputs: int
    outputs: int
    knots: int
    group: int
    stride: int  # outputs in whole vectors
    weights: int  # (group N, stride), scaled; less the origins where deviations are taken
    raw: int  # the same without scales
    bases: int  # (group, stride)
    scales: int
    origins: int
    of_weights: int  # (group N, stride)
    of_bases: int  # (group, stride)
    start: int  # (stride,): what outputs start from, or the sums of their gradients
    marks: int  # (stride,)
    sums: int  # (PANEL, stride): outputs, or their gradients
    columns: int  # (group, _ROW): samples, transposed
    pulled: int  # the same of gradients
    phi: int  # (PANEL, tile)
    factors: int  # (3, tile)
    parts: int  # (2, N, tile): of their gradients
    moments: int  # (2, tile) of float64
    samples: int  # of one input; see `_samples`


_read = reader(Layer)
_RECORD = 8 * len(Layer._fields)
_PLACES = len(Layer._fields) - Layer._fields.index("weights")


@lru_cache(maxsize=1024)
def layout(batch: int, inputs: int, outputs: int, knots: int, order: int, size: int) -> tuple[tuple[int, ...], int]:
    """The fields of :class:`Layer` from ``batch`` on, and the bytes of scratch memory."""
    lanes = VECTOR_BYTES // size
    stride, tile, count = -(-outputs // lanes) * lanes, TILE * lanes, knots - order - 1
    group = max(1, min(inputs, _GROUP_BYTES // (3 * count * stride * size)))
    rows = group * stride * size
    lengths = (
        rows * count, rows * count, rows, rows, rows, rows * count, rows, stride * size, stride * size, PANEL * stride * size,
        group * _ROW * size, group * _ROW * size, PANEL * tile * size, 3 * tile * size, 2 * count * tile * size, 2 * tile * 8,
        _ROW * ((2 * (order + 1) + 4) * size + 8),
    )  # fmt: skip
    places, total = [], 0
    for length in lengths:
        places.append(total)
        total += -(-length // LINE_BYTES) * LINE_BYTES
    assert len(places) == _PLACES
    return (batch, inputs, outputs, knots, group, stride, *places), total + LINE_BYTES


def fitting(cache: int, size: int) -> tuple[int, int]:
    """The most coefficients of an edge and outputs of a layer for which the nearest cache holds what samples meet.

    Of a tile these are an input's weights and two parts of their gradients, in a fifth of the cache; and a panel's outputs.
    """
    return cache // (5 * 3 * TILE * VECTOR_BYTES), cache // (PANEL * size)


class Statistics(NamedTuple):
    """Pointers to what a penalty takes of the values of an input's edges, and what it makes of them; rows of ``stride``."""

    mean: Any  # of the values, less the origins
    square: Any  # sum of the squares of the differences, or of the absolute values; then the factor of the gradient
    of_x: Any  # mean and sum of the squares of samples; then mean and factor


def statistics_length(inputs: int, stride: int) -> int:
    """Numbers of float64 of a layer: :class:`Statistics` of each input, and room for two rows."""
    return inputs * (2 * stride + 2) + 2 * stride


@inlined
def statistics(place: int, stride: int, i: int) -> Any:
    """Of input ``i``."""
    first = at(place + i * (2 * stride + 2) * 8, 0.0)
    return Statistics(first, moved(first, stride), moved(first, 2 * stride))


@inlined
def _samples(room: int, order: int, zero: Any) -> Any:
    spans = at(room, np.int32(0))
    bases = at(room + 2 * _ROW * 4, zero)
    slopes = moved(bases, _ROW * (order + 1))
    active = moved(slopes, _ROW * (order + 1))
    rise, lack = moved(active, _ROW), moved(active, 2 * _ROW)
    return Samples(spans, moved(spans, _ROW), bases, slopes, active, rise, lack, moved(active, 3 * _ROW))


@noinline
def _fold(job_at: int, room: int, i: int, width: int, order: int, zero: Any) -> None:
    """Weights of ``width`` inputs from ``i`` on, and what outputs start from."""
    job, size, one = _read(job_at), size_of(zero), type(zero)(1)
    I, O, stride, N = job.inputs, job.outputs, job.stride, job.knots - order - 1
    raw, weights, start = at(room + job.raw, zero), at(room + job.weights, zero), at(room + job.start, zero)
    transpose(at(job.coefficients + i * N * size, zero), I * N, raw, stride, O, width * N, VECTOR_BYTES // size)
    for row in range(width * N):
        for o in range(O, stride):
            raw[row * stride + o] = zero
    scaler, mask, base, bias = at(job.scaler, zero), at(job.mask, zero), at(job.base, zero), at(job.bias, zero)
    for o in range(stride):
        start[o] = bias[o] if (job.bias != 0) & (i == 0) & (o < O) else zero
    for n in range(width):
        scales, bases = at(room + job.scales + n * stride * size, zero), at(room + job.bases + n * stride * size, zero)
        origins = at(room + job.origins + n * stride * size, zero)
        for o in range(O):
            edge = o * I + i + n
            scales[o] = mask[edge] * (scaler[edge] if job.scaler else one)
            bases[o] = mask[edge] * base[edge]
        for o in range(O, stride):
            scales[o], bases[o] = zero, zero
        middle = moved(raw, (n * N + N // 2) * stride)
        for o in range(stride):
            origins[o] = middle[o] if job.kind == 2 else zero
        for m in range(N):
            of, to = moved(raw, (n * N + m) * stride), moved(weights, (n * N + m) * stride)
            for o in range(stride):
                to[o] = (of[o] - origins[o]) * scales[o]
        for o in range(stride):
            origins[o] *= scales[o]
            start[o] += origins[o]


@noinline
def _fill(job_at: int, room: int, i: int, x: Any, n: int, needs_slopes: int, order: int, zero: Any) -> None:
    """What the product takes of ``n`` samples of input ``i``."""
    job, size, of, one = _read(job_at), size_of(zero), _samples(room, order, zero), type(zero)(1)
    T, table = job.knots, at(job.table + i * (job.knots + 1) * (2 + (order + 1) * (order + 1)) * size, zero)
    guide = at(job.guide + i * (3 + 2 * T) * size, zero)
    locate(x, at(job.grid + i * T * size, zero), guide, T, n, of.spans)
    local_bases(x, n, table, T, of, needs_slopes, literally(order))
    if needs_slopes:
        for b in range(n):
            share = sigmoid(x[b])
            of.active[b] = x[b] * share
            of.rise[b] = share * (one + x[b] * (one - share))
    else:
        for b in range(n):
            of.active[b] = x[b] * sigmoid(x[b])
    for b in range(n if job.kind else 0):
        of.lack[b], of.lack_slope[b] = zero, zero
        if not order < of.spans[b] < T - order:
            of.lack[b] = -one
            for r in range(order + 1):
                of.lack[b] += of.bases[b * (order + 1) + r]
                if needs_slopes:
                    of.lack_slope[b] += of.slopes[b * (order + 1) + r]


@inlined
def _edges(job_at: int, room: int, i: int, o: int, order: int, zero: Any) -> Any:
    """Of input ``i`` of the group and the tile from output ``o`` on."""
    job, size = _read(job_at), size_of(zero)
    place, N = (i * job.stride + o) * size, job.knots - order - 1
    rows = at(room + job.weights + (i * N * job.stride + o) * size, zero)
    return Edges(rows, at(room + job.bases + place, zero), at(room + job.origins + place, zero), job.stride)


@summing
def _difference(x: Any, n: int, origin: float) -> float:
    total = 0.0
    for b in range(n):
        total += np.float64(x[b]) - origin
    return total


@summing
def _squares(x: Any, n: int, mean: float) -> float:
    total = 0.0
    for b in range(n):
        away = np.float64(x[b]) - mean
        total += away * away
    return total


@inlined
def _merge(mean: Any, square: Any, place: int, done: int, n: int, of_mean: float, of_square: float) -> None:
    """Add ``n`` samples to ``done`` ones (Chan et al. 1979)."""
    away = of_mean - mean[place]
    square[place] += of_square + away * away * (np.float64(done) * np.float64(n) / np.float64(done + n))
    mean[place] += away * (np.float64(n) / np.float64(done + n))


@noinline
def _observe(job_at: int, room: int, i: int, o: int, outputs: int, done: int, n: int, zero: Any) -> None:
    """Add the values of edges, ``n`` samples after ``done`` ones, to the statistics of input ``i``."""
    job = _read(job_at)
    of, tile, phi = statistics(job.statistics, job.stride, i), TILE * VECTOR_BYTES // size_of(zero), at(room + job.phi, zero)
    if job.kind == 1:
        add_absolute(phi, tile, n, outputs, moved(of.square, o))
    else:
        means = at(room + job.moments, 0.0)
        squares = moved(means, tile)
        column_moments(phi, tile, n, outputs, means, squares)
        for c in range(outputs):
            _merge(of.mean, of.square, o + c, done, n, means[c], squares[c])


@noinline
def _observe_samples(job_at: int, i: int, x: Any, done: int, n: int) -> None:
    """The same of samples of input ``i``."""
    job = _read(job_at)
    of = statistics(job.statistics, job.stride, i).of_x
    origin = np.float64(x[0])
    mean = origin + _difference(x, n, origin) / n
    _merge(of, moved(of, 1), 0, done, n, mean, _squares(x, n, mean))


@cache
def forward(order: int, real: Any) -> Any:
    """``forward(jobs, count)``: outputs of so many layers and, where a penalty needs them, statistics of their edges."""
    size, stamp = np.dtype(real).itemsize, STAMP
    lanes = VECTOR_BYTES // size

    def multiply(jobs_at: int, count: int) -> None:
        assert stamp
        for number in range(count):
            job_at = jobs_at + number * _RECORD
            job, zero = _read(job_at), real(0)
            I, O, stride, tile, room = job.inputs, job.outputs, job.stride, TILE * lanes, job.room
            sums, start, columns = at(room + job.sums, zero), at(room + job.start, zero), at(room + job.columns, zero)
            for n in range(I * (2 * stride + 2) if job.kind else 0):
                at(job.statistics, 0.0)[n] = 0.0
            for i in range(0, I, job.group):
                width = min(job.group, I - i)
                _fold(job_at, room, i, width, order, zero)
                for sample in range(0, job.batch, PANEL):
                    samples = min(PANEL, job.batch - sample)
                    y = at(job.y + sample * O * size, zero)
                    fill_rows(sums, stride, samples, start)
                    transpose(at(job.x + (sample * I + i) * size, zero), I, columns, _ROW, samples, width, lanes)
                    for n in range(width):
                        x = moved(columns, n * _ROW)
                        _fill(job_at, room + job.samples, i + n, x, samples, 0, order, zero)
                        if job.kind == 2:
                            _observe_samples(job_at, i + n, x, sample, samples)
                        for o in range(0, stride, tile):
                            some = min(tile, stride - o)
                            add_samples(
                                _samples(room + job.samples, order, zero), samples, _edges(job_at, room, n, o, order, zero),
                                moved(sums, o), at(room + job.phi, zero), job.kind, literally(order), some // lanes,
                            )  # fmt: skip
                            if job.kind:
                                _observe(job_at, room, i + n, o, some, sample, samples, zero)
                    _write(y, sums, stride, samples, O, i)

    return function_of(multiply, 2)


@noinline
def _write(y: Any, sums: Any, stride: int, samples: int, outputs: int, i: int) -> None:
    """Outputs of a panel, of the first inputs or in addition."""
    for o in range(outputs):  # most often fewer than samples
        if i:
            for b in range(samples):
                y[b * outputs + o] += sums[b * stride + o]
        else:
            for b in range(samples):
                y[b * outputs + o] = sums[b * stride + o]


@noinline
def _unfold(job_at: int, room: int, i: int, width: int, order: int, zero: Any) -> None:
    """From the gradients of weights of a group to those of parameters."""
    job, size = _read(job_at), size_of(zero)
    I, O, stride, N = job.inputs, job.outputs, job.stride, job.knots - order - 1
    raw, of_weights, mask = at(room + job.raw, zero), at(room + job.of_weights, zero), at(job.mask, zero)
    for n in range(width):
        place = n * stride * size
        scales, of_bases = at(room + job.scales + place, zero), at(room + job.of_bases + place, zero)
        totals = at(room + job.bases + place, zero)
        for o in range(stride):
            totals[o] = zero
        for m in range(N):
            of, values = moved(of_weights, (n * N + m) * stride), moved(raw, (n * N + m) * stride)
            for o in range(stride):
                totals[o] += of[o] * values[o]
                of[o] *= scales[o]
        for o in range(O):
            edge = o * I + i + n
            at(job.of_base, zero)[edge] = of_bases[o] * mask[edge]
            if job.of_scaler:
                at(job.of_scaler, zero)[edge] = totals[o] * mask[edge]
    target = at(job.of_coefficients + i * N * size, zero)
    transpose(of_weights, stride, target, I * N, width * N, O, VECTOR_BYTES // size)


@noinline
def _take(job_at: int, room: int, sample: int, samples: int, i: int, zero: Any) -> None:
    """The gradients of a panel's outputs, with zeros in the last vector, what they add to that of the bias, and marks.

    Marks are NaN where a gradient is not finite: weights of bases that are zero get that, too, as in a product with zeros.
    """
    job, size = _read(job_at), size_of(zero)
    O, stride, sums = job.outputs, job.stride, at(room + job.sums, zero)
    g = at(job.y + sample * O * size, zero)
    for o in range(O):
        for b in range(samples):
            sums[b * stride + o] = g[b * O + o]
    for o in range(O, stride):
        for b in range(samples):
            sums[b * stride + o] = zero
    totals = at(room + job.start, zero)
    sum_rows(sums, stride, samples, totals, at(room + job.marks, zero))
    if (job.of_bias != 0) & (i == 0):
        of_bias = at(job.of_bias, zero)
        for o in range(O):
            of_bias[o] = totals[o] + (of_bias[o] if sample else zero)


@noinline
def _add_gradients(job_at: int, room: int, i: int, n: int, samples: int, needs_x: int, order: int, zero: Any) -> None:
    """Add what a panel's samples of input ``i``, ``n`` of the group, give to the gradients of its weights and samples."""
    job, size, real = _read(job_at), size_of(zero), type(zero)
    stride, N, lanes = job.stride, job.knots - order - 1, VECTOR_BYTES // size_of(zero)
    tile, needs_weights = TILE * lanes, 1 if job.of_coefficients else 0
    factors, parts, marks = at(room + job.factors, zero), at(room + job.parts, zero), at(room + job.marks, zero)
    for o in range(0, stride, tile):
        some = min(tile, stride - o)
        if job.kind:
            of, weight = statistics(job.statistics, stride, i), np.float64(at(job.of_loss, zero)[0])
            for c in range(some):
                factor, mean = of.square[o + c] * weight, real(of.mean[o + c])
                factors[c], factors[tile + c] = real(factor), mean
                factors[2 * tile + c] = real(factor * (np.float64(mean) - of.mean[o + c]))
        place = (n * stride + o) * size
        pulled, of_base = at(room + job.pulled + n * _ROW * size, zero), at(room + job.of_bases + place, zero)
        of_y, of_rows = moved(at(room + job.sums, zero), o), at(room + job.of_weights + (n * N * stride + o) * size, zero)
        pull_samples(
            _samples(room + job.samples, order, zero), samples, _edges(job_at, room, n, o, order, zero),
            Gradients(of_y, pulled, of_rows, of_base, parts, moved(marks, o), N, needs_x, needs_weights),
            Sparse(factors, moved(factors, tile), moved(factors, 2 * tile), job.kind), literally(order), some // lanes,
        )  # fmt: skip


@cache
def backward(order: int, real: Any) -> Any:
    """``backward(jobs, count)``: gradients of layers' parameters and samples, each unless its address is 0."""
    size, stamp = np.dtype(real).itemsize, STAMP
    lanes = VECTOR_BYTES // size

    def pull_back(jobs_at: int, count: int) -> None:
        assert stamp
        for number in range(count):
            job_at = jobs_at + number * _RECORD
            job, zero = _read(job_at), real(0)
            I, O, stride, room, N = job.inputs, job.outputs, job.stride, job.room, job.knots - order - 1
            columns, pulled = at(room + job.columns, zero), at(room + job.pulled, zero)
            needs_x = 1 if job.of_x else 0
            for o in range(O if job.of_bias else 0):
                at(job.of_bias, zero)[o] = zero
            for i in range(0, I, job.group):
                width = min(job.group, I - i)
                _fold(job_at, room, i, width, order, zero)
                of_weights, of_bases = at(room + job.of_weights, zero), at(room + job.of_bases, zero)
                for n in range(width * N * stride):
                    of_weights[n] = zero
                for n in range(width * stride):
                    of_bases[n] = zero
                for sample in range(0, job.batch, PANEL):
                    samples = min(PANEL, job.batch - sample)
                    _take(job_at, room, sample, samples, i, zero)
                    transpose(at(job.x + (sample * I + i) * size, zero), I, columns, _ROW, samples, width, lanes)
                    for n in range(width):
                        x, of_x = moved(columns, n * _ROW), moved(pulled, n * _ROW)
                        _fill(job_at, room + job.samples, i + n, x, samples, needs_x, order, zero)
                        factor, mean, shift = zero, zero, zero
                        if job.kind == 2:
                            of = statistics(job.statistics, stride, i + n).of_x
                            exact, mean = of[1] * np.float64(at(job.of_loss, zero)[0]), real(of[0])
                            factor, shift = real(exact), real(exact * (np.float64(mean) - of[0]))
                        for b in range(samples):
                            of_x[b] = factor * (x[b] - mean) + shift
                        _add_gradients(job_at, room, i + n, n, samples, needs_x, order, zero)
                    if needs_x:
                        target = at(job.of_x + (sample * I + i) * size, zero)
                        transpose(pulled, _ROW, target, I, width, samples, lanes)
                if job.of_coefficients:
                    _unfold(job_at, room, i, width, order, zero)

    return function_of(pull_back, 2)
