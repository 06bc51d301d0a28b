r"""Standard deviations of all edges, and their gradients, from moments of the features that are non-zero together.

Shape legend: ``B`` samples, ``I`` inputs, ``O`` outputs, ``k`` the spline order, ``D = k + 1``, ``T`` knots of an input.

In span ``j`` (see `common.spans`) an edge is ``phi = c_0 + c . f``: ``f (D,)`` are the powers of a sample's place in the span
and its base activation. With ``m_j`` and ``C_j`` mean and scatter matrix of ``f`` over the ``n_j`` samples,

.. math::
    \sum_b (\phi_b - \mu)^2 = \sum_j c_j^T C_j c_j + n_j (\mu_j - \mu)^2, \qquad \mu_j = c_{0j} + c_j^T m_j.

No constant enters a square, neither of an edge nor of a feature, so nothing cancels; sums are in float64, because rounding
errors of a covariance can exceed a small variance. Moments of parts of the samples are merged (Chan et al. 1979). Backward,
the gradient with respect to ``phi_b`` is ``factor (phi_b - mu)``: summed over outputs, all that a sample meets is
``form = sum_o factor c (c, c_0 - mu)^T``.

Moments are taken, and forms are used, in the passes of the product through the samples (`penalties.moments`).

Operations: ``B I D^2`` and, an edge and span with samples, about ``4 D^2``, twice. Nothing grows with ``B I O``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import literally
from torch import Tensor

from efficient_kan.kernels.cpu.codegen.jit import STAMP, Entry, at, moved, noinline, reader, size_of, smaller
from efficient_kan.kernels.cpu.codegen.program import Address, Arena, Program
from efficient_kan.kernels.cpu.common.fold import fold
from efficient_kan.kernels.cpu.common.job import Shape, Tensors, held, make_job, read
from efficient_kan.kernels.cpu.common.spans import first_basis
from efficient_kan.kernels.cpu.dispatch import Sizes
from efficient_kan.kernels.cpu.penalties.moment_loops import Edge, Moments, add_form, add_mean, add_square
from efficient_kan.kernels.cpu.penalties.moments import form_length, merge, moments_of
from efficient_kan.kernels.cpu.products.by_span import Layer, multiply, places_of, run


class _Edges(NamedTuple):
    """The job of this module: that of `common.job` and where its own numbers are, of the layer's type unless they say else."""

    job: int
    parts: int  # of the samples that moments are of
    deviations: int  # (O, I)
    gradient: int  # (O, I, N + 1): half of that of sums of squares, with respect to folded weights
    middle: int  # (I, O) of float64: means of edges, less their origins
    sizes: int  # (I, T + 1) of float64: numbers of samples of spans
    factors: int  # (O, I): gradients of deviations, over those and B - 1
    of_loss: int  # one number that these are multiplied with; 0: 1
    room: int  # for each part of the inputs
    room_bytes: int
    of_rows: int  # (L, tile) of float64: places in room, in bytes
    vectors: int  # (4, tile) of float64


_read = reader(_Edges)


@noinline
def _fold_scaled(job_at: int, scratch: int, i: int, width: int, o: int, some: int, zero: Any) -> None:
    """Folded weights of ``width`` inputs from ``i`` on and ``some`` outputs from ``o`` on, scales included."""
    job, size = read(job_at), size_of(zero)
    fold(job_at, scratch, i, width, o, some, zero)
    for n in range(width):
        scales = at(scratch + job.scales + n * job.tile * size, zero)
        for m in range(job.length):
            row = at(scratch + job.weights + (n * job.length + m) * job.tile * size, zero)
            for c in range(job.tile):
                row[c] *= scales[c]


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
    tile, k, N = job.tile, literally(order), job.length if job.base_weight else job.length - 1
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
                mean = moved(moments_of(own.job, 0, i, span, order), 1)
                if way == 0:
                    add_mean(edge, mean, sizes[span] / job.batch, mu, tile, k)
                else:
                    to = moved(of_rows, first_basis(span, job.knot_count, order) * tile)
                    add_square(edge, Moments(mean, moved(mean, order + 1), sizes[span]), mu, square, to, of_base, tile, k)
    for c in range(some):
        edge_number = (o + c) * job.inputs + i
        value = np.sqrt(0.0 if square[c] < 0.0 else square[c] / (job.batch - 1))
        at(own.deviations, zero)[edge_number] = real(value)
        at(own.middle, 0.0)[i * job.outputs + o + c] = mu[c]
        if own.gradient:
            gradient = at(own.gradient + edge_number * (N + 1) * size, zero)
            for m in range(N):
                gradient[m] = real(of_rows[m * tile + c])
            gradient[N] = real(of_base[c])


@noinline
def _merge_parts(own_at: int, i: int, order: int) -> None:
    """Moments of input ``i`` of all parts of the samples, in place of those of the first, and their sizes."""
    own, job = _read(own_at), read(_read(own_at).job)
    for span in range(job.knot_count + 1):
        to = moments_of(own.job, 0, i, span, order)
        for part in range(1, own.parts):
            of = moments_of(own.job, part, i, span, order)
            if of[0] > 0:
                merge(to, of, order)
        at(own.sizes, 0.0)[i * (job.knot_count + 1) + span] = to[0]


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
                width = smaller(job.group, end_input - i)
                for n in range(width):
                    _merge_parts(own_at, i + n, order)
                for o in range(0, job.outputs, job.tile):
                    some = smaller(job.tile, job.outputs - o)
                    _fold_scaled(own.job, scratch, i, width, o, some, zero)
                    for n in range(width):
                        _deviations(own_at, room, scratch, i + n, n, o, some, order, zero)

    return Entry(fill_deviations)


@noinline
def _add_forms(own_at: int, room: int, scratch: int, i: int, n: int, o: int, some: int, order: int, zero: Any) -> None:
    """Add what a tile of outputs gives to the forms of input ``i``, ``n`` of the group."""
    own, job = _read(own_at), read(_read(own_at).job)
    tile, length, of_loss = job.tile, (order + 1) * (order + 2), at(own.of_loss, zero)[0] if own.of_loss else type(zero)(1)
    origin, sizes = at(room + own.vectors, 0.0), at(own.sizes + i * (job.knot_count + 1) * 8, 0.0)
    mu, factors = moved(origin, tile), moved(origin, 2 * tile)
    _origin(own_at, scratch, i, n, origin, order, zero)
    for c in range(tile):
        mu[c], factors[c] = 0.0, 0.0
    for c in range(some):
        edge_number = (o + c) * job.inputs + i
        mu[c], factors[c] = at(own.middle, 0.0)[i * job.outputs + o + c], at(own.factors, zero)[edge_number] * of_loss
    for span in range(job.knot_count + 1):
        if sizes[span] > 0:
            edge = _edge(own_at, scratch, i, n, span, origin, order, zero)
            form = at(job.forms + (i * (job.knot_count + 1) + span) * length * 8, 0.0)
            add_form(edge, factors, mu, form, tile, literally(order))


@cache
def _fill_forms(order: int, real: Any) -> Entry:
    """Forms of parts ``start..stop`` of the inputs."""
    stamp = STAMP

    def fill_forms(own_at: int, start: int, stop: int) -> None:
        assert stamp
        own, zero = _read(own_at), real(0)
        job = read(own.job)
        for part in range(start, stop):
            scratch, room = job.scratch + part * job.scratch_bytes, own.room + part * own.room_bytes
            end_input = job.inputs * (part + 1) // job.input_parts
            for i in range(job.inputs * part // job.input_parts, end_input, job.group):
                width = smaller(job.group, end_input - i)
                first, spans = at(job.forms, 0.0), (order + 1) * (order + 2) * (job.knot_count + 1)
                for n in range(i * spans, (i + width) * spans):
                    first[n] = 0.0
                for o in range(0, job.outputs, job.tile):
                    some = smaller(job.tile, job.outputs - o)
                    _fold_scaled(own.job, scratch, i, width, o, some, zero)
                    for n in range(width):
                        _add_forms(own_at, room, scratch, i + n, n, o, some, order, zero)

    return Entry(fill_forms)


class Found(NamedTuple):
    """Places of deviations of all edges, and of what their gradients are made of."""

    values: Address  # (O, I)
    gradient: Address  # (O, I, N + 1): half of that of sums of squares, with respect to folded weights
    middle: Address  # (I, O) of float64: means less origins
    sizes: Address  # (I, T + 1), float64: numbers of samples of spans


def lengths(shape: Shape) -> tuple[int, int]:
    """Bytes of the last two of these."""
    return shape.outputs * shape.inputs * 8, shape.inputs * (shape.knots + 1) * 8


def _add(
    make: Callable[[int, Any], Entry], program: Program, shape: Shape, tensors: Tensors, work: Arena, found: Found, parts: int,
    factors: Address = 0, of_loss: Address = 0, **others: Address,
) -> None:  # fmt: skip
    mark, sizes = work.used, shape.plan().penalty
    job = program.place(make_job(shape, tensors, sizes, work, **others))
    of_rows, vectors = 8 * shape.length * sizes.tile, 8 * 4 * sizes.tile
    room = work.take((of_rows + vectors) * sizes.input_parts)
    own = _Edges(job, parts, *found, factors, of_loss, room, of_rows + vectors, 0, of_rows)
    program.add(partial(make, shape.order, shape.real), sizes.input_parts, own)
    work.used = mark


def add_deviations(
    program: Program, shape: Shape, tensors: Tensors, work: Arena, found: Found, moments: Address, parts: int
) -> None:
    """Add deviations of all edges to a program, of so many parts of the samples' moments, which are overwritten."""
    _add(_fill_deviations, program, shape, tensors, work, found, parts, moments=moments)


def add_forms(
    program: Program, shape: Shape, tensors: Tensors, work: Arena, found: Found, factors: Address, of_loss: Address,
    forms: Address,
) -> None:  # fmt: skip
    """Add the forms of inputs' spans, for :func:`by_span.add_backward`.

    They are made of ``factors`` ``(O, I)``, the gradients of deviations over those and ``B - 1``, times ``of_loss`` unless
    that is 0.
    """
    _add(_fill_forms, program, shape, tensors, work, found, 1, factors, of_loss, forms=forms)


class Deviations(NamedTuple):
    """The tensors of :class:`Found`."""

    values: Tensor
    gradient: Tensor
    middle: Tensor
    sizes: Tensor


def deviations(layer: Layer) -> Deviations:
    """Deviations ``(O, I)`` of all edges, and what their gradients are made of."""
    moments, shape, x = multiply(layer, outputs=False, moments=True).moments, layer.shape(), layer.x
    edges, features = (shape.outputs, shape.inputs), shape.knots - shape.order
    middle, sizes = (x.new_empty((shape.inputs, n), dtype=torch.float64) for n in (shape.outputs, shape.knots + 1))
    found = Deviations(x.new_empty(edges), x.new_empty((*edges, features)), middle, sizes)
    run(_deviations_program, shape, shape.plan().penalty, (*layer.tensors(), *found, moments))
    return found


@lru_cache(maxsize=256)
def _deviations_program(shape: Shape, sizes: Sizes, there: tuple[bool, ...]) -> tuple[Program, int]:
    program, work = Program(), Arena(len(there))
    *places, moments = places_of(there)
    add_deviations(program, shape, Tensors(*places[:9]), work, Found(*places[9:]), moments, sizes.sample_parts)
    return program, work.most // shape.size


def forms(layer: Layer, of: Deviations, factors: Tensor) -> Tensor:
    """The forms of inputs' spans, for :func:`by_span.pull_back`; see :func:`add_forms`."""
    x, shape = layer.x, layer.shape()
    found = x.new_empty((shape.inputs, shape.knots + 1, form_length(shape.order)), dtype=torch.float64)
    run(_forms_program, shape, shape.plan().penalty, (*layer.tensors(), *of, factors, found))
    return found


@lru_cache(maxsize=256)
def _forms_program(shape: Shape, sizes: Sizes, there: tuple[bool, ...]) -> tuple[Program, int]:
    program, work = Program(), Arena(len(there))
    *places, factors, made = places_of(there)
    add_forms(program, shape, Tensors(*places[:9]), work, Found(*places[9:]), factors, 0, made)
    return program, work.most // shape.size
