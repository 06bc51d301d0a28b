"""Spans of knots: where samples are, what the bases are there, and samples in the order of their spans.

Shape legend: ``I`` inputs, ``T = G + 2k + 1`` knots of an input, ``k`` the spline order, ``W = k + 1`` bases per span.

The *span* of a sample is the number of knots that are not above it, ``0..T``: ``[t_{c-1}, t_c)`` is span ``c``; spans ``0`` and
``T`` are outside, and NaN is in span 0. In span ``c`` the ``W`` bases from ``first_basis(c, T, k)`` on include all that are not
zero, and none of their numbers is out of range: near the ends of the knots some of them are zero. Their values are polynomials
in ``s = (x - middle) * scale``, which runs from -1/2 to 1/2 through the span: no coefficient is large on any knots. They are
worked out in float64 by the triangular scheme of Piegl and Tiller (*The NURBS Book*, A2.1-A2.3), on polynomials in place of
numbers, and rounded once.

A table is made of ``I * (T + 1)`` rows of ``row_length(k)`` numbers, row ``i * (T + 1) + c`` for span ``c`` of input ``i``:
``middle``, ``scale``, then for each power 0..k the ``W`` coefficients. Spans outside have rows of zeros.

A guide is made of ``I`` rows of ``guide_length(T)`` numbers. The range of an input's knots is cut into buckets of equal width.
A row holds where the first one starts, how many there are to a unit, the most knots in one of them and, for each of ``2 T``
buckets, the number of knots below it, reduced to where as many as those most are left. Where each of ``T`` buckets around
places of equal distance holds one knot, as on uniform knots, the most is 0: a bucket's own number is that of the knots below.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numba import literally, types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from efficient_kan.kernels.cpu.codegen import openmp
from efficient_kan.kernels.cpu.codegen.jit import (
    REAL,
    STAMP,
    Entry,
    addresses,
    at,
    inlined,
    moved,
    noinline,
    reader,
    size_of,
    stored,
)
from efficient_kan.kernels.cpu.codegen.simd import INDEX, VECTOR_BYTES, Emitter, real_of
from efficient_kan.kernels.cpu.common.job import read
from efficient_kan.kernels.cpu.common.silu import sigmoid
from efficient_kan.kernels.cpu.common.transpose import transpose

_Made = TypeVar("_Made")

LANES = 64  # rows of a table that are worked out together
_LEAST = 512  # rows of a table that are worth a thread


def row_length(spline_order: int) -> int:
    """Numbers in a row of a table."""
    return 2 + (spline_order + 1) ** 2


@inlined
def first_basis(span: int, knots: int, order: int) -> int:
    """Number of the first of the ``order + 1`` bases in a span."""
    return min(max(span - 1 - order, 0), knots - 2 * order - 2)


def guide_length(knots: int) -> int:
    """Numbers in a row of a guide."""
    return 3 + 2 * knots


@noinline
def locate(x: Any, row: Any, guide: Any, knots: int, samples: int, spans: Any) -> None:
    """The spans of ``samples`` samples of one input, all contiguous, from its knots and its row of the guide."""
    low, inverse, length, zero = guide[0], guide[1], np.int32(guide[2]), type(guide[0])(0)
    if length == 0:
        last = type(zero)(knots - 1)
        for n in range(samples):
            bucket = (x[n] - low) * inverse
            bucket = bucket if bucket > zero else zero  # NaN too
            bucket = bucket if bucket < last else last
            found = np.int32(bucket)
            spans[n] = np.int32(found + np.int32(row[found] <= x[n]))
        return
    top = type(zero)(2 * knots - 1)
    for n in range(samples):
        bucket = (x[n] - low) * inverse
        bucket = bucket if bucket > zero else zero  # NaN too
        bucket = bucket if bucket < top else top
        spans[n] = np.int32(guide[3 + np.int32(bucket)])
    while length > 0:
        half = (length + np.int32(1)) >> np.int32(1)
        for n in range(samples):
            spans[n] += np.int32(half) * np.int32(row[spans[n] + half - 1] <= x[n])
        length -= half


@noinline
def sort(cells: Any, samples: int, count: int, starts: Any, spans: Any, rows: Any) -> None:
    """Numbers of the samples in the order of their spans, stable, by counting; and the spans that have samples.

    ``cells`` are the samples' spans. Both halves of the samples are taken next to each other: the next sample of a span would
    have to wait for the last. ``starts`` is room for ``2 (count + 1)`` integers. ``spans``: how many have samples and, for
    each, its number, where its samples start and how many they are. Indices are unsigned, for else negative ones would count
    from the end.
    """
    half, second, total, number = samples // 2, np.uint64(count + 1), np.int32(0), 0
    for span in range(2 * (count + 1)):
        starts[span] = 0
    for b in range(half):
        starts[np.uint64(cells[np.uint64(b)])] += np.int32(1)
        starts[np.uint64(cells[np.uint64(b + half)]) + second] += np.int32(1)
    if 2 * half < samples:
        starts[np.uint64(cells[samples - 1]) + second] += np.int32(1)
    for span in range(count + 1):
        of_first, of_second = starts[span], starts[span + count + 1]
        starts[span], starts[span + count + 1] = total, total + of_first
        some = of_first + of_second
        if some > 0:
            spans[3 * number + 1], spans[3 * number + 2], spans[3 * number + 3] = span, total, some
            number += 1
        total += some
    spans[0] = number
    for b in range(half):
        left, right = np.uint64(cells[np.uint64(b)]), np.uint64(cells[np.uint64(b + half)]) + second
        to_left, to_right = starts[left], starts[right]
        starts[left], starts[right] = to_left + np.int32(1), to_right + np.int32(1)
        rows[to_left], rows[to_right] = np.int32(b), np.int32(b + half)
    if 2 * half < samples:
        rows[starts[np.uint64(cells[samples - 1]) + second]] = np.int32(samples - 1)


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def powers(_: Any, x: Any, count: Any, row: Any, target: Any, stride: Any, order: Any) -> Any:
    """Powers 1 to k of ``s`` of samples of one span, to rows of ``target``. Whole vectors are read and written."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, count, row, target, stride, _ = args
        emit = Emitter(builder, real_of(signature.args[0]))
        middle, scale = emit.spread_at(row, 0), emit.spread_at(row, 1)
        with cgutils.for_range_slice(builder, INDEX(0), count, INDEX(emit.lanes), intp=INDEX) as (b, _):
            s = power = builder.fmul(builder.fsub(emit.load(emit.place(x, b)), middle), scale)
            for n in range(signature.args[5].literal_value):
                power = builder.fmul(power, s) if n else s
                emit.store(power, emit.place(target, builder.mul(stride, INDEX(n)), b))
        return context.get_dummy_value()

    return types.void(x, types.intp, row, target, types.intp, order), generate


@noinline
def fill(job_at: int, room: int, sample: int, samples: int, i: int, width: int, order: int, zero: Any) -> None:
    """What scratch memory at ``room`` holds of a panel's ``samples`` of the group of ``width`` inputs from ``i`` on.

    ``spans``, ``rows`` and ``terms`` of :class:`~efficient_kan.kernels.cpu.common.job.Job`.
    """
    job, one, none = read(job_at), type(zero)(1), np.int32(0)
    size, length = size_of(zero), 2 + (order + 1) * (order + 1)
    place, stride = (sample * job.inputs + i) * size, job.stride
    column, cells, starts = at(room + job.column, zero), at(room + job.cells, none), at(room + job.starts, none)
    columns = at(room + job.columns, zero)
    transpose(at(job.x + place, zero), job.inputs, columns, stride, samples, width, VECTOR_BYTES // size)
    for n in range(width):
        x, rows = moved(columns, n * stride), at(room + job.rows + n * stride * 4, none)
        spans = at(room + job.spans + n * (1 + 3 * min(job.knot_count + 1, job.panel)) * 8, 0)
        terms = at(room + job.terms + n * (order + 2) * stride * size, zero)
        knots = at(job.knots + (i + n) * job.knot_count * size, zero)
        guide = at(job.guide + (i + n) * (3 + 2 * job.knot_count) * size, zero)
        locate(x, knots, guide, job.knot_count, samples, cells)
        sort(cells, samples, job.knot_count, starts, spans, rows)
        for b in range(samples):
            column[b] = x[rows[b]]
        for m in range(spans[0]):
            span, start, some = spans[3 * m + 1], spans[3 * m + 2], spans[3 * m + 3]
            if span == 0 or span == job.knot_count:  # outside, where the samples may be infinite
                for power in range(order):
                    for b in range(start, start + some):
                        terms[power * stride + b] = zero
            else:
                row = at(job.table + ((i + n) * (job.knot_count + 1) + span) * length * size, zero)
                powers(moved(column, start), some, row, moved(terms, start), stride, literally(order))
        active, rise = moved(terms, order * stride), moved(terms, (order + 1) * stride)
        if job.base:
            base = at(job.base + place + n * size, zero)
            for b in range(samples):
                active[b], rise[b] = base[rows[b] * job.inputs], zero
        else:
            for b in range(samples):
                share = sigmoid(column[b])
                active[b] = column[b] * share
                rise[b] = share * (one + column[b] * (one - share))


@noinline
def scatter(
    job_at: int, room: int, source: int, target_at: int, sample: int, samples: int, i: int, width: int, zero: Any
) -> None:
    """What is at ``source`` of ``room`` of a panel's samples, in their order, to rows and columns of a target ``(B, I)``."""
    job, size = read(job_at), size_of(zero)
    stride, columns = job.stride, at(room + job.columns, zero)
    for n in range(width):
        rows, found = at(room + job.rows + n * stride * 4, np.int32(0)), at(room + source + n * stride * size, zero)
        for b in range(samples):
            columns[n * stride + rows[b]] = found[b]
    target = at(target_at + (sample * job.inputs + i) * size, zero)
    transpose(columns, stride, target, job.inputs, width, samples, VECTOR_BYTES // size)


class _Knots(NamedTuple):
    """The job of :func:`_tabulate`; see the module's description."""

    knots: int
    table: int
    guide: int
    scratch: int  # for each part, _room(k) numbers of float64
    inputs: int
    knot_count: int
    parts: int


_read = reader(_Knots)


def _room(order: int) -> int:
    return LANES + 2 * order + 1 + 4 * LANES + (order + 1) ** 2 * LANES


@noinline
def _span_polynomials(t: Any, inverse: Any, middle: Any, unit: Any, p: Any, order: int) -> None:
    """Coefficients ``p[(r * (k + 1) + m) * LANES + lane]`` of power ``m`` of basis ``r``, one span a lane."""
    k, width = order, order + 1
    for lane in range(LANES):
        p[lane] = 1.0
    for q in range(1, k + 1):
        for r in range(q):
            for lane in range(LANES):
                inverse[lane] = 1.0 / (t[k + r + lane] - t[k - q + r + lane])
            for m in range(q):
                row = moved(p, (r * width + m) * LANES)
                for lane in range(LANES):
                    row[lane] *= inverse[lane]
        for r in range(q, -1, -1):
            for m in range(q, -1, -1):
                row, here = moved(p, (r * width + m) * LANES), moved(p, (r * width + m - 1) * LANES)
                of_left, left = moved(p, ((r - 1) * width + m) * LANES), moved(p, ((r - 1) * width + m - 1) * LANES)
                for lane in range(LANES):
                    value = 0.0
                    if r > 0:
                        if m < q:
                            value += (middle[lane] - t[k - 1 - q + r + lane]) * of_left[lane]
                        if m > 0:
                            value += unit[lane] * left[lane]
                    if r < q:
                        if m < q:
                            value += (t[k + r + lane] - middle[lane]) * row[lane]
                        if m > 0:
                            value -= unit[lane] * here[lane]
                    row[lane] = value


@noinline
def _guide(row: Any, target: Any, count: int, zero: Any) -> None:
    """The guide of one input."""
    buckets, real = 2 * count, type(zero)
    inverse = real(count - 1) / (row[count - 1] - row[0])
    low, last, single = row[0] - real(0.5) / inverse, real(count - 1), True
    for n in range(count):
        place = (row[n] - low) * inverse
        place = place if place > zero else zero
        single = single and np.int32(place if place < last else last) == n
    if single:
        target[0], target[1], target[2] = low, inverse, zero
        return
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


@cache
def _tabulate(order: int, real: Any) -> Entry:
    """Tables and guides of parts ``start..stop`` of the inputs."""
    k, width, stamp, size = order, order + 1, STAMP, np.dtype(real).itemsize
    length, room, largest = row_length(order), _room(order), np.finfo(real).max

    def tabulate(job_at: int, start: int, stop: int) -> None:
        assert stamp
        job, zero = _read(job_at), real(0)
        count = job.knot_count
        for part in range(start, stop):
            t = at(job.scratch + part * room * 8, 0.0)
            for i in range(job.inputs * part // job.parts, job.inputs * (part + 1) // job.parts):
                knots, rows = at(job.knots + i * count * size, zero), job.table + i * (count + 1) * length * size
                _guide(knots, at(job.guide + i * (3 + 2 * count) * size, zero), count, zero)
                inverse = moved(t, LANES + 2 * k + 1)
                middle, scale, unit, p = (
                    moved(inverse, LANES), moved(inverse, 2 * LANES), moved(inverse, 3 * LANES), moved(inverse, 4 * LANES)
                )  # fmt: skip
                for n in range((count + 1) * length):
                    at(rows, zero)[n] = zero
                for first in range(0, count - 1, LANES):
                    for lane in range(LANES + 2 * k + 1):  # bases that do not exist use knots beyond the ends, no others do
                        place = first + lane - k + 1
                        end = count - 1
                        t[lane] = knots[min(max(place, 0), end)] + (place - min(max(place, 0), end))
                    for lane in range(LANES):
                        low, high = t[k - 1 + lane], t[k + lane]
                        centre = real(low + 0.5 * (high - low))
                        middle[lane], scale[lane] = centre, real(min(1.0 / (high - low), largest))
                        unit[lane] = 1.0 / scale[lane]
                    _span_polynomials(t, inverse, middle, unit, p, k)
                    for lane in range(min(LANES, count - 1 - first)):
                        if not t[k + lane] > t[k - 1 + lane]:
                            continue
                        span = first + lane + 1
                        row = at(rows + span * length * size, zero)
                        row[0], row[1] = real(middle[lane]), real(scale[lane])
                        start_basis = first_basis(span, count, k)
                        for r in range(width):
                            basis = span - 1 - k + r
                            if 0 <= basis < count - k - 1:
                                for m in range(width):
                                    row[2 + m * width + basis - start_basis] = real(p[(r * width + m) * LANES + lane])

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


@remembered
def tables(knots: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """The guide ``(I, guide_length(T))`` and the table ``(I * (T + 1), row_length(k))`` of contiguous ``knots`` ``(I, T)``."""
    inputs, count = knots.shape
    table, guide = knots.new_empty((inputs * (count + 1), row_length(order))), knots.new_empty((inputs, guide_length(count)))
    if stored(table):
        parts = max(1, min(torch.get_num_threads(), inputs * count // _LEAST, inputs))
        scratch = torch.empty(parts * _room(order), dtype=torch.float64)
        job = _Knots._make((*addresses(knots, table, guide, scratch), inputs, count, parts))
        openmp.run(_tabulate(order, REAL[knots.dtype]), parts, job)
    return guide, table
