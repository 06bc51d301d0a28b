"""The emitter of vector code: LLVM instructions on vectors of fixed width.

numba's own vectorizer halves the width here and reloads what could stay in registers, so the innermost loops are emitted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils

INDEX = ir.IntType(64)
_LANE = ir.IntType(32)


def _vector_bytes() -> int:
    """Of the processor's registers."""
    features = llvm.get_host_cpu_features()
    return 64 if features.get("avx512f") else 32


VECTOR_BYTES = _vector_bytes()
# Vectors of outputs of a tile, a power of two: their coefficients stay in registers, of which processors have 16, or 32 where
# vectors are longer.
WIDTH = 4 if VECTOR_BYTES == 64 else 2


def real_of(pointer: Any) -> Any:
    """LLVM's type of the numbers that a numba type of pointers points to."""
    return ir.FloatType() if pointer.dtype == types.float32 else ir.DoubleType()


class Emitter:
    """Shorthand for instructions on vectors of one element type. Pointers have no element type of their own."""

    def __init__(self, builder: Any, real: Any) -> None:
        self.builder, self.real = builder, real
        self.size = 4 if isinstance(real, ir.FloatType) else 8
        self.lanes = VECTOR_BYTES // self.size
        self.vector = ir.VectorType(real, self.lanes)
        self.zero = self.number(0.0)

    def number(self, value: float) -> Any:
        """A constant in every element."""
        return ir.Constant(self.vector, [value] * self.lanes)

    def place(self, pointer: Any, *offsets: Any) -> Any:
        for offset in offsets:
            index = INDEX(offset) if isinstance(offset, int) else offset
            pointer = self.builder.gep(pointer, [index], source_etype=self.real)
        return pointer

    def scalar(self, pointer: Any, *offsets: Any) -> Any:
        return self.builder.load(self.place(pointer, *offsets), typ=self.real)

    def load(self, pointer: Any, kind: Any = None) -> Any:
        """A vector, of a type of its own if it is shorter."""
        kind = kind or self.vector
        return self.builder.load(self.builder.bitcast(pointer, kind.as_pointer()), align=self.size, typ=kind)

    def store(self, value: Any, pointer: Any) -> None:
        self.builder.store(value, self.builder.bitcast(pointer, value.type.as_pointer()), align=self.size)

    def spread(self, value: Any) -> Any:
        """A number in every element."""
        return self._spread(value, self.vector)

    def _spread(self, value: Any, kind: Any) -> Any:
        single = self.builder.insert_element(ir.Constant(kind, ir.Undefined), value, _LANE(0))
        return self.builder.shuffle_vector(single, single, ir.Constant(ir.VectorType(_LANE, kind.count), [0] * kind.count))

    def spread_at(self, pointer: Any, *offsets: Any) -> Any:
        return self.spread(self.scalar(pointer, *offsets))

    def load_all(self, pointer: Any, count: int) -> list[Any]:
        """So many vectors after each other."""
        return [self.load(self.place(pointer, n * self.lanes)) for n in range(count)]

    def index_at(self, pointer: Any, number: Any) -> Any:
        """32-bit integer ``number`` from a pointer on, in 64 bits."""
        place = self.builder.gep(pointer, [number], source_etype=_LANE)
        return self.builder.sext(self.builder.load(place, typ=_LANE), INDEX)

    def row_of(self, rows: Any, samples: Any, number: Any, stride: Any) -> Any:
        """The pointer to row ``samples[number]``."""
        return self.place(rows, self.builder.mul(self.index_at(samples, number), stride))

    def times(self, a: Any, b: Any) -> Any:
        return self.builder.fmul(a, b, flags=["contract"])

    def plus(self, a: Any, b: Any) -> Any:
        return self.builder.fadd(a, b, flags=["contract"])

    def halves(self, value: Any) -> tuple[Any, Any]:
        """The first and the second half of a vector."""
        half = value.type.count // 2
        kind = ir.VectorType(_LANE, half)
        first, second = (ir.Constant(kind, list(range(start, start + half))) for start in (0, half))
        return self.builder.shuffle_vector(value, value, first), self.builder.shuffle_vector(value, value, second)

    def total(self, value: Any) -> Any:
        """The sum of a vector's elements, by halves."""
        while value.type.count > 1:
            value = self.builder.fadd(*self.halves(value))
        return self.builder.extract_element(value, _LANE(0))

    def zeros(self, count: int) -> list[Any]:
        """Registers of zeros."""
        registers = [cgutils.alloca_once(self.builder, self.vector) for _ in range(count)]
        for register in registers:
            self.put(self.zero, register)
        return registers

    def held(self, register: Any) -> Any:
        return self.builder.load(register, typ=self.vector)

    def put(self, value: Any, register: Any) -> None:
        self.builder.store(value, register)

    def add_products(self, factor: Any, vectors: list[Any], registers: list[Any]) -> None:
        """Add vectors, each times the same factor, to registers."""
        for register, vector in zip(registers, vectors, strict=True):
            self.put(self.plus(self.held(register), self.times(factor, vector)), register)

    def of_widths(self, vectors: Any, body: Callable[[int], None]) -> None:
        """Emit a body for each number of ``vectors`` that a tile may have: 1, 2 and so on to ``WIDTH``."""
        wide = 1
        while wide <= WIDTH:
            with self.builder.if_then(self.builder.icmp_signed("==", vectors, INDEX(wide))):
                body(wide)
            wide *= 2

    def magnitude(self, value: Any) -> Any:
        """Absolute values; NaN stays."""
        return self.builder.bitcast(self._masked_bits(value, (1 << (8 * self.size - 1)) - 1), self.vector)

    def signed(self, magnitude: Any, value: Any) -> Any:
        """``magnitude * sign(value)``, zero where ``value`` is zero or NaN, whatever ``magnitude`` is."""
        flipped = self.builder.xor(self._bits(magnitude), self._masked_bits(value, 1 << (8 * self.size - 1)))
        flipped = self.builder.bitcast(flipped, self.vector)
        return self.builder.select(self.builder.fcmp_ordered("!=", value, self.zero), flipped, self.zero)

    def _bits(self, value: Any) -> Any:
        return self.builder.bitcast(value, ir.VectorType(ir.IntType(8 * self.size), self.lanes))

    def _masked_bits(self, value: Any, mask: int) -> Any:
        bits = self._bits(value)
        return self.builder.and_(bits, ir.Constant(bits.type, [mask] * self.lanes))

    def blend(self, low: Any, high: Any, places: list[int]) -> Any:
        """The elements at ``places`` of two vectors after each other."""
        return self.builder.shuffle_vector(low, high, ir.Constant(ir.VectorType(_LANE, len(places)), places))
