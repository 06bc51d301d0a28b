"""Vectors of numbers in registers, and the inner loops of the product of fine grids.

numba cannot keep a tile of outputs in registers, so these loops are written as LLVM code (:class:`Emitter`).

Shape legend: ``I`` inputs, ``M`` features per input, ``W = k + 1`` bases that are not zero. A *term* of a sample is one of its
``W`` bases or, last, its base activation; it has a value and a row of weights. Rows of the bases follow each other from
``offsets[b]`` on. ``terms`` is a constant of the compiled code, and some ``vectors`` of outputs, 1 to ``TILE``, stay in
registers while a loop runs over samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from efficient_kan.kernels.cpu.compiled import LINE_BYTES

_INDEX = ir.IntType(64)


def _vector_bytes() -> int:
    features = llvm.get_host_cpu_features()
    return 64 if features.get("avx512f") else 32


VECTOR_BYTES = _vector_bytes()
TILE = 4  # vectors of outputs that stay in registers, at most
_AHEAD = 12  # samples whose rows of outputs, which lie anywhere, are fetched ahead


def whole_vectors(outputs: int, dtype: torch.dtype) -> int:
    """Outputs rounded up to whole vectors."""
    lanes = VECTOR_BYTES // dtype.itemsize
    return -(-outputs // lanes) * lanes


class Emitter:
    """Shorthand for LLVM instructions on vectors of one element type."""

    def __init__(self, builder: Any, real: Any) -> None:
        self.builder, self.real = builder, real
        self.size = 4 if isinstance(real, ir.FloatType) else 8
        self.lanes = VECTOR_BYTES // self.size
        self.vector = ir.VectorType(real, self.lanes)
        self.zero = ir.Constant(self.vector, [0.0] * self.lanes)

    def place(self, pointer: Any, *offsets: Any) -> Any:
        for offset in offsets:
            pointer = self.builder.gep(pointer, [_INDEX(offset) if isinstance(offset, int) else offset])
        return pointer

    def load(self, pointer: Any) -> Any:
        return self.builder.load(self.builder.bitcast(pointer, self.vector.as_pointer()), align=self.size)

    def store(self, value: Any, pointer: Any, past_caches: bool = False) -> None:
        """Write a vector; ``past_caches`` to memory at once, where it must fill a line of its own."""
        align = VECTOR_BYTES if past_caches else self.size
        store = self.builder.store(value, self.builder.bitcast(pointer, self.vector.as_pointer()), align=align)
        if past_caches:
            store.set_metadata("nontemporal", self.builder.module.add_metadata([ir.IntType(32)(1)]))

    def first(self, count: Any) -> Any:
        """The mask of the first ``count`` elements."""
        index = ir.VectorType(_INDEX, self.lanes)
        single = self.builder.insert_element(ir.Constant(index, ir.Undefined), count, ir.IntType(32)(0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [0] * self.lanes)
        spread = self.builder.shuffle_vector(single, single, zeros)
        return self.builder.icmp_signed("<", ir.Constant(index, list(range(self.lanes))), spread)

    def load_some(self, pointer: Any, mask: Any) -> Any:
        """Load the elements of a mask, and zeros."""
        place, align = self.builder.bitcast(pointer, self.vector.as_pointer()), ir.IntType(32)
        kind = ir.FunctionType(self.vector, [place.type, align, mask.type, self.vector])
        function = self._masked("load", kind)
        return self.builder.call(function, [place, align(self.size), mask, self.zero])

    def store_some(self, value: Any, pointer: Any, mask: Any) -> None:
        """Store the elements of a mask."""
        place, align = self.builder.bitcast(pointer, self.vector.as_pointer()), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [self.vector, place.type, align, mask.type])
        function = self._masked("store", kind)
        self.builder.call(function, [value, place, align(self.size), mask])

    def _masked(self, what: str, kind: Any) -> Any:
        name = f"llvm.masked.{what}.v{self.lanes}f{8 * self.size}.p0"
        return cgutils.get_or_insert_function(self.builder.module, kind, name)

    def spread(self, value: Any) -> Any:
        index = ir.IntType(32)
        single = self.builder.insert_element(ir.Constant(self.vector, ir.Undefined), value, index(0))
        return self.builder.shuffle_vector(single, single, ir.Constant(ir.VectorType(index, self.lanes), [0] * self.lanes))

    def load_all(self, pointer: Any, count: int) -> list[Any]:
        """So many vectors after each other."""
        return [self.load(self.place(pointer, n * self.lanes)) for n in range(count)]

    def spread_at(self, pointer: Any, *offsets: Any) -> Any:
        """The number at a place, in every element."""
        return self.spread(self.builder.load(self.place(pointer, *offsets)))

    def index_at(self, pointer: Any, number: Any) -> Any:
        """Integer ``number`` from a pointer on, in 64 bits."""
        return self.builder.sext(self.builder.load(self.place(pointer, number)), _INDEX)

    def times(self, a: Any, b: Any) -> Any:
        return self.builder.fmul(a, b, flags=["contract"])

    def plus(self, a: Any, b: Any) -> Any:
        return self.builder.fadd(a, b, flags=["contract"])

    def fetch(self, pointer: Any, write: bool = False) -> None:
        """Ask for the line of memory at ``pointer`` ahead of its use."""
        byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
        function = self.builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        nearest, data = flag(3), flag(1)
        self.builder.call(function, [self.builder.bitcast(pointer, byte), flag(int(write)), nearest, data])

    def total(self, value: Any) -> Any:
        """The sum of a vector's elements, by halves."""
        index, lanes = ir.IntType(32), self.lanes
        while lanes > 1:
            half = lanes // 2
            places = [
                ir.Constant(ir.VectorType(index, half), range_) for range_ in (list(range(half)), list(range(half, lanes)))
            ]
            low, high = (self.builder.shuffle_vector(value, value, place) for place in places)
            value, lanes = self.builder.fadd(low, high), half
        return self.builder.extract_element(value, index(0))

    def registers(self, count: int) -> list[Any]:
        return [cgutils.alloca_once(self.builder, self.vector) for _ in range(count)]

    def zeros(self, count: int) -> list[Any]:
        """Registers of zeros."""
        registers = self.registers(count)
        for register in registers:
            self.builder.store(self.zero, register)
        return registers

    def load_row(self, pointer: Any, wide: int, mask: Any) -> list[Any]:
        """So many vectors after each other, of the last the elements of a mask, and zeros."""
        last = self.load_some(self.place(pointer, (wide - 1) * self.lanes), mask)
        return [*self.load_all(pointer, wide - 1), last]

    def add_to_row(self, pointer: Any, vectors: list[Any], mask: Any, whole: Any) -> None:
        """Add vectors to those after each other, of the last the elements of a mask; ``whole`` tells if those are all."""
        for n, (old, vector) in enumerate(zip(self.load_row(pointer, len(vectors), mask), vectors, strict=True)):
            place, value = self.place(pointer, n * self.lanes), self.builder.fadd(old, vector)
            if n < len(vectors) - 1:
                self.store(value, place)
                continue
            with self.builder.if_else(whole) as (then, otherwise):  # many processors take long for stores with a mask
                with then:
                    self.store(value, place)
                with otherwise:
                    self.store_some(value, place, mask)

    def add_products(self, factor: Any, vectors: list[Any], registers: list[Any]) -> None:
        """Add vectors, each times the same factor, to registers."""
        for register, vector in zip(registers, vectors, strict=True):
            self.builder.store(self.plus(self.builder.load(register), self.times(factor, vector)), register)

    def of_widths(self, vectors: Any, most: int, body: Callable[[int], None]) -> None:
        """Emit a body for each number of ``vectors`` that there may be, 1 to ``most``."""
        for wide in range(1, most + 1):
            with self.builder.if_then(self.builder.icmp_signed("==", vectors, _INDEX(wide))):
                body(wide)

    def add_to(self, pointer: Any, registers: list[Any]) -> None:
        """Add registers to the vectors from ``pointer`` on, and set them to zero."""
        for n, register in enumerate(registers):
            place = self.place(pointer, n * self.lanes)
            self.store(self.plus(self.load(place), self.builder.load(register)), place)
            self.builder.store(self.zero, register)


def _combination(emit: Emitter, weights: Any, offset: Any, stride: Any, values: Any, bases: int, wide: int) -> list[Any]:
    """The bases' rows of one input and sample, each times its value, added."""
    row = emit.place(weights, offset)
    total: list[Any] = []
    for t in range(bases):
        value = emit.spread_at(values, t)
        products = [emit.times(value, weight) for weight in emit.load_all(row, wide)]
        total = [emit.plus(a, b) for a, b in zip(total, products, strict=True)] if t else products
        row = emit.place(row, stride)
    return total


def row_of(emit: Emitter, rows: Any, samples: Any, number: Any, stride: Any) -> Any:
    """The pointer to row ``samples[number]``."""
    return emit.place(rows, emit.builder.mul(emit.index_at(samples, number), stride))


def _fetch_row_of(emit: Emitter, rows: Any, samples: Any, number: Any, count: Any, stride: Any, wide: int) -> None:
    """Ask for the row, which lies anywhere, of a sample some further on."""
    builder = emit.builder
    further, last = builder.add(number, _INDEX(_AHEAD)), builder.sub(count, _INDEX(1))
    row = row_of(emit, rows, samples, builder.select(builder.icmp_signed("<", further, last), further, last), stride)
    for n in range(0, wide, max(1, LINE_BYTES // VECTOR_BYTES)):
        emit.fetch(emit.place(row, n * emit.lanes))


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def combine_samples(
    _: Any, y: Any, samples: Any, weights: Any, offsets: Any, values: Any, count: Any, last: Any, stride: Any, y_stride: Any,
    terms: Any, vectors: Any,
) -> Any:  # fmt: skip
    """For ``b < count`` samples of one input: ``y[samples[b]] += sum over terms t of values[b, t] * row(b, t)``.

    ``last`` is where the row of the base activation starts.
    """
    many = terms.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        y, samples, weights, offsets, values, count, last, stride, y_stride, _, vectors = args
        emit = Emitter(builder, y.type.pointee)

        def body(wide: int) -> None:
            base_row = emit.load_all(emit.place(weights, last), wide)
            with cgutils.for_range(builder, count) as loop:
                _fetch_row_of(emit, y, samples, loop.index, count, y_stride, wide)
                target = row_of(emit, y, samples, loop.index, y_stride)
                first = emit.place(values, builder.mul(loop.index, _INDEX(many)))
                offset = emit.index_at(offsets, loop.index)
                of_bases = _combination(emit, weights, offset, stride, first, many - 1, wide)
                value = emit.spread_at(first, many - 1)
                for n in range(wide):
                    place = emit.place(target, n * emit.lanes)
                    added = emit.plus(of_bases[n], emit.times(value, base_row[n]))
                    emit.store(builder.fadd(emit.load(place), added), place)

        emit.of_widths(vectors, TILE, body)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(y, samples, weights, offsets, values, *[integer] * 4, terms, integer), generate


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def contract_samples(
    _: Any, g: Any, samples: Any, weights: Any, scales: Any, offsets: Any, values: Any, count: Any, ahead: Any, last: Any,
    stride: Any, g_stride: Any, result: Any, terms: Any, vectors: Any,
) -> Any:  # fmt: skip
    """For ``b < count`` samples of one input: ``result[b] = g[samples[b]] . sum over terms t of values[b, t] * row(b, t)``.

    Rows of the bases, not that of the base activation from ``last`` on, are multiplied with ``scales``, one for each output.
    There are ``ahead`` samples, whose rows of ``g`` may be fetched ahead.
    """
    many = terms.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        g, samples, weights, scales, offsets, values, count, ahead, last, stride, g_stride, result, _, vectors = args
        emit = Emitter(builder, g.type.pointee)

        def body(wide: int) -> None:
            base_row, scale = emit.load_all(emit.place(weights, last), wide), emit.load_all(scales, wide)
            with cgutils.for_range(builder, count) as loop:
                _fetch_row_of(emit, g, samples, loop.index, ahead, g_stride, wide)
                source = row_of(emit, g, samples, loop.index, g_stride)
                first = emit.place(values, builder.mul(loop.index, _INDEX(many)))
                offset = emit.index_at(offsets, loop.index)
                of_bases = _combination(emit, weights, offset, stride, first, many - 1, wide)
                value = emit.spread_at(first, many - 1)
                total = None
                for n, gradient in enumerate(emit.load_all(source, wide)):
                    row = emit.plus(emit.times(of_bases[n], scale[n]), emit.times(value, base_row[n]))
                    product = emit.times(row, gradient)
                    total = product if total is None else emit.plus(total, product)
                builder.store(emit.total(total), emit.place(result, loop.index))

        emit.of_widths(vectors, TILE, body)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(g, samples, weights, scales, offsets, values, *[integer] * 5, result, terms, integer), generate


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def spread_samples(
    _: Any, of_weights: Any, g: Any, samples: Any, offsets: Any, values: Any, count: Any, last: Any, stride: Any,
    g_stride: Any, terms: Any, vectors: Any,
) -> Any:  # fmt: skip
    """For ``b < count`` samples of one input: ``row(b, t) += values[b, t] * g[samples[b]]`` in ``of_weights``.

    There is at least one. What those that follow each other with one offset add stays in registers, and so does what all add
    to the row of the base activation, which starts at ``last``.
    """
    many = terms.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        of_weights, g, samples, offsets, values, count, last, stride, g_stride, _, vectors = args
        emit = Emitter(builder, g.type.pointee)

        def body(wide: int) -> None:
            sums = [emit.zeros(wide) for _ in range(many)]
            held = cgutils.alloca_once_value(builder, emit.index_at(offsets, _INDEX(0)))  # the offset of the sums of bases

            def write() -> None:
                row = emit.place(of_weights, builder.load(held))
                for of_basis in sums[:-1]:
                    emit.add_to(row, of_basis)
                    row = emit.place(row, stride)

            with cgutils.for_range(builder, count) as loop:
                offset = emit.index_at(offsets, loop.index)
                with builder.if_then(builder.icmp_signed("!=", offset, builder.load(held)), likely=False):
                    write()
                    builder.store(offset, held)
                gradient = emit.load_all(row_of(emit, g, samples, loop.index, g_stride), wide)
                first = emit.place(values, builder.mul(loop.index, _INDEX(many)))
                for t, of_term in enumerate(sums):
                    emit.add_products(emit.spread_at(first, t), gradient, of_term)
            write()
            emit.add_to(emit.place(of_weights, last), sums[-1])

        emit.of_widths(vectors, TILE, body)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(of_weights, g, samples, offsets, values, *[integer] * 4, terms, integer), generate
