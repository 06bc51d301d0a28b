"""Dense features with samples along the vectors, for processors that look numbers up in registers (AVX-512).

Shape legend: ``B`` samples, ``I`` inputs, ``T`` knots of an input, ``k`` the spline order, ``M = G + k + 1`` features per
input: its bases and, last, its base activation. A vector has ``L`` numbers; ``C`` is the least power of two times ``L`` that
is above ``T``. Features are ``(I * M, S)``: a row of samples for every feature, ``S`` at least ``B`` and whole vectors.

An input's polynomials (see :mod:`efficient_kan.kernels.cpu.basis`) lie in a table ``(3 + (k+1)^2, C)`` with cells along its
rows: knots (NaN beyond the last), middles, scales, then for each power the coefficients of each basis. A row is one to four
vectors: what ``L`` samples need of it, each for its own cell, takes a few permutations in registers, no memory but the row.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from efficient_kan.kernels.cpu import threads
from efficient_kan.kernels.cpu.activation import exponential
from efficient_kan.kernels.cpu.basis import remembered, row_length, tabulated
from efficient_kan.kernels.cpu.compiled import REAL, STAMP, Entry, at, moved, stored
from efficient_kan.kernels.cpu.transpose import turned
from efficient_kan.kernels.cpu.vectors import VECTOR_BYTES, Emitter

AVAILABLE = bool(llvm.get_host_cpu_features().get("avx512f"))

_SAMPLES = 256  # of an input that are worked on together: their features and the input's table stay in the nearest cache
_ALIASED = 2048  # bytes; rows that are a multiple of it apart compete for the same places of that cache
_MOST_REGISTERS = 4  # of a row of the table
_INDEX = ir.IntType(64)


class _Planes(Emitter):
    """Emits code on vectors of samples of one input."""

    def __init__(self, builder: Any, real: Any, order: int, registers: int) -> None:
        super().__init__(builder, real)
        self.order, self.vectors = order, registers
        self.whole = ir.VectorType(ir.IntType(8 * self.size), self.lanes)  # integers of the numbers' width
        self.zero = self.number(0.0)

    def number(self, value: float) -> Any:
        return ir.Constant(self.vector, [float(np.float32(value)) if self.size == 4 else value] * self.lanes)

    def integer(self, value: int) -> Any:
        return ir.Constant(self.whole, [value] * self.lanes)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        return self.plus(self.times(a, b), c)

    def minus(self, a: Any, b: Any) -> Any:
        return self.builder.fsub(a, b, flags=["contract"])

    def spread_integer(self, value: Any) -> Any:
        index = ir.IntType(32)
        value = self.builder.trunc(value, self.whole.element) if self.size == 4 else value
        single = self.builder.insert_element(ir.Constant(self.whole, ir.Undefined), value, index(0))
        return self.builder.shuffle_vector(single, single, ir.Constant(ir.VectorType(index, self.lanes), [0] * self.lanes))

    def machine(self, name: str, *arguments: Any) -> Any:
        """An instruction that LLVM has no portable name for."""
        kind = ir.FunctionType(self.vector, [argument.type for argument in arguments])
        function = cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.x86.avx512.{name}.512")
        return self.builder.call(function, arguments)

    def look_up(self, table: Any, row: int, index: Any) -> Any:
        """Each lane's number ``index`` of a row of the table."""
        start = row * self.vectors * self.lanes
        return self._pick([self.load(self.place(table, start + n * self.lanes)) for n in range(self.vectors)], index)

    def _pick(self, found: list[Any], index: Any) -> Any:
        # A permutation minds as many low bits of an index as its one or two vectors need.
        single = self.size == 4
        if len(found) == 1:
            return self.machine("permvar.sf" if single else "permvar.df", found[0], index)
        if len(found) == 2:
            return self.machine("vpermi2var.ps" if single else "vpermi2var.pd", found[0], index, found[1])
        half = len(found) // 2
        beyond = self.builder.icmp_signed(">=", index, self.integer(half * self.lanes))
        return self.builder.select(beyond, self._pick(found[half:], index), self._pick(found[:half], index))

    def cells(self, table: Any, x: Any) -> Any:
        """How many knots are not above ``x``, by halves; 0 for NaN."""
        cell, half = self.integer(0), self.vectors * self.lanes // 2
        while half:
            knot = self.look_up(table, 0, self.builder.add(cell, self.integer(half - 1)))
            further = self.builder.add(cell, self.integer(half))
            cell = self.builder.select(self.builder.fcmp_ordered("<=", knot, x), further, cell)
            half //= 2
        return cell

    def local(self, table: Any, x: Any, cell: Any, knots: Any) -> Any:
        """Where in its cell ``x`` is; outside, where coefficients are zero, any number, so not NaN."""
        last = self.spread_integer(self.builder.sub(knots, _INDEX(1)))
        inside = self.builder.icmp_unsigned("<", self.builder.sub(cell, self.integer(1)), last)
        x = self.builder.select(inside, x, self.zero)
        return self.times(self.minus(x, self.look_up(table, 1, cell)), self.look_up(table, 2, cell))

    def coefficients(self, table: Any, power: int, basis: int, cell: Any) -> Any:
        return self.look_up(table, 3 + power * (self.order + 1) + basis, cell)

    def window(self, cell: Any, knots: Any) -> Any:
        """Number of the first of the bases that the coefficients of a cell are for; see `basis.first_basis`."""
        first, low = self.builder.sub(cell, self.integer(1 + self.order)), self.integer(0)
        high = self.spread_integer(self.builder.sub(knots, _INDEX(2 * self.order + 2)))
        first = self.builder.select(self.builder.icmp_signed(">", first, low), first, low)
        return self.builder.select(self.builder.icmp_signed("<", first, high), first, high)

    def bound(self, x: Any, low: float, high: float) -> Any:
        """NaN stays NaN."""
        least, most = self.number(low), self.number(high)
        x = self.builder.select(self.builder.fcmp_ordered("<", x, least), least, x)
        return self.builder.select(self.builder.fcmp_ordered(">", x, most), most, x)

    def sigmoid(self, x: Any) -> Any:
        """As :func:`efficient_kan.kernels.cpu.activation.sigmoid`."""
        of = exponential(self.size)
        x = self.bound(self.minus(self.number(-0.0), x), *of.range)
        rounding = self.number(of.rounding)
        n = self.builder.fsub(self.fma(x, self.number(1 / math.log(2)), rounding), rounding)
        rest = self.minus(self.minus(x, self.times(n, self.number(of.high))), self.times(n, self.number(of.low)))
        series = self.number(of.series[-1])
        for term in of.series[-2::-1]:
            series = self.fma(series, rest, self.number(term))
        mask = ir.Constant(ir.IntType(self.lanes), -1)
        scale, default_rounding = "mask.scalef.ps" if self.size == 4 else "mask.scalef.pd", ir.IntType(32)(4)
        power = self.machine(scale, series, n, series, mask, default_rounding)
        one = self.number(1.0)
        return self.builder.fdiv(one, self.builder.fadd(one, power))


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def _expand_run(
    _: Any, x: Any, base: Any, silu: Any, table: Any, knots: Any, vectors: Any, out: Any, stride: Any, order: Any,
    registers: Any,
) -> Any:  # fmt: skip
    """Features of ``vectors`` vectors of samples at ``x`` to rows of ``out``, ``stride`` apart; of ``base`` unless ``silu``."""
    k = order.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, base, silu, table, knots, vectors, out, stride = args[:8]
        emit = _Planes(builder, x.type.pointee, k, registers.literal_value)
        grid = builder.sub(knots, _INDEX(2 * k + 1))
        computed = builder.icmp_signed("!=", silu, _INDEX(0))
        window = emit.registers(k + 1)
        left = cgutils.alloca_once(builder, emit.whole)
        active = cgutils.alloca_once(builder, emit.vector)
        with cgutils.for_range(builder, vectors) as loop:
            begin = builder.mul(loop.index, _INDEX(emit.lanes))
            z = emit.load(emit.place(x, begin))
            cell = emit.cells(table, z)
            s = emit.local(table, z, cell, knots)
            values = []
            for r in range(k + 1):
                value = emit.coefficients(table, k, r, cell)
                for power in range(k - 1, -1, -1):
                    value = emit.fma(value, s, emit.coefficients(table, power, r, cell))
                values.append(value)
            for register in window:
                builder.store(emit.zero, register)
            builder.store(emit.window(cell, knots), left)
            target = emit.place(out, begin)
            # Bases f .. f + k are in registers while f goes up; each is written when no later window can hold it.
            with cgutils.for_range(builder, grid) as bases:
                remaining = builder.load(left)
                here = builder.icmp_signed("==", remaining, emit.integer(0))
                builder.store(builder.sub(remaining, emit.integer(1)), left)
                row = [
                    builder.select(here, value, builder.load(register)) for value, register in zip(values, window, strict=True)
                ]
                emit.store(row[0], emit.place(target, builder.mul(bases.index, stride)))
                for value, register in zip([*row[1:], emit.zero], window, strict=True):
                    builder.store(value, register)
            for r in range(k):
                place = builder.mul(builder.add(grid, _INDEX(r)), stride)
                emit.store(builder.load(window[r]), emit.place(target, place))
            with builder.if_else(computed) as (then, otherwise):
                with then:
                    builder.store(builder.fmul(z, emit.sigmoid(z)), active)
                with otherwise:
                    builder.store(emit.load(emit.place(base, begin)), active)
            emit.store(builder.load(active), emit.place(target, builder.mul(builder.add(grid, _INDEX(k)), stride)))
        return context.get_dummy_value()

    integer = types.intp
    return types.void(x, base, integer, table, integer, integer, out, integer, order, registers), generate


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def _pull_back_run(
    _: Any, x: Any, of_base: Any, silu: Any, table: Any, knots: Any, vectors: Any, grad: Any, stride: Any, of_x: Any,
    order: Any, registers: Any,
) -> Any:  # fmt: skip
    """From gradients of features, rows of ``grad`` that are ``stride`` apart, to those of ``x`` and, unless ``silu``, base."""
    k = order.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, of_base, silu, table, knots, vectors, grad, stride, of_x = args[:9]
        emit = _Planes(builder, x.type.pointee, k, registers.literal_value)
        grid = builder.sub(knots, _INDEX(2 * k + 1))
        computed = builder.icmp_signed("!=", silu, _INDEX(0))
        window, found = emit.registers(k), emit.registers(k + 1)
        left = cgutils.alloca_once(builder, emit.whole)
        with cgutils.for_range(builder, vectors) as loop:
            begin = builder.mul(loop.index, _INDEX(emit.lanes))
            z, source = emit.load(emit.place(x, begin)), emit.place(grad, begin)
            cell = emit.cells(table, z)
            for r in range(k):
                builder.store(emit.load(emit.place(source, builder.mul(stride, _INDEX(r)))), window[r])
            for register in found:
                builder.store(emit.zero, register)
            builder.store(emit.window(cell, knots), left)
            with cgutils.for_range(builder, grid) as bases:
                place = builder.mul(builder.add(bases.index, _INDEX(k)), stride)
                row = [*(builder.load(register) for register in window), emit.load(emit.place(source, place))]
                remaining = builder.load(left)
                here = builder.icmp_signed("==", remaining, emit.integer(0))
                builder.store(builder.sub(remaining, emit.integer(1)), left)
                for value, register in zip(row, found, strict=True):
                    builder.store(builder.select(here, value, builder.load(register)), register)
                for value, register in zip(row[1:], window, strict=True):
                    builder.store(value, register)
            s = emit.local(table, z, cell, knots)
            # The derivative of c_0 + c_1 s + ... is c_1 + 2 s (c_2 + 3/2 s (c_3 + ...)).
            steps = [emit.times(s, emit.number((power + 1) / power)) for power in range(1, k)]
            slope = None
            for r in range(k + 1):
                value = emit.coefficients(table, k, r, cell)
                for power in range(k - 1, 0, -1):
                    value = emit.fma(value, steps[power - 1], emit.coefficients(table, power, r, cell))
                weight = builder.load(found[r])
                slope = emit.times(value, weight) if slope is None else emit.fma(value, weight, slope)
            slope = emit.times(slope, emit.look_up(table, 2, cell))
            last = emit.load(emit.place(source, builder.mul(builder.add(grid, _INDEX(k)), stride)))
            with builder.if_else(computed) as (then, otherwise):
                with then:
                    one, share = emit.number(1.0), emit.sigmoid(z)
                    rise = emit.times(share, emit.fma(z, emit.minus(one, share), one))
                    emit.store(emit.fma(last, rise, slope), emit.place(of_x, begin))
                with otherwise:
                    emit.store(slope, emit.place(of_x, begin))
                    emit.store(last, emit.place(of_base, begin))
        return context.get_dummy_value()

    integer = types.intp
    return types.void(x, of_base, integer, table, integer, integer, grad, integer, of_x, order, registers), generate


@cache
def _expand(order: int, real: Any, registers: int) -> Entry:
    size, stamp, lanes = np.dtype(real).itemsize, STAMP, VECTOR_BYTES // np.dtype(real).itemsize
    length = (1 + row_length(order)) * registers * lanes

    def expand(
        x_at: int, base_at: int, table_at: int, out_at: int,
        samples: int, stride: int, inputs: int, all_inputs: int, count: int, start: int, stop: int,
    ) -> None:  # fmt: skip
        assert stamp
        zero, features, chunks = real(0), count - order, -(-samples // _SAMPLES)
        xs, bases = np.zeros(lanes * _SAMPLES, real), np.zeros(lanes * _SAMPLES, real)
        for part in range(start, stop):
            x, base = at(xs.ctypes.data, zero), at(bases.ctypes.data, zero)
            tile, sample = part // chunks * lanes, part % chunks * _SAMPLES
            width, height = min(lanes, inputs - tile), min(_SAMPLES, samples - sample)
            skip = (sample * all_inputs + tile) * size
            turned(at(x_at + skip, zero), all_inputs, x, _SAMPLES, height, width, lanes)
            if base_at:
                turned(at(base_at + skip, zero), all_inputs, base, _SAMPLES, height, width, lanes)
            for n in range(width):
                _expand_run(
                    moved(x, n * _SAMPLES), moved(base, n * _SAMPLES), 0 if base_at else 1,
                    at(table_at + (tile + n) * length * size, zero), count, -(-height // lanes),
                    at(out_at + ((tile + n) * features * stride + sample) * size, zero), stride, order, registers,
                )  # fmt: skip

    return Entry(expand)


@cache
def _pull_back(order: int, real: Any, registers: int) -> Entry:
    size, stamp, lanes = np.dtype(real).itemsize, STAMP, VECTOR_BYTES // np.dtype(real).itemsize
    length = (1 + row_length(order)) * registers * lanes

    def pull_back(
        x_at: int, table_at: int, gradient_at: int, of_x_at: int, of_base_at: int,
        samples: int, stride: int, inputs: int, all_inputs: int, count: int, start: int, stop: int,
    ) -> None:  # fmt: skip
        assert stamp
        zero, features, chunks = real(0), count - order, -(-samples // _SAMPLES)
        most = lanes * _SAMPLES
        xs, of_xs, of_bases = np.zeros(most, real), np.empty(most, real), np.empty(most, real)
        for part in range(start, stop):
            x, of_x, of_base = at(xs.ctypes.data, zero), at(of_xs.ctypes.data, zero), at(of_bases.ctypes.data, zero)
            tile, sample = part // chunks * lanes, part % chunks * _SAMPLES
            width, height = min(lanes, inputs - tile), min(_SAMPLES, samples - sample)
            skip = (sample * all_inputs + tile) * size
            turned(at(x_at + skip, zero), all_inputs, x, _SAMPLES, height, width, lanes)
            for n in range(width):
                _pull_back_run(
                    moved(x, n * _SAMPLES), moved(of_base, n * _SAMPLES), 0 if of_base_at else 1,
                    at(table_at + (tile + n) * length * size, zero), count, -(-height // lanes),
                    at(gradient_at + ((tile + n) * features * stride + sample) * size, zero), stride,
                    moved(of_x, n * _SAMPLES), order, registers,
                )  # fmt: skip
            turned(of_x, _SAMPLES, at(of_x_at + skip, zero), all_inputs, width, height, lanes)
            if of_base_at:
                turned(of_base, _SAMPLES, at(of_base_at + skip, zero), all_inputs, width, height, lanes)

    return Entry(pull_back)


def _lanes(dtype: torch.dtype) -> int:
    return VECTOR_BYTES // dtype.itemsize


def _registers(count: int, dtype: torch.dtype) -> int:
    """Vectors of a row of the table, a power of two."""
    return 1 << (-(-(count + 1) // _lanes(dtype)) - 1).bit_length()


def takes(knots: Tensor) -> bool:
    """Whether the processor has what it takes, and rows of the table are few vectors."""
    return AVAILABLE and _registers(knots.shape[1], knots.dtype) <= _MOST_REGISTERS


@remembered
def table(knots: Tensor, order: int) -> Tensor:
    """The table of ``knots`` ``(I, T)``: ``(I, 3 + (k+1)^2, C)`` of the same dtype; see the module's description."""
    inputs, count = knots.shape
    made = knots.new_zeros((inputs, 1 + row_length(order), _registers(count, knots.dtype) * _lanes(knots.dtype)))
    made[:, 0, :count] = knots
    made[:, 0, count:].fill_(math.nan)
    made[:, 1:, : count + 1] = tabulated(knots, order).unflatten(0, (inputs, count + 1)).transpose(1, 2)
    return made


class Block:
    """As :class:`efficient_kan.kernels.cpu.features.Block`, with features in rows of samples."""

    def __init__(self, x: Tensor, base: Tensor | None, knots: Tensor, order: int, made: Tensor | None = None) -> None:
        self.x, self.base, self.order = x, base, order
        self.table = table(knots, order) if made is None else made
        self._inputs, self._count = knots.shape
        self._registers = _registers(self._count, x.dtype)

    def size(self, rows: slice, columns: slice) -> int:
        """How many numbers :meth:`matrix` needs."""
        features: int = (columns.stop - columns.start) * (self._count - self.order)
        return features * self._stride(rows)

    def matrix(self, room: Tensor, start: int, rows: slice, columns: slice) -> Tensor:
        """A matrix ``(samples, I * M)``, in ``room`` from ``start`` on, for features of the block or for their gradients."""
        shape = rows.stop - rows.start, (columns.stop - columns.start) * (self._count - self.order)
        return room.as_strided(shape, (1, self._stride(rows)), start)

    def _stride(self, rows: slice) -> int:
        lanes, samples = _lanes(self.x.dtype), int(rows.stop - rows.start)
        stride = -(-samples // lanes) * lanes
        return stride + (lanes if samples and stride * self.x.element_size() % _ALIASED == 0 else 0)

    def expand(self, rows: slice, columns: slice, out: Tensor) -> None:
        """Write the features of the block to ``out``, from :meth:`matrix`; without ``base`` they have SiLU of ``x``."""
        if stored(out):
            places = (_place(self.x, self._skip(rows, columns)), _place(self.base, self._skip(rows, columns)))
            function = _expand(self.order, REAL[self.x.dtype], self._registers)
            self._run(function, rows, columns, *places, self._splines(columns), out.data_ptr(), stride=out.stride(1))

    def pull_back(self, rows: slice, columns: slice, gradient: Tensor, of_x: Tensor, of_base: Tensor | None) -> None:
        """From the ``gradient`` of the block's features, in :meth:`matrix`, to its part of those of ``x`` and base ``(B, I)``.

        Without ``of_base`` what SiLU passes on is in ``of_x``.
        """
        if stored(of_x):
            skip = self._skip(rows, columns)
            targets = (_place(of_x, skip), _place(of_base, skip))
            function = _pull_back(self.order, REAL[self.x.dtype], self._registers)
            places = (_place(self.x, skip), self._splines(columns), gradient.data_ptr(), *targets)
            self._run(function, rows, columns, *places, stride=gradient.stride(1))

    def _run(self, function: Entry, rows: slice, columns: slice, *places: int, stride: int) -> None:
        samples, inputs = rows.stop - rows.start, columns.stop - columns.start
        parts = -(-inputs // _lanes(self.x.dtype)) * -(-samples // _SAMPLES)
        threads.run(function, parts, *places, samples, stride, inputs, self._inputs, self._count)

    def _skip(self, rows: slice, columns: slice) -> int:
        return int(rows.start * self._inputs + columns.start)

    def _splines(self, columns: slice) -> int:
        return _place(self.table, columns.start * self.table.stride(0))


def _place(tensor: Tensor | None, skip: int) -> int:
    """The address of a number of a tensor; 0 without one."""
    return 0 if tensor is None else tensor.data_ptr() + skip * tensor.element_size()
