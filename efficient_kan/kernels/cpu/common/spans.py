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
from typing import Any, TypeVar
from weakref import ReferenceType, ref

import numpy as np
import torch
from numba import literally, types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from efficient_kan.kernels.cpu.codegen.jit import (
    at,
    inlined,
    moved,
    noinline,
    size_of,
    stored,
)
from efficient_kan.kernels.cpu.codegen.simd import INDEX, VECTOR_BYTES, Emitter, real_of
from efficient_kan.kernels.cpu.common.job import read
from efficient_kan.kernels.cpu.common.silu import sigmoid
from efficient_kan.kernels.cpu.common.transpose import transpose

_Made = TypeVar("_Made")

_FAKE = torch._C._TorchDispatchModeKey.FAKE
_BLOCK = 2**14  # knots that are worked on together


def row_length(spline_order: int) -> int:
    """Numbers in a row of a table."""
    return 2 + (spline_order + 1) ** 2


@inlined
def first_basis(span: int, knots: int, order: int) -> int:
    """Number of the first of the ``order + 1`` bases in a span."""
    first, last = span - 1 - order, knots - 2 * order - 2
    return 0 if first < 0 else (last if first > last else first)


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


def _polynomials(knots: Tensor, middle: Tensor, unit: Tensor, order: int) -> Tensor:
    """Coefficients ``(W, W, I, T - 1)`` of power ``m`` of basis ``r`` of each span, in float64.

    ``middle`` and ``unit``, the inverse of the scale, are what the place in a span is made with.
    Bases that do not exist, below the first or beyond the last, have numbers without meaning.
    """
    (inputs, count), k = knots.shape, order
    steps = torch.arange(1, k + 1, dtype=knots.dtype)
    t = torch.cat((knots[:, :1] - steps.flip(0), knots, knots[:, -1:] + steps), 1)  # knots beyond the ends, distinct

    def knot(place: int) -> Tensor:
        """Knot ``place - k`` after the one that a span starts from."""
        return t[:, place : place + count - 1]

    p = knots.new_zeros(k + 1, k + 1, inputs, count - 1)
    p[0, 0] = 1.0
    for q in range(1, k + 1):
        for r in range(q):
            p[r, :q] *= 1.0 / (knot(k + 1 + r) - knot(k + 1 - q + r))
        for r in range(q, -1, -1):
            for m in range(q, -1, -1):
                value = torch.zeros_like(middle)
                if r > 0 and m < q:
                    value += (middle - knot(k - q + r)) * p[r - 1, m]
                if r > 0 and m > 0:
                    value += unit * p[r - 1, m - 1]
                if r < q and m < q:
                    value += (knot(k + 1 + r) - middle) * p[r, m]
                if r < q and m > 0:
                    value -= unit * p[r, m - 1]
                p[r, m] = value
    return p


def _table(knots: Tensor, order: int) -> Tensor:
    """The table ``(I * (T + 1), row_length(k))``; see the module's description."""
    (inputs, count), k, real = knots.shape, order, knots.dtype
    exact = knots.double()
    low, high = exact[:, :-1], exact[:, 1:]
    # What samples are taken away from and multiplied with is rounded: polynomials are in what comes of it.
    middle = (low + 0.5 * (high - low)).to(real).double()
    scale = (1.0 / (high - low)).clamp(max=torch.finfo(real).max).to(real).double()
    p = _polynomials(exact, middle, 1.0 / scale, k)
    table = knots.new_zeros((inputs, count + 1, row_length(k)))
    rows, spans = table[:, 1:-1], torch.arange(1, count)
    rows[..., 0], rows[..., 1] = middle, scale
    coefficients = rows[..., 2:].unflatten(-1, (k + 1, k + 1))
    first = (spans - 1 - k).clamp(0, count - 2 * k - 2)  # as first_basis
    for place in range(k + 1):
        r = first + place - (spans - 1 - k)  # which of the span's own bases is at this place
        exists = (r >= 0) & (r <= k)
        of_place = p[r.clamp(0, k), :, :, torch.arange(count - 1)]  # shape: (T - 1, W, I)
        coefficients[..., place] = torch.where(exists[:, None, None], of_place, 0.0).permute(2, 0, 1)
    rows *= (high > low).unsqueeze(-1)
    rows[~(high > low)] = 0.0  # also what is no number in an empty span
    return table.flatten(0, 1)


def _guide(knots: Tensor) -> Tensor:
    """The guide ``(I, guide_length(T))``; see the module's description."""
    inputs, count = knots.shape
    reach = knots[:, -1:] - knots[:, :1]
    inverse = (count - 1) / reach
    low = knots[:, :1] - 0.5 / inverse
    single = (_buckets(knots, low, inverse, count - 1) == torch.arange(count)).all(1, keepdim=True)
    many = 2 * count / reach
    of_knots = _buckets(knots, knots[:, :1], many, 2 * count - 1)
    below = torch.searchsorted(of_knots, torch.arange(2 * count).expand(inputs, -1).contiguous())
    most = torch.zeros((inputs, 2 * count), dtype=torch.int64).scatter_add_(1, of_knots, torch.ones_like(of_knots))
    most = most.amax(1, keepdim=True)
    guide = knots.new_zeros((inputs, guide_length(count)))
    guide[:, :1], guide[:, 1:2] = torch.where(single, low, knots[:, :1]), torch.where(single, inverse, many)
    guide[:, 2:3], guide[:, 3:] = torch.where(single, 0, most), torch.minimum(below, count - most)
    return guide


def _buckets(knots: Tensor, low: Tensor, inverse: Tensor, last: int) -> Tensor:
    """The bucket of each knot, as :func:`locate` finds it."""
    place = (knots - low) * inverse
    return torch.where(place > 0, place, 0.0).clamp(max=last).long()


def remembered(make: Callable[[Tensor, int], _Made]) -> Callable[[Tensor, int], _Made]:
    """Keep what ``make(knots, order)`` returns for as long as the tensor of knots lives and holds the same numbers.

    They are compared with a copy, because a tensor may be written to without its version telling. Fake ones hold none, and
    where everything that is made is fake, nothing is kept for a tensor that is not.
    """
    made: dict[int, tuple[ReferenceType[Tensor], int, Tensor, _Made]] = {}

    def remembering(knots: Tensor, order: int) -> _Made:
        held = stored(knots)
        if held and torch._C._len_torch_dispatch_stack() > 0 and torch._C._get_dispatch_mode(_FAKE) is not None:
            return make(knots, order)
        key = id(knots)
        found = made.get(key)
        if found is not None and found[0]() is knots and found[1] == order and (not held or torch.equal(found[2], knots)):
            return found[3]
        with torch.inference_mode(False):  # it may be needed for gradients later
            made[key] = found = ref(knots, lambda _: made.pop(key, None)), order, knots.clone(), make(knots, order)
        return found[3]

    return remembering


@remembered
def tables(knots: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """The guide ``(I, guide_length(T))`` and the table ``(I * (T + 1), row_length(k))`` of contiguous ``knots`` ``(I, T)``."""
    inputs, count = knots.shape
    if not stored(knots):
        return knots.new_empty((inputs, guide_length(count))), knots.new_empty((inputs * (count + 1), row_length(order)))
    with torch.no_grad():
        blocks = knots.split(max(1, _BLOCK // count))
        return torch.cat([_guide(block) for block in blocks]), torch.cat([_table(block, order) for block in blocks])
