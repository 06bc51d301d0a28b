"""Weights of a group of inputs and a tile of outputs in scratch memory, outputs-last, from a layer's parameters; and back.

An edge's spline is ``mask * scaler * spline_weight`` times the bases, and the factor of its base activation is
``mask * base_weight``; without a scaler or a mask those are ones, and without base weights that factor is the last number of
``spline_weight``'s row. Rows of spline weights are transposed as they are; edges' scales multiply what is made of them.

Where samples are few and the grid is fine (``named``), only rows of bases are there that are not zero for some of them.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from efficient_kan.kernels.cpu.codegen.jit import LINE_BYTES, at, moved, noinline, prefetch, size_of, smaller
from efficient_kan.kernels.cpu.codegen.simd import VECTOR_BYTES, Emitter, real_of
from efficient_kan.kernels.cpu.common.job import read, vectors_of
from efficient_kan.kernels.cpu.common.transpose import transpose


@noinline
def fold(job_at: int, room: int, i: int, width: int, o: int, some: int, zero: Any) -> None:
    """``weights``, ``masks``, ``scales``, ``bases`` of ``some`` outputs from ``o``, then zeros; ``width`` inputs from ``i``."""
    job, size = read(job_at), size_of(zero)
    tile, stride, weights = job.tile, job.inputs * job.length, at(room + job.weights, zero)
    source = at(job.spline + (o * job.inputs + i) * job.length * size, zero)
    for n in range(width if job.named else 1):
        ranges = at(room + job.ranges + n * job.range_bytes, 0)
        for m in range(ranges[0] if job.named else 1):
            # Else rows of all inputs are next to each other.
            first, count = (n * job.length + ranges[2 * m + 1], ranges[2 * m + 2]) if job.named else (0, width * job.length)
            rows = moved(weights, first * tile)
            for number in range(count * tile if some < tile else 0):
                rows[number] = zero
            transpose(moved(source, first), stride, rows, tile, some, count, VECTOR_BYTES // size)
    masks, scales, bases = at(room + job.masks, zero), at(room + job.scales, zero), at(room + job.bases, zero)
    edge = (o * job.inputs + i) * size
    _edges(job.mask, edge, job.inputs, masks, tile, width, some, zero)
    _edges(job.scaler, edge, job.inputs, scales, tile, width, some, zero)
    _edges(job.base_weight, edge, job.inputs, bases, tile, width, some, zero)
    for n in range(0 if job.base_weight else width):
        last = moved(weights, ((n + 1) * job.length - 1) * tile)
        for c in range(tile):
            bases[n * tile + c] = last[c]
    _times(scales, masks, width * tile)
    _times(bases, masks, width * tile)


@noinline
def _edges(source_at: int, edge: int, stride: int, target: Any, tile: int, width: int, some: int, zero: Any) -> None:
    """A tile's numbers of a matrix ``(O, I)`` at an address, outputs-last, then zeros; ones without an address."""
    filled = zero if source_at else type(zero)(1)
    for number in range(width * tile if (some < tile) | (source_at == 0) else 0):
        target[number] = filled
    if source_at:
        transpose(at(source_at + edge, zero), stride, target, tile, some, width, VECTOR_BYTES // size_of(zero))


@noinline
def _times(target: Any, factors: Any, count: int) -> None:
    """``target *= factors``."""
    for number in range(count):
        target[number] *= factors[number]


@noinline
def prefetch_edges(job_at: int, part: int, n: int, width: int, i: int, o: int, writes: bool, size: int) -> None:
    """The ``n``-th of ``width`` parts of what :func:`unfold` of this tile writes, or else of what :func:`fold` reads next.

    Processors do not foresee short pieces of rows that are far apart.
    """
    job = read(job_at)
    if not writes:
        o += job.tile
        if o >= job.outputs:
            o, i = 0, i + job.group
    some, count = smaller(job.tile, job.outputs - o), smaller(job.group, job.inputs - i)
    spline, mask = (job.of_spline, 0) if writes else (job.spline, job.mask)
    scaler, base_weight = (job.of_scaler, job.of_base_weight) if writes else (job.scaler, job.base_weight)
    for c in range(some * n // width, some * (n + 1) // width if count > 0 else 0):
        edge = ((part * job.outputs + o + c) * job.inputs + i) * size
        for byte in range(0, count * job.length * size + LINE_BYTES, LINE_BYTES):
            prefetch(spline + edge * job.length + byte)
        for matrix in (mask, scaler, base_weight):
            if matrix:
                prefetch(matrix + edge)
                prefetch(matrix + edge + (count - 1) * size)


@intrinsic  # type: ignore[untyped-decorator]
def _scale_rows(
    _: Any, grads: Any, whole: Any, weights: Any, tile: Any, scales: Any, totals: Any, rows: Any, vectors: Any
) -> Any:
    """``totals += sum_f grads[f] * weights[f]``, then ``grads *= scales``: so many ``vectors`` of each of ``rows``.

    Rows of ``grads`` are ``whole`` numbers apart, those of ``weights`` a ``tile``.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        grads, whole, weights, tile, scales, totals, rows, vectors = args
        emit = Emitter(builder, real_of(signature.args[0]))

        def scale(count: int) -> None:
            factors, sums = emit.load_all(scales, count), emit.zeros(count)
            for n, total in enumerate(sums):
                emit.put(emit.load(emit.place(totals, n * emit.lanes)), total)
            with cgutils.for_range(builder, rows) as loop:
                of_row = emit.place(grads, builder.mul(loop.index, whole))
                row = emit.place(weights, builder.mul(loop.index, tile))
                for n, (factor, total) in enumerate(zip(factors, sums, strict=True)):
                    place = emit.place(of_row, n * emit.lanes)
                    gradient, weight = emit.load(place), emit.load(emit.place(row, n * emit.lanes))
                    emit.put(emit.plus(emit.held(total), emit.times(gradient, weight)), total)
                    emit.store(emit.times(gradient, factor), place)
            for n, total in enumerate(sums):
                emit.store(emit.held(total), emit.place(totals, n * emit.lanes))

        emit.of_widths(vectors, scale)
        return context.get_dummy_value()

    return types.void(grads, types.intp, weights, types.intp, scales, totals, types.intp, types.intp), generate


@noinline
def unfold(job_at: int, room: int, part: int, i: int, width: int, o: int, some: int, zero: Any) -> None:
    """The gradients of parameters of ``some`` outputs from ``o`` on, from those of what :func:`fold` makes, which is there.

    Gradients are of a ``part`` of the samples. ``of_weights`` and ``of_bases``, of folded ones, are overwritten, and so are
    ``bases``, with sums for scalers: call it once after each :func:`fold`.
    """
    job, size = read(job_at), size_of(zero)
    tile, whole, edge = job.tile, job.whole, (part * job.outputs + o) * job.inputs + i
    place = o if whole > tile else 0
    grads = at(room + job.of_weights + place * size, zero)
    length = job.length if job.base_weight else job.length - 1
    masks, totals = at(room + job.masks, zero), at(room + job.bases, zero)
    of_bases = at(room + job.of_bases + place * size, zero)
    target, stride, lanes = at(job.of_spline + edge * job.length * size, zero), job.inputs * job.length, VECTOR_BYTES // size
    for c in range(some if job.named else 0):
        for n in range(width * job.length):
            target[c * stride + n] = zero
    for n in range(width):
        rows, scales = n * job.length, at(room + job.scales + n * tile * size, zero)
        of_base, total, mask = moved(of_bases, n * whole), moved(totals, n * tile), moved(masks, n * tile)
        if not job.base_weight:
            for c in range(some):
                grads[(rows + length) * whole + c] = of_base[c]
        for c in range(tile):
            total[c] = zero
        ranges = at(room + job.ranges + n * job.range_bytes, 0)
        for m in range(ranges[0]):
            first, count = ranges[2 * m + 1], ranges[2 * m + 2]
            of_edges, first = smaller(count, length - first), rows + first
            row = at(room + job.weights + first * tile * size, zero)
            _scale_rows(moved(grads, first * whole), whole, row, tile, scales, total, of_edges, vectors_of(some, lanes))
            if job.named:
                transpose(moved(grads, first * whole), whole, moved(target, first), stride, count, some, lanes)
        _times(total, mask, tile)
        _times(of_base, mask, tile)
    if job.of_scaler:
        transpose(totals, tile, at(job.of_scaler + edge * size, zero), job.inputs, width, some, lanes)
    if job.of_base_weight:
        transpose(of_bases, whole, at(job.of_base_weight + edge * size, zero), job.inputs, width, some, lanes)
    if not job.named:
        transpose(grads, whole, target, stride, width * job.length, some, lanes)


@noinline
def clear(job_at: int, room: int, width: int, zero: Any) -> None:
    """Set the gradients of weights of a group to zero."""
    job = read(job_at)
    of_weights, of_bases = at(room + job.of_weights, zero), at(room + job.of_bases, zero)
    for n in range(width if job.of_spline else 0):
        ranges = at(room + job.ranges + n * job.range_bytes, 0)
        for m in range(ranges[0]):
            rows = moved(of_weights, (n * job.length + ranges[2 * m + 1]) * job.whole)
            for number in range(ranges[2 * m + 2] * job.whole):
                rows[number] = zero
    for n in range(width * job.whole if job.of_spline else 0):
        of_bases[n] = zero
