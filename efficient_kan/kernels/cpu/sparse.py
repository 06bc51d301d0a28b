"""The product with the ``k + 1`` bases of each sample that are not zero, and no others.

Shape legend: ``B`` samples, ``I`` inputs, ``O`` outputs, ``T`` knots of an input, ``k`` the spline order, ``M = G + k + 1``
features per input. Weights are ``(I, M, O)``, so that the row of every feature is one run of memory.

Loops go over groups of inputs and panels of samples. The samples of a panel are turned over, so that an input's lie side by
side, and sorted by their cells; then each tile of outputs takes the inputs of the group one after the other, cell by cell. Rows
of outputs, or of their gradients, are copied for that unless they are just a tile: they need not be whole vectors, and rows a
power of two apart would share few places of a cache. See :mod:`efficient_kan.kernels.cpu.polynomials`.

What is kept of each input of a group: ``runs``, how many cells have samples and, for each, its number, where its samples start
and how many they are; ``rows``, the numbers of the samples in the order of their cells; ``terms (k + 2, panel + APART)``, of
each of those the powers 1 to k of its place ``s`` in the cell, its base activation and the slope of that.
"""

from __future__ import annotations

from functools import cache, reduce
from typing import Any

import numpy as np
import torch
from numba import literally
from torch import Tensor

from efficient_kan.kernels.cpu import threads
from efficient_kan.kernels.cpu.activation import sigmoid
from efficient_kan.kernels.cpu.basis import first_basis, locate_run, row_length
from efficient_kan.kernels.cpu.compiled import REAL, STAMP, Entry, addresses, aligned_zeros, apart, at, inlined, moved, stored
from efficient_kan.kernels.cpu.polynomials import WIDTH, add_run, copy_rows, empty_rows, powers, pull_run, sum_run
from efficient_kan.kernels.cpu.sorting import count_cells, place_rows
from efficient_kan.kernels.cpu.transpose import APART, turned
from efficient_kan.kernels.cpu.vectors import VECTOR_BYTES

_PANEL_BYTES = 2**11  # of the samples of an input that are sorted together: what is kept of a group stays in a core's own cache
_GROUP = 16  # inputs that a tile of outputs takes after each other
_LEAST = 256  # samples that are worth a thread while there are inputs to share

_length = inlined(row_length)  # the same in compiled code


@inlined
def _tile(outputs: int, lanes: int) -> int:
    return min(max(-(-outputs // lanes), 1), WIDTH) * lanes


@inlined
def _kept(group: int, panel: int, count: int, order: int, real: Any) -> tuple[Any, Any, Any]:
    """Memory for the runs, rows and terms of a group."""
    stride = panel + APART
    runs = np.empty((group, 1 + 3 * min(count + 1, panel)), np.int64)
    return runs, np.empty((group, stride), np.int32), np.empty((group, (order + 2) * stride), real)


@inlined
def _room(group: int, panel: int, count: int, real: Any) -> tuple[Any, Any, Any, Any]:
    """Memory to work in: samples of a group in columns; of one input, in order, their cells, and where those start."""
    stride = panel + APART
    columns, column = np.empty((group, stride), real), np.empty(stride, real)
    return columns, column, np.empty(stride, np.int32), np.empty(2 * count + 2, np.int32)


@inlined
def _sort(cells: Any, samples: int, count: int, starts: Any, runs: Any, rows: Any) -> None:
    """Numbers of samples in the order of their cells, and the runs of those of one."""
    count_cells(cells, samples, count, starts)
    total, number = np.int32(0), 0
    for cell in range(count + 1):
        of_first, of_second = starts[cell], starts[cell + count + 1]
        starts[cell], starts[cell + count + 1] = total, total + of_first
        some = of_first + of_second
        if some > 0:
            runs[3 * number + 1], runs[3 * number + 2], runs[3 * number + 3] = cell, total, some
            number += 1
        total += some
    runs[0] = number
    place_rows(cells, samples, count, starts, rows)


@apart
def _fill(
    x: Any, base_at: int, knots_at: int, table_at: int, samples: int, inputs: int, count: int, order: int, stride: int,
    column: Any, cells: Any, starts: Any, runs: Any, rows: Any, terms: Any, size: int, zero: Any,
) -> None:  # fmt: skip
    """What is kept of an input, whose samples ``x`` lie side by side; its base activations start at ``base_at``, if given."""
    length, one = _length(order), type(zero)(1)
    locate_run(x, at(knots_at, zero), count, samples, cells)
    _sort(cells, samples, count, starts, runs, rows)
    for b in range(samples):
        column[b] = x[rows[b]]
    for n in range(runs[0]):
        cell, start, some = runs[3 * n + 1], runs[3 * n + 2], runs[3 * n + 3]
        if cell == 0 or cell == count:  # outside, where the samples may be infinite
            for power in range(order):
                for b in range(start, start + some):
                    terms[power * stride + b] = zero
        else:
            row = at(table_at + cell * length * size, zero)
            powers(moved(column, start), some, row, moved(terms, start), stride, literally(order))
    active, rise = moved(terms, order * stride), moved(terms, (order + 1) * stride)
    if base_at:
        base = at(base_at, zero)
        for b in range(samples):
            active[b], rise[b] = base[rows[b] * inputs], zero
    else:
        for b in range(samples):
            share = sigmoid(column[b])
            active[b] = column[b] * share
            rise[b] = share * (one + column[b] * (one - share))


@inlined
def _fill_group(
    x_at: int, base_at: int, knots_at: int, table_at: int, samples: int, inputs: int, width: int, count: int, order: int,
    stride: int, columns: Any, column: Any, cells: Any, starts: Any, runs: Any, rows: Any, terms: Any, size: int, zero: Any,
) -> None:  # fmt: skip
    """What is kept of ``width`` inputs, whose samples are turned over to ``columns``. All but addresses are arrays."""
    length, none, lanes = _length(order), np.int32(0), VECTOR_BYTES // size
    turned(at(x_at, zero), inputs, at(columns.ctypes.data, zero), stride, samples, width, lanes)
    for n in range(width):
        _fill(
            at(columns.ctypes.data + n * stride * size, zero), base_at + n * size if base_at else 0,
            knots_at + n * count * size, table_at + n * (count + 1) * length * size, samples, inputs, count, order, stride,
            at(column.ctypes.data, zero), cells, starts, at(runs[n].ctypes.data, 0), at(rows[n].ctypes.data, none),
            at(terms[n].ctypes.data, zero), size, zero,
        )  # fmt: skip


@apart
def _add_outputs(
    y: Any, y_stride: int, runs: Any, rows: Any, terms: Any, terms_stride: int, table_at: int, weights: Any, features: int,
    stride: int, count: int, order: int, wide: int, size: int, zero: Any,
) -> None:  # fmt: skip
    """Add to rows of outputs what an input gives a tile of ``wide`` of them."""
    length, last = _length(order), moved(weights, (features - 1) * stride)
    active = moved(terms, order * terms_stride)
    for n in range(runs[0]):
        cell, start, some = runs[3 * n + 1], runs[3 * n + 2], runs[3 * n + 3]
        row, of_cell = at(table_at + cell * length * size, zero), moved(weights, first_basis(cell, count, order) * stride)
        add_run(
            y, moved(rows, start), moved(terms, start), moved(active, start), some, row, of_cell, last, stride, y_stride,
            literally(order), wide,
        )  # fmt: skip


@apart
def _add_gradients(
    g: Any, g_stride: int, runs: Any, rows: Any, terms: Any, terms_stride: int, table_at: int, weights: Any, of_weights: Any,
    of_base: Any, of_x: Any, needs_x: bool, needs_weights: bool, features: int, stride: int, count: int, order: int,
    wide: int, size: int, zero: Any,
) -> None:  # fmt: skip
    """Add what a tile of ``wide`` outputs gives to the gradients of an input's samples, in their cells' order, and weights.

    ``of_base`` is a row of zeros, where all cells' sums are added up first: else each would be rounded to the whole sum.
    """
    length, last = _length(order), (features - 1) * stride
    active, rise = moved(terms, order * terms_stride), moved(terms, (order + 1) * terms_stride)
    for n in range(runs[0]):
        cell, start, some = runs[3 * n + 1], runs[3 * n + 2], runs[3 * n + 3]
        row, first = at(table_at + cell * length * size, zero), first_basis(cell, count, order) * stride
        samples, s = moved(rows, start), moved(terms, start)
        if needs_x:
            pull_run(
                g, samples, s, moved(rise, start), some, row, moved(weights, first), moved(weights, last), stride, g_stride,
                moved(of_x, start), literally(order), wide,
            )  # fmt: skip
        if needs_weights:
            sum_run(
                g, samples, s, terms_stride, moved(active, start), some, row, moved(of_weights, first),
                of_base, stride, g_stride, literally(order), wide,
            )  # fmt: skip
    if needs_weights:
        empty_rows(of_base, g_stride, moved(of_weights, last), stride, 1, wide)


@cache
def _multiply(order: int, real: Any) -> Entry:
    """Outputs of some of ``sample_parts`` by ``input_parts``; each part of the inputs has a y ``(B, O)``."""
    length, size, stamp = row_length(order), np.dtype(real).itemsize, STAMP
    lanes = VECTOR_BYTES // size

    def multiply(
        x_at: int, base_at: int, knots_at: int, table_at: int, weight_at: int, y_at: int,
        batch: int, inputs: int, count: int, outputs: int, panel: int, sample_parts: int, input_parts: int,
        start: int, stop: int,
    ) -> None:  # fmt: skip
        assert stamp
        features, zero, none, stride = count - order, real(0), np.int32(0), panel + APART
        row_size, tile, group = (count + 1) * length * size, _tile(outputs, lanes), max(1, min(_GROUP, inputs))
        runs, rows, terms = _kept(group, panel, count, order, real)
        columns, column, cells, starts = _room(group, panel, count, real)
        sums = aligned_zeros(panel * tile, real)
        for part in range(start, stop):
            of_samples, of_inputs = part // input_parts, part % input_parts
            first, end = batch * of_samples // sample_parts, batch * (of_samples + 1) // sample_parts
            first_input, end_input = inputs * of_inputs // input_parts, inputs * (of_inputs + 1) // input_parts
            for sample in range(first, end, panel):
                samples = min(panel, end - sample)
                y = at(y_at + (of_inputs * batch + sample) * outputs * size, zero)
                for n in range(samples * outputs):
                    y[n] = zero
                for i in range(first_input, end_input, group):
                    width, place = min(group, end_input - i), sample * inputs + i
                    _fill_group(
                        x_at + place * size, base_at + place * size if base_at else 0, knots_at + i * count * size,
                        table_at + i * row_size, samples, inputs, width, count, order, stride, columns, column, cells, starts,
                        runs, rows, terms, size, zero,
                    )  # fmt: skip
                    for o in range(0, outputs, tile):
                        wide, whole = min(tile, outputs - o), outputs == tile
                        for n in range(width):
                            _add_outputs(
                                y if whole else at(sums.ctypes.data, zero), tile,
                                at(runs[n].ctypes.data, 0), at(rows[n].ctypes.data, none), at(terms[n].ctypes.data, zero),
                                stride, table_at + (i + n) * row_size,
                                at(weight_at + ((i + n) * features * outputs + o) * size, zero), features, outputs, count,
                                order, wide, size, zero,
                            )  # fmt: skip
                        if not whole:
                            empty_rows(at(sums.ctypes.data, zero), tile, moved(y, o), outputs, samples, wide)

    return Entry(multiply)


@cache
def _pull_back(order: int, real: Any) -> Entry:
    """The gradients of samples and weights for some of ``sample_parts`` by ``input_parts``; each unless its address is 0.

    Each part of the samples has its gradient of the weights.
    """
    length, size, stamp = row_length(order), np.dtype(real).itemsize, STAMP
    lanes = VECTOR_BYTES // size

    def pull_back(
        x_at: int, base_at: int, knots_at: int, table_at: int, weight_at: int, g_at: int, of_x_at: int, of_weight_at: int,
        batch: int, inputs: int, count: int, outputs: int, panel: int, sample_parts: int, input_parts: int,
        start: int, stop: int,
    ) -> None:  # fmt: skip
        assert stamp
        features, zero, none, stride = count - order, real(0), np.int32(0), panel + APART
        row_size, tile, group = (count + 1) * length * size, _tile(outputs, lanes), max(1, min(_GROUP, inputs))
        runs, rows, terms = _kept(group, panel, count, order, real)
        columns, column, cells, starts = _room(group, panel, count, real)
        of_base = aligned_zeros(tile, real)
        copied, pulled, block = aligned_zeros(panel * tile, real), np.empty((group, stride), real), features * outputs
        for part in range(start, stop):
            of_samples, of_inputs = part // input_parts, part % input_parts
            first, end = batch * of_samples // sample_parts, batch * (of_samples + 1) // sample_parts
            first_input, end_input = inputs * of_inputs // input_parts, inputs * (of_inputs + 1) // input_parts
            for i in range(first_input, end_input, group):
                width, of_weights_at = min(group, end_input - i), of_weight_at + (of_samples * inputs + i) * block * size
                of_weights = at(of_weights_at, zero)
                for n in range(width * block if of_weight_at else 0):
                    of_weights[n] = zero
                for sample in range(first, end, panel):
                    samples, place = min(panel, end - sample), sample * inputs + i
                    _fill_group(
                        x_at + place * size, base_at + place * size if base_at else 0, knots_at + i * count * size,
                        table_at + i * row_size, samples, inputs, width, count, order, stride, columns, column, cells, starts,
                        runs, rows, terms, size, zero,
                    )  # fmt: skip
                    pulled[:width, :samples] = zero
                    for o in range(0, outputs, tile):
                        wide, g = min(tile, outputs - o), at(g_at + (sample * outputs + o) * size, zero)
                        if outputs != tile:
                            copy_rows(g, outputs, at(copied.ctypes.data, zero), tile, samples, wide)
                            g = at(copied.ctypes.data, zero)
                        for n in range(width):
                            _add_gradients(
                                g, tile, at(runs[n].ctypes.data, 0), at(rows[n].ctypes.data, none),
                                at(terms[n].ctypes.data, zero), stride, table_at + (i + n) * row_size,
                                at(weight_at + ((i + n) * block + o) * size, zero),
                                at(of_weights_at + (n * block + o) * size, zero), at(of_base.ctypes.data, zero),
                                at(pulled[n].ctypes.data, zero), of_x_at != 0, of_weight_at != 0, features, outputs, count,
                                order, wide, size, zero,
                            )  # fmt: skip
                    if of_x_at:
                        for n in range(width):
                            for b in range(samples):
                                columns[n, np.uint64(rows[n, b])] = pulled[n, b]
                        turned(
                            at(columns.ctypes.data, zero), stride, at(of_x_at + place * size, zero), inputs, width, samples,
                            lanes,
                        )  # fmt: skip

    return Entry(pull_back)


def _panel(x: Tensor) -> int:
    return max(1, min(_PANEL_BYTES // x.element_size(), x.shape[0]))


def across(weight: Tensor) -> Tensor:
    """Weights ``(O, I, M)`` as ``(I, M, O)``; the very same where they lie so in memory."""
    return weight.permute(1, 2, 0).contiguous()


def multiply(x: Tensor, base: Tensor | None, knots: Tensor, table: Tensor, weight: Tensor, order: int) -> Tensor:
    """``features(x) @ weight`` ``(B, O)``, for weights ``(I, M, O)``."""
    (batch, inputs), outputs, size = x.shape, weight.shape[2], torch.get_num_threads()
    of_samples = min(size, max(1, batch // _LEAST))
    of_inputs = max(1, min(size // of_samples, inputs))
    y = x.new_empty((of_inputs * batch, outputs))
    if stored(y):
        places = addresses(x, base, knots, table, weight, y)
        numbers = (batch, *knots.shape, outputs, _panel(x), of_samples, of_inputs)
        threads.run(_multiply(order, REAL[x.dtype]), of_samples * of_inputs, *places, *numbers)
    return y if of_inputs == 1 else reduce(torch.add, y.view(of_inputs, batch, outputs).unbind())


def pull_back(
    x: Tensor, base: Tensor | None, knots: Tensor, table: Tensor, weight: Tensor | None, g: Tensor, order: int, needs_x: bool,
    needs_weight: bool,
) -> tuple[Tensor | None, Tensor | None]:  # fmt: skip
    """The gradients of ``x``, its way through SiLU included unless there is a base, and of the weights ``(I, M, O)``.

    ``g`` is that of the outputs, ``(B, O)``; that of the weights alone needs no weights.
    """
    (batch, inputs), outputs, size = x.shape, g.shape[1], torch.get_num_threads()
    of_inputs = max(1, min(size, inputs))
    of_samples = min(size // of_inputs, max(1, batch // _LEAST))
    of_x = torch.empty_like(x) if needs_x else None
    shape = of_samples, inputs, knots.shape[1] - order, outputs
    of_weight = x.new_empty(shape) if needs_weight else None
    if stored(g) and (needs_x or needs_weight):
        places = addresses(x, base, knots, table, weight, g, of_x, of_weight)
        numbers = (batch, *knots.shape, outputs, _panel(x), of_samples, of_inputs)
        threads.run(_pull_back(order, REAL[x.dtype]), of_samples * of_inputs, *places, *numbers)
    if of_weight is not None:
        of_weight = of_weight[0] if of_samples == 1 else of_weight.sum(0)
    return of_x, of_weight
