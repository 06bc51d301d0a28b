"""Moments of the samples of one span, and what edges make of them, the innermost loops of `edge_std`.

All sums are in float64. Features ``f`` of a sample are the powers 1 to k of its place ``s`` in the span and its base
activation, ``D = k + 1`` numbers. An edge on a span is ``phi = c_0 + c . f``. Lanes are samples or outputs.

Rows of weights are those of the span's bases, ``stride`` apart, and ``base``; ``row`` is the span's row of the table. Where all
bases of the span add up to one, ``inside`` is 1, and the first basis' weight is taken out of ``c``: it enters no square.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from efficient_kan.kernels.cpu.codegen.simd import INDEX, Emitter, real_of

_DOUBLE = ir.DoubleType()


class Wide(Emitter):
    """Works in float64 on numbers of either type."""

    def __init__(self, builder: Any, pointer: Any) -> None:
        super().__init__(builder, _DOUBLE)
        self._narrow = Emitter(builder, real_of(pointer))
        self._kind = ir.VectorType(self._narrow.real, self.lanes)

    def of(self, pointer: Any, *offsets: Any) -> Any:
        """A vector of float64 from numbers of the layer's type."""
        value = self._narrow.load(self._narrow.place(pointer, *offsets), self._kind)
        return value if self._narrow.size == 8 else self.builder.fpext(value, self.vector)

    def spread_of(self, pointer: Any, *offsets: Any) -> Any:
        value = self._narrow.scalar(pointer, *offsets)
        return self.spread(value if self._narrow.size == 8 else self.builder.fpext(value, _DOUBLE))

    def further(self, pointer: Any, *offsets: Any) -> Any:
        return self._narrow.place(pointer, *offsets)

    def store_narrow(self, value: Any, pointer: Any, *offsets: Any) -> None:
        value = value if self._narrow.size == 8 else self.builder.fptrunc(value, self._kind)
        self._narrow.store(value, self._narrow.place(pointer, *offsets))

    def dot(self, left: list[Any], right: list[Any]) -> Any:
        total = None
        for a, b in zip(left, right, strict=True):
            product = self.times(a, b)
            total = product if total is None else self.plus(total, product)
        return total

    def accumulate(self, register: Any, value: Any) -> None:
        self.put(self.builder.fadd(self.held(register), value), register)


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def span_moments(_: Any, s: Any, s_stride: Any, count: Any, mean: Any, scatter: Any, order: Any) -> Any:
    """Of ``count`` samples: means ``(D,)`` of their features, rows ``s_stride`` apart, and ``scatter``.

    That is the lower triangle ``(D (D + 1) / 2,)`` of the sums of products of what is left of features without their means.
    Whole vectors are read.
    """
    k = order.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        s, s_stride, count, mean, scatter, _ = args
        emit = Wide(builder, signature.args[0])
        step, lanes = INDEX(emit.lanes), ir.Constant(ir.VectorType(INDEX, emit.lanes), list(range(emit.lanes)))
        rows = [emit.further(s, builder.mul(s_stride, INDEX(a))) for a in range(k + 1)]

        def less(b: Any, origin: list[Any]) -> list[Any]:
            exists = builder.icmp_signed("<", lanes, emit._spread(builder.sub(count, b), lanes.type))
            found = [builder.fsub(emit.of(row, b), o) for row, o in zip(rows, origin, strict=True)]
            return [builder.select(exists, value, emit.zero) for value in found]

        first, totals = [emit.spread_of(row) for row in rows], emit.zeros(k + 1)
        with cgutils.for_range_slice(builder, INDEX(0), count, step, intp=INDEX) as (b, _):
            for total, value in zip(totals, less(b, first), strict=True):
                emit.accumulate(total, value)
        centre, number = [], builder.sitofp(count, _DOUBLE)
        for a, (total, origin) in enumerate(zip(totals, first, strict=True)):
            value = builder.fdiv(emit.total(emit.held(total)), number)
            value = builder.fadd(builder.extract_element(origin, ir.IntType(32)(0)), value)
            builder.store(value, emit.place(mean, a))
            centre.append(emit.spread(value))
        entries = [(a, c) for a in range(k + 1) for c in range(a + 1)]
        sums = emit.zeros(len(entries))
        with cgutils.for_range_slice(builder, INDEX(0), count, step, intp=INDEX) as (b, _):
            f = less(b, centre)
            for total, (a, c) in zip(sums, entries, strict=True):
                emit.put(emit.plus(emit.held(total), emit.times(f[a], f[c])), total)
        for n, total in enumerate(sums):
            builder.store(emit.total(emit.held(total)), emit.place(scatter, n))
        return context.get_dummy_value()

    integer = types.intp
    return types.void(s, integer, integer, mean, scatter, order), generate


class Edge(NamedTuple):
    """Pointers to a span's weights of a tile of outputs, and whether the bases add up to one there."""

    rows: Any
    base: Any
    row: Any
    inside: Any  # 1.0 or 0.0
    origin: Any  # (tile,) float64: a value that each edge takes often
    stride: Any


class Moments(NamedTuple):
    """Pointers to mean and scatter matrix of the features of a span's samples, and their number, of float64."""

    mean: Any
    scatter: Any
    count: Any


class _Span:
    """An edge on a span, for the vector of outputs at ``o``."""

    def __init__(self, builder: Any, signature: Any, edge: Any, order: int) -> None:
        self.rows, self.base, row, inside, self.origin, self.stride = cgutils.unpack_tuple(builder, edge, 6)
        self.emit, self.order = Wide(builder, signature.types[0]), order
        self.inside = self.emit.spread(inside)
        self.table = [[self.emit.spread_of(row, 2 + p * (order + 1) + r) for r in range(order + 1)] for p in range(order + 1)]

    def weights(self, o: Any) -> tuple[Any, list[Any], Any]:
        """What is taken out of the weights of bases, less the origin, what is left of those, and the weight of the base."""
        emit, builder = self.emit, self.emit.builder
        rows = [emit.of(self.rows, builder.mul(self.stride, INDEX(r)), o) for r in range(self.order + 1)]
        constant = builder.fmul(self.inside, rows[0])
        u = [builder.fsub(row, constant) for row in rows]
        return builder.fsub(constant, emit.load(emit.place(self.origin, o))), u, emit.of(self.base, o)

    def of_powers(self, u: list[Any]) -> list[Any]:
        """Coefficients of powers 0 to k."""
        return [self.emit.dot(of_power, u) for of_power in self.table]

    def mean_bases(self, means: list[Any]) -> list[Any]:
        """Means of the bases over samples whose powers have these."""
        return [
            self.emit.plus(first, self.emit.dot([of_power[r] for of_power in self.table[1:]], means[:-1]))
            for r, first in enumerate(self.table[0])
        ]

    def spread_all(self, pointer: Any, count: int) -> list[Any]:
        return [self.emit.spread_at(pointer, n) for n in range(count)]


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def add_mean(_: Any, edge: Any, mean: Any, share: Any, mu: Any, outputs: Any, order: Any) -> Any:
    """Add ``share`` times the span's mean, less the origin, to ``mu (outputs,)``."""
    k = order.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        edge, mean, share, mu, outputs, _ = args
        span = _Span(builder, signature.args[0], edge, k)
        emit, means, factor = span.emit, span.spread_all(mean, k + 1), span.emit.spread(share)
        bases = span.mean_bases(means)
        with cgutils.for_range_slice(builder, INDEX(0), outputs, INDEX(emit.lanes), intp=INDEX) as (o, _):
            constant, u, of_base = span.weights(o)
            value = builder.fadd(constant, emit.dot([*u, of_base], [*bases, means[-1]]))
            place = emit.place(mu, o)
            emit.store(emit.plus(emit.load(place), emit.times(factor, value)), place)
        return context.get_dummy_value()

    return types.void(edge, mean, types.float64, mu, types.intp, order), generate


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def add_square(
    _: Any, edge: Any, moments: Any, mu: Any, square: Any, of_rows: Any, of_base: Any, outputs: Any, order: Any
) -> Any:
    """A span's part of ``sum (phi - mu)^2``, ``c^T C c + n (mean - mu)^2``, to ``square``, and half its gradient.

    The gradient is of the span's rows of weights, ``of_rows`` ``(k + 1, stride)``, and of ``of_base``, in float64.
    """
    k = order.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        edge, moments, mu, square, of_rows, of_base, outputs, _ = args
        mean, scatter, count = cgutils.unpack_tuple(builder, moments, 3)
        span = _Span(builder, signature.args[0], edge, k)
        emit, means, number = span.emit, span.spread_all(mean, k + 1), span.emit.spread(count)
        bases, matrix = span.mean_bases(means), span.spread_all(scatter, (k + 1) * (k + 2) // 2)

        def add(value: Any, pointer: Any, *offsets: Any) -> None:
            place = emit.place(pointer, *offsets)
            emit.store(builder.fadd(emit.load(place), value), place)

        with cgutils.for_range_slice(builder, INDEX(0), outputs, INDEX(emit.lanes), intp=INDEX) as (o, _):
            constant, u, base = span.weights(o)
            c = [*span.of_powers(u)[1:], base]
            value = builder.fadd(constant, emit.dot([*u, base], [*bases, means[-1]]))  # as in `add_mean`: equal ones cancel
            away = builder.fsub(value, emit.load(emit.place(mu, o)))
            weighted = builder.fmul(number, away)
            total, along = builder.fmul(weighted, away), []
            for a in range(k + 1):
                entries = [matrix[max(a, e) * (max(a, e) + 1) // 2 + min(a, e)] for e in range(k + 1)]
                along.append(emit.dot(entries, c))
                total = emit.plus(emit.times(c[a], along[a]), total)
            of_constant = weighted
            for r in range(k + 1):
                of_u = emit.dot([bases[r], *[of_power[r] for of_power in span.table[1:]]], [weighted, *along[:-1]])
                of_constant = builder.fsub(of_constant, of_u)
                add(of_u, of_rows, builder.mul(span.stride, INDEX(r)), o)
            add(builder.fmul(span.inside, of_constant), of_rows, o)
            add(emit.plus(along[-1], emit.times(means[-1], weighted)), of_base, o)
            add(total, square, o)
        return context.get_dummy_value()

    return types.void(edge, moments, mu, square, of_rows, of_base, types.intp, order), generate


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def add_form(_: Any, edge: Any, factors: Any, mu: Any, form: Any, outputs: Any, order: Any) -> Any:
    """Add to ``form (D, D + 1)`` what maps ``(f, 1)`` to the gradient with respect to ``f``.

    The gradient with respect to a value is ``factor (phi - mu)``: ``form = sum_o factor c (c, c_0 - origin - mu)^T``.
    """
    k = order.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        edge, factors, mu, form, outputs, _ = args
        span = _Span(builder, signature.args[0], edge, k)
        emit, entries = span.emit, [(a, e) for a in range(k + 1) for e in (*range(a + 1), k + 1)]
        sums = emit.zeros(len(entries))
        with cgutils.for_range_slice(builder, INDEX(0), outputs, INDEX(emit.lanes), intp=INDEX) as (o, _):
            constant, u, base = span.weights(o)
            first, *c = [*span.of_powers(u), base]
            all_of = [*c, builder.fsub(builder.fadd(constant, first), emit.load(emit.place(mu, o)))]
            factor = emit.load(emit.place(factors, o))
            for total, (a, e) in zip(sums, entries, strict=True):
                emit.put(emit.plus(emit.held(total), emit.times(emit.times(factor, c[a]), all_of[e])), total)
        for total, (a, e) in zip(sums, entries, strict=True):
            value = emit.total(emit.held(total))
            for n in {a * (k + 2) + e, e * (k + 2) + a} if e <= k else {a * (k + 2) + e}:
                place = emit.place(form, n)
                builder.store(builder.fadd(builder.load(place, typ=_DOUBLE), value), place)
        return context.get_dummy_value()

    return types.void(edge, factors, mu, form, types.intp, order), generate


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def pull_form(_: Any, s: Any, s_stride: Any, count: Any, row: Any, form: Any, of_x: Any, of_base: Any, order: Any) -> Any:
    """The gradients of a span's samples and base activations, from its ``form``. Whole vectors are read and written."""
    k = order.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        s, s_stride, count, row, form, of_x, of_base, _ = args
        emit = Wide(builder, signature.args[0])
        entries = [[emit.spread_at(form, a * (k + 2) + e) for e in range(k + 2)] for a in range(k + 1)]
        scale = emit.spread_of(row, 1)
        with cgutils.for_range_slice(builder, INDEX(0), count, INDEX(emit.lanes), intp=INDEX) as (b, _):
            f = [emit.of(s, builder.mul(s_stride, INDEX(a)), b) for a in range(k + 1)]
            of_f = [emit.plus(emit.dot(entry[:-1], f), entry[-1]) for entry in entries]
            slope = of_f[0]
            for power in range(2, k + 1):
                slope = emit.plus(slope, emit.times(emit.times(of_f[power - 1], emit.number(float(power))), f[power - 2]))
            emit.store_narrow(builder.fmul(slope, scale), of_x, b)
            emit.store_narrow(of_f[-1], of_base, b)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(s, integer, integer, row, form, of_x, of_base, order), generate
