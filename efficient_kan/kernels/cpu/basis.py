"""B-spline pieces for compiled code: one polynomial per input, interval and basis.

Shape legend: ``I`` inputs, ``T = G + 2k + 1`` knots of an input, ``k`` the spline order, ``W = k + 1`` bases per interval.

The *cell* of a sample is the number of knots that are not above it, ``0..T``: the interval ``[t_{c-1}, t_c)`` is cell ``c``;
cells ``0`` and ``T`` are outside, and NaN is in cell 0. In cell ``c`` the ``W`` bases from ``first_basis(c, T, k)`` on include
all that are not zero, and none of their numbers is out of range: near the ends of the knots some of them are zero. Their values
are polynomials in ``s = (x - middle) * scale``, which runs from -1/2 to 1/2 through the cell: no coefficient is large on
any knots. Coefficients are worked out in float64 by the triangular scheme of Piegl and Tiller (*The NURBS Book*, A2.1-A2.3), on
polynomials in place of numbers, and rounded once.

A table (:func:`pieces`) is made of ``I * (T + 1)`` rows of ``row_length(k)`` numbers, row ``i * (T + 1) + c`` for cell ``c`` of
input ``i``: ``middle``, ``scale``, then for each power 0..k the ``W`` coefficients. Cells outside have rows of zeros.

Compiled functions take addresses (``Tensor.data_ptr()``) in place of arrays and read them through :func:`at`: nothing is
unpacked or checked, and loops over pointers compile to what they would be in C.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from efficient_kan.kernels.cpu import threads
from efficient_kan.kernels.cpu.compiled import REAL, STAMP, Entry, at, inlined, stored

_Made = TypeVar("_Made")

COUNTED = 64  # up to so many knots counting them is faster than a search by halves
LANES = 64  # rows of a table that are worked out together
_LEAST = 512  # rows of a table that are worth a thread


def row_length(spline_order: int) -> int:
    """Numbers in a row of a table."""
    return 2 + (spline_order + 1) ** 2


@inlined
def first_basis(cell: int, knots: int, order: int) -> int:
    """Number of the first of the ``order + 1`` bases in a cell."""
    return min(max(cell - 1 - order, 0), knots - 2 * order - 2)


@inlined
def locate(x: float, row: Any, knots: int) -> int:
    """The cell of one sample: how many of the sorted knots at pointer ``row`` are ``<= x``; 0 for NaN."""
    base = 0
    length = knots
    while length > 1:
        half = length >> 1
        base += half if row[base + half - 1] <= x else 0
        length -= half
    return base + (1 if row[base] <= x else 0)


@inlined
def locate_run(x: Any, row: Any, knots: int, samples: int, cells: Any) -> None:
    """The cells of ``samples`` samples of one input, in step, which vectorises. ``x`` and ``cells`` are contiguous."""
    for n in range(samples):
        cells[n] = np.int32(0)
    if knots <= COUNTED:
        whole = knots - knots % 4
        for j in range(0, whole, 4):
            t0, t1, t2, t3 = row[j], row[j + 1], row[j + 2], row[j + 3]
            for n in range(samples):
                z = x[n]
                low, high = np.int32(z >= t0) + np.int32(z >= t1), np.int32(z >= t2) + np.int32(z >= t3)
                cells[n] += np.int32(low + high)
        for j in range(whole, knots):
            t0 = row[j]
            for n in range(samples):
                cells[n] += np.int32(x[n] >= t0)
        return
    length = knots
    while length > 1:
        half = length >> 1
        for n in range(samples):
            cells[n] += np.int32(half) * np.int32(row[cells[n] + half - 1] <= x[n])
        length -= half
    for n in range(samples):
        cells[n] += np.int32(row[cells[n]] <= x[n])


def _guide_length(knots: int) -> int:
    """Numbers in a row of :func:`guides`."""
    return 3 + 2 * knots


guide_length = inlined(_guide_length)  # in compiled code; called from Python it would be compiled once more


@inlined
def locate_guided(x: Any, row: Any, guide: Any, knots: int, samples: int, cells: Any) -> None:
    """As :func:`locate_run`, by a row of :func:`guides`."""
    low, inverse, length, zero = guide[0], guide[1], np.int32(guide[2]), type(guide[0])(0)
    if length == 0:
        last = type(zero)(knots - 1)
        for n in range(samples):
            bucket = (x[n] - low) * inverse
            bucket = bucket if bucket > zero else zero  # NaN too
            bucket = bucket if bucket < last else last
            found = np.int32(bucket)
            cells[n] = np.int32(found + np.int32(row[found] <= x[n]))
        return
    top = type(zero)(2 * knots - 1)
    for n in range(samples):
        bucket = (x[n] - low) * inverse
        bucket = bucket if bucket > zero else zero  # NaN too
        bucket = bucket if bucket < top else top
        cells[n] = np.int32(guide[3 + np.int32(bucket)])
    while length > 0:
        half = (length + np.int32(1)) >> np.int32(1)
        for n in range(samples):
            cells[n] += np.int32(half) * np.int32(row[cells[n] + half - 1] <= x[n])
        length -= half


@inlined
def local(x: float, cell: int, row: Any, knots: int) -> Any:
    """Where in its cell a sample is: ``s``, or zero outside. ``row`` points to the cell's row of the table."""
    s = (x - row[0]) * row[1]
    return s if (cell > 0) and (cell < knots) else type(s)(0)


def _polynomials(builder: Any, signature: Any, args: Any, derivative: bool) -> tuple[Any, Any]:
    """Emit the evaluation of a cell's polynomials, all bases in one vector; also return the vector's type."""
    s, row, _ = args[:3]
    order = signature.args[2].literal_value
    real = s.type
    vector = ir.VectorType(real, order + 1)

    def load(power: int) -> Any:
        start = builder.gep(row, [ir.Constant(ir.IntType(64), 2 + power * (order + 1))])
        coefficients = builder.load(builder.bitcast(start, vector.as_pointer()), align=_size(real))
        if not derivative:
            return coefficients
        return builder.fmul(coefficients, ir.Constant(vector, [float(power)] * (order + 1)))

    spread = _spread(builder, s, vector)
    result = load(order)
    for power in range(order - 1, 0 if derivative else -1, -1):
        result = builder.fadd(builder.fmul(result, spread, flags=["contract"]), load(power), flags=["contract"])
    if derivative:
        scale = builder.load(builder.gep(row, [ir.Constant(ir.IntType(64), 1)]))
        result = builder.fmul(result, _spread(builder, scale, vector))
    return result, vector


def _spread(builder: Any, value: Any, vector: Any) -> Any:
    index = ir.IntType(32)
    single = builder.insert_element(ir.Constant(vector, ir.Undefined), value, index(0))
    return builder.shuffle_vector(single, single, ir.Constant(ir.VectorType(index, vector.count), [0] * vector.count))


def _size(real: Any) -> int:
    return 4 if isinstance(real, ir.FloatType) else 8


def _stored(derivative: bool) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        result, vector = _polynomials(builder, signature, args, derivative)
        builder.store(result, builder.bitcast(args[3], vector.as_pointer()), align=_size(vector.element))
        return context.get_dummy_value()

    return generate


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def values(_: Any, s: Any, row: Any, order: Any, result: Any) -> Any:
    """``values(s, row, order, result)``: write the ``order + 1`` values at ``s``, from the table's ``row``, to ``result``."""
    return types.void(s, row, order, result), _stored(False)


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def slopes(_: Any, s: Any, row: Any, order: Any, result: Any) -> Any:
    """``slopes(s, row, order, result)``: write the derivatives of the values with respect to ``x`` to ``result``."""
    return types.void(s, row, order, result), _stored(True)


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def slope_along(_: Any, s: Any, row: Any, order: Any, weights: Any) -> Any:
    """``slope_along(s, row, order, weights)``: the sum of the derivatives of the values, each times its weight."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        result, vector = _polynomials(builder, signature, args, True)
        weights = builder.load(builder.bitcast(args[3], vector.as_pointer()), align=_size(vector.element))
        result = builder.fmul(result, weights)
        terms = [builder.extract_element(result, ir.IntType(32)(n)) for n in range(vector.count)]
        while len(terms) > 1:
            pairs = [builder.fadd(terms[n], terms[n + 1]) for n in range(0, len(terms) - 1, 2)]
            terms = pairs + terms[2 * len(pairs) :]
        return terms[0]

    return s(s, row, order, weights), generate


@cache
def _tabulate(order: int, real: Any) -> Entry:
    k, width, stamp = order, order + 1, STAMP
    length = row_length(order)
    largest = np.finfo(real).max

    def tabulate(knots_at: int, table_at: int, inputs: int, knots: int, first_input: int, stop_input: int) -> None:
        assert stamp
        t_row, table = at(knots_at, real(0)), at(table_at, real(0))
        count = inputs * knots
        t = np.empty(LANES + 2 * k + 1)
        inverse, middle, scale, unit = np.empty(LANES), np.empty(LANES), np.empty(LANES), np.empty(LANES)
        p = np.empty((width, width, LANES))  # polynomial r, power m
        end = stop_input * knots
        for start in range(first_input * knots, end, LANES):
            # Knots of neighbouring inputs run into each other here: bases that do not exist use those, no others do.
            for lane in range(LANES + 2 * k + 1):
                t[lane] = t_row[min(max(start + lane - k + 1, 0), count - 1)]
            for lane in range(LANES):
                low, high = t[k - 1 + lane], t[k + lane]
                centre = real(low + 0.5 * (high - low))
                middle[lane] = centre
                scale[lane] = real(min(1.0 / (high - low), largest))
                unit[lane] = 1.0 / scale[lane]
                p[0, 0, lane] = 1.0
            for q in range(1, k + 1):
                for r in range(q):
                    for lane in range(LANES):
                        inverse[lane] = 1.0 / (t[k + r + lane] - t[k - q + r + lane])
                    for m in range(q):
                        for lane in range(LANES):
                            p[r, m, lane] *= inverse[lane]
                for r in range(q, -1, -1):
                    for m in range(q, -1, -1):
                        for lane in range(LANES):
                            value = 0.0
                            if r > 0:
                                if m < q:
                                    value += (middle[lane] - t[k - 1 - q + r + lane]) * p[r - 1, m, lane]
                                if m > 0:
                                    value += unit[lane] * p[r - 1, m - 1, lane]
                            if r < q:
                                if m < q:
                                    value += (t[k + r + lane] - middle[lane]) * p[r, m, lane]
                                if m > 0:
                                    value -= unit[lane] * p[r, m - 1, lane]
                            p[r, m, lane] = value
            for lane in range(min(LANES, end - start)):
                i, cell = divmod(start + lane, knots)
                cell += 1  # the interval from knot `cell - 1`
                row = (i * (knots + 1) + cell) * length
                for n in range(length):
                    table[row + n] = real(0)
                if cell == 1:
                    for n in range(length):
                        table[row - length + n] = real(0)
                if cell == knots or not t[k + lane] > t[k - 1 + lane]:
                    continue
                table[row], table[row + 1] = real(middle[lane]), real(scale[lane])
                first = first_basis(cell, knots, k)
                for r in range(width):
                    basis = cell - 1 - k + r
                    if 0 <= basis < knots - k - 1:
                        for m in range(width):
                            table[row + 2 + m * width + basis - first] = real(p[r, m, lane])

    return Entry(tabulate)


def remembered(make: Callable[[Tensor, int], _Made]) -> Callable[[Tensor, int], _Made]:
    """Keep what ``make(knots, order)`` returns for as long as the tensor of knots lives and holds the same numbers.

    They are compared with a copy, because a tensor may be written to without its version telling. Fake ones hold none, and
    where everything that is made is fake, nothing is kept for a tensor that is not.
    """
    made = WeakTensorKeyDictionary()

    def remembering(knots: Tensor, order: int) -> _Made:
        if stored(knots) and torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None:
            return make(knots, order)
        found = made.get(knots)
        if found is None or found[0] != order or (stored(knots) and not torch.equal(found[1], knots)):
            with torch.inference_mode(False):  # it may be needed for gradients later
                made[knots] = found = (order, knots.clone(), make(knots, order))
        result: _Made = found[2]
        return result

    return remembering


def tabulated(knots: Tensor, order: int) -> Tensor:
    """The table of ``knots`` ``(I, T)``, contiguous: ``(I * (T + 1), row_length(k))`` of the same dtype."""
    inputs, count = knots.shape
    table = knots.new_empty((inputs * (count + 1), row_length(order)))
    if stored(table):
        function = _tabulate(order, REAL[knots.dtype])
        threads.run(function, inputs, knots.data_ptr(), table.data_ptr(), inputs, count, least=_LEAST // count)
    return table


pieces = remembered(tabulated)


@cache
def _guide(real: Any) -> Entry:
    size, stamp = np.dtype(real).itemsize, STAMP

    def guide(knots_at: int, guides_at: int, count: int, start: int, stop: int) -> None:
        assert stamp
        zero, buckets = real(0), 2 * count
        for i in range(start, stop):
            row, target = at(knots_at + i * count * size, zero), at(guides_at + i * guide_length(count) * size, zero)
            inverse = real(count - 1) / (row[count - 1] - row[0])
            low, last, single = row[0] - real(0.5) / inverse, real(count - 1), True
            for n in range(count):
                place = (row[n] - low) * inverse
                place = place if place > zero else zero
                single = single and np.int32(place if place < last else last) == n
            if single:
                target[0], target[1], target[2] = low, inverse, zero
                continue
            low, inverse, top = row[0], real(buckets) / (row[count - 1] - row[0]), real(buckets - 1)
            below, most, bucket = 0, 0, 0
            for n in range(count):
                place = (row[n] - low) * inverse
                place = place if place > zero else zero
                of_knot = np.int32(place if place < top else top)
                while bucket <= of_knot:
                    target[3 + bucket] = real(n)
                    below = n
                    bucket += 1
                most = max(most, n + 1 - below)
            while bucket < buckets:
                target[3 + bucket] = real(count)
                bucket += 1
            for b in range(buckets):
                target[3 + b] = min(target[3 + b], real(count - most))
            target[0], target[1], target[2] = low, inverse, real(most)

    return Entry(guide)


def guides(knots: Tensor) -> Tensor:
    """What :func:`locate_guided` needs of ``knots`` ``(I, T)``, contiguous: ``(I, guide_length(T))`` of the same dtype.

    The range of an input's knots is cut into buckets of equal width. A row holds where the first one starts, how many there are
    to a unit, the most knots in one of them and, for each of ``2 T`` buckets, the number of knots below it, reduced to where as
    many as those most are left. Where each of ``T`` buckets around places of equal distance holds one knot, as it does on
    uniform knots, the most is 0: a bucket's own number is that of the knots below it.
    """
    inputs, count = knots.shape
    guide = knots.new_empty((inputs, _guide_length(count)))
    if stored(guide):
        threads.run(_guide(REAL[knots.dtype]), inputs, knots.data_ptr(), guide.data_ptr(), count, least=max(1, _LEAST // count))
    return guide


@remembered
def guided_pieces(knots: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """The :func:`guides` and the :func:`pieces` of knots, which are compared once for both."""
    return guides(knots), pieces(knots, order)
