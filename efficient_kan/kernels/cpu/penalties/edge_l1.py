"""Mean absolute values of all edges: ``n_oi = mean_b |phi_oi(x_bi)|``, and their gradients.

Shape legend: ``B`` samples, ``I`` inputs, ``O`` outputs, ``M = G + k + 1`` features per input, ``k`` the spline order.

``sum_b |phi_oi| = v_oi . g_oi`` with ``g_oi = sum_b sign(phi_oi) Phi_i``, which is also the gradient with respect to the folded
weights ``v_oi``: the forward pass makes it at once. Loops are those of the product (`products.by_span`).

Operations: ``4 B I O (k + 2)`` forward, ``6 B I O (k + 2)`` backward where samples need gradients. Bytes: the weights once for
each panel of samples and once more, their gradient once.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numba import literally
from torch import Tensor

from efficient_kan.kernels import LayerInputs, Parameters
from efficient_kan.kernels.cpu.codegen import openmp
from efficient_kan.kernels.cpu.codegen.jit import REAL, STAMP, Entry, at, moved, noinline, size_of, stored
from efficient_kan.kernels.cpu.codegen.simd import VECTOR_BYTES
from efficient_kan.kernels.cpu.common.fold import clear, fold, unfold
from efficient_kan.kernels.cpu.common.job import held, make_job, read, vectors_of
from efficient_kan.kernels.cpu.common.spans import fill, first_basis, scatter
from efficient_kan.kernels.cpu.common.tables import tables
from efficient_kan.kernels.cpu.dispatch import Sizes, plan
from efficient_kan.kernels.cpu.penalties.sign_loops import pull_signs, sum_signs
from efficient_kan.kernels.cpu.products.by_span import samples_of
from efficient_kan.kernels.cpu.products.span_loops import Weights


@noinline
def _add_signs(job_at: int, room: int, i: int, n: int, o: int, vectors: int, order: int, zero: Any) -> None:
    """Add what a panel's samples of input ``i``, ``n`` of the group, give to the gradients of a tile's weights."""
    job, length, size = read(job_at), 2 + (order + 1) * (order + 1), size_of(zero)
    of, tile, whole = held(job_at, room, i, n, o, order, zero), job.tile, job.whole
    sums = at(room + job.panel_base, zero)  # of all spans: else each would be rounded to the sum over all panels
    for c in range(tile):
        sums[c] = zero
    for m in range(of.spans[0]):
        span, start, some = of.spans[3 * m + 1], of.spans[3 * m + 2], of.spans[3 * m + 3]
        row, first = at(of.table + span * length * size, zero), first_basis(span, job.knot_count, order)
        weights = Weights(moved(of.weights, first * tile), of.scale, of.base)
        to = Weights(moved(of.of_weights, first * whole), of.scale, sums)
        sum_signs(samples_of(of, start, some, job.stride, row), weights, tile, to, whole, literally(order), vectors)
    for c in range(tile):
        of.of_base[c] += sums[c]


@noinline
def _write_norms(job_at: int, i: int, width: int, o: int, some: int, zero: Any) -> None:
    """The norms of edges from the gradients that are at ``of_spline``, and means of both."""
    job, size, length = read(job_at), size_of(zero), read(job_at).length
    for c in range(some):
        for n in range(width):
            edge = (o + c) * job.inputs + i + n
            weight, gradient = at(job.spline + edge * length * size, zero), at(job.of_spline + edge * length * size, zero)
            total = 0.0
            for m in range(length):
                total += np.float64(gradient[m]) * np.float64(weight[m])
            for m in range(length):
                gradient[m] /= type(zero)(job.batch)
            norm = total / job.batch
            at(job.y, zero)[edge] = type(zero)(0.0 if norm < 0.0 else norm)


@cache
def _sum(order: int, real: Any) -> Entry:
    """Norms and gradients of weights of parts ``start..stop`` of the inputs."""
    size, stamp = np.dtype(real).itemsize, STAMP
    lanes = VECTOR_BYTES // size

    def sum_edges(job_at: int, start: int, stop: int) -> None:
        assert stamp
        job, zero = read(job_at), real(0)
        outputs, tile = job.outputs, job.tile
        single = job.whole == tile
        for part in range(start, stop):
            room, end_input = job.scratch + part * job.scratch_bytes, job.inputs * (part + 1) // job.input_parts
            for i in range(job.inputs * part // job.input_parts, end_input, job.group):
                width = min(job.group, end_input - i)
                clear(job_at, room, width, zero)
                for sample in range(0, job.batch, job.panel):
                    fill(job_at, room, sample, min(job.panel, job.batch - sample), i, width, order, zero)
                    for o in range(0, outputs, tile):
                        some = min(tile, outputs - o)
                        fold(job_at, room, i, width, o, some, zero)
                        for n in range(width):
                            _add_signs(job_at, room, i + n, n, o, vectors_of(some, lanes), order, zero)
                        if single and sample + job.panel >= job.batch:
                            unfold(job_at, room, 0, i, width, o, some, zero)
                            _write_norms(job_at, i, width, o, some, zero)
                            clear(job_at, room, width, zero)
                for o in range(0, 0 if single else outputs, tile):
                    some = min(tile, outputs - o)
                    fold(job_at, room, i, width, o, some, zero)
                    unfold(job_at, room, 0, i, width, o, some, zero)
                    _write_norms(job_at, i, width, o, some, zero)

    return Entry(sum_edges)


@noinline
def _add_pulled(job_at: int, room: int, i: int, n: int, o: int, some: int, order: int, zero: Any) -> None:
    """Add what a tile of outputs gives to the gradients of a panel's samples of input ``i``, ``n`` of the group."""
    job, length, size = read(job_at), 2 + (order + 1) * (order + 1), size_of(zero)
    of, tile, factors = held(job_at, room, i, n, o, order, zero), job.tile, at(room + job.sums, zero)
    vectors = vectors_of(some, VECTOR_BYTES // size)
    for c in range(tile):
        factors[c] = at(job.y, zero)[(o + c) * job.inputs + i] if c < some else zero
    for m in range(of.spans[0]):
        span, start, number = of.spans[3 * m + 1], of.spans[3 * m + 2], of.spans[3 * m + 3]
        row, first = at(of.table + span * length * size, zero), first_basis(span, job.knot_count, order)
        weights = Weights(moved(of.weights, first * tile), of.scale, of.base)
        pull_signs(
            samples_of(of, start, number, job.stride, row), weights, factors, tile, moved(of.pulled, start),
            moved(of.pulled_base, start), literally(order), vectors,
        )  # fmt: skip


@noinline
def finish_pulled(job_at: int, room: int, sample: int, samples: int, i: int, width: int, order: int, zero: Any) -> None:
    """Gradients of a panel's samples, in order, to ``of_x``, through SiLU, or without that to ``of_base``."""
    job = read(job_at)
    if job.of_base:
        scatter(job_at, room, job.pulled_base, job.of_base, sample, samples, i, width, zero)
    else:
        for n in range(width):
            of = held(job_at, room, i, n, np.int64(0), order, zero)
            for b in range(samples):
                of.pulled[b] += of.rise[b] * of.pulled_base[b]
    scatter(job_at, room, job.pulled, job.of_x, sample, samples, i, width, zero)


@cache
def _pull_back(order: int, real: Any) -> Entry:
    """Gradients of samples of parts ``start..stop`` of the inputs, from the gradients of norms over ``B`` at ``y``."""
    stamp = STAMP

    def pull_back(job_at: int, start: int, stop: int) -> None:
        assert stamp
        job, zero = read(job_at), real(0)
        for part in range(start, stop):
            room, end_input = job.scratch + part * job.scratch_bytes, job.inputs * (part + 1) // job.input_parts
            for i in range(job.inputs * part // job.input_parts, end_input, job.group):
                width = min(job.group, end_input - i)
                for sample in range(0, job.batch, job.panel):
                    samples = min(job.panel, job.batch - sample)
                    fill(job_at, room, sample, samples, i, width, order, zero)
                    for n in range(width * job.stride):
                        at(room + job.pulled, zero)[n] = zero
                        at(room + job.pulled_base, zero)[n] = zero
                    for o in range(0, job.outputs, job.tile):
                        some = min(job.tile, job.outputs - o)
                        fold(job_at, room, i, width, o, some, zero)
                        for n in range(width):
                            _add_pulled(job_at, room, i + n, n, o, some, order, zero)
                    finish_pulled(job_at, room, sample, samples, i, width, order, zero)

    return Entry(pull_back)


def divided(inputs: LayerInputs) -> Sizes:
    """How a penalty's work is divided."""
    (batch, count), (outputs, _, features), size = inputs.x.shape, inputs.weight.shape, inputs.x.element_size()
    return plan(batch, count, outputs, features, inputs.spline_order, size, torch.get_num_threads()).penalty


def norms(inputs: LayerInputs) -> tuple[Tensor, Tensor]:
    """The norms ``(O, I)`` and the means of their gradients with respect to the weights; of contiguous tensors."""
    x, base, knots, weight, order = inputs
    found, gradient = weight.new_empty(weight.shape[:2]), torch.empty_like(weight)
    targets = (None, None, gradient, None, None)
    parameters = Parameters(weight, None, None, None)
    job, scratch = make_job(x, base, knots, tables(knots, order), parameters, order, found, targets, divided(inputs))
    if stored(found):
        openmp.run(_sum(order, REAL[x.dtype]), job.input_parts, job)
    del scratch
    return found, gradient


def pull_back(inputs: LayerInputs, grad: Tensor) -> tuple[Tensor, Tensor | None]:
    """The gradients of x, its way through SiLU included, and of base unless that is None, from that of the norms."""
    x, base, knots, weight, order = inputs
    of_x, of_base = torch.empty_like(x), None if base is None else torch.empty_like(x)
    factors = (grad / x.shape[0]).contiguous()
    parameters = Parameters(weight, None, None, None)
    targets = (of_x, of_base, None, None, None)
    job, scratch = make_job(x, base, knots, tables(knots, order), parameters, order, factors, targets, divided(inputs))
    if stored(of_x):
        openmp.run(_pull_back(order, REAL[x.dtype]), job.input_parts, job)
    del scratch
    return of_x, of_base
