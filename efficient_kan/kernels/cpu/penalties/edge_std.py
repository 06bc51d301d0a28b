r"""Standard deviations of all edges, and their gradients, from moments of the features that are non-zero together.

Shape legend: ``B`` samples, ``I`` inputs, ``O`` outputs, ``k`` the spline order, ``D = k + 1``, ``T`` knots of an input.

In span ``j`` (see `common.spans`) an edge is ``phi = c_0 + c . f``: ``f (D,)`` are the powers of a sample's place in the span
and its base activation. With ``m_j`` and ``C_j`` mean and scatter matrix of ``f`` over the ``n_j`` samples,

.. math::
    \sum_b (\phi_b - \mu)^2 = \sum_j c_j^T C_j c_j + n_j (\mu_j - \mu)^2, \qquad \mu_j = c_{0j} + c_j^T m_j.

No constant enters a square, neither of an edge nor of a feature, so nothing cancels; sums are in float64, because rounding
errors of a covariance can exceed a small variance. Moments of parts of the samples are merged (Chan et al. 1979). Backward,
the gradient with respect to ``phi_b`` is ``scale (phi_b - mu)``: summed over outputs, ``form = sum_o scale c (c, c_0 - mu)^T``
is all that a sample meets.

Operations: ``B I D^2`` and, an edge and span with samples, about ``4 D^2``, twice. Nothing grows with ``B I O``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import literally
from torch import Tensor

from efficient_kan.kernels import LayerInputs, Parameters
from efficient_kan.kernels.cpu.codegen import openmp
from efficient_kan.kernels.cpu.codegen.jit import REAL, STAMP, Entry, addresses, at, moved, noinline, reader, size_of, stored
from efficient_kan.kernels.cpu.common.fold import fold
from efficient_kan.kernels.cpu.common.job import held, make_job, read
from efficient_kan.kernels.cpu.common.spans import fill, first_basis, scatter
from efficient_kan.kernels.cpu.common.tables import tables
from efficient_kan.kernels.cpu.dispatch import plan
from efficient_kan.kernels.cpu.penalties.moment_loops import (
    Edge,
    Moments,
    add_form,
    add_mean,
    add_square,
    pull_form,
    span_moments,
)


class _Moments(NamedTuple):
    """The job of this module: that of `common.job` and where its own numbers, of float64, are."""

    job: int
    middle: int  # (I, O): means of edges, less their origins
    sizes: int  # (I, T + 1): numbers of samples of spans
    scale: int  # (O, I), of the layer's type: gradient over deviation and B - 1
    room: int  # for each part
    room_bytes: int
    mean: int  # (group, T + 1, D), and so on: places in room, in bytes
    scatter: int  # (group, T + 1, D (D + 1) / 2)
    form: int  # (group, T + 1, D, D + 1)
    of_rows: int  # (L, tile)
    vectors: int  # (5, tile)


_read = reader(_Moments)


@noinline
def _merge(n: int, block_mean: Any, block_scatter: Any, size: float, mean: Any, scatter: Any, order: int) -> None:
    """Add the moments of ``n`` samples to those of ``size`` samples (Chan et al. 1979)."""
    total, place = size + n, 0
    for a in range(order + 1):
        for c in range(a + 1):
            shifts = (block_mean[a] - mean[a]) * (block_mean[c] - mean[c])
            scatter[place] += block_scatter[place] + shifts * (size * n / total)
            place += 1
    for a in range(order + 1):
        mean[a] += (block_mean[a] - mean[a]) * (n / total)


@noinline
def _add_moments(own_at: int, room: int, scratch: int, i: int, width: int, order: int, zero: Any) -> None:
    """Moments of a panel's samples, span by span, added to those of former panels."""
    own, job = _read(own_at), read(_read(own_at).job)
    entries = (order + 1) * (order + 2) // 2
    block_mean = at(room + own.vectors, 0.0)
    block_scatter = moved(block_mean, order + 1)
    for n in range(width):
        of, sizes = (
            held(own.job, scratch, i + n, n, np.int64(0), order, zero),
            at(own.sizes + (i + n) * (job.knot_count + 1) * 8, 0.0),
        )
        for m in range(of.spans[0]):
            span, start, some = of.spans[3 * m + 1], of.spans[3 * m + 2], of.spans[3 * m + 3]
            place = n * (job.knot_count + 1) + span
            span_moments(moved(of.terms, start), job.stride, some, block_mean, block_scatter, literally(order))
            mean, scatter = (
                at(room + own.mean + place * (order + 1) * 8, 0.0),
                at(room + own.scatter + place * entries * 8, 0.0),
            )
            _merge(some, block_mean, block_scatter, sizes[span], mean, scatter, order)
            sizes[span] += some


@noinline
def _edge(own_at: int, scratch: int, i: int, n: int, span: int, origin: Any, order: int, zero: Any) -> Any:
    """A tile's edges from input ``i``, ``n`` of the group, on a span."""
    own = _read(own_at)
    job, length, of = read(own.job), 2 + (order + 1) * (order + 1), held(own.job, scratch, i, n, np.int64(0), order, zero)
    inside = 1.0 if order < span < job.knot_count - order else 0.0
    rows = moved(of.weights, first_basis(span, job.knot_count, order) * job.tile)
    return Edge(rows, of.base, moved(at(of.table, zero), span * length), inside, origin, job.tile)


@noinline
def _origin(own_at: int, scratch: int, i: int, n: int, origin: Any, order: int, zero: Any) -> None:
    """A value that every edge takes often: its first coefficient in the fullest span."""
    own, job = _read(own_at), read(_read(own_at).job)
    sizes, fullest = at(own.sizes + i * (job.knot_count + 1) * 8, 0.0), 0
    for span in range(job.knot_count + 1):
        if sizes[span] > sizes[fullest]:
            fullest = span
    row = moved(
        held(own.job, scratch, i, n, np.int64(0), order, zero).weights, first_basis(fullest, job.knot_count, order) * job.tile
    )
    for c in range(job.tile):
        origin[c] = row[c] if order < fullest < job.knot_count - order else 0.0


@noinline
def _deviations(own_at: int, room: int, scratch: int, i: int, n: int, o: int, some: int, order: int, zero: Any) -> None:
    """Deviations, means and gradients of a tile's edges from input ``i``, ``n`` of the group."""
    own, job, size, real = _read(own_at), read(_read(own_at).job), size_of(zero), type(zero)
    tile, k, entries = job.tile, literally(order), (order + 1) * (order + 2) // 2
    origin = at(room + own.vectors, 0.0)
    mu, square, of_base = moved(origin, tile), moved(origin, 2 * tile), moved(origin, 3 * tile)
    of_rows, sizes = at(room + own.of_rows, 0.0), at(own.sizes + i * (job.knot_count + 1) * 8, 0.0)
    _origin(own_at, scratch, i, n, origin, order, zero)
    for c in range(3 * tile):
        mu[c] = 0.0
    for c in range(job.length * tile):
        of_rows[c] = 0.0
    for way in range(2):
        for span in range(job.knot_count + 1):
            if sizes[span] > 0:
                edge = _edge(own_at, scratch, i, n, span, origin, order, zero)
                place = n * (job.knot_count + 1) + span
                mean = at(room + own.mean + place * (order + 1) * 8, 0.0)
                if way == 0:
                    add_mean(edge, mean, sizes[span] / job.batch, mu, tile, k)
                else:
                    scatter = at(room + own.scatter + place * entries * 8, 0.0)
                    to = moved(of_rows, first_basis(span, job.knot_count, order) * tile)
                    add_square(edge, Moments(mean, scatter, sizes[span]), mu, square, to, of_base, tile, k)
    for c in range(some):
        edge_number = (o + c) * job.inputs + i
        value = np.sqrt(0.0 if square[c] < 0.0 else square[c] / (job.batch - 1))
        factor = 1.0 / (value * (job.batch - 1)) if value > 0.0 else 0.0
        at(job.y, zero)[edge_number] = real(value)
        at(own.middle, 0.0)[i * job.outputs + o + c] = mu[c]
        gradient = at(job.of_spline + edge_number * job.length * size, zero)
        for m in range(job.length - 1):
            gradient[m] = real(of_rows[m * tile + c] * factor)
        gradient[job.length - 1] = real(of_base[c] * factor)


@cache
def _fill_deviations(order: int, real: Any) -> Entry:
    """Deviations of parts ``start..stop`` of the inputs."""
    stamp = STAMP

    def fill_deviations(own_at: int, start: int, stop: int) -> None:
        assert stamp
        own, zero = _read(own_at), real(0)
        job = read(own.job)
        for part in range(start, stop):
            scratch, room = job.scratch + part * job.scratch_bytes, own.room + part * own.room_bytes
            end_input = job.inputs * (part + 1) // job.input_parts
            for i in range(job.inputs * part // job.input_parts, end_input, job.group):
                width = min(job.group, end_input - i)
                for n in range((own.form - own.mean) // 8):
                    at(room + own.mean, 0.0)[n] = 0.0
                for n in range(width * (job.knot_count + 1)):
                    at(own.sizes, 0.0)[i * (job.knot_count + 1) + n] = 0.0
                for sample in range(0, job.batch, job.panel):
                    fill(own.job, scratch, sample, min(job.panel, job.batch - sample), i, width, order, zero)
                    _add_moments(own_at, room, scratch, i, width, order, zero)
                for o in range(0, job.outputs, job.tile):
                    some = min(job.tile, job.outputs - o)
                    fold(own.job, scratch, i, width, o, some, zero)
                    for n in range(width):
                        _deviations(own_at, room, scratch, i + n, n, o, some, order, zero)

    return Entry(fill_deviations)


@noinline
def _add_forms(own_at: int, room: int, scratch: int, i: int, n: int, o: int, some: int, order: int, zero: Any) -> None:
    """Add what a tile of outputs gives to the forms of input ``i``, ``n`` of the group."""
    own, job = _read(own_at), read(_read(own_at).job)
    tile, length = job.tile, (order + 1) * (order + 2)
    origin, sizes = at(room + own.vectors, 0.0), at(own.sizes + i * (job.knot_count + 1) * 8, 0.0)
    mu, factors = moved(origin, tile), moved(origin, 2 * tile)
    _origin(own_at, scratch, i, n, origin, order, zero)
    for c in range(tile):
        mu[c] = at(own.middle, 0.0)[i * job.outputs + o + c] if c < some else 0.0
        factors[c] = at(own.scale, zero)[(o + c) * job.inputs + i] if c < some else 0.0
    for span in range(job.knot_count + 1):
        if sizes[span] > 0:
            edge = _edge(own_at, scratch, i, n, span, origin, order, zero)
            form = at(room + own.form + (n * (job.knot_count + 1) + span) * length * 8, 0.0)
            add_form(edge, factors, mu, form, tile, literally(order))


@noinline
def _pull_forms(own_at: int, room: int, scratch: int, i: int, width: int, order: int, zero: Any) -> None:
    """Gradients of a panel's samples and base activations, in order, from the forms of their spans."""
    own, job, size = _read(own_at), read(_read(own_at).job), size_of(zero)
    length, of_table = (order + 1) * (order + 2), 2 + (order + 1) * (order + 1)
    for n in range(width):
        of = held(own.job, scratch, i + n, n, np.int64(0), order, zero)
        for m in range(of.spans[0]):
            span, start, some = of.spans[3 * m + 1], of.spans[3 * m + 2], of.spans[3 * m + 3]
            row = at(of.table + span * of_table * size, zero)
            form = at(room + own.form + (n * (job.knot_count + 1) + span) * length * 8, 0.0)
            of_x, of_base = moved(of.pulled, start), moved(of.pulled_base, start)
            pull_form(moved(of.terms, start), job.stride, some, row, form, of_x, of_base, literally(order))


@noinline
def _finish_pulled(job_at: int, room: int, sample: int, samples: int, i: int, width: int, order: int, zero: Any) -> None:
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
    """Gradients of samples of parts ``start..stop`` of the inputs."""
    stamp = STAMP

    def pull_back(own_at: int, start: int, stop: int) -> None:
        assert stamp
        own, zero = _read(own_at), real(0)
        job = read(own.job)
        for part in range(start, stop):
            scratch, room = job.scratch + part * job.scratch_bytes, own.room + part * own.room_bytes
            end_input = job.inputs * (part + 1) // job.input_parts
            for i in range(job.inputs * part // job.input_parts, end_input, job.group):
                width = min(job.group, end_input - i)
                for n in range((own.of_rows - own.form) // 8):
                    at(room + own.form, 0.0)[n] = 0.0
                for o in range(0, job.outputs, job.tile):
                    some = min(job.tile, job.outputs - o)
                    fold(own.job, scratch, i, width, o, some, zero)
                    for n in range(width):
                        _add_forms(own_at, room, scratch, i + n, n, o, some, order, zero)
                for sample in range(0, job.batch, job.panel):
                    samples = min(job.panel, job.batch - sample)
                    fill(own.job, scratch, sample, samples, i, width, order, zero)
                    _pull_forms(own_at, room, scratch, i, width, order, zero)
                    _finish_pulled(own.job, scratch, sample, samples, i, width, order, zero)

    return Entry(pull_back)


def _run(
    function: Callable[[int, Any], Entry], inputs: LayerInputs, y: Tensor, targets: tuple[Tensor | None, ...],
    own: tuple[Tensor, ...], scale: Tensor | None,
) -> None:  # fmt: skip
    """Do one of this module's functions, if there are numbers."""
    x, base, knots, weight, order = inputs
    (batch, count), (outputs, _, features), spans, D = x.shape, weight.shape, knots.shape[1] + 1, order + 1
    sizes = plan(batch, count, outputs, features, order, x.element_size(), torch.get_num_threads()).penalty
    job, scratch = make_job(
        x, base, knots, tables(knots, order), Parameters(weight, None, None, None), order, y, targets, sizes
    )
    of_group = sizes.group * spans
    places, total = [], 0
    for count in (
        of_group * D, of_group * D * (D + 1) // 2, of_group * D * (D + 1), weight.shape[2] * sizes.tile,
        max(5 * sizes.tile, D * (D + 3)),
    ):  # fmt: skip
        places.append(total)
        total += 8 * count
    room = weight.new_empty(total * sizes.input_parts // 8, dtype=torch.float64)
    if stored(x):
        record = openmp.record(job)
        moments = _Moments._make((record.address, *addresses(*own, scale, room), total, *places))
        openmp.run(function(order, REAL[x.dtype]), sizes.input_parts, moments)
    del scratch, room


def deviations(inputs: LayerInputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Deviations ``(O, I)``, their gradients with respect to the weights, and what :func:`pull_back` needs."""
    knots, weight = inputs.knots, inputs.weight
    found, gradient = weight.new_empty(weight.shape[:2]), torch.empty_like(weight)
    middle = weight.new_empty((weight.shape[1], weight.shape[0]), dtype=torch.float64)
    sizes = weight.new_empty((knots.shape[0], knots.shape[1] + 1), dtype=torch.float64)
    _run(_fill_deviations, inputs, found, (None, None, gradient, None, None), (middle, sizes), None)
    return found, gradient, middle, sizes


def pull_back(inputs: LayerInputs, scale: Tensor, middle: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor | None]:
    """The gradients of x, its way through SiLU included, and of base unless that is None.

    ``scale (O, I)`` is that of the deviations, over those and ``B - 1``.
    """
    x, base = inputs.x, inputs.base
    of_x, of_base = torch.empty_like(x), None if base is None else torch.empty_like(x)
    _run(_pull_back, inputs, scale, (of_x, of_base, None, None, None), (middle, sizes), scale)
    return of_x, of_base
