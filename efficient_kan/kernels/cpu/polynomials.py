"""Sums over the samples of one knot interval in vector registers, the inner loops of `sparse`.

In one cell (see `basis`) the spline of every output is a polynomial in the sample's place ``s`` in the cell, whose coefficients
are combinations of the ``k + 1`` rows of weights of its bases. For as long as samples are of one cell, those of a tile of
outputs stay in registers: a sample takes ``k + 1`` multiplications an output, its base activation included, and reads no
weights. Likewise the gradients of weights are those of the coefficients, combined once a cell.

A *run* is ``count`` samples of one cell. All functions take: ``samples``, their numbers; ``row``, the cell's row of the table
(:func:`efficient_kan.kernels.cpu.basis.pieces`); ``weights``, from the cell's first basis on, and ``last``, the row of the
base activation, or the gradients of both; the ``stride`` of those rows and of the rows of samples; the spline ``order``, a
constant of the compiled code; and how many ``outputs`` to work on, up to ``WIDTH`` vectors. Rows of weights have so many
numbers, rows of samples whole vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from efficient_kan.kernels.cpu.vectors import VECTOR_BYTES, Emitter, row_of

# Vectors of outputs whose coefficients stay in registers, of which processors have 16, or 32 where vectors are wider.
WIDTH = 4 if VECTOR_BYTES == 64 else 2
_INDEX, _LANE = ir.IntType(64), ir.IntType(32)
_SUMMED_BYTES = 16  # of the sums of vectors that are worked out together
_CHAIN = 64  # samples whose gradients are summed up one after the other: rounding errors of a long sum would add up


def _of_outputs(emit: Emitter, outputs: Any, body: Callable[[int, Any, Any], None]) -> None:
    """Emit a body for each number of vectors: that, the mask of the last one's elements, and whether those are all."""
    builder = emit.builder

    def of_width(wide: int) -> None:
        left = builder.sub(outputs, _INDEX((wide - 1) * emit.lanes))
        body(wide, emit.first(left), builder.icmp_signed("==", left, _INDEX(emit.lanes)))

    vectors = builder.udiv(builder.add(outputs, _INDEX(emit.lanes - 1)), _INDEX(emit.lanes))
    emit.of_widths(vectors, WIDTH, of_width)


def _polynomials(
    emit: Emitter, row: Any, weights: Any, stride: Any, order: int, wide: int, mask: Any
) -> list[list[Any]]:  # fmt: skip
    """Coefficients of powers 0 to k, of each vector of outputs."""
    of_bases = []
    for _ in range(order + 1):
        of_bases.append(emit.load_row(weights, wide, mask))
        weights = emit.place(weights, stride)
    found = []
    for power in range(order + 1):
        total: list[Any] = []
        for r, of_basis in enumerate(of_bases):
            factor = emit.spread_at(row, 2 + power * (order + 1) + r)
            products = [emit.times(factor, weight) for weight in of_basis]
            total = [emit.plus(a, b) for a, b in zip(total, products, strict=True)] if r else products
        found.append(total)
    return found


def _evaluated(emit: Emitter, polynomials: list[list[Any]], s: Any, n: int) -> Any:
    """Polynomials of vector ``n`` at ``s``."""
    total = polynomials[-1][n]
    for of_power in reversed(polynomials[:-1]):
        total = emit.plus(emit.times(total, s), of_power[n])
    return total


def _sums(emit: Emitter, vectors: list[Any]) -> Any:
    """The sum of the elements of each of as many vectors as 16 bytes have numbers, in one vector of so many."""
    few = len(vectors)

    def neighbours(a: Any, b: Any, odd: int) -> Any:
        """Every second element of both, 16 bytes at a time: what crosses those takes longer."""
        mask = [
            start + odd + 2 * n + of
            for start in range(0, emit.lanes, few)
            for of in (0, emit.lanes)
            for n in range(few // 2)
        ]  # fmt: skip
        return emit.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_LANE, emit.lanes), mask))

    while len(vectors) > 1:
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [emit.builder.fadd(neighbours(a, b, 0), neighbours(a, b, 1)) for a, b in pairs]
    (total,), lanes = vectors, emit.lanes
    while lanes > few:
        lanes //= 2
        halves = [ir.Constant(ir.VectorType(_LANE, lanes), list(range(start, start + lanes))) for start in (0, lanes)]
        low, high = (emit.builder.shuffle_vector(total, total, half) for half in halves)
        total = emit.builder.fadd(low, high)
    return total


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def powers(_: Any, x: Any, count: Any, row: Any, target: Any, stride: Any, order: Any) -> Any:
    """Powers 1 to k of ``s`` of a run, to rows of ``target``. Whole vectors are read and written."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, count, row, target, stride, _ = args
        emit = Emitter(builder, x.type.pointee)
        middle, scale = emit.spread_at(row, 0), emit.spread_at(row, 1)
        with cgutils.for_range_slice(builder, _INDEX(0), count, _INDEX(emit.lanes), intp=_INDEX) as (b, _):
            s = power = builder.fmul(builder.fsub(emit.load(emit.place(x, b)), middle), scale)
            for n in range(signature.args[5].literal_value):
                power = builder.fmul(power, s) if n else s
                emit.store(power, emit.place(target, builder.mul(stride, _INDEX(n)), b))
        return context.get_dummy_value()

    return types.void(x, types.intp, row, target, types.intp, order), generate


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def add_run(
    _: Any, y: Any, samples: Any, s: Any, active: Any, count: Any, row: Any, weights: Any, last: Any, stride: Any,
    y_stride: Any, order: Any, outputs: Any,
) -> Any:  # fmt: skip
    """``y[samples[b]] += p(s[b]) + active[b] * last``, for the polynomials ``p`` of the cell."""
    k = order.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        y, samples, s, active, count, row, weights, last, stride, y_stride, _, outputs = args
        emit = Emitter(builder, y.type.pointee)

        def body(wide: int, mask: Any, _: Any) -> None:
            p, base = _polynomials(emit, row, weights, stride, k, wide, mask), emit.load_row(last, wide, mask)
            with cgutils.for_range(builder, count) as loop:
                target = row_of(emit, y, samples, loop.index, y_stride)
                place, value = emit.spread_at(s, loop.index), emit.spread_at(active, loop.index)
                for n in range(wide):
                    added = emit.plus(emit.times(value, base[n]), _evaluated(emit, p, place, n))
                    of = emit.place(target, n * emit.lanes)
                    emit.store(builder.fadd(emit.load(of), added), of)

        _of_outputs(emit, outputs, body)
        return context.get_dummy_value()

    integer = types.intp
    kinds = y, samples, s, active, integer, row, weights, last, integer, integer, order, integer
    return types.void(*kinds), generate


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def pull_run(
    _: Any, g: Any, samples: Any, s: Any, rise: Any, count: Any, row: Any, weights: Any, last: Any, stride: Any, g_stride: Any,
    result: Any, order: Any, outputs: Any,
) -> Any:  # fmt: skip
    """``result[b] += g[samples[b]] . (p'(s[b]) + rise[b] * last)``, for the derivatives ``p'`` with respect to x."""
    k = order.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        g, samples, s, rise, count, row, weights, last, stride, g_stride, result, _, outputs = args
        emit = Emitter(builder, g.type.pointee)
        few = _SUMMED_BYTES // emit.size
        grouped = builder.sub(count, builder.urem(count, _INDEX(few)))

        def body(wide: int, mask: Any, _: Any) -> None:
            scale, base, slope = emit.spread_at(row, 1), emit.load_row(last, wide, mask), []
            for power, of_power in enumerate(_polynomials(emit, row, weights, stride, k, wide, mask)[1:], 1):
                factor = builder.fmul(scale, ir.Constant(emit.vector, [float(power)] * emit.lanes))
                slope.append([builder.fmul(factor, p) for p in of_power])

            def products(number: Any) -> Any:
                source = row_of(emit, g, samples, number, g_stride)
                place, value = emit.spread_at(s, number), emit.spread_at(rise, number)
                total = None
                for n, gradient in enumerate(emit.load_all(source, wide)):
                    of_x = emit.plus(emit.times(value, base[n]), _evaluated(emit, slope, place, n))
                    product = emit.times(of_x, gradient)
                    total = product if total is None else emit.plus(total, product)
                return total

            with cgutils.for_range_slice(builder, _INDEX(0), grouped, _INDEX(few), intp=_INDEX) as (b, _):
                totals = _sums(emit, [products(builder.add(b, _INDEX(n))) for n in range(few)])
                place = builder.bitcast(emit.place(result, b), totals.type.as_pointer())
                totals = builder.fadd(builder.load(place, align=emit.size), totals)
                builder.store(totals, place, align=emit.size)
            with cgutils.for_range_slice(builder, grouped, count, _INDEX(1), intp=_INDEX) as (b, _):
                place = emit.place(result, b)
                builder.store(builder.fadd(builder.load(place), emit.total(products(b))), place)

        _of_outputs(emit, outputs, body)
        return context.get_dummy_value()

    integer = types.intp
    kinds = g, samples, s, rise, integer, row, weights, last, integer, integer, result, order, integer
    return types.void(*kinds), generate


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def sum_run(
    _: Any, g: Any, samples: Any, s: Any, s_stride: Any, active: Any, count: Any, row: Any, of_weights: Any, of_last: Any,
    stride: Any, g_stride: Any, order: Any, outputs: Any,
) -> Any:  # fmt: skip
    """What a run adds to the gradients of weights, from powers 1 to k of ``s``, rows that are ``s_stride`` apart."""
    k = order.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        g, samples, s, s_stride, active, count, row, of_weights, of_last, stride, g_stride, _, outputs = args
        emit = Emitter(builder, g.type.pointee)

        def body(wide: int, mask: Any, whole: Any) -> None:
            registers = [emit.zeros(wide) for _ in range(k + 2)]  # of powers 0 to k, and of the base activation
            sums = [emit.zeros(wide) for _ in range(k + 2)]
            factors = [*(emit.place(s, builder.mul(s_stride, _INDEX(n))) for n in range(k)), active]
            with cgutils.for_range_slice(builder, _INDEX(0), count, _INDEX(_CHAIN), intp=_INDEX) as (start, _):
                further = builder.add(start, _INDEX(_CHAIN))
                stop = builder.select(builder.icmp_signed("<", further, count), further, count)
                with cgutils.for_range_slice(builder, start, stop, _INDEX(1), intp=_INDEX) as (b, _):
                    gradient = emit.load_all(row_of(emit, g, samples, b, g_stride), wide)
                    for register, number in zip(registers[0], gradient, strict=True):
                        builder.store(builder.fadd(builder.load(register), number), register)
                    for pointer, of_factor in zip(factors, registers[1:], strict=True):
                        emit.add_products(emit.spread_at(pointer, b), gradient, of_factor)
                for total, of_chain in zip(sums, registers, strict=True):
                    for register, part in zip(total, of_chain, strict=True):
                        builder.store(builder.fadd(builder.load(register), builder.load(part)), register)
                        builder.store(emit.zero, part)
            *found, of_base = [[builder.load(register) for register in total] for total in sums]
            for n, value in enumerate(of_base):
                place = emit.place(of_last, n * emit.lanes)
                emit.store(builder.fadd(emit.load(place), value), place)
            target = of_weights
            for r in range(k + 1):
                added: list[Any] = []  # added up first: the whole sum is rounded once
                for power, of_power in enumerate(found):
                    factor = emit.spread_at(row, 2 + power * (k + 1) + r)
                    products = [emit.times(factor, value) for value in of_power]
                    added = [emit.plus(a, b) for a, b in zip(added, products, strict=True)] if power else products
                emit.add_to_row(target, added, mask, whole)
                target = emit.place(target, stride)

        _of_outputs(emit, outputs, body)
        return context.get_dummy_value()

    integer = types.intp
    kinds = g, samples, s, integer, active, integer, row, of_weights, of_last, integer, integer, order, integer
    return types.void(*kinds), generate


def _of_rows(body: Callable[[Emitter, Any, Any, tuple[int, Any, Any]], None]) -> Any:
    """Code for ``count`` rows of a source and a target; the body also gets what :func:`_of_outputs` passes on."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, source_stride, target, target_stride, count, outputs = args
        emit = Emitter(builder, source.type.pointee)

        def loops(wide: int, mask: Any, whole: Any) -> None:
            with cgutils.for_range(builder, count) as loop:
                row = emit.place(source, builder.mul(source_stride, loop.index))
                to = emit.place(target, builder.mul(target_stride, loop.index))
                body(emit, row, to, (wide, mask, whole))

        _of_outputs(emit, outputs, loops)
        return context.get_dummy_value()

    return generate


@intrinsic  # type: ignore[untyped-decorator]
def copy_rows(_: Any, source: Any, source_stride: Any, target: Any, target_stride: Any, count: Any, outputs: Any) -> Any:
    """``target = source``, ``count`` rows of some outputs, of whole vectors in the target."""

    def copy(emit: Emitter, source: Any, target: Any, width: Any) -> None:
        wide, mask, _ = width
        for n, vector in enumerate(emit.load_row(source, wide, mask)):
            emit.store(vector, emit.place(target, n * emit.lanes))

    return types.void(source, types.intp, target, types.intp, types.intp, types.intp), _of_rows(copy)


@intrinsic  # type: ignore[untyped-decorator]
def empty_rows(_: Any, source: Any, source_stride: Any, target: Any, target_stride: Any, count: Any, outputs: Any) -> Any:
    """``target += source`` and ``source = 0``, ``count`` rows of some outputs, of whole vectors in the source."""

    def empty(emit: Emitter, source: Any, target: Any, width: Any) -> None:
        wide, mask, whole = width
        emit.add_to_row(target, emit.load_all(source, wide), mask, whole)
        for n in range(wide):
            emit.store(emit.zero, emit.place(source, n * emit.lanes))

    return types.void(source, types.intp, target, types.intp, types.intp, types.intp), _of_rows(empty)
