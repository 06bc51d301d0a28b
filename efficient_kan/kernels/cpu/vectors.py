"""Combinations of rows of weights in vector registers, the inner loops of the sparse product.

Shape legend: ``I`` inputs, ``M`` features per input, ``S`` outputs rounded up to whole vectors (the stride of a row of weights
``(I, M, S)``), ``W = k + 1`` bases that are not zero. A *term* of a sample and an input is one of its ``W`` bases or, last, its
base activation; it has a value and a row of weights. Rows of the bases follow each other from ``offsets[n]`` on, the row of the
base activation is the last of the input's ``M``.

numba cannot keep a tile of outputs in registers, so these loops are written as LLVM code: ``width`` vectors of outputs stay in
registers while a loop runs over inputs or samples. ``width`` and ``terms`` are constants of the compiled code.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
import torch
from llvmlite import ir
from numba import literally, types
from numba.core import cgutils
from numba.extending import intrinsic

from efficient_kan.kernels.cpu.compiled import inlined

_INDEX = ir.IntType(64)


def _vector_bytes() -> int:
    features = llvm.get_host_cpu_features()
    return 64 if features.get("avx512f") else 32


VECTOR_BYTES = _vector_bytes()
TILE = 4  # vectors of outputs that stay in registers, at most


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

    def place(self, pointer: Any, *offsets: Any) -> Any:
        for offset in offsets:
            pointer = self.builder.gep(pointer, [_INDEX(offset) if isinstance(offset, int) else offset])
        return pointer

    def load(self, pointer: Any) -> Any:
        return self.builder.load(self.builder.bitcast(pointer, self.vector.as_pointer()), align=self.size)

    def store(self, value: Any, pointer: Any) -> None:
        self.builder.store(value, self.builder.bitcast(pointer, self.vector.as_pointer()), align=self.size)

    def spread(self, value: Any) -> Any:
        index = ir.IntType(32)
        single = self.builder.insert_element(ir.Constant(self.vector, ir.Undefined), value, index(0))
        return self.builder.shuffle_vector(single, single, ir.Constant(ir.VectorType(index, self.lanes), [0] * self.lanes))

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


def _rows(emit: Emitter, weights: Any, last: Any, offset: Any, stride: Any, terms: int) -> list[Any]:
    """Pointers to the rows of all terms."""
    found = [emit.place(weights, offset)]
    for _ in range(terms - 2):
        found.append(emit.place(found[-1], stride))
    return [*found, last]


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def _combine(
    _: Any, y: Any, weights: Any, offsets: Any, values: Any, count: Any, features: Any, stride: Any, terms: Any, width: Any
) -> Any:
    """``y[:] += sum over n < count and terms t of values[n, t] * row(n, t)``, for ``width`` vectors of outputs.

    ``weights`` points to the first input's first row, at the first of these outputs; ``offsets[n]`` counts from there.
    """
    wide, many = width.literal_value, terms.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        y, weights, offsets, values, count, features, stride = args[:7]
        emit = Emitter(builder, y.type.pointee)
        sums = emit.registers(wide)
        for n, register in enumerate(sums):
            builder.store(emit.load(emit.place(y, n * emit.lanes)), register)
        block = builder.mul(features, stride)
        base_row = builder.mul(builder.sub(features, _INDEX(1)), stride)
        with cgutils.for_range(builder, count) as loop:
            offset = builder.load(emit.place(offsets, loop.index))
            last = emit.place(weights, builder.add(builder.mul(loop.index, block), base_row))
            first = emit.place(values, builder.mul(loop.index, _INDEX(many)))
            # An input's terms are added among themselves first: the whole sum is rounded less often, and waits less.
            of_input: list[Any] = []
            for t, row in enumerate(_rows(emit, weights, last, offset, stride, many)):
                value = emit.spread(builder.load(emit.place(first, t)))
                products = [emit.times(value, emit.load(emit.place(row, n * emit.lanes))) for n in range(wide)]
                of_input = [emit.plus(a, b) for a, b in zip(of_input, products, strict=True)] if t else products
            for register, value in zip(sums, of_input, strict=True):
                builder.store(builder.fadd(builder.load(register), value), register)
        for n, register in enumerate(sums):
            emit.store(builder.load(register), emit.place(y, n * emit.lanes))
        return context.get_dummy_value()

    signature = types.void(y, weights, offsets, values, types.intp, types.intp, types.intp, terms, width)
    return signature, generate


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def _contract(
    _: Any,
    g: Any,
    weights: Any,
    offsets: Any,
    values: Any,
    count: Any,
    features: Any,
    stride: Any,
    result: Any,
    terms: Any,
    width: Any,
) -> Any:
    """``result[n] += g . sum over terms t of values[n, t] * row(n, t)`` for ``n < count``; see :func:`_combine`."""
    wide, many = width.literal_value, terms.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        g, weights, offsets, values, count, features, stride, result = args[:8]
        emit = Emitter(builder, g.type.pointee)
        gradient = [emit.load(emit.place(g, n * emit.lanes)) for n in range(wide)]
        block = builder.mul(features, stride)
        base_row = builder.mul(builder.sub(features, _INDEX(1)), stride)
        with cgutils.for_range(builder, count) as loop:
            offset = builder.load(emit.place(offsets, loop.index))
            last = emit.place(weights, builder.add(builder.mul(loop.index, block), base_row))
            first = emit.place(values, builder.mul(loop.index, _INDEX(many)))
            spread = [emit.spread(builder.load(emit.place(first, t))) for t in range(many)]
            rows = _rows(emit, weights, last, offset, stride, many)
            total = None
            for n in range(wide):
                row = None
                for t in range(many):
                    product = emit.times(spread[t], emit.load(emit.place(rows[t], n * emit.lanes)))
                    row = product if row is None else emit.plus(row, product)
                product = emit.times(row, gradient[n])
                total = product if total is None else emit.plus(total, product)
            place = emit.place(result, loop.index)
            builder.store(builder.fadd(builder.load(place), emit.total(total)), place)
        return context.get_dummy_value()

    signature = types.void(g, weights, offsets, values, types.intp, types.intp, types.intp, result, terms, width)
    return signature, generate


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def _spread(
    _: Any,
    of_weights: Any,
    g: Any,
    samples: Any,
    offsets: Any,
    values: Any,
    count: Any,
    step: Any,
    last: Any,
    stride: Any,
    g_stride: Any,
    terms: Any,
    width: Any,
) -> Any:
    """For ``b < count`` samples of one input: ``row(b, t) += values[b, t] * g[samples[b]]`` in ``of_weights``.

    With None for ``samples`` they are the first ones. Offsets and values of the next sample are ``step`` inputs further on,
    ``g`` has rows of ``g_stride``, and ``last`` is where the row of the base activation starts, whose sum over these samples
    stays in registers.
    """
    wide, many, first_ones = width.literal_value, terms.literal_value, isinstance(samples, types.NoneType)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        of_weights, g, samples, offsets, values, count, step, last, stride, g_stride = args[:10]
        emit = Emitter(builder, g.type.pointee)
        base_row = emit.place(of_weights, last)
        sums = emit.registers(wide)
        for register in sums:
            builder.store(ir.Constant(emit.vector, [0.0] * emit.lanes), register)
        with cgutils.for_range(builder, count) as loop:
            at = builder.mul(loop.index, step)
            offset = builder.load(emit.place(offsets, at))
            first = emit.place(values, builder.mul(at, _INDEX(many)))
            sample = loop.index if first_ones else builder.load(emit.place(samples, loop.index))
            source = emit.place(g, builder.mul(sample, g_stride))
            gradient = [emit.load(emit.place(source, n * emit.lanes)) for n in range(wide)]
            rows = _rows(emit, of_weights, base_row, offset, stride, many)
            for t, row in enumerate(rows):
                value = emit.spread(builder.load(emit.place(first, t)))
                for n in range(wide):
                    product = emit.times(value, gradient[n])
                    if t == many - 1:
                        builder.store(emit.plus(builder.load(sums[n]), product), sums[n])
                    else:
                        place = emit.place(row, n * emit.lanes)
                        emit.store(emit.plus(emit.load(place), product), place)
        for n, register in enumerate(sums):
            place = emit.place(base_row, n * emit.lanes)
            emit.store(emit.plus(emit.load(place), builder.load(register)), place)
        return context.get_dummy_value()

    signature = types.void(
        of_weights, g, samples, offsets, values, types.intp, types.intp, types.intp, types.intp, types.intp, terms, width
    )
    return signature, generate


@inlined
def combine(
    y: Any, weights: Any, offsets: Any, values: Any, count: int, features: int, stride: int, terms: int, vectors: int,
) -> None:  # fmt: skip
    """As :func:`_combine`, for up to ``TILE`` vectors."""
    many = literally(terms)
    if vectors == 4:
        _combine(y, weights, offsets, values, count, features, stride, many, 4)
    elif vectors == 3:
        _combine(y, weights, offsets, values, count, features, stride, many, 3)
    elif vectors == 2:
        _combine(y, weights, offsets, values, count, features, stride, many, 2)
    else:
        _combine(y, weights, offsets, values, count, features, stride, many, 1)


@inlined
def contract(
    g: Any, weights: Any, offsets: Any, values: Any, count: int, features: int, stride: int, result: Any, terms: int,
    vectors: int,
) -> None:  # fmt: skip
    """As :func:`_contract`, for up to ``TILE`` vectors."""
    many = literally(terms)
    if vectors == 4:
        _contract(g, weights, offsets, values, count, features, stride, result, many, 4)
    elif vectors == 3:
        _contract(g, weights, offsets, values, count, features, stride, result, many, 3)
    elif vectors == 2:
        _contract(g, weights, offsets, values, count, features, stride, result, many, 2)
    else:
        _contract(g, weights, offsets, values, count, features, stride, result, many, 1)


@inlined
def spread(
    of_weights: Any, g: Any, samples: Any, offsets: Any, values: Any, count: int, step: int, last: int, stride: int,
    g_stride: int, terms: int, vectors: int,
) -> None:  # fmt: skip
    """As :func:`_spread`, for up to ``TILE`` vectors."""
    many = literally(terms)
    if vectors == 4:
        _spread(of_weights, g, samples, offsets, values, count, step, last, stride, g_stride, many, 4)
    elif vectors == 3:
        _spread(of_weights, g, samples, offsets, values, count, step, last, stride, g_stride, many, 3)
    elif vectors == 2:
        _spread(of_weights, g, samples, offsets, values, count, step, last, stride, g_stride, many, 2)
    else:
        _spread(of_weights, g, samples, offsets, values, count, step, last, stride, g_stride, many, 1)
