"""Spans of knots: where samples are, and samples in the order of their spans.

Shape legend: ``I`` inputs, ``T = G + 2k + 1`` knots of an input, ``k`` the spline order, ``W = k + 1`` bases per span.

The *span* of a sample is the number of knots that are not above it, ``0..T``: ``[t_{c-1}, t_c)`` is span ``c``; spans ``0`` and
``T`` are outside, and NaN is in span 0. In span ``c`` the ``W`` bases from ``first_basis(c, T, k)`` on include all that are not
zero, and none of their numbers is out of range: near the ends of the knots some of them are zero. Their values are in
`common.tables`, and so is the guide by which :func:`locate` finds spans where knots are many.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import literally, types
from numba.core import cgutils
from numba.extending import intrinsic

from efficient_kan.kernels.cpu.codegen.jit import (
    at,
    inlined,
    moved,
    noinline,
    size_of,
)
from efficient_kan.kernels.cpu.codegen.simd import INDEX, VECTOR_BYTES, Emitter, real_of
from efficient_kan.kernels.cpu.common.job import read
from efficient_kan.kernels.cpu.common.silu import sigmoid
from efficient_kan.kernels.cpu.common.transpose import transpose

_FEW_KNOT_BYTES = 96  # of an input, up to which it is quicker to compare samples with all knots, vectors of them at once


@inlined
def first_basis(span: int, knots: int, order: int) -> int:
    """Number of the first of the ``order + 1`` bases in a span."""
    first, last = span - 1 - order, knots - 2 * order - 2
    return 0 if first < 0 else (last if first > last else first)


@intrinsic  # type: ignore[untyped-decorator]
def count_knots(_: Any, x: Any, row: Any, knots: Any, samples: Any, spans: Any) -> Any:
    """How many knots are not above each of ``samples`` samples. Whole vectors are read and written."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, row, knots, samples, spans = args
        emit = Emitter(builder, real_of(signature.args[0]))
        counts = ir.VectorType(ir.IntType(32), emit.lanes)
        count = cgutils.alloca_once(builder, counts)
        with cgutils.for_range_slice(builder, INDEX(0), samples, INDEX(emit.lanes), intp=INDEX) as (b, _):
            values = emit.load(emit.place(x, b))
            emit.put(ir.Constant(counts, [0] * emit.lanes), count)
            with cgutils.for_range(builder, knots) as loop:
                reached = builder.fcmp_ordered("<=", emit.spread_at(row, loop.index), values)
                emit.put(builder.add(builder.load(count, typ=counts), builder.zext(reached, counts)), count)
            place = builder.gep(spans, [b], source_etype=ir.IntType(32))
            emit.store(builder.load(count, typ=counts), place)
        return context.get_dummy_value()

    return types.void(x, row, types.intp, types.intp, spans), generate


@noinline
def locate(x: Any, row: Any, guide: Any, knots: int, samples: int, spans: Any) -> None:
    """The spans of ``samples`` samples of one input, all contiguous, from its knots and its row of the guide.

    Whole vectors of samples are read, and of spans written.
    """
    if knots * size_of(row[0]) <= _FEW_KNOT_BYTES:
        count_knots(x, row, knots, samples, spans)
        return
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

    ``spans``, ``ranges``, ``rows`` and ``terms`` of :class:`~efficient_kan.kernels.cpu.common.job.Job`. Ranges of weights are
    all; or the bases of each span that has samples and, unless they are elsewhere, the base weight.
    """
    job, one, none = read(job_at), type(zero)(1), np.int32(0)
    size, length = size_of(zero), 2 + (order + 1) * (order + 1)
    place, stride = (sample * job.inputs + i) * size, job.stride
    column, cells, starts = at(room + job.column, zero), at(room + job.cells, none), at(room + job.starts, none)
    columns = at(room + job.columns, zero)
    transpose(at(job.x + place, zero), job.inputs, columns, stride, samples, width, VECTOR_BYTES // size)
    for n in range(width):
        x, rows = moved(columns, n * stride), at(room + job.rows + n * stride * 4, none)
        spans = at(room + job.spans + n * job.span_bytes, 0)
        terms = at(room + job.terms + n * (order + 2) * stride * size, zero)
        knots = at(job.knots + (i + n) * job.knot_count * size, zero)
        guide = at(job.guide + (i + n) * (3 + 2 * job.knot_count) * size, zero)
        locate(x, knots, guide, job.knot_count, samples, cells)
        sort(cells, samples, job.knot_count, starts, spans, rows)
        ranges, done = at(room + job.ranges + n * job.range_bytes, 0), 0
        ranges[0], ranges[1], ranges[2] = 1, 0, job.length
        if job.named:
            for m in range(spans[0]):
                first = first_basis(spans[3 * m + 1], job.knot_count, order)
                done = first if done < first else done
                ranges[2 * m + 1], ranges[2 * m + 2] = done, first + order + 1 - done
                done = first + order + 1
            ranges[2 * spans[0] + 1], ranges[2 * spans[0] + 2] = job.length - 1, 1
            ranges[0] = spans[0] if job.base_weight else spans[0] + 1
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
