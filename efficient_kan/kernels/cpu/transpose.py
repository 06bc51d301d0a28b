"""Transposition in vector registers, of squares of as many rows as a vector has numbers."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import literally, types
from numba.extending import intrinsic

from efficient_kan.kernels.cpu.compiled import LINE_BYTES, inlined, moved
from efficient_kan.kernels.cpu.vectors import VECTOR_BYTES, Emitter

_INDEX = ir.IntType(64)
_AHEAD = 64  # numbers further on in a row that are fetched ahead
# Numbers between long rows that are written: those a power of two apart would share few places of a cache.
APART = LINE_BYTES // 4


def _transposed(emit: Emitter, rows: list[Any]) -> list[Any]:
    """The columns of a square of as many rows as a vector has numbers."""
    lanes, index = emit.lanes, ir.IntType(32)
    halves = [
        ir.Constant(ir.VectorType(index, lanes), [n // 2 + lanes * (n % 2) for n in range(start, start + lanes)])
        for start in (0, lanes)
    ]
    # Shuffling the whole square like a pack of cards turns the bits of an element's place by one.
    for _ in range(lanes.bit_length() - 1):
        pairs = zip(rows[: lanes // 2], rows[lanes // 2 :], strict=True)
        rows = [emit.builder.shuffle_vector(a, b, half) for a, b in pairs for half in halves]
    return rows


def _square(emit: Emitter, source: Any, stride: Any) -> list[Any]:
    return [emit.place(source, emit.builder.mul(stride, _INDEX(n))) for n in range(emit.lanes)]


@intrinsic  # type: ignore[untyped-decorator]
def _turn(_: Any, source: Any, source_stride: Any, target: Any, target_stride: Any) -> Any:
    """Transpose a square of as many rows as a vector has numbers."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, source_stride, target, target_stride = args
        emit = Emitter(builder, source.type.pointee)
        rows = _transposed(emit, [emit.load(place) for place in _square(emit, source, source_stride)])
        for row, place in zip(rows, _square(emit, target, target_stride), strict=True):
            emit.store(row, place)
        return context.get_dummy_value()

    return types.void(source, types.intp, target, types.intp), generate


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def _turn_scaled(
    _: Any, source: Any, source_stride: Any, scales: Any, target: Any, target_stride: Any, columns: Any, partial: Any
) -> Any:
    """As :func:`_turn`, of rows that are multiplied with their scale; with 1 for ``partial`` of some ``columns`` alone."""
    some = partial.literal_value == 1

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, source_stride, scales, target, target_stride, columns, _ = args
        emit = Emitter(builder, source.type.pointee)
        rows = []
        for place in () if some else _square(emit, source, source_stride):
            emit.fetch(emit.place(place, _AHEAD))
        for n, place in enumerate(_square(emit, source, source_stride)):
            row = emit.load_some(place, emit.first(columns)) if some else emit.load(place)
            rows.append(emit.times(row, emit.spread(builder.load(emit.place(scales, n)))))
        for n, (row, place) in enumerate(zip(_transposed(emit, rows), _square(emit, target, target_stride), strict=True)):
            if some:
                with builder.if_then(builder.icmp_signed("<", _INDEX(n), columns)):
                    emit.store(row, place)
            else:
                emit.store(row, place)
        return context.get_dummy_value()

    return types.void(source, types.intp, scales, target, types.intp, types.intp, partial), generate


_WHOLE, _STREAMED, _PARTIAL = range(3)


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def _turn_back(
    _: Any, source: Any, source_stride: Any, scales: Any, along: Any, along_stride: Any, totals: Any, target: Any,
    target_stride: Any, rows: Any, way: Any,
) -> Any:  # fmt: skip
    """As :func:`_turn`, of columns that are multiplied with their scale; and, before, with those of ``along``, for totals.

    Either of whole squares, or of those whose result, whole lines of memory, is written past the caches, or, if there are only
    so many ``rows`` left, of those.
    """
    with_totals, streamed, some = (
        not isinstance(along, types.NoneType),
        *(way.literal_value == n for n in (_STREAMED, _PARTIAL)),
    )

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, source_stride, scales, along, along_stride, totals, target, target_stride, count = args[:9]
        emit = Emitter(builder, source.type.pointee)
        none = ir.Constant(emit.vector, [0.0] * emit.lanes)

        def square(pointer: Any, stride: Any) -> list[Any]:
            if not some:
                return [emit.load(place) for place in _square(emit, pointer, stride)]
            last, found = builder.sub(count, _INDEX(1)), []
            for n in range(emit.lanes):
                there = builder.icmp_signed("<", _INDEX(n), count)
                place = emit.place(pointer, builder.mul(stride, builder.select(there, _INDEX(n), last)))
                found.append(builder.select(there, emit.load(place), none))
            return found

        loaded = square(source, source_stride)
        if with_totals:
            products = [emit.times(row, other) for row, other in zip(loaded, square(along, along_stride), strict=True)]
            while len(products) > 1:
                products = [emit.plus(a, b) for a, b in zip(products[::2], products[1::2], strict=True)]
            emit.store(emit.plus(emit.load(totals), products[0]), totals)
        for place in _square(emit, target, target_stride) if way.literal_value == _WHOLE else ():
            emit.fetch(emit.place(place, _AHEAD), write=True)
        scale = emit.load(scales)
        turned = _transposed(emit, [emit.times(row, scale) for row in loaded])
        for row, place in zip(turned, _square(emit, target, target_stride), strict=True):
            if some:
                emit.store_some(row, place, emit.first(count))
            else:
                emit.store(row, place, past_caches=streamed)
        return context.get_dummy_value()

    signature = types.void(source, types.intp, scales, along, types.intp, totals, target, types.intp, types.intp, way)
    return signature, generate


@intrinsic  # type: ignore[untyped-decorator]
def to_vector(_: Any, pointer: Any) -> Any:
    """How many numbers there are from ``pointer`` to the next whole vector."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit = Emitter(builder, args[0].type.pointee)
        over = builder.and_(builder.neg(builder.ptrtoint(args[0], _INDEX)), _INDEX(VECTOR_BYTES - 1))
        return builder.udiv(over, _INDEX(emit.size))

    return types.int64(pointer), generate


@intrinsic  # type: ignore[untyped-decorator]
def settle(_: Any) -> Any:
    """Have what was written past the caches arrive before what is written next."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@inlined
def turned_scaled(
    source: Any, source_stride: int, scales: Any, target: Any, target_stride: int, rows: int, columns: int, lanes: int
) -> None:
    """``rows`` by ``columns`` numbers at ``source``, each row times its scale, transposed, to ``target``."""
    whole_rows, whole_columns = rows - rows % lanes, columns - columns % lanes
    for row in range(0, whole_rows, lanes):
        for column in range(0, whole_columns, lanes):
            _turn_scaled(
                moved(source, row * source_stride + column), source_stride, moved(scales, row),
                moved(target, column * target_stride + row), target_stride, lanes, 0,
            )  # fmt: skip
        if whole_columns < columns:
            _turn_scaled(
                moved(source, row * source_stride + whole_columns), source_stride, moved(scales, row),
                moved(target, whole_columns * target_stride + row), target_stride, columns - whole_columns, 1,
            )  # fmt: skip
    for row in range(whole_rows, rows):
        for column in range(columns):
            target[column * target_stride + row] = source[row * source_stride + column] * scales[row]


@inlined
def _turned_back(
    source: Any, source_stride: int, scales: Any, along: Any, along_stride: int, totals: Any, target: Any, target_stride: int,
    start: int, stop: int, columns: int, lanes: int, way: int,
) -> None:  # fmt: skip
    """Rows ``start..stop`` of vectors of ``columns``, of :func:`turned_back`."""
    for column in range(0, columns, lanes):
        for row in range(start, stop, lanes):
            square, to = moved(source, row * source_stride + column), moved(target, column * target_stride + row)
            beside = along if along is None else moved(along, row * along_stride + column)
            _turn_back(
                square, source_stride, moved(scales, column), beside, along_stride, moved(totals, column), to, target_stride,
                stop - row, literally(way),
            )  # fmt: skip


@inlined
def turned_back(
    source: Any, source_stride: int, scales: Any, along: Any, along_stride: int, totals: Any, target: Any, target_stride: int,
    rows: int, columns: int, lanes: int, past_caches: bool,
) -> None:  # fmt: skip
    """``rows`` by ``columns`` numbers at ``source``, each column times its scale, transposed, to ``target``.

    The products of each column, without its scale, with that of ``along``, if there is any, are added to ``totals``; the order
    of their sums depends on where the target lies. A large target is written ``past_caches``, if all its rows start at the same
    place of a vector: its lines would be read first, and push out others. Who wants that has vectors of whole lines
    (`policy.large`), and calls :func:`settle` before another thread may read it.
    """
    whole_columns = columns - columns % lanes
    streamed = past_caches and rows >= lanes and to_vector(target) == to_vector(moved(target, target_stride))
    head = to_vector(target) if streamed else 0
    tail = rows - (rows - head) % lanes
    _turned_back(
        source, source_stride, scales, along, along_stride, totals, target, target_stride, 0, head, whole_columns, lanes,
        _PARTIAL,
    )  # fmt: skip
    if streamed:
        _turned_back(
            source, source_stride, scales, along, along_stride, totals, target, target_stride, head, tail, whole_columns,
            lanes, _STREAMED,
        )  # fmt: skip
    else:
        _turned_back(
            source, source_stride, scales, along, along_stride, totals, target, target_stride, head, tail, whole_columns,
            lanes, _WHOLE,
        )  # fmt: skip
    _turned_back(
        source, source_stride, scales, along, along_stride, totals, target, target_stride, tail, rows, whole_columns, lanes,
        _PARTIAL,
    )  # fmt: skip
    for column in range(whole_columns, columns):
        for row in range(rows):
            value = source[row * source_stride + column]
            if along is not None:
                totals[column] += value * along[row * along_stride + column]
            target[column * target_stride + row] = value * scales[column]


@inlined
def turned(source: Any, source_stride: int, target: Any, target_stride: int, rows: int, columns: int, lanes: int) -> None:
    """``rows`` by ``columns`` numbers at ``source``, transposed, to ``target``."""
    whole_rows, whole_columns = rows - rows % lanes, columns - columns % lanes
    for row in range(0, whole_rows, lanes):
        for column in range(0, whole_columns, lanes):
            _turn(
                moved(source, row * source_stride + column), source_stride,
                moved(target, column * target_stride + row), target_stride,
            )  # fmt: skip
    for row in range(rows):
        for column in range(whole_columns if row < whole_rows else 0, columns):
            target[column * target_stride + row] = source[row * source_stride + column]
