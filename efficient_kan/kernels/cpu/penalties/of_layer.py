"""Penalties of a layer from sums over its samples, and what they add to gradients.

Shape legend: ``B`` samples, ``I`` inputs, ``O`` outputs, ``N`` coefficients of an edge; ``n``: ``(O, I)`` norms.

Definitions are those of :mod:`efficient_kan.penalties`. The value of a penalty and its gradient with respect to all norms are
worked out at once, in float64, in the pass forward. Operations: some 150 an edge, most of them three logarithms. Bytes: two
numbers of float64 an edge.
"""

from __future__ import annotations

import math
from array import array
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from efficient_kan.kernels.cpu.codegen.jit import (
    STAMP,
    Entry,
    at,
    moved,
    noinline,
    reader,
    size_of,
    summing,
)
from efficient_kan.kernels.cpu.codegen.program import Address, Arena, Place, Program
from efficient_kan.kernels.cpu.common.job import Shape, Tensors
from efficient_kan.kernels.cpu.common.logarithm import logarithm
from efficient_kan.kernels.cpu.penalties import edge_std, input_std
from efficient_kan.kernels.cpu.penalties.moments import form_length, moments_length
from efficient_kan.kernels.cpu.products import by_span
from efficient_kan.kernels.cpu.products.by_span import Targets

SAMPLE_L1, SAMPLE_STD, WEIGHT_L1 = 1, 2, 3

_LEAST = 2**12  # edges that are worth a thread
# As in `native.over_deviation`, for float32 and float64.
_LEAST_DEVIATION = tuple(float(np.finfo(real).tiny / np.finfo(real).eps) for real in (np.float32, np.float64))
_LOG_EPS, _RANGE_EPS, _STD_OFFSET = 1e-4, 1e-4, 0.1  # as in efficient_kan.penalties


class Described(NamedTuple):
    """A penalty in numbers."""

    kind: int
    least: int  # samples
    options: array[float]  # l1, entropy, coef, coefdiff and two flags


def described(penalty: object) -> Described | None:
    """A penalty of :mod:`efficient_kan.penalties`; None for those that others have made, and for none."""
    return _described(penalty) if type(penalty) in _own() else None


@cache
def _own() -> dict[type, int]:
    from efficient_kan.penalties import SampleL1, SampleStd, WeightL1

    return {SampleL1: SAMPLE_L1, SampleStd: SAMPLE_STD, WeightL1: WEIGHT_L1}


@lru_cache(maxsize=64)
def _described(penalty: Any) -> Described:
    kind = _own()[type(penalty)]
    if kind == SAMPLE_L1:
        return Described(kind, 1, array("d", (penalty.l1, penalty.entropy, 0, 0, penalty.divide_by_grid_range, 0)))
    if kind == SAMPLE_STD:
        terms = penalty.l1, penalty.entropy, penalty.coef, penalty.coefdiff, penalty.normalize, 0
        return Described(kind, 2, array("d", terms))
    return Described(kind, 0, array("d", (penalty.l1, penalty.entropy, 0, 0, penalty.fold_scale, penalty.count_base)))


class _Penalised(NamedTuple):
    """Addresses and sizes of a layer; 0 for what is not there. Numbers are of the layer's type unless they say else."""

    kind: int
    layer: int  # its number
    options: int  # float64, see `Described`
    total: int  # float64: of this layer and those before
    loss: int  # the same, or its gradient
    of_edges: int  # (parts, O, I): sums of absolute values, or deviations
    parts: int
    spread: int  # (I,): deviations of inputs
    knots: int  # (I, T)
    spline: int  # (O, I, N)
    scaler: int  # (O, I), as mask and base_weight
    mask: int
    base_weight: int
    slopes: int  # (O, I): gradients with respect to of_edges, or to norms of weights; then (I,) with respect to spread
    room: int  # float64, see `_Room`
    gradient: int  # (O, I, N + 1): half of that of sums of squares, with respect to folded weights
    of_spline: int  # gradients, that of the penalty is added to
    of_scaler: int
    of_base_weight: int
    batch: int
    inputs: int
    outputs: int
    knot_count: int
    length: int  # N


class _Room(NamedTuple):
    """Pointers to numbers of float64."""

    norms: Any  # (O, I)
    logs: Any  # (O, I), or derivatives of entropies of rows
    rows: Any  # (2, O)
    columns: Any  # (6, I)


_read = reader(_Penalised)


@noinline
def _room(job_at: int) -> _Room:
    job = _read(job_at)
    first, edges = at(job.room, 0.0), job.outputs * job.inputs
    rows = moved(first, 2 * edges)
    return _Room(first, moved(first, edges), rows, moved(rows, 2 * job.outputs))


@summing
def _absolute_sum(values: Any, count: int) -> float:
    total = 0.0
    for n in range(count):
        total += abs(np.float64(values[n]))
    return total


@summing
def _sum(values: Any, count: int) -> float:
    total = 0.0
    for n in range(count):
        total += values[n]
    return total


@summing
def _dot(left: Any, right: Any, count: int) -> float:
    total = 0.0
    for n in range(count):
        total += np.float64(left[n]) * np.float64(right[n])
    return total


@noinline
def _fill_norms(job_at: int, order: int, zero: Any) -> None:
    """Norms, and in ``columns`` what those of an input's edges were divided by, and zeros."""
    job, options, size, room = _read(job_at), at(_read(job_at).options, 0.0), size_of(zero), _room(job_at)
    I, O, N, divisor = job.inputs, job.outputs, job.length, room.columns
    for i in range(I):
        divisor[i], divisor[I + i] = 1.0, 0.0
        if job.kind == SAMPLE_L1:
            knots = at(job.knots + i * job.knot_count * size, zero)
            reach = np.float64(knots[job.knot_count - 1 - order] - knots[order]) + _RANGE_EPS if options[4] else 1.0
            divisor[i] = reach * job.batch
        elif (job.kind == SAMPLE_STD) & (options[4] != 0.0):
            divisor[i] = np.float64(at(job.spread, zero)[i]) + _STD_OFFSET
    for o in range(O):
        norms = moved(room.norms, o * I)
        if job.kind == WEIGHT_L1:
            for i in range(I):
                edge = o * I + i
                norm = _absolute_sum(at(job.spline + edge * N * size, zero), N) / N
                if (options[4] != 0.0) & (job.scaler != 0):
                    norm *= abs(np.float64(at(job.scaler, zero)[edge]))
                if options[5]:
                    norm += abs(np.float64(at(job.base_weight, zero)[edge]))
                norms[i] = norm * abs(np.float64(at(job.mask, zero)[edge]))
        else:
            for i in range(I):
                norms[i] = 0.0
            for part in range(job.parts):
                of_edges = at(job.of_edges + (part * O + o) * I * size, zero)
                for i in range(I):
                    norms[i] += np.float64(of_edges[i])
            for i in range(I):
                norms[i] /= divisor[i]


@noinline
def _keep_slopes(job_at: int, o: int, slopes: Any, zero: Any) -> None:
    """Gradients with respect to what norms of output ``o`` are made of, from ``slopes`` with respect to norms.

    Gradients of deviations are kept over those and ``B - 1``, as they are used; 0 where a deviation is next to the smallest
    number, as in `native.over_deviation`.
    """
    job, room, real = _read(job_at), _room(job_at), type(zero)
    I, kept, divisor, norms = job.inputs, moved(at(job.slopes, zero), o * job.inputs), room.columns, room.norms
    of_spread, deviations = moved(room.columns, I), moved(at(job.of_edges, zero), o * I)
    for i in range(I):
        slope = slopes[i] / divisor[i]
        of_spread[i] -= slope * norms[o * I + i]
        if job.kind == SAMPLE_STD:
            deviation = np.float64(deviations[i])
            slope = slope / deviation / (job.batch - 1) if deviation > _LEAST_DEVIATION[size_of(zero) // 8] else 0.0
        kept[i] = real(slope)


@noinline
def _entropy_of_shares(job_at: int, zero: Any) -> float:
    """``l1 sum(n) + entropy S(n)``, and its slopes."""
    job, options, room = _read(job_at), at(_read(job_at).options, 0.0), _room(job_at)
    norms, logs, I, O = room.norms, room.logs, job.inputs, job.outputs
    total = _absolute_sum(norms, O * I)
    whole, mixed, slopes = total if total > 0.0 else 1.0, 0.0, moved(room.columns, 2 * I)
    if options[1] != 0.0:
        for e in range(O * I):
            logs[e] = logarithm(norms[e] / whole)
        mixed = _dot(norms, logs, O * I) / whole
    for o in range(O):
        for i in range(I):
            slopes[i] = options[0]
        if options[1] != 0.0:
            for i in range(I):
                rise = logs[o * I + i] + (1.0 if norms[o * I + i] > 0.0 else 0.0)
                slopes[i] -= options[1] * (rise - mixed - 1.0) / whole
        _keep_slopes(job_at, o, slopes, zero)
    found: float = options[0] * total - (options[1] * mixed if options[1] != 0.0 else 0.0)
    return found


@noinline
def _mix(norms: Any, sums: Any, shares: Any, rises: Any, count: int) -> None:
    """``p log2(p + eps)`` and its derivative, for shares ``p = norms / sums``."""
    ln2 = math.log(2.0)
    for n in range(count):
        share = norms[n] / sums[n]
        log = logarithm(share + _LOG_EPS) / ln2
        shares[n] = share * log
        rises[n] = log + share / ((share + _LOG_EPS) * ln2)


@noinline
def _entropy_of_rows_and_columns(job_at: int, zero: Any) -> float:
    """``l1 sum(n) + entropy (H_row + H_col)``, and its slopes."""
    job, options, room = _read(job_at), at(_read(job_at).options, 0.0), _room(job_at)
    I, O, norms, logs = job.inputs, job.outputs, room.norms, room.logs
    value, entropy = options[0] * _absolute_sum(norms, O * I), options[1]
    sums, means = moved(room.columns, 2 * I), moved(room.columns, 3 * I)
    mixed, rises, rows, of_rows = moved(room.columns, 4 * I), moved(room.columns, 5 * I), room.rows, moved(room.rows, O)
    for i in range(I):
        sums[i], means[i] = 1.0, 0.0
    for o in range(O):
        for i in range(I):
            sums[i] += norms[o * I + i]
    for o in range(O if entropy != 0.0 else 0):
        of, by_row = moved(norms, o * I), moved(logs, o * I)
        rows[o] = 1.0 + _absolute_sum(of, I)
        for i in range(I):
            rises[i] = rows[o]
        _mix(of, rises, mixed, by_row, I)
        value -= entropy * _sum(mixed, I) / O
        of_rows[o] = _dot(of, by_row, I) / rows[o]
        _mix(of, sums, mixed, rises, I)
        value -= entropy * _sum(mixed, I) / I
        for i in range(I):
            means[i] += rises[i] * of[i] / sums[i]
    for o in range(O):
        of, by_row, slopes = moved(norms, o * I), moved(logs, o * I), mixed
        if entropy != 0.0:
            _mix(of, sums, mixed, rises, I)  # once more: kept, derivatives would take as much memory as norms
            for i in range(I):
                of_row, of_column = (by_row[i] - of_rows[o]) / (rows[o] * O), (rises[i] - means[i]) / (sums[i] * I)
                slopes[i] = options[0] - entropy * (of_row + of_column)
        else:
            for i in range(I):
                slopes[i] = options[0]
        _keep_slopes(job_at, o, slopes, zero)
    found: float = value
    return found


@noinline
def _of_coefficients(job_at: int, zero: Any) -> float:
    """``(coef sum |c| + coefdiff sum |c_{g+1} - c_g|) / O``."""
    job, options = _read(job_at), at(_read(job_at).options, 0.0)
    N, values, by_size, by_step = job.length, at(job.spline, zero), 0.0, 0.0
    for edge in range(job.inputs * job.outputs):
        row = moved(values, edge * N)
        by_size += _absolute_sum(row, N)
        for n in range(1, N):
            by_step += abs(np.float64(row[n]) - np.float64(row[n - 1]))
    found: float = (options[2] * by_size + options[3] * by_step) / job.outputs
    return found


@cache
def _evaluate(order: int, real: Any) -> Entry:
    """Add the penalty of a layer to the total; and its slopes."""
    stamp = STAMP

    def of_layer(job_at: int, start: int, stop: int) -> None:
        assert stamp
        job, zero = _read(job_at), real(0)
        options = at(job.options, 0.0)
        _fill_norms(job_at, order, zero)
        if job.kind == SAMPLE_STD:
            value = _entropy_of_rows_and_columns(job_at, zero)
            if (options[2] != 0.0) | (options[3] != 0.0):
                value += _of_coefficients(job_at, zero)
        else:
            value = _entropy_of_shares(job_at, zero)
        of_spread, normalized = moved(_room(job_at).columns, job.inputs), (job.kind == SAMPLE_STD) & (options[4] != 0.0)
        for i in range(job.inputs):
            at(job.slopes, zero)[job.outputs * job.inputs + i] = real(of_spread[i]) if normalized else zero
        value += at(job.total, 0.0)[0] if job.layer else 0.0
        at(job.total, 0.0)[0], at(job.loss, zero)[0] = value, real(value)

    return Entry(of_layer)


@noinline
def _sign(value: Any) -> float:
    return 1.0 if value > 0 else (-1.0 if value < 0 else 0.0)


@noinline
def _add_of_deviation(job_at: int, edge: int, zero: Any) -> None:
    """What the deviation of an edge adds to the gradients of its parameters."""
    job, size, one = _read(job_at), size_of(zero), type(zero)(1)
    N, slope = job.length, at(job.slopes, zero)[edge] * at(job.loss, zero)[0]
    row, target = at(job.spline + edge * N * size, zero), at(job.of_spline + edge * N * size, zero)
    gradient, mask = at(job.gradient + edge * (N + 1) * size, zero), at(job.mask, zero)[edge]
    scale = slope * mask * (at(job.scaler, zero)[edge] if job.scaler else one)
    for n in range(N):
        target[n] += scale * gradient[n]
    if job.scaler:
        at(job.of_scaler, zero)[edge] += type(zero)(np.float64(slope * mask) * _dot(gradient, row, N))
    at(job.of_base_weight, zero)[edge] += slope * mask * gradient[N]


@noinline
def _add_of_coefficients(job_at: int, edge: int, of_size: float, of_step: float, zero: Any) -> None:
    """What ``of_size sum |c| + of_step sum |c_{g+1} - c_g|`` of an edge adds to the gradients of its coefficients."""
    job, size, real = _read(job_at), size_of(zero), type(zero)
    N = job.length
    row, target = at(job.spline + edge * N * size, zero), at(job.of_spline + edge * N * size, zero)
    for n in range(N):
        added = of_size * _sign(row[n])
        if n > 0:
            added += of_step * _sign(row[n] - row[n - 1])
        if n < N - 1:
            added -= of_step * _sign(row[n + 1] - row[n])
        target[n] = real(target[n] + added)


@noinline
def _add_of_weights(job_at: int, edge: int, zero: Any) -> None:
    """What the norm of an edge's weights adds to the gradients of its parameters."""
    job, options, size, real = _read(job_at), at(_read(job_at).options, 0.0), size_of(zero), type(zero)
    N, weight, row = job.length, np.float64(at(job.loss, zero)[0]), at(job.spline + edge * job.length * size, zero)
    factor = np.float64(at(job.slopes, zero)[edge]) * weight * abs(np.float64(at(job.mask, zero)[edge]))
    scale = 1.0
    if (options[4] != 0.0) & (job.scaler != 0):
        scaler = np.float64(at(job.scaler, zero)[edge])
        scale = abs(scaler)
        of_scaler = factor * _sign(scaler) * _absolute_sum(row, N) / N
        at(job.of_scaler, zero)[edge] = real(at(job.of_scaler, zero)[edge] + of_scaler)
    if options[5]:
        of_base = factor * _sign(at(job.base_weight, zero)[edge])
        at(job.of_base_weight, zero)[edge] = real(at(job.of_base_weight, zero)[edge] + of_base)
    _add_of_coefficients(job_at, edge, factor * scale / N, 0.0, zero)


@cache
def _add_gradients(real: Any) -> Entry:
    """What a penalty adds to gradients of parameters of edges ``start..stop`` beside the product's passes."""
    stamp = STAMP

    def of_layer(job_at: int, start: int, stop: int) -> None:
        assert stamp
        job, zero = _read(job_at), real(0)
        options, weight = at(job.options, 0.0), np.float64(at(job.loss, zero)[0])
        of_size, of_step = weight * options[2] / job.outputs, weight * options[3] / job.outputs
        for edge in range(start, stop):
            if job.kind == WEIGHT_L1:
                _add_of_weights(job_at, edge, zero)
            else:
                _add_of_deviation(job_at, edge, zero)
                if (of_size != 0.0) | (of_step != 0.0):
                    _add_of_coefficients(job_at, edge, of_size, of_step, zero)

    return Entry(of_layer)


class Kind(NamedTuple):
    """What of a penalty decides how it is computed."""

    kind: int
    normalize: bool  # deviations by those of inputs


class Losses(NamedTuple):
    """Places of numbers, of float64 but for the loss."""

    options: Address  # see `Described`
    total: Address  # of the layers so far
    loss: Address  # the same, or its gradient


class Kept(NamedTuple):
    """Places of what the pass back needs of a layer's penalty."""

    slopes: Address  # (O + 1, I), see `_Penalised`
    deviations: edge_std.Found
    spread: Address  # (I,): deviations of inputs
    mean: Address  # (I,) of float64


def keep(arena: Arena, wide: Arena, shape: Shape, penalty: Kind, gradient: Place) -> Kept:
    """Places for it, those of float64 in ``wide``; the gradient of deviations, which is large, is at a base of its own."""
    outputs, inputs, of_std = shape.outputs, shape.inputs, penalty.kind == SAMPLE_STD
    middle, sizes = (wide.take(n) if of_std else 0 for n in edge_std.lengths(shape))
    normalized = of_std and penalty.normalize
    spread, mean = (arena.take(inputs * shape.size), wide.take(inputs * 8)) if normalized else (0, 0)
    slopes = arena.take((outputs + 1) * inputs * shape.size)
    return Kept(slopes, edge_std.Found(0, gradient if of_std else 0, middle, sizes), spread, mean)


def add_forward(
    program: Program, shape: Shape, tensors: Tensors, work: Arena, penalty: Kind, kept: Kept, losses: Losses, y: Address,
    n: int,
) -> None:  # fmt: skip
    """Add the pass forward through layer ``n``, and its penalty, to a program."""
    mark, sizes, (outputs, inputs) = work.used, shape.plan().forward, (shape.outputs, shape.inputs)
    parts, edges = sizes.sample_parts, outputs * inputs
    of_std, moments = penalty.kind == SAMPLE_STD, 0
    sums = 0 if penalty.kind == WEIGHT_L1 else work.take((1 if of_std else parts) * edges * shape.size)
    after = work.used
    if of_std:
        moments = work.take(parts * inputs * (shape.knots + 1) * moments_length(shape.order) * 8)
    by_span.add_forward(program, shape, tensors, work, sizes, y=y, sums=0 if of_std else sums, moments=moments)
    if of_std:
        found = kept.deviations._replace(values=sums)
        edge_std.add_deviations(program, shape, tensors, work, found, moments, parts)
        work.used, parts = after, 1
        if kept.spread != 0:
            input_std.add_deviations(program, work, _inputs(shape, tensors, kept))
    room = work.take(8 * (2 * edges + 2 * outputs + 6 * inputs))
    job = _penalised(
        shape, tensors, penalty, losses, of_edges=sums, parts=parts, spread=kept.spread, slopes=kept.slopes, room=room
    )
    program.add(partial(_evaluate, shape.order, shape.real), 1, job._replace(layer=n))
    work.used = mark


def add_backward(
    program: Program, shape: Shape, tensors: Tensors, work: Arena, penalty: Kind, kept: Kept, losses: Losses,
    targets: Targets, g: Address,
) -> None:  # fmt: skip
    """Add the pass back through a layer, with what its penalty adds, to a program."""
    mark, sizes, of_loss, inputs = work.used, shape.plan().backward, losses.loss, shape.inputs
    forms: Address = 0
    if penalty.kind == SAMPLE_STD and (targets.x != 0 or targets.base != 0):
        forms = work.take(inputs * (shape.knots + 1) * form_length(shape.order) * 8)
        edge_std.add_forms(program, shape, tensors, work, kept.deviations, kept.slopes, of_loss, forms)
    signs = {"factors": kept.slopes, "of_loss": of_loss} if penalty.kind == SAMPLE_L1 else {}
    by_span.add_backward(program, shape, tensors, work, sizes, targets, g=g, forms=forms, **signs)
    if targets.spline != 0 and penalty.kind != SAMPLE_L1:
        gradients = {"of_spline": targets.spline, "of_scaler": targets.scaler, "of_base_weight": targets.base_weight}
        found = kept.deviations.gradient
        job = _penalised(shape, tensors, penalty, losses, slopes=kept.slopes, gradient=found, **gradients)
        program.add(partial(_add_gradients, shape.real), shape.outputs * inputs, job, _LEAST)
    if targets.x != 0 and kept.spread != 0:
        slopes = kept.slopes._replace(offset=kept.slopes.offset + shape.outputs * inputs * shape.size)
        input_std.add_pull_back(program, work, _inputs(shape, tensors, kept), slopes, of_loss, targets.x)
    work.used = mark


def _inputs(shape: Shape, tensors: Tensors, kept: Kept) -> input_std.Inputs:
    return input_std.Inputs(shape.batch, shape.inputs, shape.real, tensors.x, kept.spread, kept.mean)


def _penalised(shape: Shape, tensors: Tensors, penalty: Kind, losses: Losses, **others: Any) -> _Penalised:
    sizes = {"batch": shape.batch, "inputs": shape.inputs, "outputs": shape.outputs, "knot_count": shape.knots}
    of_layer = {name: getattr(tensors, name) for name in ("knots", "spline", "scaler", "mask", "base_weight")}
    given = {"kind": penalty.kind, "length": shape.length, **losses._asdict(), **of_layer, **sizes, **others}
    return _Penalised(**(dict.fromkeys(_Penalised._fields, 0) | given))
