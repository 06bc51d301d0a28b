"""Dense features of a block of samples, and their way back to the samples.

Shape legend: ``B`` samples, ``I`` inputs, ``T`` knots of an input, ``k`` the spline order, ``M = G + k + 1`` features per input:
its bases and, last, its base activation. Features are ``(B, I, M)``, so that each sample's are one run of memory.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from torch import Tensor

from efficient_kan.kernels.cpu import threads
from efficient_kan.kernels.cpu.activation import sigmoid
from efficient_kan.kernels.cpu.basis import at, first_basis, local, locate, row_length, slope_along, values
from efficient_kan.kernels.cpu.compiled import REAL, STAMP, compiled, inlined, stored

_TILE = 32  # inputs handled together, so that their knots and pieces stay in the nearest cache
_COUNTED = 64  # up to so many knots counting, which vectorises, is faster than a search by halves
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
def _find_cells(x: Any, tile: Any, knots_at: int, rows: Any, lanes: int, count: int, size: int, cells: Any) -> None:
    if count <= _COUNTED:
        _count_knots(x, tile, lanes, count, cells)
        return
    for lane in range(lanes):
        cells[lane] = locate(x[lane], at(knots_at + rows[lane] * count * size, x[0]), count)


@inlined
def _period(inputs: int) -> int:
    """Inputs in a row of tiles: several samples of few inputs make one."""
    return inputs if inputs >= _TILE else _TILE - _TILE % inputs


@cache
def _expand(order: int, real: Any) -> Callable[..., None]:
    length, size, stamp = row_length(order), np.dtype(real).itemsize, STAMP

    def expand(
        x_at: int, base_at: int, knots_at: int, table_at: int, out_at: int, inputs: int, count: int, start: int, stop: int
    ) -> None:
        assert stamp
        features = count - order
        cells, active, rows = np.empty(_TILE, np.int32), np.empty(_TILE, real), np.empty(_TILE, np.int64)
        transposed = np.empty(min(count, _COUNTED) * _TILE, real)
        period, end = _period(inputs), stop * inputs
        for tile in range(0, period, _TILE):
            width = min(_TILE, period - tile)
            for lane in range(width):
                rows[lane] = (tile + lane) % inputs
            if count <= _COUNTED:
                _load_knots(at(knots_at, real(0)), transposed, tile, width, inputs, count)
            for begin in range(start * inputs + tile, end, period):
                lanes = min(width, end - begin)
                x, place = at(x_at + begin * size, real(0)), out_at + begin * features * size
                if base_at:
                    base = at(base_at + begin * size, real(0))
                    for lane in range(lanes):
                        active[lane] = base[lane]
                else:
                    for lane in range(lanes):
                        active[lane] = x[lane] * sigmoid(x[lane])
                _find_cells(x, transposed, knots_at, rows, lanes, count, size, cells)
                out = at(place, real(0))
                for n in range(lanes * features):
                    out[n] = real(0)
                for lane in range(lanes):
                    cell = np.int64(cells[lane])
                    row = at(table_at + (rows[lane] * (count + 1) + cell) * (length * size), real(0))
                    s = local(x[lane], cell, row, count)
                    values(s, row, order, at(place + first_basis(cell, count, order) * size, real(0)))
                    at(place, real(0))[features - 1] = active[lane]
                    place += features * size

    return compiled(expand)


@cache
def _pull_back(order: int, real: Any) -> Callable[..., None]:
    length, size, stamp = row_length(order), np.dtype(real).itemsize, STAMP

    def pull_back(
        x_at: int,
        knots_at: int,
        table_at: int,
        gradient_at: int,
        of_x_at: int,
        of_base_at: int,
        inputs: int,
        count: int,
        start: int,
        stop: int,
    ) -> None:
        assert stamp
        features = count - order
        cells, active, rows = np.empty(_TILE, np.int32), np.empty(_TILE, real), np.empty(_TILE, np.int64)
        transposed = np.empty(min(count, _COUNTED) * _TILE, real)
        period, end = _period(inputs), stop * inputs
        for tile in range(0, period, _TILE):
            width = min(_TILE, period - tile)
            for lane in range(width):
                rows[lane] = (tile + lane) % inputs
            if count <= _COUNTED:
                _load_knots(at(knots_at, real(0)), transposed, tile, width, inputs, count)
            for begin in range(start * inputs + tile, end, period):
                lanes = min(width, end - begin)
                x, of_x = at(x_at + begin * size, real(0)), at(of_x_at + begin * size, real(0))
                place = gradient_at + begin * features * size
                _find_cells(x, transposed, knots_at, rows, lanes, count, size, cells)
                for lane in range(lanes):
                    cell = np.int64(cells[lane])
                    row = at(table_at + (rows[lane] * (count + 1) + cell) * (length * size), real(0))
                    s = local(x[lane], cell, row, count)
                    of_x[lane] = slope_along(s, row, order, at(place + first_basis(cell, count, order) * size, real(0)))
                    active[lane] = at(place, real(0))[features - 1]
                    place += features * size
                if of_base_at:
                    of_base = at(of_base_at + begin * size, real(0))
                    for lane in range(lanes):
                        of_base[lane] = active[lane]
                else:
                    for lane in range(lanes):
                        share = sigmoid(x[lane])
                        of_x[lane] += active[lane] * (share * (real(1) + x[lane] * (real(1) - share)))

    return compiled(pull_back)


def expand(x: Tensor, base: Tensor | None, knots: Tensor, table: Tensor, order: int, out: Tensor) -> None:
    """Write the features of contiguous ``x`` ``(B, I)`` to ``out`` ``(B, I, M)``; without ``base`` they have SiLU of ``x``."""
    if not stored(out):
        return
    inputs, count = knots.shape
    function = _expand(order, REAL[x.dtype])
    of_base = 0 if base is None else base.data_ptr()
    places = (x.data_ptr(), of_base, knots.data_ptr(), table.data_ptr(), out.data_ptr())
    threads.run(function, x.shape[0], *places, inputs, count, least=_LEAST // inputs)


def pull_back(
    x: Tensor, knots: Tensor, table: Tensor, order: int, gradient: Tensor, of_x: Tensor, of_base: Tensor | None
) -> None:
    """From the ``gradient`` of features ``(B, I, M)`` to those of ``x`` and base, ``(B, I)``; without ``of_base`` for SiLU."""
    if not stored(of_x):
        return
    inputs, count = knots.shape
    function = _pull_back(order, REAL[x.dtype])
    places = (x.data_ptr(), knots.data_ptr(), table.data_ptr(), gradient.data_ptr(), of_x.data_ptr())
    base_at = 0 if of_base is None else of_base.data_ptr()
    threads.run(function, x.shape[0], *places, base_at, inputs, count, least=_LEAST // inputs)
