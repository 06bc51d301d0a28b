"""Dense features of a block of samples and inputs, and their way back to the samples.

Shape legend: ``B`` samples, ``I`` inputs, ``T`` knots of an input, ``k`` the spline order, ``M = G + k + 1`` features per
input: its bases and, last, its base activation. Features are ``(B, I, M)``, so that each sample's are one run of memory.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from torch import Tensor

from efficient_kan.kernels.cpu import threads
from efficient_kan.kernels.cpu.activation import sigmoid
from efficient_kan.kernels.cpu.basis import COUNTED, locate, pieces, row_length, slope_along, values
from efficient_kan.kernels.cpu.compiled import REAL, STAMP, Entry, at, inlined, stored

_TILE = 32  # inputs handled together, so that their knots and pieces stay in the nearest cache
_LEAST = 4096  # elements of x that are worth a thread


@inlined
def _load_knots(knots: Any, transposed: Any, tile: int, lanes: int, inputs: int, count: int) -> None:
    """Knots ``(I, T)`` of a tile's inputs to ``(T, _TILE)``."""
    for lane in range(lanes):
        row = ((tile + lane) % inputs) * count
        for j in range(count):
            transposed[j * _TILE + lane] = knots[row + j]


@inlined
def _count_knots(x: Any, transposed: Any, lanes: int, count: int, cells: Any) -> None:
    """The cells of a run of ``lanes`` samples at pointer ``x``, from the knots of :func:`_load_knots`."""
    for lane in range(lanes):
        cells[lane] = np.int32(0)
    whole = count - count % 4
    for j in range(0, whole, 4):
        for lane in range(lanes):
            z, column = x[lane], j * _TILE + lane
            some = np.int32(z >= transposed[column]) + np.int32(z >= transposed[column + _TILE])
            more = np.int32(z >= transposed[column + 2 * _TILE]) + np.int32(z >= transposed[column + 3 * _TILE])
            cells[lane] += np.int32(some + more)
    for j in range(whole, count):
        for lane in range(lanes):
            cells[lane] += np.int32(x[lane] >= transposed[j * _TILE + lane])


@inlined
def _prepare(
    x: Any,
    transposed: Any,
    knots_at: int,
    rows: Any,
    numbers: Any,
    lanes: int,
    count: int,
    order: int,
    size: int,
    cells: Any,
    inside: Any,
    sources: Any,
    places: Any,
) -> None:
    """For a run of samples: addresses of their rows of the table, of their first bases from the run's features on, and ``x``
    itself or, outside the knots, zero, which with a row of zeros has values zero."""
    length = (order + 1) * (order + 1) + 2
    if count <= COUNTED:
        _count_knots(x, transposed, lanes, count, cells)
    else:
        for lane in range(lanes):
            cells[lane] = locate(x[lane], at(knots_at + numbers[lane] * count * size, x[lane]), count)
    features, bases = count - order, count - 2 * order - 2
    # Three loops, because one that writes to three arrays is not vectorised.
    for lane in range(lanes):
        sources[lane] = rows[lane] + np.int64(cells[lane]) * (length * size)
    for lane in range(lanes):
        first = min(max(cells[lane] - np.int32(1 + order), np.int32(0)), np.int32(bases))
        places[lane] = np.int64(lane * features + first) * size
    for lane in range(lanes):
        cell = cells[lane]
        inside[lane] = x[lane] if (cell > 0) & (cell < count) else type(x[lane])(0)


@cache
def _expand(order: int, real: Any) -> Entry:
    size, length, stamp = np.dtype(real).itemsize, row_length(order), STAMP

    def expand(
        x_at: int,
        base_at: int,
        knots_at: int,
        table_at: int,
        out_at: int,
        inputs: int,
        count: int,
        stride: int,
        start: int,
        stop: int,
    ) -> None:
        assert stamp
        features = count - order
        cells, active, inside = np.empty(_TILE, np.int32), np.empty(_TILE, real), np.empty(_TILE, real)
        rows, sources, places = np.empty(_TILE, np.int64), np.empty(_TILE, np.int64), np.empty(_TILE, np.int64)
        numbers = np.empty(_TILE, np.int64)
        transposed = np.empty(min(count, COUNTED) * _TILE, real)
        # Several samples of few inputs make one row of tiles.
        together = _TILE // inputs if inputs < _TILE and stride == inputs else 1
        period = together * inputs
        for tile in range(0, period, _TILE):
            width = min(_TILE, period - tile)
            for lane in range(width):
                numbers[lane] = (tile + lane) % inputs
                rows[lane] = table_at + numbers[lane] * (count + 1) * length * size
            if count <= COUNTED:
                _load_knots(at(knots_at, real(0)), transposed, tile, width, inputs, count)
            for b in range(start, stop, together):
                lanes = min(width, (stop - b) * inputs - tile)
                x, place = at(x_at + (b * stride + tile) * size, real(0)), out_at + (b * inputs + tile) * features * size
                if base_at:
                    base = at(base_at + (b * stride + tile) * size, real(0))
                    for lane in range(lanes):
                        active[lane] = base[lane]
                else:
                    for lane in range(lanes):
                        active[lane] = x[lane] * sigmoid(x[lane])
                _prepare(x, transposed, knots_at, rows, numbers, lanes, count, order, size, cells, inside, sources, places)
                out = at(place, real(0))
                for n in range(lanes * features):
                    out[n] = real(0)
                for lane in range(lanes):
                    row = at(sources[lane], real(0))
                    s = (inside[lane] - row[0]) * row[1]
                    values(s, row, order, at(place + places[lane], real(0)))
                    out[lane * features + features - 1] = active[lane]

    return Entry(expand)


@cache
def _pull_back(order: int, real: Any) -> Entry:
    size, length, stamp = np.dtype(real).itemsize, row_length(order), STAMP

    def pull_back(
        x_at: int,
        knots_at: int,
        table_at: int,
        gradient_at: int,
        of_x_at: int,
        of_base_at: int,
        inputs: int,
        count: int,
        stride: int,
        start: int,
        stop: int,
    ) -> None:
        assert stamp
        features = count - order
        cells, active, inside = np.empty(_TILE, np.int32), np.empty(_TILE, real), np.empty(_TILE, real)
        rows, sources, places = np.empty(_TILE, np.int64), np.empty(_TILE, np.int64), np.empty(_TILE, np.int64)
        numbers = np.empty(_TILE, np.int64)
        transposed = np.empty(min(count, COUNTED) * _TILE, real)
        together = _TILE // inputs if inputs < _TILE and stride == inputs else 1
        period = together * inputs
        for tile in range(0, period, _TILE):
            width = min(_TILE, period - tile)
            for lane in range(width):
                numbers[lane] = (tile + lane) % inputs
                rows[lane] = table_at + numbers[lane] * (count + 1) * length * size
            if count <= COUNTED:
                _load_knots(at(knots_at, real(0)), transposed, tile, width, inputs, count)
            for b in range(start, stop, together):
                lanes = min(width, (stop - b) * inputs - tile)
                begin, place = b * stride + tile, gradient_at + (b * inputs + tile) * features * size
                x, of_x = at(x_at + begin * size, real(0)), at(of_x_at + begin * size, real(0))
                _prepare(x, transposed, knots_at, rows, numbers, lanes, count, order, size, cells, inside, sources, places)
                for lane in range(lanes):
                    row = at(sources[lane], real(0))
                    s = (inside[lane] - row[0]) * row[1]
                    of_x[lane] = slope_along(s, row, order, at(place + places[lane], real(0)))
                    active[lane] = at(place, real(0))[lane * features + features - 1]
                if of_base_at:
                    of_base = at(of_base_at + begin * size, real(0))
                    for lane in range(lanes):
                        of_base[lane] = active[lane]
                else:
                    for lane in range(lanes):
                        share = sigmoid(x[lane])
                        of_x[lane] += active[lane] * (share * (real(1) + x[lane] * (real(1) - share)))

    return Entry(pull_back)


class Block:
    """Some samples and inputs of a layer: what :func:`expand` and :func:`pull_back` work on.

    ``x`` (and ``base``, if given) are contiguous ``(B, I)``; ``rows`` and ``columns`` are slices of them with ends.
    """

    def __init__(self, x: Tensor, base: Tensor | None, knots: Tensor, order: int, table: Tensor | None = None) -> None:
        self.x, self.base, self.knots, self.order = x, base, knots, order
        self.table = pieces(knots, order) if table is None else table
        self._inputs, self._count = knots.shape
        self._row = (self._count + 1) * row_length(order)

    def size(self, rows: slice, columns: slice) -> int:
        """How many numbers :meth:`matrix` needs."""
        return int((rows.stop - rows.start) * (columns.stop - columns.start) * (self._count - self.order))

    def matrix(self, room: Tensor, start: int, rows: slice, columns: slice) -> Tensor:
        """A matrix ``(samples, I * M)``, in ``room`` from ``start`` on, for features of the block or for their gradients."""
        samples, features = rows.stop - rows.start, (columns.stop - columns.start) * (self._count - self.order)
        return room.as_strided((samples, features), (features, 1), start)

    def expand(self, rows: slice, columns: slice, out: Tensor) -> None:
        """Write the features of the block to ``out``, from :meth:`matrix`; without ``base`` they have SiLU of ``x``."""
        if not stored(out):
            return
        skip, size = rows.start * self._inputs + columns.start, self.x.element_size()
        sources = (_place(self.x, skip, size), _place(self.base, skip, size), *self._splines(columns, size))
        sizes = (columns.stop - columns.start, self._count, self._inputs)
        function, samples = _expand(self.order, REAL[self.x.dtype]), rows.stop - rows.start
        threads.run(function, samples, *sources, out.data_ptr(), *sizes, least=_LEAST // sizes[0])

    def pull_back(self, rows: slice, columns: slice, gradient: Tensor, of_x: Tensor, of_base: Tensor | None) -> None:
        """From the ``gradient`` of the block's features, in :meth:`matrix`, to its part of those of ``x`` and base ``(B, I)``.

        Without ``of_base`` what SiLU passes on is in ``of_x``.
        """
        if not stored(of_x):
            return
        skip, size = rows.start * self._inputs + columns.start, self.x.element_size()
        sources = (_place(self.x, skip, size), *self._splines(columns, size), gradient.data_ptr())
        targets = (_place(of_x, skip, size), _place(of_base, skip, size))
        sizes = (columns.stop - columns.start, self._count, self._inputs)
        function, samples = _pull_back(self.order, REAL[self.x.dtype]), rows.stop - rows.start
        threads.run(function, samples, *sources, *targets, *sizes, least=_LEAST // sizes[0])

    def _splines(self, columns: slice, size: int) -> tuple[int, int]:
        knots, table = columns.start * self._count, columns.start * self._row
        return self.knots.data_ptr() + knots * size, self.table.data_ptr() + table * size


def _place(tensor: Tensor | None, skip: int, size: int) -> int:
    return 0 if tensor is None else tensor.data_ptr() + skip * size
