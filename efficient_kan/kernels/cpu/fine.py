"""The layer of fine grids from its own parameters: one input after the other, its weights folded in the nearest caches.

Shape legend: ``B`` samples, ``I`` inputs, ``O`` outputs, ``S`` outputs rounded up to whole vectors, ``T`` knots of an input,
``k`` the spline order, ``M = G + k + 1`` features per input.

Weights are most of what a layer with a fine grid reads and writes. Its own are read once for each panel of samples forward and
once backward. What the parameters of an input fold to, backward its spline weights without their scales, and the gradient of
that, exist for one input, a tile of outputs and a *chunk* of the features at a time: a window of rows, one for each feature,
and last the row of the base activation. Samples of some inputs are turned over first, so that an input's lie side by side. They
are taken in the order of their cells, so that the rows of weights come one after the other; those ``k`` that the first samples
of the next chunk share with this one are carried over. Backward, several panels take all features as one chunk, for each would
fold them again; and with several tiles each thread holds the terms of an input's samples.
"""

from __future__ import annotations

from functools import cache, reduce
from typing import Any

import numpy as np
import torch
from numba import literally
from torch import Tensor

from efficient_kan.kernels import Parameters
from efficient_kan.kernels.cpu import policy, threads
from efficient_kan.kernels.cpu.activation import sigmoid
from efficient_kan.kernels.cpu.basis import first_basis, guide_length, local, locate_guided, slopes, values
from efficient_kan.kernels.cpu.compiled import REAL, STAMP, Entry, addresses, apart, at, inlined, moved, stored
from efficient_kan.kernels.cpu.folding import edge_scales, fold_base, fold_features, unfold_edges, unfold_features
from efficient_kan.kernels.cpu.sorting import count_cells, place_rows
from efficient_kan.kernels.cpu.transpose import APART, settle, to_vector, turned
from efficient_kan.kernels.cpu.vectors import (
    TILE,
    VECTOR_BYTES,
    combine_samples,
    contract_samples,
    spread_samples,
    whole_vectors,
)

# Samples that are sorted together: more of them use the rows of many features more often, and their outputs more of a cache.
_PANEL, _LARGE_PANEL, _MANY = 2048, 4096, 512
# Samples up to which those of as many inputs as a vector has numbers are turned over at once: a megabyte, and one for their
# gradients, for each thread.
_TURNED = 2**14
_CHUNK = 128  # features of a chunk, about: their weights stay in a core's nearest caches while they are used
_RUN = 64  # samples whose part of the gradient of a base weight is summed up in registers, and whose rows of g stay nearest


@inlined
def _sort(cells: Any, samples: int, count: int, starts: Any, rows: Any) -> None:
    """Numbers of samples in the order of their cells."""
    count_cells(cells, samples, count, starts)
    total = np.int32(0)
    for cell in range(count + 1):
        of_first, of_second = starts[cell], starts[cell + count + 1]
        starts[cell], starts[cell + count + 1] = total, total + of_first
        total += of_first + of_second
    place_rows(cells, samples, count, starts, rows)


def _record_bytes(panel: int, order: int, size: int) -> int:
    """Of what :func:`_expand` writes: offsets, rows, values and slopes of a panel."""
    return panel * 2 * (4 + (order + 2) * size)


_record_size = inlined(_record_bytes)  # the same in compiled code


@inlined
def _expand(
    x: Any, base_at: int, knots_at: int, guide_at: int, table_at: int, sample: int, i: int, samples: int, inputs: int,
    count: int, order: int, width: int, panel: int, has_slopes: bool, column: Any, cells: Any, active: Any, starts: Any,
    record_at: int, size: int, zero: Any,
) -> None:  # fmt: skip
    """The terms of ``samples`` from ``sample`` on of input ``i``, in the order of their cells, and where their weights start.

    ``x`` are the samples, side by side. A record of them: ``offsets``, ``rows`` (the numbers of the samples), the values of the
    ``k + 2`` terms of each sample and, if it ``has_slopes``, their derivatives with respect to x.
    """
    k, none = literally(order), np.int32(0)
    terms, length, one = order + 2, 2 + (order + 1) * (order + 1), type(zero)(1)
    offsets, rows, values_at = at(record_at, none), at(record_at + panel * 4, none), record_at + panel * 8
    slopes_at, place = values_at + panel * terms * size, (sample * inputs + i) * size
    base, table_of = at(base_at + place, zero), table_at + i * (count + 1) * length * size
    knots, guide = at(knots_at + i * count * size, zero), at(guide_at + i * guide_length(count) * size, zero)
    locate_guided(x, knots, guide, count, samples, cells)
    _sort(cells, samples, count, starts, rows)
    for b in range(samples):
        column[b], cells[samples + b] = x[rows[b]], cells[rows[b]]
    if base_at:
        for b in range(samples):
            active[b] = base[rows[b] * inputs]
    else:
        for b in range(samples):
            share = sigmoid(column[b])
            active[b] = column[b] * share
            active[samples + b] = share * (one + column[b] * (one - share))
    place = 0
    for b in range(samples):
        cell: Any = np.int64(cells[samples + b])
        row = at(table_of + cell * (length * size), zero)
        s = local(column[b], cell, row, count)
        value = at(values_at + place, zero)
        values(s, row, k, value)
        value[k + 1] = active[b]
        if has_slopes:
            slope = at(slopes_at + place, zero)
            slopes(s, row, k, slope)
            slope[k + 1] = zero if base_at else active[samples + b]
        offsets[b] = np.int32(first_basis(cell, count, k) * width)
        place += terms * size


def _window_rows(splines: int, chunk: int, order: int, lanes: int) -> int:
    """Rows of bases in a window of weights; that of the base activation follows.

    A chunk has half as many more if it is the last one, or up to ``lanes`` as a head; see :func:`_chunk_end`.
    """
    return min(splines, chunk + chunk // 2 + lanes + order)


_rows_of_window = inlined(_window_rows)  # the same in compiled code


@inlined
def _chunk_end(f: int, splines: int, chunk: int, head: int) -> int:
    """Where the chunk of features from ``f`` on ends: the first has ``head`` more, and the last what is below half of one."""
    stop = f + chunk + (head if f == 0 else 0)
    return splines if splines - stop < chunk // 2 else stop


@inlined
def _before(offsets: Any, samples: int, offset: int) -> int:
    """How many of the offsets, which are in order, are below one."""
    low, high = 0, samples
    while low < high:
        middle = (low + high) // 2
        if offsets[middle] < offset:
            low = middle + 1
        else:
            high = middle
    return low


@inlined
def _clear(weights: Any, rows: int, tile: int, start: int, stop: int) -> None:
    """Set columns ``start..stop`` of weights, beyond the outputs, to zero: what lay there may be NaN, or denormal and slow."""
    for column in range(start, stop):
        for row in range(rows):
            weights[row * tile + column] = type(weights[0])(0)


@inlined
def _carry(rows: Any, place: int, count: int) -> None:
    """Move ``count`` numbers from a place to the start, the first ones first: both may overlap."""
    for n in range(count):
        rows[n] = rows[place + n]


@apart
def _add_outputs(
    sums_at: int, weights: Any, offsets_at: int, rows_at: int, values_at: int, samples: int, base_row: int, tile: int,
    stride: int, terms: int, vectors: int, none: Any, zero: Any,
) -> None:  # fmt: skip
    """Add to the rows of sums of samples of a record what an input gives a tile of outputs."""
    sums, rows, offsets, values = at(sums_at, zero), at(rows_at, none), at(offsets_at, none), at(values_at, zero)
    combine_samples(sums, rows, weights, offsets, values, samples, base_row * tile, tile, stride, literally(terms), vectors)


@cache
def _multiply(order: int, real: Any) -> Entry:
    """Outputs of some of ``sample_parts`` by ``input_parts``; each part of the inputs has a y ``(B, S)``."""
    terms, size, stamp = order + 2, np.dtype(real).itemsize, STAMP
    lanes = VECTOR_BYTES // size

    def multiply(
        x_at: int, base_at: int, knots_at: int, guide_at: int, table_at: int,
        spline_at: int, scaler_at: int, mask_at: int, base_weight_at: int, y_at: int, room_at: int, records_at: int,
        batch: int, inputs: int, count: int, outputs: int, stride: int, panel: int, chunk: int, sample_parts: int,
        input_parts: int, start: int, stop: int,
    ) -> None:  # fmt: skip
        assert stamp
        splines, zero, none, tile = count - order - 1, real(0), np.int32(0), min(stride, TILE * lanes)
        length, window = splines if base_weight_at else splines + 1, _rows_of_window(splines, chunk, order, lanes)
        column, cells, active = np.empty(panel, real), np.empty(2 * panel, np.int32), np.empty(2 * panel, real)
        starts, room = np.empty(2 * count + 2, np.int32), np.empty(TILE * lanes, real)
        column_stride = panel + APART
        columns = np.empty(lanes * column_stride, real)
        for part in range(start, stop):
            scales, record_at = at(room.ctypes.data, zero), records_at + part * _record_size(panel, order, size)
            weights = at(room_at + part * (window + 1) * tile * size, zero)
            of_samples, of_inputs = part // input_parts, part % input_parts
            first, last = batch * of_samples // sample_parts, batch * (of_samples + 1) // sample_parts
            sums_at = y_at + of_inputs * batch * stride * size
            for sample in range(first, last, panel):
                samples = min(panel, last - sample)
                sums = at(sums_at + sample * stride * size, zero)
                for n in range(samples * stride):
                    sums[n] = zero
                first_input, end = inputs * of_inputs // input_parts, inputs * (of_inputs + 1) // input_parts
                for i in range(first_input, end):
                    place = (i - first_input) % lanes
                    if place == 0:
                        source, target = at(x_at + (sample * inputs + i) * size, zero), at(columns.ctypes.data, zero)
                        turned(source, inputs, target, column_stride, samples, min(lanes, end - i), lanes)
                    _expand(
                        at(columns.ctypes.data + place * column_stride * size, zero), base_at, knots_at, guide_at, table_at,
                        sample, i, samples, inputs, count, order, tile, panel, False, column, cells, active, starts, record_at,
                        size, zero,
                    )  # fmt: skip
                    for o in range(0, stride, tile):
                        some = min(tile, outputs - o)
                        vectors, done, f, ready = min(TILE, (stride - o) // lanes), 0, 0, 0
                        edge_scales(scaler_at, mask_at, i, o, some, inputs, scales, zero)
                        base_row = moved(weights, window * tile)
                        _clear(weights, window + 1, tile, some, vectors * lanes)
                        fold_base(spline_at, mask_at, base_weight_at, base_row, i, o, some, inputs, length, size, zero)
                        while f < splines:  # features up to ready are folded, samples up to done are added
                            end_f = _chunk_end(f, splines, chunk, 0)
                            needed = min(end_f + order, splines)
                            fold_features(
                                spline_at, scales, moved(weights, (ready - f) * tile), i, o, some, inputs, length, ready,
                                needed, tile, lanes, size, zero,
                            )  # fmt: skip
                            begin, done = done, _before(at(record_at, none), samples, end_f * tile)
                            _add_outputs(
                                sums_at + (sample * stride + o) * size, moved(weights, -f * tile), record_at + begin * 4,
                                record_at + (panel + begin) * 4, record_at + panel * 8 + begin * terms * size, done - begin,
                                f + window, tile, stride, terms, vectors, none, zero,
                            )  # fmt: skip
                            _carry(weights, (end_f - f) * tile, (needed - end_f) * tile)
                            f, ready = end_f, needed

    return Entry(multiply)


@apart
def _add_gradients(
    g_at: int, weights: Any, scales: Any, of_weights: Any, offsets_at: int, rows_at: int, values_at: int, slopes_at: int,
    of_x_at: int, samples: int, base_row: int, tile: int, stride: int, needs_x: bool, needs_weights: bool, terms: int,
    vectors: int, size: int, none: Any, zero: Any,
) -> None:  # fmt: skip
    """Of the samples of a record, by a tile of outputs: their gradients at ``of_x_at``, and what they add to ``of_weights``."""
    g, last = at(g_at, zero), base_row * tile
    # Both ways of a few samples after each other, whose rows of g stay in the nearest cache.
    for run in range(0, samples, _RUN):
        number = min(_RUN, samples - run)
        rows, offsets = at(rows_at + run * 4, none), at(offsets_at + run * 4, none)
        if needs_x:
            of, of_x = at(slopes_at + run * terms * size, zero), at(of_x_at + run * size, zero)
            contract_samples(
                g, rows, weights, scales, offsets, of, number, samples - run, last, tile, stride, of_x, literally(terms),
                vectors,
            )  # fmt: skip
        if needs_weights:
            of = at(values_at + run * terms * size, zero)
            spread_samples(of_weights, g, rows, offsets, of, number, last, tile, stride, literally(terms), vectors)


@cache
def _pull_back(order: int, real: Any) -> Entry:
    """The gradients of the samples and of the parameters, for some of ``parts`` of the inputs; each unless its address is 0."""
    terms, size, stamp = order + 2, np.dtype(real).itemsize, STAMP
    lanes = VECTOR_BYTES // size

    def pull_back(
        x_at: int, base_at: int, knots_at: int, guide_at: int, table_at: int,
        spline_at: int, scaler_at: int, mask_at: int, base_weight_at: int, g_at: int,
        of_x_at: int, of_spline_at: int, of_scaler_at: int, of_base_weight_at: int, room_at: int, records_at: int,
        batch: int, inputs: int, count: int, outputs: int, stride: int, panel: int, chunk: int, slots: int, group: int,
        past_caches: int, parts: int, start: int, stop: int,
    ) -> None:  # fmt: skip
        assert stamp
        splines, zero, none, tile = count - order - 1, real(0), np.int32(0), min(stride, TILE * lanes)
        length, window = splines if base_weight_at else splines + 1, _rows_of_window(splines, chunk, order, lanes)
        column, cells, active = np.empty(panel, real), np.empty(2 * panel, np.int32), np.empty(2 * panel, real)
        starts, room = np.empty(2 * count + 2, np.int32), np.empty(2 * TILE * lanes, real)
        pulled, ones = np.empty(panel, real), np.ones(TILE * lanes, real)
        column_stride = batch + APART
        columns, of_columns = np.empty(group * column_stride, real), np.empty(group * column_stride if of_x_at else 0, real)
        for part in range(start, stop):
            scales, totals = at(room.ctypes.data, zero), at(room.ctypes.data + TILE * lanes * size, zero)
            weights = at(room_at + 2 * part * (window + 1) * tile * size, zero)
            of_weights = at(room_at + (2 * part + 1) * (window + 1) * tile * size, zero)
            # Forward ends with the last inputs: their weights are still in a cache.
            first_input, end = inputs * part // parts, inputs * (part + 1) // parts
            for i in range(end - 1, first_input - 1, -1):
                place = (i - first_input) % group
                if place == group - 1 or i == end - 1:
                    source, target = at(x_at + (i - place) * size, zero), at(columns.ctypes.data, zero)
                    turned(source, inputs, target, column_stride, batch, place + 1, lanes)
                x = at(columns.ctypes.data + place * column_stride * size, zero)
                of_x = at(of_columns.ctypes.data + place * column_stride * size, zero)
                for o in range(0, stride, tile):
                    vectors, some = min(TILE, (stride - o) // lanes), min(tile, outputs - o)
                    edge_scales(scaler_at, mask_at, i, o, some, inputs, scales, zero)
                    base_row, of_base_row = moved(weights, window * tile), moved(of_weights, window * tile)
                    if of_x_at:
                        fold_base(spline_at, mask_at, base_weight_at, base_row, i, o, some, inputs, length, size, zero)
                    _clear(weights, window + 1, tile, some, vectors * lanes)
                    for beyond in range(some, vectors * lanes):
                        scales[beyond] = zero
                    for n in range((window + 1) * tile if of_spline_at else 0):
                        of_weights[n] = zero
                    for n in range(tile):
                        totals[n] = zero
                    head, f, ready = 0, 0, 0
                    if past_caches and of_spline_at:  # whole lines are written then
                        head = to_vector(at(of_spline_at + (o * inputs + i) * length * size, zero))
                    while f < splines:
                        end_f = _chunk_end(f, splines, chunk, head)
                        needed = min(end_f + order, splines)
                        if of_x_at or of_scaler_at:
                            fold_features(
                                spline_at, at(ones.ctypes.data, zero), moved(weights, (ready - f) * tile), i, o, some,
                                inputs, length, ready, needed, tile, lanes, size, zero,
                            )  # fmt: skip
                        for sample in range(0, batch, panel):
                            samples = min(panel, batch - sample)
                            record_at = records_at + (part * slots + sample // panel % slots) * _record_size(panel, order, size)
                            if o == 0 and f == 0:  # the records of all panels are there for the next tile
                                _expand(
                                    moved(x, sample), base_at, knots_at, guide_at, table_at, sample, i, samples, inputs, count,
                                    order, tile, panel, of_x_at != 0, column, cells, active, starts, record_at, size, zero,
                                )  # fmt: skip
                            offsets, rows = at(record_at, none), at(record_at + panel * 4, none)
                            first = _before(offsets, samples, f * tile)
                            last = _before(offsets, samples, end_f * tile)
                            values_at = record_at + panel * 8 + first * terms * size
                            _add_gradients(
                                g_at + (sample * stride + o) * size, moved(weights, -f * tile), scales,
                                moved(of_weights, -f * tile), record_at + first * 4, record_at + (panel + first) * 4,
                                values_at, values_at + panel * terms * size, pulled.ctypes.data + first * size, last - first,
                                f + window, tile, stride, of_x_at != 0, of_spline_at != 0, terms, vectors, size, none, zero,
                            )  # fmt: skip
                            for p in range(samples if of_x_at and end_f == splines else 0):
                                b = sample + rows[p]
                                of_x[b] = pulled[p] if o == 0 else of_x[b] + pulled[p]
                        if of_spline_at:
                            unfold_features(
                                of_weights, scales, weights, tile, of_scaler_at != 0, totals, of_spline_at, i, o, some, inputs,
                                length, f, end_f, tile, lanes, past_caches != 0, size, zero,
                            )  # fmt: skip
                        used, carried = (end_f - f) * tile, (needed - end_f) * tile
                        _carry(weights, used, carried)
                        if of_spline_at:
                            _carry(of_weights, used, carried)
                            for n in range(carried, used + carried):
                                of_weights[n] = zero
                        f, ready = end_f, needed
                    if of_spline_at:
                        unfold_edges(
                            mask_at, of_base_row, totals, of_spline_at, of_scaler_at, of_base_weight_at, i, o, some, inputs,
                            length, size, zero,
                        )  # fmt: skip
                if place == 0 and of_x_at:
                    source, target = at(of_columns.ctypes.data, zero), at(of_x_at + i * size, zero)
                    turned(source, column_stride, target, inputs, min(group, end - i), batch, lanes)
        settle()

    return Entry(pull_back)


class _Sizes:
    """How a layer is worked on by some threads, and the memory that takes."""

    def __init__(self, x: Tensor, features: int, outputs: int, order: int) -> None:
        self.stride = whole_vectors(outputs, x.dtype)
        self.panel = max(1, min(_PANEL if features < _MANY else _LARGE_PANEL, x.shape[0]))
        self._tile = min(self.stride, TILE * VECTOR_BYTES // x.element_size())
        self._x, self._features, self._order = x, features, order

    def chunk(self, panels: int) -> int:
        """Features that are worked on together: all of them where several panels share what is folded."""
        return self._features - 1 if panels > 1 else min(_CHUNK, self._features - 1)

    def panels(self) -> int:
        """Panels of all samples, at least one."""
        return max(1, -(-self._x.shape[0] // self.panel))

    def split_samples(self) -> tuple[int, int]:
        """Parts of the samples, if they are worth folding all weights for each, and of the inputs, for the other threads."""
        samples, inputs = self._x.shape
        threads = torch.get_num_threads()
        of_samples = min(threads, max(1, samples // max(_PANEL // 2, 4 * self._features)))
        return of_samples, min(threads // of_samples, inputs)

    def slots(self) -> int:
        """Panels whose records an input keeps: all of them where each tile of outputs needs them."""
        return self.panels() if self.stride > self._tile else 1

    def group(self) -> int:
        """Inputs whose samples are turned over at once."""
        return VECTOR_BYTES // self._x.element_size() if self._x.shape[0] <= _TURNED else 1

    def room(self, weights: int, chunk: int, records: int) -> tuple[Tensor, Tensor]:
        """Memory for so many times the weights of a chunk and a tile, and for so many records."""
        size = _record_bytes(self.panel, self._order, self._x.element_size())
        rows = _window_rows(self._features - 1, chunk, self._order, VECTOR_BYTES // self._x.element_size()) + 1
        weight = self._x.new_empty(weights * rows * self._tile)
        return weight, self._x.new_empty(records * size, dtype=torch.uint8)


def multiply(
    x: Tensor, base: Tensor | None, knots: Tensor, guide: Tensor, table: Tensor, parameters: Parameters, order: int
) -> Tensor:
    """The layer's outputs ``(B, O)``."""
    (batch, count), outputs = (x.shape[0], knots.shape[1]), parameters.spline_weight.shape[0]
    sizes = _Sizes(x, count - order, outputs, order)
    of_samples, of_inputs = sizes.split_samples()
    parts = of_samples * of_inputs
    sums = x.new_empty((of_inputs * batch, sizes.stride))
    chunk = sizes.chunk(1)
    weights, records = sizes.room(parts, chunk, parts)
    if stored(sums):
        places = addresses(x, base, knots, guide, table, *parameters, sums, weights, records)
        numbers = (batch, *knots.shape, outputs, sizes.stride, sizes.panel, chunk, of_samples, of_inputs)
        threads.run(_multiply(order, REAL[x.dtype]), parts, *places, *numbers)
    y = sums if of_inputs == 1 else reduce(torch.add, sums.view(of_inputs, batch, sizes.stride).unbind())
    return y if outputs == sizes.stride else y[:, :outputs].contiguous()


def pull_back(
    x: Tensor, base: Tensor | None, knots: Tensor, guide: Tensor, table: Tensor, parameters: Parameters, order: int, g: Tensor,
    needs_x: bool, needs_parameters: bool,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """The gradients of ``x``, its way through SiLU included unless there is a base, and of the parameters but the mask.

    ``g`` is that of the outputs, ``(B, S)``.
    """
    spline_weight, scaler, _, base_weight = parameters
    sizes = _Sizes(x, knots.shape[1] - order, spline_weight.shape[0], order)
    of_x = torch.empty_like(x) if needs_x else None
    wanted = (spline_weight, scaler, base_weight) if needs_parameters else (None, None, None)
    targets = tuple(None if tensor is None else torch.empty_like(tensor) for tensor in wanted)
    parts, slots = min(torch.get_num_threads(), x.shape[1]), sizes.slots()
    chunk = sizes.chunk(sizes.panels())
    weights, records = sizes.room(2 * parts, chunk, slots * parts)
    past_caches = int(policy.large(spline_weight))
    if stored(weights) and (needs_x or needs_parameters):
        places = addresses(x, base, knots, guide, table, *parameters, g, of_x, *targets, weights, records)
        numbers = x.shape[0], *knots.shape, spline_weight.shape[0], sizes.stride, sizes.panel, chunk, slots, sizes.group()
        threads.run(_pull_back(order, REAL[x.dtype]), parts, *places, *numbers, past_caches, parts)
    return (of_x, *targets)
