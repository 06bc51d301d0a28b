"""The innermost loops over outputs, written in vectors of fixed width.

The compiler's own vectorizer halves the width here and reloads what could stay in registers; both cost a factor of two.
Vectors wider than the machine's are split by the compiler, so this is correct everywhere.

``W`` lanes are ``W`` neighbouring outputs of one input; ``F = k + 2`` features are non-zero at a sample: ``k + 1`` bases and
the base activation. ``vectors (tiles, rows, W)`` holds coefficients; a run uses rows ``at`` to ``at + k`` and the last row.
The deviations have them in ``rows (rows, P)``, ``P`` outputs rounded up to whole vectors: formulas in `moments`.
"""

from __future__ import annotations

from typing import Any

from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.extending import intrinsic

_FLAGS = ("contract", "nsz")
_INT = ir.IntType(64)
_REGISTER_BITS = 512 if binding.get_host_cpu_features().get("avx512f") else 256


def lanes(bits: int) -> int:
    """How many numbers of ``bits`` bits are worked on together."""
    return _REGISTER_BITS // bits


class _Vectors:
    """Builds vector code over arrays; one instance per compiled function."""

    def __init__(self, context: Any, builder: Any, dtype: Any) -> None:
        self.context, self.builder = context, builder
        self.bits = dtype.bitwidth
        self.width = lanes(self.bits)
        self.scalar = context.get_data_type(dtype)
        self.type = ir.VectorType(self.scalar, self.width)
        self.zero, self.one = (ir.Constant(self.type, [value] * self.width) for value in (0.0, 1.0))

    def array(self, kind: Any, value: Any) -> Any:
        made = self.context.make_array(kind)(self.context, self.builder, value)
        return made.data, cgutils.unpack_tuple(self.builder, made.shape, kind.ndim)

    def at(self, data: Any, index: Any) -> Any:
        return self.builder.gep(data, [index])

    def load(self, data: Any, index: Any) -> Any:
        """As many numbers as there are lanes, of this precision or half of it."""
        scalar = data.type.pointee
        pointer = self.builder.bitcast(self.at(data, index), ir.VectorType(scalar, self.width).as_pointer())
        value = self.builder.load(pointer, align=self.bits // 8 if scalar == self.scalar else self.bits // 16)
        return value if scalar == self.scalar else self.builder.fpext(value, self.type)

    def add_to(self, data: Any, index: Any, value: Any) -> None:
        pointer = self.builder.bitcast(self.at(data, index), self.type.as_pointer())
        total = self.builder.fadd(self.builder.load(pointer, align=self.bits // 8), value)
        self.builder.store(total, pointer, align=self.bits // 8)

    def store(self, data: Any, index: Any, value: Any) -> None:
        pointer = self.builder.bitcast(self.at(data, index), self.type.as_pointer())
        self.builder.store(value, pointer, align=self.bits // 8)

    def spread(self, value: Any, kind: Any = None) -> Any:
        """``value`` in every lane, of a vector of the type ``kind`` if that is not of real numbers."""
        undefined = ir.Constant(kind or self.type, ir.Undefined)
        first = self.builder.insert_element(undefined, value, ir.IntType(32)(0))
        return self.builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), self.width), None))

    def splat(self, data: Any, stride: Any, row: Any, index: Any) -> Any:
        """``data[row, index]`` in every lane."""
        place = self.builder.add(self.builder.mul(stride, _INT(row)), index)
        return self.spread(self.builder.load(self.at(data, place)))

    def coefficients(self, table: Any, rows: Any, tile: Any, at: Any, r: Any, F: Any) -> Any:
        """Those of feature ``r`` are row ``at + r`` of a tile, the base activation's its last row."""
        row = self.builder.add(at, _INT(r)) if r < F - 1 else self.builder.sub(rows, _INT(1))
        return self.load(table, self.builder.mul(self.builder.add(self.builder.mul(tile, rows), row), _INT(self.width)))

    def dot(self, left: Any, right: Any) -> Any:
        total = self.builder.fmul(left[0], right[0], flags=_FLAGS)
        for a, b in zip(left[1:], right[1:], strict=True):
            total = self.fma(a, b, total)
        return total

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        return self.builder.fadd(self.builder.fmul(a, b, flags=_FLAGS), c, flags=_FLAGS)

    def signed(self, magnitude: Any, value: Any) -> Any:
        """``magnitude * sign(value)``, zero where ``value`` is zero or NaN; ``magnitude`` of any sign."""
        bits = ir.VectorType(ir.IntType(self.bits), self.width)
        mask = ir.Constant(bits, [1 << (self.bits - 1)] * self.width)
        sign = self.builder.and_(self.builder.bitcast(value, bits), mask)
        flipped = self.builder.bitcast(self.builder.xor(self.builder.bitcast(magnitude, bits), sign), self.type)
        return self.builder.select(self.builder.fcmp_ordered("!=", value, self.zero), flipped, self.zero)

    def accumulator(self) -> Any:
        slot = cgutils.alloca_once(self.builder, self.type)
        self.builder.store(self.zero, slot)
        return slot

    def accumulate(self, slot: Any, a: Any, b: Any) -> None:
        self.builder.store(self.fma(a, b, self.builder.load(slot)), slot)

    def sum(self, slot: Any) -> Any:
        name = f"llvm.vector.reduce.fadd.v{self.width}f{self.bits}"
        kind = ir.FunctionType(self.scalar, [self.scalar, self.type])
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, [self.scalar(0.0), self.builder.load(slot)], fastmath=("reassoc", *_FLAGS))


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def signs(typingctx: Any, order: Any, features: Any, n: Any, vectors: Any, tile: Any, at: Any, sums: Any) -> Any:
    """``signs(order, features, n, vectors, tile, at, sums)``: add ``sum_b sign(phi) features[r, b]`` to ``sums (F, W)``.

    ``features (F, >= n)``; ``phi = sum_r vectors[tile, row_r] features[r, b]`` for each lane.
    """
    F = order.literal_value + 2

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, kind, _, table_kind, _, _, sums_kind = signature.args
        code = _Vectors(context, builder, kind.dtype)
        data, (_, stride) = code.array(kind, args[1])
        table, (_, rows, _) = code.array(table_kind, args[3])
        target, _ = code.array(sums_kind, args[6])
        coefficients = [code.coefficients(table, rows, args[4], args[5], r, F) for r in range(F)]
        totals = [code.accumulator() for _ in range(F)]
        with cgutils.for_range(builder, args[2]) as loop:
            local = [code.splat(data, stride, r, loop.index) for r in range(F)]
            sign = code.signed(code.one, code.dot(coefficients, local))
            for total, value in zip(totals, local, strict=True):
                code.accumulate(total, sign, value)
        for r, total in enumerate(totals):
            code.add_to(target, _INT(r * code.width), builder.load(total))
        return context.get_dummy_value()

    return types.void(order, features, types.intp, vectors, types.intp, types.intp, sums), generate


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def pull(typingctx: Any, order: Any, features: Any, slopes: Any, b: Any, vectors: Any, scale: Any, at: Any) -> Any:
    """``pull(order, features, slopes, b, vectors, scale, at) -> (of_x, of_base)``: sums over all outputs, of one sample.

    With ``s = scale sign(phi)``: ``of_x = sum_o s sum_r vectors[row_r] slopes[r, b]`` over the bases and
    ``of_base = sum_o s vectors[last]``. ``scale (tiles, W)``.
    """
    F = order.literal_value + 2

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, kind, slopes_kind, _, table_kind, scale_kind, _ = signature.args
        code = _Vectors(context, builder, kind.dtype)
        data, (_, stride) = code.array(kind, args[1])
        derivatives, (_, slopes_stride) = code.array(slopes_kind, args[2])
        table, (tiles, rows, _) = code.array(table_kind, args[4])
        scales, _ = code.array(scale_kind, args[5])
        local = [code.splat(data, stride, r, args[3]) for r in range(F)]
        steep = [code.splat(derivatives, slopes_stride, r, args[3]) for r in range(F - 1)]
        of_x, of_base = code.accumulator(), code.accumulator()
        with cgutils.for_range(builder, tiles) as loop:
            coefficients = [code.coefficients(table, rows, loop.index, args[6], r, F) for r in range(F)]
            factor = code.load(scales, builder.mul(loop.index, _INT(code.width)))
            sign = code.signed(factor, code.dot(coefficients, local))
            code.accumulate(of_x, sign, code.dot(coefficients[:-1], steep))
            code.accumulate(of_base, sign, coefficients[-1])
        return context.make_tuple(builder, signature.return_type, [code.sum(of_x), code.sum(of_base)])

    result = types.UniTuple(features.dtype, 2)  # type: ignore[attr-defined]
    return result(order, features, slopes, types.intp, vectors, scale, types.intp), generate


class _Samples:
    """Of sorted samples ``s = (x - middle) scale``, its powers 1 to k, and the base activation; ``s`` is 0 if ``scale`` is.

    Powers are rounded and not contracted with what is subtracted, so that those of equal samples are equal.
    """

    def __init__(self, code: _Vectors, order: int, arrays: Any, start: Any, n: Any, middle: Any, scale: Any) -> None:
        self.code, self.order, self.start, self.n = code, order, start, n
        (self.x, _), (self.base, _) = arrays
        self.middle, self.scale = code.spread(middle), code.spread(scale)
        self.inside = code.builder.fcmp_ordered("!=", scale, scale.type(0.0))
        self.lanes = ir.Constant(ir.VectorType(_INT, code.width), list(range(code.width)))

    def features(self, b: Any) -> list[Any]:
        builder = self.code.builder
        place = builder.add(self.start, b)
        s = builder.fmul(builder.fsub(self.code.load(self.x, place), self.middle), self.scale)
        s = builder.select(self.inside, s, self.code.zero)
        powers = [s]
        for _ in range(self.order - 1):
            powers.append(builder.fmul(powers[-1], s))
        return [*powers, self.code.load(self.base, place)]

    def first(self) -> list[Any]:
        """The features of the first sample, in every lane."""
        builder = self.code.builder
        return [self.code.spread(builder.extract_element(f, ir.IntType(32)(0))) for f in self.features(_INT(0))]

    def less(self, b: Any, origin: list[Any]) -> list[Any]:
        """Features less ``origin``, zero beyond the last sample."""
        builder = self.code.builder
        left = self.code.spread(builder.sub(self.n, b), self.lanes.type)
        exists = builder.icmp_signed("<", self.lanes, left)
        differences = [builder.fsub(f, o) for f, o in zip(self.features(b), origin, strict=True)]
        return [builder.select(exists, d, self.code.zero) for d in differences]


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def block_moments(
    typingctx: Any, order: Any, x: Any, base: Any, start: Any, n: Any, middle: Any, scale: Any, mean: Any, scatter: Any
) -> Any:
    """``block_moments(order, x, base, start, n, middle, scale, mean, scatter)``: of ``n`` samples from ``start`` on.

    Features as in :class:`_Samples`, lanes are samples; ``x`` and ``base`` have room for whole vectors. Fills ``mean (k+1,)``
    and the lower triangle ``scatter ((k+1) (k+2) / 2,)`` of sums of products of what is left beside the means.
    """
    k = order.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds = signature.args
        code = _Vectors(context, builder, types.float64)
        arrays = [code.array(kinds[n], args[n]) for n in (1, 2)]
        (means, _), (products, _) = (code.array(kinds[n], args[n]) for n in (7, 8))
        samples = _Samples(code, k, arrays, *args[3:7])
        step = _INT(code.width)
        first, totals = samples.first(), [code.accumulator() for _ in range(k + 1)]
        with cgutils.for_range_slice(builder, _INT(0), args[4], step, intp=_INT) as (b, _):
            for total, value in zip(totals, samples.less(b, first), strict=True):
                builder.store(builder.fadd(builder.load(total), value), total)
        centre, number = [], builder.sitofp(args[4], code.scalar)
        for a in range(k + 1):
            origin = builder.extract_element(first[a], ir.IntType(32)(0))
            value = builder.fadd(origin, builder.fdiv(code.sum(totals[a]), number))
            builder.store(value, code.at(means, _INT(a)))
            centre.append(code.spread(value))
        entries = [(a, c) for a in range(k + 1) for c in range(a + 1)]
        sums = [code.accumulator() for _ in entries]
        with cgutils.for_range_slice(builder, _INT(0), args[4], step, intp=_INT) as (b, _):
            f = samples.less(b, centre)
            for total, (a, c) in zip(sums, entries, strict=True):
                code.accumulate(total, f[a], f[c])
        for place, total in enumerate(sums):
            builder.store(code.sum(total), code.at(products, _INT(place)))
        return context.get_dummy_value()

    arguments = (order, x, base, types.intp, types.intp, types.float64, types.float64, mean, scatter)
    return types.void(*arguments), generate


class _Run:
    """An edge on a run, for the vector of outputs at ``o``: ``phi = v_0 + u . f``."""

    def __init__(self, code: _Vectors, order: int, rows: Any, at: Any, origin: Any, mean: Any) -> None:
        self.code, self.order, self.at = code, order, at
        (self.table, (self.count, self.stride)), (self.origin, _) = rows, origin
        self.mean = [code.splat(mean[0], _INT(0), 0, _INT(a)) for a in range(order + 1)]

    def place(self, a: int, o: Any) -> Any:
        """Of coefficient ``a`` of the run, 0 to k; of the base activation for ``k + 1``."""
        builder = self.code.builder
        row = builder.add(self.at, _INT(a)) if a <= self.order else builder.sub(self.count, _INT(1))
        return builder.add(builder.mul(row, self.stride), o)

    def read(self, o: Any) -> tuple[Any, list[Any]]:
        """The run's mean less ``origin``, and ``u``."""
        code = self.code
        first = code.load(self.table, self.place(0, o))
        u = [code.load(self.table, self.place(a, o)) for a in range(1, self.order + 2)]
        u[:-1] = [code.builder.fsub(value, first) for value in u[:-1]]
        mean = code.builder.fsub(first, code.load(self.origin, o))
        for a, m in zip(u, self.mean, strict=True):
            mean = code.fma(a, m, mean)
        return mean, u


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def add_mean(typingctx: Any, order: Any, rows: Any, at: Any, origin: Any, mean: Any, share: Any, mu: Any) -> Any:
    """``add_mean(order, rows, at, origin, mean, share, mu)``: add ``share (mu_j - origin)`` to ``mu (P,)``."""
    k = order.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds = signature.args
        code = _Vectors(context, builder, kinds[1].dtype)
        of_rows, of_origin, of_mean = (code.array(kinds[n], args[n]) for n in (1, 3, 4))
        run = _Run(code, k, of_rows, args[2], of_origin, of_mean)
        target, (size,) = code.array(kinds[6], args[6])
        factor = code.spread(args[5])
        with cgutils.for_range_slice(builder, _INT(0), size, _INT(code.width), intp=_INT) as (o, _):
            middle, _ = run.read(o)
            code.add_to(target, o, builder.fmul(factor, middle, flags=_FLAGS))
        return context.get_dummy_value()

    return types.void(order, rows, types.intp, origin, mean, types.float64, mu), generate


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def add_square(
    typingctx: Any,
    order: Any,
    rows: Any,
    at: Any,
    origin: Any,
    mean: Any,
    scatter: Any,
    count: Any,
    mu: Any,
    square: Any,
    of_rows: Any,
) -> Any:
    """``add_square(order, rows, at, origin, mean, scatter, count, mu, square, of_rows)``: a run's part of the sum of squares.

    Adds ``u^T C_j u + n_j (mu_j - mu)^2`` to ``square (P,)`` and half its gradient to ``of_rows``, which is like ``rows``.
    """
    k = order.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds = signature.args
        code = _Vectors(context, builder, kinds[1].dtype)
        table, of_origin, of_mean = (code.array(kinds[n], args[n]) for n in (1, 3, 4))
        run = _Run(code, k, table, args[2], of_origin, of_mean)
        (entries, _), (centre, _), (squares, (size,)), (target, _) = (code.array(kinds[n], args[n]) for n in (5, 7, 8, 9))
        number = code.spread(args[6])
        matrix = [code.splat(entries, _INT(0), 0, _INT(n)) for n in range((k + 1) * (k + 2) // 2)]
        with cgutils.for_range_slice(builder, _INT(0), size, _INT(code.width), intp=_INT) as (o, _):
            middle, u = run.read(o)
            away = builder.fsub(middle, code.load(centre, o))
            weighted = builder.fmul(number, away)
            total, of_first = builder.fmul(weighted, away), weighted
            for a in range(k + 1):
                row = [matrix[max(a, c) * (max(a, c) + 1) // 2 + min(a, c)] for c in range(k + 1)]
                along = code.dot(row, u)
                total = code.fma(u[a], along, total)
                along = code.fma(run.mean[a], weighted, along)
                code.add_to(target, run.place(a + 1, o), along)
                if a < k:
                    of_first = builder.fsub(of_first, along)
            code.add_to(target, run.place(0, o), of_first)
            code.add_to(squares, o, total)
        return context.get_dummy_value()

    arguments = (order, rows, types.intp, origin, mean, scatter, types.float64, mu, square, of_rows)
    return types.void(*arguments), generate


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def contract(typingctx: Any, order: Any, form: Any, features: Any, slopes: Any, n: Any, of_x: Any, of_base: Any) -> Any:
    """``contract(order, form, features, slopes, n, of_x, of_base)``: of each sample of a run, the two gradients.

    ``form (k+1, k+2)`` maps ``(f, 1)`` to the gradient with respect to ``f``. Row ``r`` of ``features`` and ``slopes``, basis
    ``r`` of the run, is entry ``r - 1`` of ``f``; row ``k + 1`` of ``features`` is the base activation. Lanes are samples here,
    and all arrays have room for whole vectors.
    """
    k = order.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds = signature.args
        code = _Vectors(context, builder, kinds[1].dtype)
        (matrix, _), (values, (_, stride)), (steep, (_, slopes_stride)), (to_x, _), (to_base, _) = (
            code.array(kinds[n], args[n]) for n in (1, 2, 3, 5, 6)
        )
        entries = [[code.splat(matrix, _INT(k + 2), a, _INT(c)) for c in range(k + 2)] for a in range(k + 1)]
        with cgutils.for_range_slice(builder, _INT(0), args[4], _INT(code.width), intp=_INT) as (b, _):
            f = [code.load(values, builder.add(builder.mul(stride, _INT(r)), b)) for r in range(1, k + 2)]
            along = []
            for row in entries:
                total = row[-1]
                for factor, value in zip(row[:-1], f, strict=True):
                    total = code.fma(factor, value, total)
                along.append(total)
            slope = [code.load(steep, builder.add(builder.mul(slopes_stride, _INT(r)), b)) for r in range(1, k + 1)]
            code.store(to_x, b, code.dot(along[:-1], slope))
            code.store(to_base, b, along[-1])
        return context.get_dummy_value()

    return types.void(order, form, features, slopes, types.intp, of_x, of_base), generate
