"""Penalties of small layers, from statistics that `products.by_sample` has taken, and what they add to gradients.

Shape legend: ``B`` samples, ``I`` inputs, ``O`` outputs, ``N`` coefficients of an edge; ``n``: ``(O, I)`` norms.

Definitions are those of :mod:`efficient_kan.penalties`. The value of a penalty and its gradient with respect to all norms are
worked out at once, in float64, in the pass forward. Operations: some 50 an edge, two logarithms among them.
"""

from __future__ import annotations

import math
from array import array
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np

from efficient_kan.kernels.cpu.codegen.jit import STAMP, at, function_of, moved, noinline, reader, size_of
from efficient_kan.kernels.cpu.products.by_sample import statistics

SAMPLE_L1, SAMPLE_STD, WEIGHT_L1 = 1, 2, 3

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


class Penalised(NamedTuple):
    """Addresses and sizes of a layer; 0 for what is not there."""

    kind: int
    options: int  # float64, see `Described`
    statistics: int  # float64, see `by_sample`; sums of squares become factors of gradients
    total: int  # float64: of this layer and those before
    loss: int  # the same, of the layer's type; or its gradient
    grid: int  # (I, T)
    coefficients: int  # (O, I, N)
    scaler: int  # (O, I)
    mask: int
    base: int
    of_coefficients: int  # gradients, that of the penalty is added to
    of_scaler: int
    of_base: int
    batch: int
    inputs: int
    outputs: int
    knots: int
    stride: int
    order: int


_read = reader(Penalised)
_RECORD = 8 * len(Penalised._fields)


@noinline
def _absolute_sum(values: Any, count: int) -> float:
    total = 0.0
    for n in range(count):
        total += abs(np.float64(values[n]))
    return total


@noinline
def _norms(job_at: int, zero: Any) -> None:
    """Norms in place of the sums of squares, deviations of samples in place of theirs."""
    job, options, size = _read(job_at), at(_read(job_at).options, 0.0), size_of(zero)
    N = job.knots - job.order - 1
    for i in range(job.inputs):
        of = statistics(job.statistics, job.stride, i)
        if job.kind == SAMPLE_L1:
            knots = at(job.grid + i * job.knots * size, zero)
            reach = np.float64(knots[job.knots - 1 - job.order] - knots[job.order]) + _RANGE_EPS if options[4] else 1.0
            for o in range(job.outputs):
                of.square[o] /= job.batch * reach
            of.of_x[0] = reach
        elif job.kind == SAMPLE_STD:
            of.of_x[1] = np.sqrt(of.of_x[1] / (job.batch - 1))
            offset = of.of_x[1] + _STD_OFFSET if options[4] else 1.0
            for o in range(job.outputs):
                of.square[o] = np.sqrt(of.square[o] / (job.batch - 1)) / offset
        else:
            for o in range(job.outputs):
                edge = o * job.inputs + i
                norm = _absolute_sum(at(job.coefficients + edge * N * size, zero), N) / N
                if (options[4] != 0.0) & (job.scaler != 0):
                    norm *= abs(np.float64(at(job.scaler, zero)[edge]))
                if options[5]:
                    norm += abs(np.float64(at(job.base, zero)[edge]))
                of.square[o] = norm * abs(np.float64(at(job.mask, zero)[edge]))


@noinline
def _entropy_of_shares(job_at: int) -> float:
    """``l1 sum(n) + entropy S(n)``, and the gradient in place of the means."""
    job, options = _read(job_at), at(_read(job_at).options, 0.0)
    total, mixed = 0.0, 0.0
    for i in range(job.inputs):
        of = statistics(job.statistics, job.stride, i)
        for o in range(job.outputs):
            total += of.square[o]
    whole = total if total > 0.0 else 1.0
    for i in range(job.inputs if options[1] else 0):
        of = statistics(job.statistics, job.stride, i)
        for o in range(job.outputs):
            share = of.square[o] / whole
            of.mean[o] = math.log(share) if share > 0.0 else 0.0
            mixed += share * of.mean[o]
    for i in range(job.inputs):
        of = statistics(job.statistics, job.stride, i)
        for o in range(job.outputs):
            slope = options[0]
            if options[1]:
                rise = of.mean[o] + (1.0 if of.square[o] > 0.0 else 0.0)
                slope -= options[1] * (rise - mixed - 1.0) / whole
            of.mean[o] = slope
    value = options[0] * total
    if options[1]:
        value -= options[1] * mixed
    found: float = value
    return found


@noinline
def _mixing(share: float) -> tuple[float, float]:
    """``p log2(p + eps)`` and its derivative."""
    log, ln2 = math.log(share + _LOG_EPS) / math.log(2.0), math.log(2.0)
    return share * log, log + share / ((share + _LOG_EPS) * ln2)


@noinline
def _entropy_of_rows_and_columns(job_at: int, least: float) -> float:
    """``l1 sum(n) + entropy (H_row + H_col)``, and the gradients of norms in place of them, those times norms in `of_x`.

    Norms become factors of the gradients of edges' values, and deviations of samples the same; 0 up to a deviation of `least`.
    """
    job, options = _read(job_at), at(_read(job_at).options, 0.0)
    I, O, stride = job.inputs, job.outputs, job.stride
    sums = moved(at(job.statistics, 0.0), I * (2 * stride + 2))
    means, value = moved(sums, stride), 0.0
    for o in range(O):
        sums[o], means[o] = 1.0, 0.0
        for i in range(I):
            norm = statistics(job.statistics, stride, i).square[o]
            sums[o] += norm
            value += options[0] * norm
        for i in range(I if options[1] else 0):
            share = statistics(job.statistics, stride, i).square[o] / sums[o]
            mixed, slope = _mixing(share)
            value -= options[1] * mixed / O
            means[o] += slope * share
    for i in range(I):
        of = statistics(job.statistics, stride, i)
        total, mean, of_input = 1.0, 0.0, 0.0
        for o in range(O):
            total += of.square[o]
        for o in range(O if options[1] else 0):
            share = of.square[o] / total
            mixed, slope = _mixing(share)
            value -= options[1] * mixed / I
            mean += slope * share
        spread = of.of_x[1]
        offset = spread + _STD_OFFSET if options[4] else 1.0
        for o in range(O):
            norm, slope = of.square[o], options[0]
            if options[1]:
                by_row = (_mixing(norm / sums[o])[1] - means[o]) / (sums[o] * O)
                by_column = (_mixing(norm / total)[1] - mean) / (total * I)
                slope -= options[1] * (by_row + by_column)
            of_input -= slope * norm / offset
            of.square[o] = slope / (offset * offset * norm * (job.batch - 1)) if norm * offset > least else 0.0
        of.of_x[1] = of_input / (spread * (job.batch - 1)) if (options[4] != 0.0) & (spread > least) else 0.0
    return value


@noinline
def _of_coefficients(job_at: int, zero: Any) -> float:
    """``(coef sum |c| + coefdiff sum |c_{g+1} - c_g|) / O``."""
    job, options = _read(job_at), at(_read(job_at).options, 0.0)
    N, values, by_size, by_step = job.knots - job.order - 1, at(job.coefficients, zero), 0.0, 0.0
    for edge in range(job.inputs * job.outputs):
        row = moved(values, edge * N)
        by_size += _absolute_sum(row, N)
        for n in range(1, N):
            by_step += abs(np.float64(row[n]) - np.float64(row[n - 1]))
    found: float = (options[2] * by_size + options[3] * by_step) / job.outputs
    return found


@cache
def evaluate(real: Any) -> Any:
    """``evaluate(jobs, count)``: add the penalties of so many layers to the total; statistics become factors of gradients."""
    stamp = STAMP
    least = float(np.finfo(real).tiny / np.finfo(real).eps)  # as in `native.over_deviation`

    def of_layers(jobs_at: int, count: int) -> None:
        assert stamp
        for number in range(count):
            job_at = jobs_at + number * _RECORD
            job, zero = _read(job_at), real(0)
            options = at(job.options, 0.0)
            _norms(job_at, zero)
            if job.kind == SAMPLE_STD:
                value = _entropy_of_rows_and_columns(job_at, least)
                if (options[2] != 0.0) | (options[3] != 0.0):
                    value += _of_coefficients(job_at, zero)
            else:
                value = _entropy_of_shares(job_at)
                for i in range(job.inputs):
                    of = statistics(job.statistics, job.stride, i)
                    for o in range(job.outputs):
                        of.square[o] = of.mean[o] / (job.batch * of.of_x[0]) if job.kind == SAMPLE_L1 else of.mean[o]
                        of.mean[o] = 0.0
            at(job.total, 0.0)[0] += value
            at(job.loss, zero)[0] = real(at(job.total, 0.0)[0])

    return function_of(of_layers, 2)


@noinline
def _sign(value: Any) -> float:
    return 1.0 if value > 0 else (-1.0 if value < 0 else 0.0)


@cache
def add_gradients(real: Any) -> Any:
    """``add_gradients(jobs, count)``: what a penalty adds to gradients of parameters without the values of edges."""
    stamp, size = STAMP, np.dtype(real).itemsize

    def of_layers(jobs_at: int, count: int) -> None:
        assert stamp
        for number in range(count):
            job_at = jobs_at + number * _RECORD
            job, zero = _read(job_at), real(0)
            options, N, weight = at(job.options, 0.0), job.knots - job.order - 1, np.float64(at(job.loss, zero)[0])
            for edge in range(job.inputs * job.outputs if job.of_coefficients else 0):
                row = at(job.coefficients + edge * N * size, zero)
                target = at(job.of_coefficients + edge * N * size, zero)
                if job.kind == SAMPLE_STD:
                    of_size, of_step = weight * options[2] / job.outputs, weight * options[3] / job.outputs
                    for n in range(N):
                        added = of_size * _sign(row[n])
                        if n > 0:
                            added += of_step * _sign(row[n] - row[n - 1])
                        if n < N - 1:
                            added -= of_step * _sign(row[n + 1] - row[n])
                        target[n] = real(target[n] + added)
                else:
                    factor = statistics(job.statistics, job.stride, edge % job.inputs).square[edge // job.inputs]
                    factor *= weight * abs(np.float64(at(job.mask, zero)[edge]))
                    scale = 1.0
                    if (options[4] != 0.0) & (job.scaler != 0):
                        scaler = np.float64(at(job.scaler, zero)[edge])
                        scale = abs(scaler)
                        of_scaler = factor * _sign(scaler) * _absolute_sum(row, N) / N
                        at(job.of_scaler, zero)[edge] = real(at(job.of_scaler, zero)[edge] + of_scaler)
                    if options[5]:
                        of_base = factor * _sign(at(job.base, zero)[edge])
                        at(job.of_base, zero)[edge] = real(at(job.of_base, zero)[edge] + of_base)
                    for n in range(N):
                        target[n] = real(target[n] + factor * scale * _sign(row[n]) / N)

    return function_of(of_layers, 2)
