"""Sums over the samples of one span with the signs of edges' values, the innermost loops of `edge_l1`.

Arguments are as in :mod:`efficient_kan.kernels.cpu.products.span_loops`.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from efficient_kan.kernels.cpu.codegen.simd import INDEX, Emitter, real_of
from efficient_kan.kernels.cpu.products.span_loops import Chains, evaluated, for_few, polynomials, slopes, unpacked_span


def signed(emit: Emitter, magnitude: Any, value: Any) -> Any:
    """``magnitude * sign(value)``, zero where ``value`` is zero or NaN; ``magnitude`` of any sign."""
    bits = ir.VectorType(ir.IntType(8 * emit.size), emit.lanes)
    mask = ir.Constant(bits, [1 << (8 * emit.size - 1)] * emit.lanes)
    sign = emit.builder.and_(emit.builder.bitcast(value, bits), mask)
    flipped = emit.builder.bitcast(emit.builder.xor(emit.builder.bitcast(magnitude, bits), sign), emit.vector)
    return emit.builder.select(emit.builder.fcmp_ordered("!=", value, emit.zero), flipped, emit.zero)


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def sum_signs(_: Any, span: Any, weights: Any, stride: Any, of_weights: Any, of_stride: Any, order: Any, vectors: Any) -> Any:
    """What a span adds to ``sum_b sign(phi) feature``, the gradient of ``sum_b |phi|``; rows and base of ``of_weights``."""
    k = order.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        span, weights, stride, of_weights, of_stride, _, vectors = args
        _, s, s_stride, active, _, count, row = unpacked_span(builder, span)
        emit = Emitter(builder, real_of(signature.args[1].types[0]))
        rows, scale, base = cgutils.unpack_tuple(builder, weights, 3)
        of_rows, _, of_base = cgutils.unpack_tuple(builder, of_weights, 3)

        def one(n: int) -> None:
            """For vector ``n`` of the tile: its coefficients and sums just fit into 16 registers."""
            row_, scale_, base_, of_rows_, of_base_ = (
                emit.place(pointer, n * emit.lanes) for pointer in (rows, scale, base, of_rows, of_base)
            )
            p, last, unit = polynomials(emit, row, row_, scale_, stride, k, 1), emit.load(base_), emit.number(1.0)

            def sign(b: Any) -> list[Any]:
                phi = emit.plus(emit.times(emit.spread_at(active, b), last), evaluated(emit, p, emit.spread_at(s, b), 0))
                return [signed(emit, unit, phi)]

            chains = Chains(emit, k, 1)
            chains.over(count, [emit.place(s, builder.mul(s_stride, INDEX(n))) for n in range(k)], active, sign)
            chains.add_to(row, of_rows_, of_base_, of_stride, k)

        def body(wide: int) -> None:
            for n in range(wide):
                one(n)

        emit.of_widths(vectors, body)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(span, weights, integer, of_weights, integer, order, integer), generate


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def pull_signs(
    _: Any, span: Any, weights: Any, factors: Any, stride: Any, of_x: Any, of_base: Any, order: Any, vectors: Any
) -> Any:
    """With ``f = factors * sign(phi)``, of each output: ``of_x[b] += sum f p'(s[b])``, ``of_base[b] += sum f base``."""
    k = order.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        span, weights, factors, stride, of_x, of_base, _, vectors = args
        _, s, _, active, _, count, row = unpacked_span(builder, span)
        emit = Emitter(builder, real_of(signature.args[2]))
        rows, scale, base = cgutils.unpack_tuple(builder, weights, 3)

        def body(wide: int) -> None:
            p, last = polynomials(emit, row, rows, scale, stride, k, wide), emit.load_all(base, wide)
            slope, of = slopes(emit, row, p), emit.load_all(factors, wide)

            def products(b: Any) -> tuple[Any, Any]:
                place, value, to_x, to_base = emit.spread_at(s, b), emit.spread_at(active, b), emit.zero, emit.zero
                for n in range(wide):
                    sign = signed(emit, of[n], emit.plus(emit.times(value, last[n]), evaluated(emit, p, place, n)))
                    to_x = emit.plus(to_x, emit.times(sign, evaluated(emit, slope, place, n)))
                    to_base = emit.plus(to_base, emit.times(sign, last[n]))
                return to_x, to_base

            for_few(emit, count, (of_x, of_base), products)

        emit.of_widths(vectors, body)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(span, weights, factors, integer, of_x, of_base, order, integer), generate
