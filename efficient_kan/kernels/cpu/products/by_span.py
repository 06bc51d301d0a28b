"""The product with the ``k + 1`` bases of each sample that are not zero, and no others, from a layer's own parameters.

Shape legend: ``B`` samples, ``I`` inputs, ``O`` outputs, ``k`` the spline order, ``M = G + k + 1`` features per input.

Loops go over panels of samples, groups of inputs and tiles of outputs (see `common.job`). The samples of a group are sorted by
their spans; then each tile of outputs takes the inputs of the group one after the other, span by span (`span_loops`). Folded
weights exist for one group and tile at a time, so that a layer's parameters are read once for each panel, and their gradients
written once.

Operations: ``2 B I O (k + 2)`` forward, twice as many backward, and ``2 I O min(G, B) (k + 1)^2`` for the spans' polynomials.
Bytes: the parameters once for each panel and twice backward, their gradients once.
"""

from __future__ import annotations

from functools import cache, reduce
from typing import Any

import numpy as np
import torch
from numba import literally
from torch import Tensor

from efficient_kan.kernels import Parameters
from efficient_kan.kernels.cpu.codegen import openmp
from efficient_kan.kernels.cpu.codegen.jit import REAL, STAMP, Entry, at, inlined, moved, noinline, size_of, stored
from efficient_kan.kernels.cpu.codegen.simd import VECTOR_BYTES
from efficient_kan.kernels.cpu.common.fold import clear, fold, unfold
from efficient_kan.kernels.cpu.common.job import held, make_job, read, vectors_of
from efficient_kan.kernels.cpu.common.spans import fill, first_basis, scatter
from efficient_kan.kernels.cpu.dispatch import plan
from efficient_kan.kernels.cpu.products.span_loops import Span, Weights, add_span, pull_span, sum_span


@inlined
def samples_of(of: Any, start: int, count: int, stride: int, row: Any) -> Any:
    """``count`` samples from ``start`` on, of one span, of what scratch memory holds of an input."""
    terms, active, rise = moved(of.terms, start), moved(of.active, start), moved(of.rise, start)
    return Span(moved(of.rows, start), terms, stride, active, rise, count, row)


@noinline
def _add_outputs(job_at: int, room: int, i: int, n: int, y: Any, vectors: int, order: int, zero: Any) -> None:
    """Add to rows of a tile of outputs what input ``i``, ``n`` of the group, gives them."""
    job, length, size = read(job_at), 2 + (order + 1) * (order + 1), size_of(zero)
    of, tile = held(job_at, room, i, n, np.int64(0), order, zero), job.tile
    for m in range(of.spans[0]):
        span, start, some = of.spans[3 * m + 1], of.spans[3 * m + 2], of.spans[3 * m + 3]
        row = at(of.table + span * length * size, zero)
        weights = Weights(moved(of.weights, first_basis(span, job.knot_count, order) * tile), of.scale, of.base)
        add_span(y, samples_of(of, start, some, job.stride, row), weights, tile, literally(order), vectors)


@cache
def _multiply(order: int, real: Any) -> Entry:
    """Outputs of parts ``start..stop`` of ``sample_parts`` by ``input_parts``; each part of the inputs has a y ``(B, O)``."""
    size, stamp = np.dtype(real).itemsize, STAMP
    lanes = VECTOR_BYTES // size

    def multiply(job_at: int, start: int, stop: int) -> None:
        assert stamp
        job, zero = read(job_at), real(0)
        outputs, tile = job.outputs, job.tile
        for part in range(start, stop):
            of_samples, of_inputs = part // job.input_parts, part % job.input_parts
            room = job.scratch + part * job.scratch_bytes
            first, end = job.batch * of_samples // job.sample_parts, job.batch * (of_samples + 1) // job.sample_parts
            first_input = job.inputs * of_inputs // job.input_parts
            end_input = job.inputs * (of_inputs + 1) // job.input_parts
            sums = at(room + job.sums, zero)
            for n in range(job.panel * tile):
                sums[n] = zero
            for sample in range(first, end, job.panel):
                samples = min(job.panel, end - sample)
                y = at(job.y + (of_inputs * job.batch + sample) * outputs * size, zero)
                for n in range(samples * outputs):
                    y[n] = zero
                for i in range(first_input, end_input, job.group):
                    width = min(job.group, end_input - i)
                    fill(job_at, room, sample, samples, i, width, order, zero)
                    for o in range(0, outputs, tile):
                        some = min(tile, outputs - o)
                        fold(job_at, room, i, width, o, some, zero)
                        of, vectors = y if outputs == tile else sums, vectors_of(some, lanes)
                        for n in range(width):
                            _add_outputs(job_at, room, i + n, n, of, vectors, order, zero)
                        if outputs != tile:
                            _empty(sums, tile, moved(y, o), outputs, samples, some)

    return Entry(multiply)


@noinline
def _empty(source: Any, source_stride: int, target: Any, target_stride: int, rows: int, columns: int) -> None:
    """``target += source`` and ``source = 0``; all columns of the source."""
    for row in range(rows):
        here, there = moved(source, row * source_stride), moved(target, row * target_stride)
        for n in range(columns):
            there[n] += here[n]
        for n in range(source_stride):
            here[n] = type(here[0])(0)


@noinline
def _copy(source: Any, source_stride: int, target: Any, target_stride: int, rows: int, columns: int) -> None:
    """``target = source``, with zeros in the target's other columns."""
    for row in range(rows):
        here, there = moved(source, row * source_stride), moved(target, row * target_stride)
        for n in range(columns):
            there[n] = here[n]
        for n in range(columns, target_stride):
            there[n] = type(there[0])(0)


@noinline
def _add_gradients(job_at: int, room: int, i: int, n: int, o: int, vectors: int, order: int, zero: Any) -> None:
    """Add what a tile of outputs gives to the gradients of input ``i``, ``n`` of the group: of its samples and its weights."""
    job, length, size, k = read(job_at), 2 + (order + 1) * (order + 1), size_of(zero), literally(order)
    of, tile, whole, g = held(job_at, room, i, n, o, order, zero), job.tile, job.whole, at(room + job.sums, zero)
    sums = at(room + job.panel_base, zero)  # of all spans: else each would be rounded to the sum over all panels
    for c in range(tile):
        sums[c] = zero
    for m in range(of.spans[0]):
        span, start, some = of.spans[3 * m + 1], of.spans[3 * m + 2], of.spans[3 * m + 3]
        row, first = at(of.table + span * length * size, zero), first_basis(span, job.knot_count, order)
        samples = samples_of(of, start, some, job.stride, row)
        if job.of_x:
            weights = Weights(moved(of.weights, first * tile), of.scale, of.base)
            pull_span(g, samples, weights, tile, moved(of.pulled, start), k, vectors)
        if job.of_spline:
            to = Weights(moved(of.of_weights, first * whole), of.scale, sums)
            sum_span(g, samples, to, tile, whole, k, vectors)
    if job.of_spline:
        for c in range(tile):
            of.of_base[c] += sums[c]


@cache
def _pull_back(order: int, real: Any) -> Entry:
    """The gradients of samples and parameters for parts ``start..stop`` of ``sample_parts`` by ``input_parts``.

    Each unless its address is 0; each part of the samples has its gradients of the parameters.
    """
    size, stamp = np.dtype(real).itemsize, STAMP
    lanes = VECTOR_BYTES // size

    def pull_back(job_at: int, start: int, stop: int) -> None:
        assert stamp
        job, zero = read(job_at), real(0)
        outputs, tile, whole = job.outputs, job.tile, job.whole
        for part in range(start, stop):
            of_samples, of_inputs = part // job.input_parts, part % job.input_parts
            room = job.scratch + part * job.scratch_bytes
            first, end = job.batch * of_samples // job.sample_parts, job.batch * (of_samples + 1) // job.sample_parts
            first_input = job.inputs * of_inputs // job.input_parts
            end_input = job.inputs * (of_inputs + 1) // job.input_parts
            single = whole == tile  # there is one panel, or one tile
            for i in range(first_input, end_input, job.group):
                width = min(job.group, end_input - i)
                clear(job_at, room, width, zero)
                for sample in range(first, end, job.panel):
                    samples = min(job.panel, end - sample)
                    fill(job_at, room, sample, samples, i, width, order, zero)
                    pulled = at(room + job.pulled, zero)
                    for n in range(width * job.stride):
                        pulled[n] = zero
                    for o in range(0, outputs, tile):
                        some = min(tile, outputs - o)
                        vectors = vectors_of(some, lanes)
                        if job.of_x:
                            fold(job_at, room, i, width, o, some, zero)
                        g = at(job.y + (sample * outputs + o) * size, zero)
                        _copy(g, outputs, at(room + job.sums, zero), tile, samples, some)
                        for n in range(width):
                            _add_gradients(job_at, room, i + n, n, o, vectors, order, zero)
                        if job.of_spline and single and sample + job.panel >= end:
                            if not job.of_x:
                                fold(job_at, room, i, width, o, some, zero)
                            unfold(job_at, room, of_samples, i, width, o, some, zero)
                            clear(job_at, room, width, zero)
                    if job.of_x:
                        scatter(job_at, room, job.pulled, job.of_x, sample, samples, i, width, zero)
                if job.of_spline and not single:
                    for o in range(0, outputs, tile):
                        some = min(tile, outputs - o)
                        fold(job_at, room, i, width, o, some, zero)
                        unfold(job_at, room, of_samples, i, width, o, some, zero)

    return Entry(pull_back)


def multiply(
    x: Tensor, base: Tensor | None, knots: Tensor, tables: tuple[Tensor, Tensor], parameters: Parameters, order: int
) -> Tensor:
    """The layer's outputs ``(B, O)``."""
    (batch, inputs), outputs = x.shape, parameters.spline_weight.shape[0]
    features, size = knots.shape[1] - order, x.element_size()
    sizes = plan(batch, inputs, outputs, features, order, size, torch.get_num_threads()).forward
    y = x.new_empty((sizes.input_parts * batch, outputs))
    job, scratch = make_job(x, base, knots, tables, parameters, order, y, (None,) * 5, sizes)
    if stored(y):
        openmp.run(_multiply(order, REAL[x.dtype]), sizes.sample_parts * sizes.input_parts, job)
    del scratch
    return y if sizes.input_parts == 1 else reduce(torch.add, y.view(sizes.input_parts, batch, outputs).unbind())


def pull_back(
    x: Tensor, base: Tensor | None, knots: Tensor, tables: tuple[Tensor, Tensor], parameters: Parameters, order: int, g: Tensor,
    needs_x: bool, needs_parameters: bool,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """The gradients of ``x``, its way through SiLU included unless there is a base, and of the parameters but the mask.

    ``g`` is that of the outputs, ``(B, O)``.
    """
    (batch, inputs), outputs = x.shape, g.shape[1]
    features, size = knots.shape[1] - order, x.element_size()
    sizes = plan(batch, inputs, outputs, features, order, size, torch.get_num_threads()).backward
    of_x = torch.empty_like(x) if needs_x else None
    spline_weight, scaler, _, base_weight = parameters
    wanted = (spline_weight, scaler, base_weight) if needs_parameters else (None, None, None)
    make = torch.Tensor.new_empty if batch else torch.Tensor.new_zeros
    targets = tuple(None if t is None else make(t, (sizes.sample_parts, *t.shape)) for t in wanted)
    if batch and (needs_x or needs_parameters):
        job, scratch = make_job(x, base, knots, tables, parameters, order, g, (of_x, None, *targets), sizes)
        if stored(g):
            openmp.run(_pull_back(order, REAL[x.dtype]), sizes.sample_parts * sizes.input_parts, job)
        del scratch
    summed = (None if t is None else t[0] if sizes.sample_parts == 1 else t.sum(0) for t in targets)
    return (of_x, *summed)
