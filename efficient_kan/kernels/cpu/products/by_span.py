"""The product with the ``k + 1`` bases of each sample that are not zero, and no others, from a layer's own parameters.

Shape legend: ``B`` samples, ``I`` inputs, ``O`` outputs, ``k`` the spline order, ``M = G + k + 1`` features per input.

Loops go over panels of samples, groups of inputs and tiles of outputs (see `common.job`). The samples of a group are sorted by
their spans; then each tile of outputs takes the inputs of the group one after the other, span by span (`span_loops`). Folded
weights exist for one group and tile at a time, so that a layer's parameters are read once for each panel, and their gradients
written once.

The same passes make the *norms* of edges, ``n_oi = mean_b |phi_oi(x_bi)|``: forward, values are summed up where they are
added to outputs; backward, ``sign(phi_oi(x_bi)) / B`` times the gradient of ``n_oi`` is added to that of the value. Sums take
``(O, I)`` for each part of the samples, of which there is at most one a thread.

Operations: ``2 B I O (k + 2)`` forward, twice as many backward, and ``2 I O min(G, B) (k + 1)^2`` for the spans' polynomials;
with norms ``2 B I O`` and ``2 B I O (k + 3)`` more.
Bytes: the parameters once for each panel and twice backward, their gradients once.
"""

from __future__ import annotations

from functools import cache, reduce
from typing import Any, NamedTuple

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
from efficient_kan.kernels.cpu.dispatch import Plan, Sizes, plan
from efficient_kan.kernels.cpu.products.sign_loops import add_signs, add_span_and_norms, pull_base
from efficient_kan.kernels.cpu.products.span_loops import Span, Weights, add_span, pull_span, sum_span


@inlined
def _samples_of(of: Any, start: int, count: int, stride: int, row: Any) -> Any:
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
        add_span(y, _samples_of(of, start, some, job.stride, row), weights, tile, literally(order), vectors)


@noinline
def _add_outputs_and_norms(
    job_at: int, room: int, i: int, n: int, norms: Any, some: int, y: Any, vectors: int, order: int, zero: Any
) -> None:
    """The same, and what the panel adds to the ``norms`` of ``some`` edges, ``I`` numbers apart."""
    job, length, size = read(job_at), 2 + (order + 1) * (order + 1), size_of(zero)
    of, tile, sums = held(job_at, room, i, n, np.int64(0), order, zero), job.tile, at(room + job.row, zero)
    for c in range(tile):
        sums[c] = zero
    for m in range(of.spans[0]):
        span, start, count = of.spans[3 * m + 1], of.spans[3 * m + 2], of.spans[3 * m + 3]
        row = at(of.table + span * length * size, zero)
        weights = Weights(moved(of.weights, first_basis(span, job.knot_count, order) * tile), of.scale, of.base)
        samples = _samples_of(of, start, count, job.stride, row)
        add_span_and_norms(y, sums, samples, weights, tile, literally(order), vectors)
    for c in range(some):
        norms[c * job.inputs] += sums[c]


@cache
def _multiply(order: int, real: Any) -> Entry:
    """Outputs of parts ``start..stop`` of ``sample_parts`` by ``input_parts``; each part of the inputs has a y ``(B, O)``.

    If there are ``norms``, each part of the samples adds its absolute values to its own, and y may be absent.
    """
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
                for n in range(samples * outputs if job.y else 0):
                    y[n] = zero
                for i in range(first_input, end_input, job.group):
                    width = min(job.group, end_input - i)
                    fill(job_at, room, sample, samples, i, width, order, zero)
                    for o in range(0, outputs, tile):
                        some = min(tile, outputs - o)
                        fold(job_at, room, i, width, o, some, zero)
                        apart, vectors = (outputs != tile) | (job.y == 0), vectors_of(some, lanes)
                        of = sums if apart else y
                        for n in range(width):
                            if job.norms:
                                edge = (of_samples * outputs + o) * job.inputs + i + n
                                norms = at(job.norms + edge * size, zero)
                                _add_outputs_and_norms(job_at, room, i + n, n, norms, some, of, vectors, order, zero)
                            else:
                                _add_outputs(job_at, room, i + n, n, of, vectors, order, zero)
                        if apart:
                            _empty(sums, tile, moved(y, o), outputs, samples, some if job.y else 0)

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
def _factors(job_at: int, room: int, i: int, o: int, some: int, zero: Any) -> None:
    """What signs of the values of a tile's edges are multiplied with: the gradients of norms, over ``B``."""
    job = read(job_at)
    factors, norms = at(room + job.factors, zero), at(job.norms + (o * job.inputs + i) * size_of(zero), zero)
    for c in range(job.tile):
        factors[c] = norms[c * job.inputs] if c < some else zero


@noinline
def _add_gradients(job_at: int, room: int, i: int, n: int, o: int, vectors: int, order: int, zero: Any) -> None:
    """Add what a tile of outputs gives to the gradients of input ``i``, ``n`` of the group: of its samples and its weights."""
    job, length, size, k = read(job_at), 2 + (order + 1) * (order + 1), size_of(zero), literally(order)
    of, tile, whole, g = held(job_at, room, i, n, o, order, zero), job.tile, job.whole, at(room + job.sums, zero)
    sums = at(room + job.row, zero)  # of all spans: else each would be rounded to the sum over all panels
    for c in range(tile):
        sums[c] = zero
    for m in range(of.spans[0]):
        span, start, some = of.spans[3 * m + 1], of.spans[3 * m + 2], of.spans[3 * m + 3]
        row, first = at(of.table + span * length * size, zero), first_basis(span, job.knot_count, order)
        weights = Weights(moved(of.weights, first * tile), of.scale, of.base)
        h, samples = g, _samples_of(of, start, some, job.stride, row)
        if job.norms:
            h = at(room + job.signed, zero)
            add_signs(h, g, at(room + job.factors, zero), samples, weights, tile, k, vectors)
            samples = Span(at(room + job.numbers, np.int32(0)), *samples[1:])  # rows of h are in order
            if job.of_base:
                pull_base(h, of.base, some, tile, moved(of.pulled_base, start), vectors)
        if job.of_x:
            pull_span(h, samples, weights, tile, moved(of.pulled, start), k, vectors)
        if job.of_spline:
            to = Weights(moved(of.of_weights, first * whole), of.scale, sums)
            sum_span(h, samples, to, tile, whole, k, vectors)
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
            folds = (job.of_x != 0) | (job.norms != 0)
            for n in range(job.panel if job.norms else 0):
                at(room + job.numbers, np.int32(0))[n] = np.int32(n)
            for i in range(first_input, end_input, job.group):
                width = min(job.group, end_input - i)
                clear(job_at, room, width, zero)
                for sample in range(first, end, job.panel):
                    samples = min(job.panel, end - sample)
                    fill(job_at, room, sample, samples, i, width, order, zero)
                    for n in range(width * job.stride):
                        at(room + job.pulled, zero)[n] = zero
                    for n in range(width * job.stride if job.of_base else 0):
                        at(room + job.pulled_base, zero)[n] = zero
                    for o in range(0, outputs, tile):
                        some = min(tile, outputs - o)
                        vectors = vectors_of(some, lanes)
                        if folds:
                            fold(job_at, room, i, width, o, some, zero)
                        g = at(job.y + (sample * outputs + o) * size, zero)
                        _copy(g, outputs, at(room + job.sums, zero), tile, samples, some if job.y else 0)
                        for n in range(width):
                            if job.norms:
                                _factors(job_at, room, i + n, o, some, zero)
                            _add_gradients(job_at, room, i + n, n, o, vectors, order, zero)
                        if job.of_spline and single and sample + job.panel >= end:
                            if not folds:
                                fold(job_at, room, i, width, o, some, zero)
                            unfold(job_at, room, of_samples, i, width, o, some, zero)
                            if o + tile < outputs:
                                clear(job_at, room, width, zero)
                    if job.of_x:
                        scatter(job_at, room, job.pulled, job.of_x, sample, samples, i, width, zero)
                    if job.of_base:
                        scatter(job_at, room, job.pulled_base, job.of_base, sample, samples, i, width, zero)
                if job.of_spline and not single:
                    for o in range(0, outputs, tile):
                        some = min(tile, outputs - o)
                        fold(job_at, room, i, width, o, some, zero)
                        unfold(job_at, room, of_samples, i, width, o, some, zero)

    return Entry(pull_back)


class Layer(NamedTuple):
    """A layer at some samples: contiguous tensors, as in :class:`~efficient_kan.kernels.LayerInputs`."""

    x: Tensor
    base: Tensor | None
    knots: Tensor
    tables: tuple[Tensor, Tensor]  # see common.tables
    parameters: Parameters
    order: int

    def plan(self) -> Plan:
        """How its work is divided."""
        (batch, inputs), outputs = self.x.shape, self.parameters.spline_weight.shape[0]
        features, threads = self.knots.shape[1] - self.order, torch.get_num_threads()
        return plan(batch, inputs, outputs, features, self.order, self.x.element_size(), threads)


def multiply(layer: Layer) -> Tensor:
    """The layer's outputs ``(B, O)``."""
    y = _multiplied(layer, layer.plan().forward, None, outputs=True)
    assert y is not None
    return y


def multiply_with_norms(layer: Layer, *, outputs: bool) -> tuple[Tensor | None, Tensor]:
    """The same, unless they are not asked for, and the norms ``(O, I)``.

    Without outputs norms are the same on any number of threads; with them, sums of parts of the samples are added up.
    """
    sizes = layer.plan().forward if outputs else layer.plan().penalty
    norms = layer.x.new_zeros((sizes.sample_parts, *layer.parameters.spline_weight.shape[:2]))
    y = _multiplied(layer, sizes, norms, outputs=outputs)
    return y, norms.sum(0).div_(layer.x.shape[0])


def _multiplied(layer: Layer, sizes: Sizes, norms: Tensor | None, *, outputs: bool) -> Tensor | None:
    x, (batch, count) = layer.x, (layer.x.shape[0], layer.parameters.spline_weight.shape[0])
    y = x.new_empty((sizes.input_parts * batch, count)) if outputs else None
    job, scratch = make_job(*layer, y, (None,) * 5, sizes, norms)
    if stored(scratch):
        openmp.run(_multiply(layer.order, REAL[x.dtype]), sizes.sample_parts * sizes.input_parts, job)
    del scratch
    return y if y is None or sizes.input_parts == 1 else reduce(torch.add, y.view(sizes.input_parts, batch, count).unbind())


def pull_back(
    layer: Layer, g: Tensor | None, of_norms: Tensor | None, *, needs_x: bool, needs_base: bool = False, needs_parameters: bool
) -> tuple[Tensor | None, ...]:
    """The gradients of ``x``, its way through SiLU included unless there is a base, of base, and of parameters but the mask.

    ``g`` is that of the outputs, ``(B, O)``, and ``of_norms`` that of the norms, ``(O, I)``; one of them may be missing. The
    gradient of base is made with norms alone: else it is a product of matrices.
    """
    x, batch = layer.x, layer.x.shape[0]
    sizes = layer.plan().penalty if g is None else layer.plan().backward
    of_x, of_base = (torch.empty_like(x) if needed else None for needed in (needs_x, needs_base and of_norms is not None))
    spline_weight, scaler, _, base_weight = layer.parameters
    wanted = (spline_weight, scaler, base_weight) if needs_parameters else (None, None, None)
    make = torch.Tensor.new_empty if batch else torch.Tensor.new_zeros
    targets = tuple(None if t is None else make(t, (sizes.sample_parts, *t.shape)) for t in wanted)
    factors = None if of_norms is None else (of_norms / max(batch, 1)).contiguous()
    if batch and (needs_x or of_base is not None or needs_parameters):
        job, scratch = make_job(*layer, g, (of_x, of_base, *targets), sizes, factors)
        # An address of 0 is a gradient of zero: where one has no numbers there is nothing to compute.
        if stored(scratch) and all(stored(given) for given in (g, factors) if given is not None):
            openmp.run(_pull_back(layer.order, REAL[x.dtype]), sizes.sample_parts * sizes.input_parts, job)
        del scratch
    summed = (None if t is None else t[0] if sizes.sample_parts == 1 else t.sum(0) for t in targets)
    return (of_x, of_base, *summed)
