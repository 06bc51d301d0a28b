"""What a penalty of mean absolute values adds to the product: the innermost loops of `by_span` with it.

``phi`` is the value of an edge at a sample, ``p(s) + active * base``. Arguments are as in
:mod:`efficient_kan.kernels.cpu.products.span_loops`. Vectors of a tile are taken one after the other: coefficients and sums of
one just fit into 16 registers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from efficient_kan.kernels.cpu.codegen.simd import Emitter, real_of
from efficient_kan.kernels.cpu.products.span_loops import (
    Span,
    Weights,
    evaluated,
    for_few,
    in_chains,
    polynomials,
    unpacked_span,
    unpacked_weights,
)


def _for_each_vector(
    emit: Emitter, span: Span, weights: Weights, stride: Any, order: int, vectors: Any,
    body: Callable[[int, Callable[[Any], Any]], None],
) -> None:  # fmt: skip
    """Emit ``body(offset, phi)`` for each vector of the tile: its first output, and what gives ``phi[b]``."""

    def one(offset: int) -> None:
        rows, scale, base = (emit.place(pointer, offset) for pointer in weights)
        p, last = polynomials(emit, span.row, rows, scale, stride, order, 1), emit.load(base)

        def phi(b: Any) -> Any:
            of_base = emit.times(emit.spread_at(span.active, b), last)
            return emit.plus(of_base, evaluated(emit, p, emit.spread_at(span.s, b), 0))

        body(offset, phi)

    def tile(wide: int) -> None:
        for n in range(wide):
            one(n * emit.lanes)

    emit.of_widths(vectors, tile)


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def add_span_and_norms(_: Any, y: Any, norms: Any, span: Any, weights: Any, stride: Any, order: Any, vectors: Any) -> Any:
    """``y[samples[b]] += phi[b]`` and ``norms += sum_b |phi[b]|``."""
    k = order.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        y, norms, span, weights, stride, _, vectors = args
        emit, of = Emitter(builder, real_of(signature.args[0])), unpacked_span(builder, span)

        def body(offset: int, phi: Callable[[Any], Any]) -> None:
            (part, total), place = emit.zeros(2), emit.place(norms, offset)

            def add(b: Any) -> None:
                value, target = phi(b), emit.place(emit.row_of(y, of.samples, b, stride), offset)
                emit.store(builder.fadd(emit.load(target), value), target)
                emit.put(builder.fadd(emit.held(part), emit.magnitude(value)), part)

            in_chains(emit, of.count, add, [part], [total])
            emit.store(builder.fadd(emit.load(place), emit.held(total)), place)

        _for_each_vector(emit, of, unpacked_weights(builder, weights), stride, k, vectors, body)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(y, norms, span, weights, integer, order, integer), generate


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def add_signs(_: Any, h: Any, g: Any, factors: Any, span: Any, weights: Any, stride: Any, order: Any, vectors: Any) -> Any:
    """``h[b] = g[samples[b]] + factors * sign(phi[b])``, the gradient of ``phi[b]``, in rows ``stride`` apart."""
    k = order.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        h, g, factors, span, weights, stride, _, vectors = args
        emit, of = Emitter(builder, real_of(signature.args[0])), unpacked_span(builder, span)

        def body(offset: int, phi: Callable[[Any], Any]) -> None:
            factor = emit.load(emit.place(factors, offset))
            with cgutils.for_range(builder, of.count) as loop:
                b = loop.index
                of_y = emit.load(emit.place(emit.row_of(g, of.samples, b, stride), offset))
                added = builder.fadd(of_y, emit.signed(factor, phi(b)))
                emit.store(added, emit.place(h, builder.mul(b, stride), offset))

        _for_each_vector(emit, of, unpacked_weights(builder, weights), stride, k, vectors, body)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(h, g, factors, span, weights, integer, order, integer), generate


@intrinsic  # type: ignore[untyped-decorator]
def pull_base(_: Any, h: Any, base: Any, count: Any, stride: Any, result: Any, vectors: Any) -> Any:
    """``result[b] += h[b] . base`` of ``count`` rows, ``stride`` apart."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        h, base, count, stride, result, vectors = args
        emit = Emitter(builder, real_of(signature.args[0]))

        def body(wide: int) -> None:
            weights = emit.load_all(base, wide)

            def product(b: Any) -> Any:
                total = emit.zero
                for value, weight in zip(emit.load_all(emit.place(h, builder.mul(b, stride)), wide), weights, strict=True):
                    total = emit.plus(total, emit.times(value, weight))
                return total

            for_few(emit, count, result, product)

        emit.of_widths(vectors, body)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(h, base, integer, integer, result, integer), generate
