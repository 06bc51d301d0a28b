"""Sums over samples of the values of edges, in float64: what penalties take of them; the innermost loops of `by_sample`.

``phi`` has ``count`` rows, ``stride`` apart, and whole vectors of ``outputs`` columns. Two rows are added at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from efficient_kan.kernels.cpu.codegen.simd import INDEX
from efficient_kan.kernels.cpu.penalties.moment_loops import Wide


def _summed(emit: Wide, phi: Any, stride: Any, count: Any, value: Callable[[Any], Any]) -> Any:
    """The sum of ``value(row)`` over the rows at ``phi``."""
    builder, (even, odd) = emit.builder, emit.zeros(2)
    paired = builder.sub(count, builder.urem(count, INDEX(2)))
    with cgutils.for_range_slice(builder, INDEX(0), paired, INDEX(2), intp=INDEX) as (b, _):
        for n, register in enumerate((even, odd)):
            emit.accumulate(register, value(emit.of(phi, builder.mul(stride, builder.add(b, INDEX(n))))))
    with cgutils.for_range_slice(builder, paired, count, INDEX(1), intp=INDEX) as (b, _):
        emit.accumulate(even, value(emit.of(phi, builder.mul(stride, b))))
    return builder.fadd(emit.held(even), emit.held(odd))


@intrinsic  # type: ignore[untyped-decorator]
def column_moments(_: Any, phi: Any, stride: Any, count: Any, outputs: Any, mean: Any, square: Any) -> Any:
    """``mean`` of each column, and ``square``: the sum of the squares of the differences to it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        phi, stride, count, outputs, mean, square = args
        emit = Wide(builder, signature.args[0])
        number = emit.spread(builder.sitofp(count, emit.real))
        with cgutils.for_range_slice(builder, INDEX(0), outputs, INDEX(emit.lanes), intp=INDEX) as (o, _):
            column = emit.further(phi, o)
            first = emit.of(column)  # of differences to it none is rounded where all samples are equal
            total = _summed(emit, column, stride, count, lambda value: builder.fsub(value, first))
            middle = builder.fadd(first, builder.fdiv(total, number))

            def squared(value: Any) -> Any:
                away = builder.fsub(value, middle)
                return builder.fmul(away, away)

            emit.store(middle, emit.place(mean, o))
            emit.store(_summed(emit, column, stride, count, squared), emit.place(square, o))
        return context.get_dummy_value()

    return types.void(phi, types.intp, types.intp, types.intp, mean, square), generate


@intrinsic  # type: ignore[untyped-decorator]
def add_absolute(_: Any, phi: Any, stride: Any, count: Any, outputs: Any, total: Any) -> Any:
    """Add the absolute values of each column to ``total``."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        phi, stride, count, outputs, total = args
        emit = Wide(builder, signature.args[0])

        def absolute(value: Any) -> Any:
            return builder.select(builder.fcmp_ordered("<", value, emit.zero), builder.fsub(emit.zero, value), value)

        with cgutils.for_range_slice(builder, INDEX(0), outputs, INDEX(emit.lanes), intp=INDEX) as (o, _):
            emit_sum, place = _summed(emit, emit.further(phi, o), stride, count, absolute), emit.place(total, o)
            emit.store(builder.fadd(emit.load(place), emit_sum), place)
        return context.get_dummy_value()

    return types.void(phi, types.intp, types.intp, types.intp, total), generate
