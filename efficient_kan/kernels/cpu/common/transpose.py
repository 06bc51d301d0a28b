"""Transposition in vector registers, by squares of as many rows as a vector has numbers; definition: ``target = source.T``."""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic

from efficient_kan.kernels.cpu.codegen.jit import LINE_BYTES, moved, noinline
from efficient_kan.kernels.cpu.codegen.simd import INDEX, Emitter, real_of

# Numbers between rows that are written: rows a power of two apart would share few sets of a cache.
APART = LINE_BYTES // 4


def _transposed(emit: Emitter, rows: list[Any]) -> list[Any]:
    lanes = emit.lanes
    halves = [[n // 2 + lanes * (n % 2) for n in range(start, start + lanes)] for start in (0, lanes)]
    # Shuffling the whole square like a pack of cards turns the bits of an element's place by one.
    for _ in range(lanes.bit_length() - 1):
        pairs = zip(rows[: lanes // 2], rows[lanes // 2 :], strict=True)
        rows = [emit.blend(a, b, half) for a, b in pairs for half in halves]
    return rows


@intrinsic  # type: ignore[untyped-decorator]
def _transpose_square(_: Any, source: Any, source_stride: Any, target: Any, target_stride: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, source_stride, target, target_stride = args
        emit = Emitter(builder, real_of(signature.args[0]))

        def rows_of(pointer: Any, stride: Any) -> list[Any]:
            return [emit.place(pointer, builder.mul(stride, INDEX(n))) for n in range(emit.lanes)]

        rows = _transposed(emit, [emit.load(place) for place in rows_of(source, source_stride)])
        for row, place in zip(rows, rows_of(target, target_stride), strict=True):
            emit.store(row, place)
        return context.get_dummy_value()

    return types.void(source, types.intp, target, types.intp), generate


@noinline
def transpose(source: Any, source_stride: int, target: Any, target_stride: int, rows: int, columns: int, lanes: int) -> None:
    """``rows`` by ``columns`` numbers at ``source``, transposed, to ``target``."""
    whole_rows, whole_columns = rows - rows % lanes, columns - columns % lanes
    for row in range(0, whole_rows, lanes):
        for column in range(0, whole_columns, lanes):
            _transpose_square(
                moved(source, row * source_stride + column), source_stride,
                moved(target, column * target_stride + row), target_stride,
            )  # fmt: skip
    for column in range(whole_columns, columns):
        for row in range(rows):
            target[column * target_stride + row] = source[row * source_stride + column]
    for row in range(whole_rows, rows):
        for column in range(whole_columns):
            target[column * target_stride + row] = source[row * source_stride + column]
