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

from efficient_kan.kernels.cpu.compiled import LINE_BYTES, inlined

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
        return self.builder.call(function, [place, align(self.size), mask, ir.Constant(self.vector, [0.0] * self.lanes)])

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
            self.builder.store(ir.Constant(self.vector, [0.0] * self.lanes), register)
        return registers

    def add_to(self, pointer: Any, registers: list[Any]) -> None:
        """Add registers to the vectors from ``pointer`` on, and set them to zero."""
        for n, register in enumerate(registers):
            place = self.place(pointer, n * self.lanes)
            self.store(self.plus(self.load(place), self.builder.load(register)), place)
            self.builder.store(ir.Constant(self.vector, [0.0] * self.lanes), register)


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
    """For ``b < count`` samples of one input: ``row(b, t) += values[b, t] * g[b]`` in ``of_weights``.

    Offsets and values of the next sample are ``step`` inputs further on, ``g`` has rows of ``g_stride``, and ``last`` is where
    the row of the base activation starts, whose sum over these samples stays in registers.
    """
    wide, many = width.literal_value, terms.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        of_weights, g, offsets, values, count, step, last, stride, g_stride = args[:9]
        emit = Emitter(builder, g.type.pointee)
        base_row = emit.place(of_weights, last)
        of_base = emit.zeros(wide)
        with cgutils.for_range(builder, count) as loop:
            at = builder.mul(loop.index, step)
            offset = builder.load(emit.place(offsets, at))
            first = emit.place(values, builder.mul(at, _INDEX(many)))
            source = emit.place(g, builder.mul(loop.index, g_stride))
            gradient = [emit.load(emit.place(source, n * emit.lanes)) for n in range(wide)]
            for t, row in enumerate(_rows(emit, of_weights, base_row, offset, stride, many)):
                value = emit.spread(builder.load(emit.place(first, t)))
                for n in range(wide):
                    product = emit.times(value, gradient[n])
                    if t == many - 1:
                        builder.store(emit.plus(builder.load(of_base[n]), product), of_base[n])
                    else:
                        place = emit.place(row, n * emit.lanes)
                        emit.store(emit.plus(emit.load(place), product), place)
        emit.add_to(base_row, of_base)
        return context.get_dummy_value()

    integers = [types.intp] * 5
    return types.void(of_weights, g, offsets, values, *integers, terms, width), generate


def _combination(emit: Emitter, weights: Any, offset: Any, stride: Any, values: Any, bases: int, wide: int) -> list[Any]:
    """The bases' rows of one input and sample, each times its value, added."""
    row = emit.place(weights, offset)
    total: list[Any] = []
    for t in range(bases):
        value = emit.spread(emit.builder.load(emit.place(values, t)))
        products = [emit.times(value, emit.load(emit.place(row, n * emit.lanes))) for n in range(wide)]
        total = [emit.plus(a, b) for a, b in zip(total, products, strict=True)] if t else products
        row = emit.place(row, stride)
    return total


def _row_of(emit: Emitter, rows: Any, samples: Any, number: Any, stride: Any) -> Any:
    return emit.place(rows, emit.builder.mul(emit.builder.load(emit.place(samples, number)), stride))


def _fetch_row_of(emit: Emitter, rows: Any, samples: Any, number: Any, count: Any, stride: Any, wide: int) -> None:
    """Ask for the row, which lies anywhere, of a sample some further on."""
    builder = emit.builder
    further, last = builder.add(number, _INDEX(_AHEAD)), builder.sub(count, _INDEX(1))
    row = _row_of(emit, rows, samples, builder.select(builder.icmp_signed("<", further, last), further, last), stride)
    for n in range(0, wide, max(1, LINE_BYTES // VECTOR_BYTES)):
        emit.fetch(emit.place(row, n * emit.lanes))


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def _combine_samples(
    _: Any,
    y: Any,
    samples: Any,
    weights: Any,
    offsets: Any,
    values: Any,
    count: Any,
    last: Any,
    stride: Any,
    y_stride: Any,
    terms: Any,
    width: Any,
) -> Any:
    """For ``b < count`` samples of one input: ``y[samples[b]] += sum over terms t of values[b, t] * row(b, t)``.

    ``last`` is where the row of the base activation starts.
    """
    wide, many = width.literal_value, terms.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        y, samples, weights, offsets, values, count, last, stride, y_stride = args[:9]
        emit = Emitter(builder, y.type.pointee)
        base_row = [emit.load(emit.place(weights, last, n * emit.lanes)) for n in range(wide)]
        with cgutils.for_range(builder, count) as loop:
            _fetch_row_of(emit, y, samples, loop.index, count, y_stride, wide)
            target = _row_of(emit, y, samples, loop.index, y_stride)
            first = emit.place(values, builder.mul(loop.index, _INDEX(many)))
            offset = builder.load(emit.place(offsets, loop.index))
            of_bases = _combination(emit, weights, offset, stride, first, many - 1, wide)
            value = emit.spread(builder.load(emit.place(first, many - 1)))
            for n in range(wide):
                place = emit.place(target, n * emit.lanes)
                added = emit.plus(of_bases[n], emit.times(value, base_row[n]))
                emit.store(builder.fadd(emit.load(place), added), place)
        return context.get_dummy_value()

    integers = [types.intp] * 4
    return types.void(y, samples, weights, offsets, values, *integers, terms, width), generate


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def _contract_samples(
    _: Any,
    g: Any,
    samples: Any,
    weights: Any,
    scales: Any,
    offsets: Any,
    values: Any,
    count: Any,
    ahead: Any,
    last: Any,
    stride: Any,
    g_stride: Any,
    result: Any,
    terms: Any,
    width: Any,
) -> Any:
    """For ``b < count`` samples of one input: ``result[b] = g[samples[b]] . sum over terms t of values[b, t] * row(b, t)``.

    Rows of the bases, not that of the base activation from ``last`` on, are multiplied with ``scales``, one for each output.
    There are ``ahead`` samples, whose rows of ``g`` may be fetched ahead.
    """
    wide, many = width.literal_value, terms.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        g, samples, weights, scales, offsets, values, count, ahead, last, stride, g_stride, result = args[:12]
        emit = Emitter(builder, g.type.pointee)
        base_row = [emit.load(emit.place(weights, last, n * emit.lanes)) for n in range(wide)]
        scale = [emit.load(emit.place(scales, n * emit.lanes)) for n in range(wide)]
        with cgutils.for_range(builder, count) as loop:
            _fetch_row_of(emit, g, samples, loop.index, ahead, g_stride, wide)
            source = _row_of(emit, g, samples, loop.index, g_stride)
            first = emit.place(values, builder.mul(loop.index, _INDEX(many)))
            offset = builder.load(emit.place(offsets, loop.index))
            of_bases = _combination(emit, weights, offset, stride, first, many - 1, wide)
            value = emit.spread(builder.load(emit.place(first, many - 1)))
            total = None
            for n in range(wide):
                row = emit.plus(emit.times(of_bases[n], scale[n]), emit.times(value, base_row[n]))
                product = emit.times(row, emit.load(emit.place(source, n * emit.lanes)))
                total = product if total is None else emit.plus(total, product)
            builder.store(emit.total(total), emit.place(result, loop.index))
        return context.get_dummy_value()

    integers = [types.intp] * 5
    return types.void(g, samples, weights, scales, offsets, values, *integers, result, terms, width), generate


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def _spread_samples(
    _: Any,
    of_weights: Any,
    g: Any,
    samples: Any,
    offsets: Any,
    values: Any,
    count: Any,
    last: Any,
    stride: Any,
    g_stride: Any,
    terms: Any,
    width: Any,
) -> Any:
    """For ``b < count`` samples of one input: ``row(b, t) += values[b, t] * g[samples[b]]`` in ``of_weights``.

    There is at least one. What those that follow each other with one offset add stays in registers, and so does what all add
    to the row of the base activation, which starts at ``last``.
    """
    wide, many = width.literal_value, terms.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        of_weights, g, samples, offsets, values, count, last, stride, g_stride = args[:9]
        emit = Emitter(builder, g.type.pointee)
        sums = [emit.zeros(wide) for _ in range(many)]
        held = cgutils.alloca_once_value(builder, builder.load(offsets))  # the offset of the sums of bases

        def write() -> None:
            row = emit.place(of_weights, builder.load(held))
            for of_basis in sums[:-1]:
                emit.add_to(row, of_basis)
                row = emit.place(row, stride)

        with cgutils.for_range(builder, count) as loop:
            offset = builder.load(emit.place(offsets, loop.index))
            with builder.if_then(builder.icmp_signed("!=", offset, builder.load(held)), likely=False):
                write()
                builder.store(offset, held)
            source = _row_of(emit, g, samples, loop.index, g_stride)
            gradient = [emit.load(emit.place(source, n * emit.lanes)) for n in range(wide)]
            first = emit.place(values, builder.mul(loop.index, _INDEX(many)))
            for t, of_term in enumerate(sums):
                value = emit.spread(builder.load(emit.place(first, t)))
                for register, number in zip(of_term, gradient, strict=True):
                    builder.store(emit.plus(builder.load(register), emit.times(value, number)), register)
        write()
        emit.add_to(emit.place(of_weights, last), sums[-1])
        return context.get_dummy_value()

    integers = [types.intp] * 4
    return types.void(of_weights, g, samples, offsets, values, *integers, terms, width), generate


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
    of_weights: Any, g: Any, offsets: Any, values: Any, count: int, step: int, last: int, stride: int, g_stride: int,
    terms: int, vectors: int,
) -> None:  # fmt: skip
    """As :func:`_spread`, for up to ``TILE`` vectors."""
    many = literally(terms)
    if vectors == 4:
        _spread(of_weights, g, offsets, values, count, step, last, stride, g_stride, many, 4)
    elif vectors == 3:
        _spread(of_weights, g, offsets, values, count, step, last, stride, g_stride, many, 3)
    elif vectors == 2:
        _spread(of_weights, g, offsets, values, count, step, last, stride, g_stride, many, 2)
    else:
        _spread(of_weights, g, offsets, values, count, step, last, stride, g_stride, many, 1)


@inlined
def combine_samples(
    y: Any, samples: Any, weights: Any, offsets: Any, values: Any, count: int, last: int, stride: int, y_stride: int,
    terms: int, vectors: int,
) -> None:  # fmt: skip
    """As :func:`_combine_samples`, for up to ``TILE`` vectors."""
    many = literally(terms)
    if vectors == 4:
        _combine_samples(y, samples, weights, offsets, values, count, last, stride, y_stride, many, 4)
    elif vectors == 3:
        _combine_samples(y, samples, weights, offsets, values, count, last, stride, y_stride, many, 3)
    elif vectors == 2:
        _combine_samples(y, samples, weights, offsets, values, count, last, stride, y_stride, many, 2)
    else:
        _combine_samples(y, samples, weights, offsets, values, count, last, stride, y_stride, many, 1)


@inlined
def contract_samples(
    g: Any, samples: Any, weights: Any, scales: Any, offsets: Any, values: Any, count: int, ahead: int, last: int,
    stride: int, g_stride: int, result: Any, terms: int, vectors: int,
) -> None:  # fmt: skip
    """As :func:`_contract_samples`, for up to ``TILE`` vectors."""
    many = literally(terms)
    if vectors == 4:
        _contract_samples(g, samples, weights, scales, offsets, values, count, ahead, last, stride, g_stride, result, many, 4)
    elif vectors == 3:
        _contract_samples(g, samples, weights, scales, offsets, values, count, ahead, last, stride, g_stride, result, many, 3)
    elif vectors == 2:
        _contract_samples(g, samples, weights, scales, offsets, values, count, ahead, last, stride, g_stride, result, many, 2)
    else:
        _contract_samples(g, samples, weights, scales, offsets, values, count, ahead, last, stride, g_stride, result, many, 1)


@inlined
def spread_samples(
    of_weights: Any, g: Any, samples: Any, offsets: Any, values: Any, count: int, last: int, stride: int, g_stride: int,
    terms: int, vectors: int,
) -> None:  # fmt: skip
    """As :func:`_spread_samples`, for up to ``TILE`` vectors."""
    many = literally(terms)
    if vectors == 4:
        _spread_samples(of_weights, g, samples, offsets, values, count, last, stride, g_stride, many, 4)
    elif vectors == 3:
        _spread_samples(of_weights, g, samples, offsets, values, count, last, stride, g_stride, many, 3)
    elif vectors == 2:
        _spread_samples(of_weights, g, samples, offsets, values, count, last, stride, g_stride, many, 2)
    else:
        _spread_samples(of_weights, g, samples, offsets, values, count, last, stride, g_stride, many, 1)
