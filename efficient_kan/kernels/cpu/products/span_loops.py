"""Sums over the samples of one span in vector registers, the innermost loops of `by_span`.

In one span (see `common.spans`) the spline of every output is a polynomial in the sample's place ``s``, whose coefficients are
combinations of the ``k + 1`` rows of weights of its bases, times the scale of the edge. While samples are of one span, those of
a tile of outputs stay in registers: a sample takes ``k + 1`` multiplications an output, its base activation included, and reads
no weights. Likewise the gradients of weights are those of the coefficients, combined once a span.

All functions take: ``span``, a :class:`Span`; ``weights``, a :class:`Weights` from the span's first basis on; the ``stride`` of
rows of samples and weights; and how many ``vectors`` of outputs to work on.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any, NamedTuple

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from efficient_kan.kernels.cpu.codegen.simd import INDEX, Emitter, real_of

_SUMMED_BYTES = 16  # of the sums of vectors that are worked out together
_CHAIN = 64  # samples whose gradients are summed up one after the other: rounding errors of a long sum would add up


def polynomials(emit: Emitter, row: Any, weights: Any, scale: Any, stride: Any, order: int, wide: int) -> list[list[Any]]:
    """Coefficients of powers 0 to k, of each vector of outputs."""
    scales, of_bases = emit.load_all(scale, wide), []
    for _ in range(order + 1):
        of_bases.append([emit.times(w, s) for w, s in zip(emit.load_all(weights, wide), scales, strict=True)])
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


def evaluated(emit: Emitter, coefficients: list[list[Any]], s: Any, n: int) -> Any:
    """Polynomials of vector ``n`` at ``s``."""
    total = coefficients[-1][n]
    for of_power in reversed(coefficients[:-1]):
        total = emit.plus(emit.times(total, s), of_power[n])
    return total


def slopes(emit: Emitter, row: Any, coefficients: list[list[Any]]) -> list[list[Any]]:
    """Coefficients of the derivatives with respect to x."""
    scale, found = emit.spread_at(row, 1), []
    for power, of_power in enumerate(coefficients[1:], 1):
        factor = emit.builder.fmul(scale, emit.number(float(power)))
        found.append([emit.builder.fmul(factor, p) for p in of_power])
    return found


def sums_of(emit: Emitter, vectors: list[Any]) -> Any:
    """The sum of the elements of each of as many vectors as 16 bytes have numbers, in one vector of so many."""
    few = len(vectors)

    def neighbours(a: Any, b: Any, odd: int) -> Any:
        """Every second element of both, 16 bytes at a time: what crosses those takes longer."""
        starts = range(0, emit.lanes, few)
        return emit.blend(a, b, [at + odd + 2 * n + of for at in starts for of in (0, emit.lanes) for n in range(few // 2)])

    while len(vectors) > 1:
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [emit.builder.fadd(neighbours(a, b, 0), neighbours(a, b, 1)) for a, b in pairs]
    (total,) = vectors
    while total.type.count > few:
        total = emit.builder.fadd(*emit.halves(total))
    return total


def for_few(emit: Emitter, count: Any, result: Any, product: Callable[[Any], Any]) -> None:
    """``result[b] += sum(product(b))``, the sum of a vector's elements, for ``count`` samples, some of them at once."""
    builder, few = emit.builder, _SUMMED_BYTES // emit.size
    grouped = builder.sub(count, builder.urem(count, INDEX(few)))
    with cgutils.for_range_slice(builder, INDEX(0), grouped, INDEX(few), intp=INDEX) as (b, _):
        totals, place = sums_of(emit, [product(builder.add(b, INDEX(n))) for n in range(few)]), emit.place(result, b)
        emit.store(builder.fadd(emit.load(place, totals.type), totals), place)
    with cgutils.for_range_slice(builder, grouped, count, INDEX(1), intp=INDEX) as (b, _):
        place = emit.place(result, b)
        builder.store(builder.fadd(emit.scalar(place), emit.total(product(b))), place)


def in_chains(emit: Emitter, count: Any, add: Callable[[Any], None], parts: list[Any], totals: list[Any]) -> None:
    """Emit ``add(b)``, which adds to the registers ``parts``, for ``count`` samples; then parts go to ``totals``."""
    builder = emit.builder
    with cgutils.for_range_slice(builder, INDEX(0), count, INDEX(_CHAIN), intp=INDEX) as (start, _):
        further = builder.add(start, INDEX(_CHAIN))
        stop = builder.select(builder.icmp_signed("<", further, count), further, count)
        with cgutils.for_range_slice(builder, start, stop, INDEX(1), intp=INDEX) as (b, _):
            add(b)
        for total, part in zip(totals, parts, strict=True):
            emit.put(builder.fadd(emit.held(total), emit.held(part)), total)
            emit.put(emit.zero, part)


class Chains:
    """Sums of products over the samples of a span, of powers 0 to k and of the base activation, in registers."""

    def __init__(self, emit: Emitter, order: int, wide: int) -> None:
        self._emit = emit
        self._registers, self._sums = ([emit.zeros(wide) for _ in range(order + 2)] for _ in range(2))

    def over(self, count: Any, s: list[Any], active: Any, gradient: Any) -> None:
        """Add ``gradient(b)``, vectors, times powers ``s`` and the base activation of each sample."""
        emit = self._emit

        def add(b: Any) -> None:
            vectors = gradient(b)
            for register, vector in zip(self._registers[0], vectors, strict=True):
                emit.put(emit.builder.fadd(emit.held(register), vector), register)
            for pointer, of_factor in zip([*s, active], self._registers[1:], strict=True):
                emit.add_products(emit.spread_at(pointer, b), vectors, of_factor)

        in_chains(emit, count, add, [*chain.from_iterable(self._registers)], [*chain.from_iterable(self._sums)])

    def add_to(self, row: Any, of_weights: Any, of_last: Any, stride: Any, order: int) -> None:
        """Add to the gradients of the bases' rows of weights and of the base activation's."""
        emit = self._emit
        *found, of_base = [[emit.held(register) for register in total] for total in self._sums]
        for n, value in enumerate(of_base):
            place = emit.place(of_last, n * emit.lanes)
            emit.store(emit.builder.fadd(emit.load(place), value), place)
        for r in range(order + 1):
            added: list[Any] = []  # added up first: the whole sum is rounded once
            for power, of_power in enumerate(found):
                factor = emit.spread_at(row, 2 + power * (order + 1) + r)
                products = [emit.times(factor, value) for value in of_power]
                added = [emit.plus(a, b) for a, b in zip(added, products, strict=True)] if power else products
            for n, value in enumerate(added):
                place = emit.place(of_weights, n * emit.lanes)
                emit.store(emit.builder.fadd(emit.load(place), value), place)
            of_weights = emit.place(of_weights, stride)


class Weights(NamedTuple):
    """Pointers to what an input's weights for a tile of outputs are."""

    rows: Any  # outputs-last
    scale: Any
    base: Any


class Span(NamedTuple):
    """Pointers to the samples of one span."""

    samples: Any  # (count,) int32: their numbers
    s: Any  # powers 1 to k of their places, rows `s_stride` apart
    s_stride: Any
    active: Any  # base activation, and its derivative
    rise: Any
    count: Any
    row: Any  # the span's row of the table


def unpacked_span(builder: Any, span: Any) -> Span:
    """Its parts in generated code."""
    return Span(*cgutils.unpack_tuple(builder, span, len(Span._fields)))


def unpacked_weights(builder: Any, weights: Any) -> Weights:
    """The same."""
    return Weights(*cgutils.unpack_tuple(builder, weights, len(Weights._fields)))


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def add_span(_: Any, y: Any, span: Any, weights: Any, stride: Any, order: Any, vectors: Any) -> Any:
    """``y[samples[b]] += p(s[b]) + active[b] * base``, for the polynomials ``p`` of the span."""
    k = order.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        y, span, weights, stride, _, vectors = args
        samples, s, _, active, _, count, row = unpacked_span(builder, span)
        emit, (rows, scale, base) = Emitter(builder, real_of(signature.args[0])), unpacked_weights(builder, weights)

        def body(wide: int) -> None:
            p, of_base = polynomials(emit, row, rows, scale, stride, k, wide), emit.load_all(base, wide)
            with cgutils.for_range(builder, count) as loop:
                target = emit.row_of(y, samples, loop.index, stride)
                place, value = emit.spread_at(s, loop.index), emit.spread_at(active, loop.index)
                for n in range(wide):
                    added = emit.plus(emit.times(value, of_base[n]), evaluated(emit, p, place, n))
                    of = emit.place(target, n * emit.lanes)
                    emit.store(builder.fadd(emit.load(of), added), of)

        emit.of_widths(vectors, body)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(y, span, weights, integer, order, integer), generate


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def pull_span(_: Any, g: Any, span: Any, weights: Any, stride: Any, result: Any, order: Any, vectors: Any) -> Any:
    """``result[b] += g[samples[b]] . (p'(s[b]) + rise[b] * base)``, for the derivatives ``p'`` with respect to x."""
    k = order.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        g, span, weights, stride, result, _, vectors = args
        samples, s, _, _, rise, count, row = unpacked_span(builder, span)
        emit, (rows, scale, base) = Emitter(builder, real_of(signature.args[0])), unpacked_weights(builder, weights)

        def body(wide: int) -> None:
            slope, of_base = slopes(emit, row, polynomials(emit, row, rows, scale, stride, k, wide)), emit.load_all(base, wide)

            def product(number: Any) -> Any:
                source = emit.row_of(g, samples, number, stride)
                place, value = emit.spread_at(s, number), emit.spread_at(rise, number)
                total = None
                for n, gradient in enumerate(emit.load_all(source, wide)):
                    of_x = emit.plus(emit.times(value, of_base[n]), evaluated(emit, slope, place, n))
                    of_output = emit.times(of_x, gradient)
                    total = of_output if total is None else emit.plus(total, of_output)
                return total

            for_few(emit, count, result, product)

        emit.of_widths(vectors, body)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(g, span, weights, integer, result, order, integer), generate


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def sum_span(_: Any, g: Any, span: Any, of_weights: Any, stride: Any, of_stride: Any, order: Any, vectors: Any) -> Any:
    """What a span adds to the gradients of folded weights; those of rows of ``of_weights``, ``of_stride`` apart, and bases."""
    k = order.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        g, span, of_weights, stride, of_stride, _, vectors = args
        samples, s, s_stride, active, _, count, row = unpacked_span(builder, span)
        emit, (of_rows, _, of_base) = Emitter(builder, real_of(signature.args[0])), unpacked_weights(builder, of_weights)

        def body(wide: int) -> None:
            chains = Chains(emit, k, wide)
            powers = [emit.place(s, builder.mul(s_stride, INDEX(n))) for n in range(k)]
            chains.over(count, powers, active, lambda b: emit.load_all(emit.row_of(g, samples, b, stride), wide))
            chains.add_to(row, of_rows, of_base, of_stride, k)

        emit.of_widths(vectors, body)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(g, span, of_weights, integer, integer, order, integer), generate
