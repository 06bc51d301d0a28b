"""Sums over the inputs of one sample after the other, outputs in vector registers, the innermost loops of `by_sample`.

Of one input, a :class:`Samples` holds what the product takes of ``n`` samples: the number of the first of the ``k + 1`` bases
that are not zero, their values and slopes, and the base activation. An :class:`Edges` points to the input's weights for a tile
of one or two vectors of outputs, from its first basis on; rows are ``stride`` apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from efficient_kan.kernels.cpu.codegen.simd import INDEX, Emitter, real_of

TILE = 2  # vectors of outputs at a time: with those of slopes and gradients they fit into 16 registers
_NUMBER = ir.IntType(32)


class Samples(NamedTuple):
    """Pointers to what the product takes of samples of one input."""

    spans: Any  # (n,) int32
    first: Any  # (n,) int32: number of the first basis
    bases: Any  # (n, k + 1)
    slopes: Any  # (n, k + 1): derivatives of the bases
    active: Any  # (n,): base activation, and its derivative
    rise: Any
    lack: Any  # (n,): the sum of the bases less 1, and its derivative: zero within the grid
    lack_slope: Any


class Edges(NamedTuple):
    """Pointers to weights of a tile of outputs, all scaled."""

    rows: Any  # (N, stride), less the origin
    base: Any
    origin: Any  # what is taken off all coefficients of an edge, so that no constant enters a square
    stride: Any


class Gradients(NamedTuple):
    """Pointers to gradients, and which are wanted; see :func:`pull_samples`."""

    of_y: Any  # (n, stride)
    of_x: Any  # (n,)
    of_rows: Any  # (N, stride): of weights
    of_base: Any  # (tile,)
    parts: Any  # (2, N, tile): those of samples with even and odd numbers
    marks: Any  # (tile,): what is added to all rows
    length: Any  # N
    wants_x: Any
    wants_weights: Any


class Sparse(NamedTuple):
    """Pointers to what a penalty adds to the gradients of edges' values ``phi``."""

    factor: Any  # (tile,)
    mean: Any  # (tile,)
    shift: Any  # (tile,): -factor times what the mean has lost by rounding, else the same for all samples
    kind: Any  # 0: nothing; 1: factor * sign(phi); 2: factor * (phi - mean) + shift


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def local_bases(_: Any, x: Any, count: Any, table: Any, knots: Any, samples: Any, wants_slopes: Any, order: Any) -> Any:
    """Fill ``first``, ``bases`` and, if wanted, ``slopes`` of samples whose ``spans`` are known, by the rows of a table."""
    k = order.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, count, table, knots, samples, wants_slopes, _ = args
        spans, first, bases, slopes, *_ = cgutils.unpack_tuple(builder, samples, len(Samples._fields))
        emit = Emitter(builder, real_of(signature.args[0]))
        vector = ir.VectorType(emit.real, k + 1)

        def spread(value: Any) -> Any:
            single = builder.insert_element(ir.Constant(vector, ir.Undefined), value, _NUMBER(0))
            return builder.shuffle_vector(single, single, ir.Constant(ir.VectorType(_NUMBER, k + 1), [0] * (k + 1)))

        last = builder.sub(knots, INDEX(2 * k + 2))
        with cgutils.for_range(builder, count) as loop:
            b = loop.index
            span = emit.index_at(spans, b)
            row = emit.place(table, builder.mul(span, INDEX(2 + (k + 1) ** 2)))
            scale = emit.scalar(row, 1)
            place = builder.fmul(builder.fsub(emit.scalar(emit.place(x, b)), emit.scalar(row)), scale)
            # Outside, where rows are zero, samples may be infinite.
            inside = builder.and_(builder.icmp_signed(">", span, INDEX(0)), builder.icmp_signed("<", span, knots))
            s = spread(builder.select(inside, place, ir.Constant(emit.real, 0.0)))
            powers = [emit.load(emit.place(row, 2 + p * (k + 1)), vector) for p in range(k + 1)]
            value = powers[k]
            for power in reversed(powers[:-1]):
                value = emit.plus(emit.times(value, s), power)
            target = builder.mul(b, INDEX(k + 1))
            emit.store(value, emit.place(bases, target))
            number = builder.sub(span, INDEX(k + 1))
            number = builder.select(builder.icmp_signed("<", number, INDEX(0)), INDEX(0), number)
            number = builder.select(builder.icmp_signed(">", number, last), last, number)
            builder.store(builder.trunc(number, _NUMBER), builder.gep(first, [b], source_etype=_NUMBER))
            with builder.if_then(builder.icmp_signed("!=", wants_slopes, INDEX(0))):
                factors = [ir.Constant(vector, [float(p)] * (k + 1)) for p in range(k + 1)]
                slope = builder.fmul(powers[k], factors[k])
                for p in range(k - 1, 0, -1):
                    slope = emit.plus(emit.times(slope, s), emit.times(powers[p], factors[p]))
                emit.store(builder.fmul(slope, spread(scale)), emit.place(slopes, target))
        return context.get_dummy_value()

    integer = types.intp
    return types.void(x, integer, table, integer, samples, integer, order), generate


class _Loop:
    """Emits a loop over samples for a tile of one or of two vectors."""

    def __init__(self, builder: Any, pointer: Any, samples: Any, edges: Any, order: int) -> None:
        self.builder, self.order, self.emit = builder, order, Emitter(builder, real_of(pointer))
        self.of = Samples(*cgutils.unpack_tuple(builder, samples, len(Samples._fields)))
        self.edges = Edges(*cgutils.unpack_tuple(builder, edges, len(Edges._fields)))

    def of_widths(self, vectors: Any, body: Callable[[int], None]) -> None:
        for wide in range(1, TILE + 1):
            with self.builder.if_then(self.builder.icmp_signed("==", vectors, INDEX(wide))):
                body(wide)

    def rows(self, b: Any, wide: int) -> list[list[Any]]:
        """The weights of the sample's bases."""
        emit, first = self.emit, self.builder.mul(self.emit.index_at(self.of.first, b), self.edges.stride)
        place, found = emit.place(self.edges.rows, first), []
        for _ in range(self.order + 1):
            found.append(emit.load_all(place, wide))
            place = emit.place(place, self.edges.stride)
        return found

    def combined(self, b: Any, rows: list[list[Any]], bases: Any, active: Any) -> list[Any]:
        """``active * base + sum_r bases_r rows_r``."""
        emit, place = self.emit, self.builder.mul(b, INDEX(self.order + 1))
        factor = emit.spread_at(active, b)
        total = [emit.times(factor, value) for value in emit.load_all(self.edges.base, len(rows[0]))]
        for r, row in enumerate(rows):
            factor = emit.spread_at(bases, place, r)
            total = [emit.plus(a, emit.times(factor, value)) for a, value in zip(total, row, strict=True)]
        return total

    def with_origin(self, b: Any, lack: Any, values: list[Any]) -> list[Any]:
        factor = self.emit.spread_at(lack, b)
        origins = self.emit.load_all(self.edges.origin, len(values))
        return [self.emit.plus(value, self.emit.times(factor, o)) for value, o in zip(values, origins, strict=True)]

    def registers(self, values: list[Any]) -> list[Any]:
        made = self.emit.zeros(len(values))
        for value, register in zip(values, made, strict=True):
            self.emit.put(value, register)
        return made


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def add_samples(_: Any, samples: Any, count: Any, edges: Any, y: Any, phi: Any, keeps: Any, order: Any, vectors: Any) -> Any:
    """``y[b] += phi_b`` for ``count`` samples; if it ``keeps`` them, ``phi_b`` to rows of ``phi``, which are a tile apart."""
    k = order.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        samples, count, edges, y, phi, keeps, _, vectors = args
        loop = _Loop(builder, signature.args[3], samples, edges, k)
        emit = loop.emit

        def body(wide: int) -> None:
            with cgutils.for_range(builder, count) as over:
                b = over.index
                found = loop.registers(loop.combined(b, loop.rows(b, wide), loop.of.bases, loop.of.active))
                with builder.if_then(builder.icmp_signed("!=", keeps, INDEX(0))):
                    values = loop.with_origin(b, loop.of.lack, [emit.held(register) for register in found])
                    for n, (value, register) in enumerate(zip(values, found, strict=True)):
                        emit.put(value, register)
                        emit.store(value, emit.place(phi, builder.mul(b, INDEX(TILE * emit.lanes)), n * emit.lanes))
                row = emit.place(y, builder.mul(b, loop.edges.stride))
                for n, register in enumerate(found):
                    place = emit.place(row, n * emit.lanes)
                    emit.store(builder.fadd(emit.load(place), emit.held(register)), place)

        loop.of_widths(vectors, body)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(samples, integer, edges, y, phi, integer, order, integer), generate


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def pull_samples(_: Any, samples: Any, count: Any, edges: Any, gradients: Any, sparse: Any, order: Any, vectors: Any) -> Any:
    """With ``h_b`` the gradient of ``phi_b``, that of ``y[b]`` and what a penalty adds: ``of_x[b] += h_b . phi_b'``,
    ``of_rows[first_b + r] += bases_r h_b`` and ``of_base += active h_b``.
    """
    k = order.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        samples, count, edges, gradients, sparse, _, vectors = args
        loop = _Loop(builder, signature.args[3].types[0], samples, edges, k)
        to = Gradients(*cgutils.unpack_tuple(builder, gradients, len(Gradients._fields)))
        of = Sparse(*cgutils.unpack_tuple(builder, sparse, len(Sparse._fields)))
        emit, tile, zero = loop.emit, INDEX(TILE * loop.emit.lanes), INDEX(0)
        penalised = builder.icmp_signed("!=", of.kind, zero)
        of_sign = builder.icmp_signed("==", of.kind, INDEX(1))

        def add_penalty(b: Any, rows: list[list[Any]], h: list[Any]) -> None:
            phi = loop.with_origin(b, loop.of.lack, loop.combined(b, rows, loop.of.bases, loop.of.active))
            for n, (register, value) in enumerate(zip(h, phi, strict=True)):
                factor, mean, shift = (
                    emit.load(emit.place(pointer, n * emit.lanes)) for pointer in (of.factor, of.mean, of.shift)
                )
                away = emit.plus(emit.times(factor, builder.fsub(value, mean)), shift)
                added = builder.select(of_sign, emit.signed(factor, value), away)
                emit.put(builder.fadd(emit.held(register), added), register)

        def pull(b: Any, rows: list[list[Any]], h: list[Any]) -> None:
            slope = loop.registers(loop.combined(b, rows, loop.of.slopes, loop.of.rise))
            with builder.if_then(penalised):
                for value, register in zip(
                    loop.with_origin(b, loop.of.lack_slope, [emit.held(register) for register in slope]), slope, strict=True
                ):
                    emit.put(value, register)
            total = None
            for register, factor in zip(slope, h, strict=True):
                product = emit.times(emit.held(register), emit.held(factor))
                total = product if total is None else emit.plus(total, product)
            place = emit.place(to.of_x, b)
            builder.store(builder.fadd(emit.scalar(place), emit.total(total)), place)

        def add_weights(b: Any, h: list[Any], of_base: list[Any]) -> None:
            values = [emit.held(register) for register in h]
            emit.add_products(emit.spread_at(loop.of.active, b), values, of_base)
            # Samples next to each other write to the same rows: each would have to wait for the last.
            row = builder.add(emit.index_at(loop.of.first, b), builder.mul(builder.and_(b, INDEX(1)), to.length))
            place, of_b = emit.place(to.parts, builder.mul(row, tile)), builder.mul(b, INDEX(k + 1))
            for r in range(k + 1):
                factor = emit.spread_at(loop.of.bases, of_b, r)
                for n, value in enumerate(values):
                    target = emit.place(place, n * emit.lanes)
                    emit.store(emit.plus(emit.load(target), emit.times(factor, value)), target)
                place = emit.place(place, tile)

        def add_parts(wide: int) -> None:
            """Add the two parts, which hold no more than the samples of a panel, to the gradients of weights."""
            marks, odd = emit.load_all(to.marks, wide), builder.mul(to.length, tile)
            with cgutils.for_range(builder, to.length) as over:
                place = builder.mul(over.index, tile)
                target = emit.place(to.of_rows, builder.mul(over.index, loop.edges.stride))
                for n in range(wide):
                    parts = [emit.load(emit.place(to.parts, place, n * emit.lanes, other)) for other in (0, odd)]
                    found = emit.place(target, n * emit.lanes)
                    total = builder.fadd(builder.fadd(parts[0], parts[1]), marks[n])
                    emit.store(builder.fadd(emit.load(found), total), found)

        def body(wide: int) -> None:
            of_base = emit.zeros(wide)
            for register in of_base:
                emit.put(emit.zero, register)
            with cgutils.for_range(builder, builder.mul(to.length, INDEX(2))) as over:
                place = emit.place(to.parts, builder.mul(over.index, tile))
                for n in range(wide):
                    emit.store(emit.zero, emit.place(place, n * emit.lanes))
            with cgutils.for_range(builder, count) as over:
                b, rows = over.index, loop.rows(over.index, wide)
                h = loop.registers(emit.load_all(emit.place(to.of_y, builder.mul(b, loop.edges.stride)), wide))
                with builder.if_then(penalised):
                    add_penalty(b, rows, h)
                with builder.if_then(builder.icmp_signed("!=", to.wants_x, zero)):
                    pull(b, rows, h)
                with builder.if_then(builder.icmp_signed("!=", to.wants_weights, zero)):
                    add_weights(b, h, of_base)
            with builder.if_then(builder.icmp_signed("!=", to.wants_weights, zero)):
                add_parts(wide)
            for n, register in enumerate(of_base):
                place = emit.place(to.of_base, n * emit.lanes)
                emit.store(builder.fadd(emit.load(place), emit.held(register)), place)

        loop.of_widths(vectors, body)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(samples, integer, edges, gradients, sparse, order, integer), generate


@intrinsic  # type: ignore[untyped-decorator]
def fill_rows(_: Any, target: Any, stride: Any, count: Any, row: Any) -> Any:
    """``count`` rows of whole vectors, ``stride`` numbers each, like one."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target, stride, count, row = args
        emit = Emitter(builder, real_of(signature.args[0]))
        with cgutils.for_range_slice(builder, INDEX(0), stride, INDEX(emit.lanes), intp=INDEX) as (o, _):
            value, column = emit.load(emit.place(row, o)), emit.place(target, o)
            with cgutils.for_range(builder, count) as over:
                emit.store(value, emit.place(column, builder.mul(over.index, stride)))
        return context.get_dummy_value()

    return types.void(target, types.intp, types.intp, row), generate


@intrinsic  # type: ignore[untyped-decorator]
def sum_rows(_: Any, source: Any, stride: Any, count: Any, totals: Any, marks: Any) -> Any:
    """The sums of ``count`` rows of ``stride`` numbers, and sums of numbers times zero: NaN where one is not finite."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, stride, count, totals, marks = args
        emit = Emitter(builder, real_of(signature.args[0]))
        total, mark = emit.zeros(2)
        with cgutils.for_range_slice(builder, INDEX(0), stride, INDEX(emit.lanes), intp=INDEX) as (o, _):
            for register in (total, mark):
                emit.put(emit.zero, register)
            with cgutils.for_range(builder, count) as over:
                value = emit.load(emit.place(source, o, builder.mul(over.index, stride)))
                emit.put(builder.fadd(emit.held(total), value), total)
                emit.put(builder.fadd(emit.held(mark), builder.fmul(value, emit.zero)), mark)
            emit.store(emit.held(total), emit.place(totals, o))
            emit.store(emit.held(mark), emit.place(marks, o))
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, totals, marks), generate
