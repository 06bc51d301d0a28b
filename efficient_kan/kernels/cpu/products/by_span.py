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

from collections.abc import Sequence
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import literally
from torch import Tensor

from efficient_kan.kernels import Parameters
from efficient_kan.kernels.cpu.codegen.jit import (
    STAMP,
    Entry,
    addresses,
    at,
    call,
    inlined,
    moved,
    noinline,
    reader,
    size_of,
    smaller,
    stored,
)
from efficient_kan.kernels.cpu.codegen.program import Address, Arena, Place, Program
from efficient_kan.kernels.cpu.codegen.simd import VECTOR_BYTES
from efficient_kan.kernels.cpu.common.fold import clear, fold, prefetch_edges, unfold
from efficient_kan.kernels.cpu.common.job import Shape, Tensors, held, make_job, read, vectors_of
from efficient_kan.kernels.cpu.common.spans import fill, first_basis, scatter
from efficient_kan.kernels.cpu.common.sums import add_sum
from efficient_kan.kernels.cpu.dispatch import Sizes
from efficient_kan.kernels.cpu.penalties.moments import add_moments, moments_length, pull_forms, visit
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


class _Tile(NamedTuple):
    """What a pass does to an input and a tile of outputs; code that only norms need is compiled for them alone."""

    job: int
    room: int
    i: int
    n: int  # of the group
    o: int
    some: int  # outputs
    y: int  # rows of outputs, or of gradients of outputs
    norms: int  # where those of the tile begin, I numbers apart


_read_tile = reader(_Tile)


@noinline
def _hand_over(job_at: int, room: int, i: int, n: int, o: int, some: int, y: int, norms: int) -> None:
    """Call what the job names for a tile."""
    job = read(job_at)
    place = room + job.visited
    numbers = at(place, 0)
    numbers[0], numbers[1], numbers[2], numbers[3] = job_at, room, i, n
    numbers[4], numbers[5], numbers[6], numbers[7] = o, some, y, norms
    call(job.visit_tile, place, 0, 0)


@cache
def _add_with_norms(order: int, real: Any) -> Entry:
    """What :func:`_add_outputs` does, and what the panel adds to norms."""
    size, stamp = np.dtype(real).itemsize, STAMP
    lanes, length = VECTOR_BYTES // size, 2 + (order + 1) * (order + 1)

    def add(tile_at: int, start: int, stop: int) -> None:
        assert stamp
        here, zero = _read_tile(tile_at), real(0)
        job = read(here.job)
        of, tile = held(here.job, here.room, here.i, here.n, np.int64(0), order, zero), job.tile
        sums, y, norms = at(here.room + job.row, zero), at(here.y, zero), at(here.norms, zero)
        for c in range(tile):
            sums[c] = zero
        for m in range(of.spans[0]):
            span, first, count = of.spans[3 * m + 1], of.spans[3 * m + 2], of.spans[3 * m + 3]
            row = at(of.table + span * length * size, zero)
            weights = Weights(moved(of.weights, first_basis(span, job.knot_count, order) * tile), of.scale, of.base)
            samples = _samples_of(of, first, count, job.stride, row)
            add_span_and_norms(y, sums, samples, weights, tile, literally(order), vectors_of(here.some, lanes))
        for c in range(here.some):
            norms[c * job.inputs] += sums[c]

    return Entry(add)


@cache
def _multiply(order: int, real: Any) -> Entry:
    """Outputs of parts ``start..stop`` of ``sample_parts`` by ``input_parts``; each part of the inputs has a y ``(B, O)``.

    If there are ``norms``, each part of the samples adds its absolute values to its own; and likewise ``moments``. y may be
    absent.
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
            for o in range(outputs if job.norms else 0):
                norms = at(job.norms + (of_samples * outputs + o) * job.inputs * size, zero)
                for i in range(first_input, end_input):
                    norms[i] = zero
            for sample in range(first, end, job.panel):
                samples = smaller(job.panel, end - sample)
                y_place = (of_inputs * job.batch + sample) * outputs * size
                y = at(job.y + y_place, zero)
                for n in range(samples * outputs if job.y else 0):
                    y[n] = zero
                for i in range(first_input, end_input, job.group):
                    width = smaller(job.group, end_input - i)
                    fill(job_at, room, sample, samples, i, width, order, zero)
                    if job.moments:
                        visit(job_at, room, of_samples, i, width, samples if sample == first else 0)
                    for o in range(0, outputs if (job.y != 0) | (job.norms != 0) else 0, tile):
                        some = smaller(tile, outputs - o)
                        fold(job_at, room, i, width, o, some, zero)
                        apart, vectors = (outputs != tile) | (job.y == 0), vectors_of(some, lanes)
                        of = sums if apart else y
                        for n in range(width):
                            if job.far:
                                prefetch_edges(job_at, 0, n, width, i, o, False, size)
                            if job.norms:
                                edge = (of_samples * outputs + o) * job.inputs + i + n
                                place = room + job.sums if apart else job.y + y_place
                                _hand_over(job_at, room, i + n, n, o, some, place, job.norms + edge * size)
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
        samples = _samples_of(of, start, some, job.stride, row)
        if job.of_x:
            pull_span(g, samples, weights, tile, moved(of.pulled, start), k, vectors)
        if job.of_spline:
            to = Weights(moved(of.of_weights, first * whole), of.scale, sums)
            sum_span(g, samples, to, tile, whole, k, vectors)
    if job.of_spline:
        for c in range(tile):
            of.of_base[c] += sums[c]


@cache
def _add_with_signs(order: int, real: Any) -> Entry:
    """What :func:`_add_gradients` does, where signs of edges' values are added to the gradients of outputs."""
    size, stamp = np.dtype(real).itemsize, STAMP
    lanes, length = VECTOR_BYTES // size, 2 + (order + 1) * (order + 1)

    def add(tile_at: int, start: int, stop: int) -> None:
        assert stamp
        here, zero, k = _read_tile(tile_at), real(0), literally(order)
        job, vectors = read(here.job), vectors_of(here.some, lanes)
        of, tile, g = held(here.job, here.room, here.i, here.n, here.o, order, zero), job.tile, at(here.y, zero)
        sums, factors = at(here.room + job.row, zero), at(here.room + job.factors, zero)
        h, norms = at(here.room + job.signed, zero), at(here.norms, zero)
        of_loss, numbers = at(job.of_loss, zero)[0] if job.of_loss else real(1), at(here.room + job.numbers, np.int32(0))
        for c in range(tile):
            sums[c], factors[c] = zero, norms[c * job.inputs] * of_loss if c < here.some else zero
        for m in range(of.spans[0]):
            span, first, some = of.spans[3 * m + 1], of.spans[3 * m + 2], of.spans[3 * m + 3]
            row, basis = at(of.table + span * length * size, zero), first_basis(span, job.knot_count, order)
            weights = Weights(moved(of.weights, basis * tile), of.scale, of.base)
            samples = _samples_of(of, first, some, job.stride, row)
            add_signs(h, g, factors, samples, weights, tile, k, vectors)
            samples = Span(numbers, *samples[1:])  # rows of h are in order
            if job.of_base:
                pull_base(h, of.base, some, tile, moved(of.pulled_base, first), vectors)
            if job.of_x:
                pull_span(h, samples, weights, tile, moved(of.pulled, first), k, vectors)
            if job.of_spline:
                to = Weights(moved(of.of_weights, basis * job.whole), of.scale, sums)
                sum_span(h, samples, to, tile, job.whole, k, vectors)
        if job.of_spline:
            for c in range(tile):
                of.of_base[c] += sums[c]

    return Entry(add)


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
            gradients = (job.y != 0) | (job.norms != 0)
            folds = gradients & ((job.of_x != 0) | (job.norms != 0))
            for n in range(job.panel if job.norms else 0):
                at(room + job.numbers, np.int32(0))[n] = np.int32(n)
            for i in range(first_input, end_input, job.group):
                width = smaller(job.group, end_input - i)
                for sample in range(first, end, job.panel):
                    samples = smaller(job.panel, end - sample)
                    fill(job_at, room, sample, samples, i, width, order, zero)
                    if sample == first:
                        clear(job_at, room, width, zero)
                    for n in range(width * job.stride):
                        at(room + job.pulled, zero)[n] = zero
                    for n in range(width * job.stride if job.of_base else 0):
                        at(room + job.pulled_base, zero)[n] = zero
                    if job.forms:
                        visit(job_at, room, of_samples, i, width, samples)
                    finishes = (job.of_spline != 0) & single & (sample + job.panel >= end)
                    for o in range(0, outputs if gradients else 0, tile):
                        some = smaller(tile, outputs - o)
                        vectors = vectors_of(some, lanes)
                        if folds:
                            fold(job_at, room, i, width, o, some, zero)
                        g = at(job.y + (sample * outputs + o) * size, zero)
                        _copy(g, outputs, at(room + job.sums, zero), tile, samples, some if job.y else 0)
                        for n in range(width):
                            if job.far & folds:
                                prefetch_edges(job_at, 0, n, width, i, o, False, size)
                            if job.far & finishes:
                                prefetch_edges(job_at, of_samples, n, width, i, o, True, size)
                            if job.norms:
                                norms = job.norms + (o * job.inputs + i + n) * size
                                _hand_over(job_at, room, i + n, n, o, some, room + job.sums, norms)
                            else:
                                _add_gradients(job_at, room, i + n, n, o, vectors, order, zero)
                        if finishes:
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
                        some = smaller(tile, outputs - o)
                        fold(job_at, room, i, width, o, some, zero)
                        unfold(job_at, room, of_samples, i, width, o, some, zero)

    return Entry(pull_back)


def add_forward(
    program: Program, shape: Shape, tensors: Tensors, work: Arena, sizes: Sizes, *, y: Address = 0, sums: Address = 0,
    moments: Address = 0,
) -> None:  # fmt: skip
    """Add the pass forward to a program: it makes outputs, sums of edges' absolute values, and moments of samples."""
    mark, parts, of_inputs, count = work.used, sizes.sample_parts, sizes.input_parts, shape.batch * shape.outputs
    made = work.take(of_inputs * count * shape.size) if isinstance(y, Place) and of_inputs > 1 else y
    visits = partial(add_moments, shape.order, shape.real) if moments else 0
    of_tiles = partial(_add_with_norms, shape.order, shape.real) if sums else 0
    job = make_job(shape, tensors, sizes, work, y=made, norms=sums, moments=moments, visit=visits, visit_tile=of_tiles)
    program.add(partial(_multiply, shape.order, shape.real), parts * of_inputs, job)
    if isinstance(y, Place) and isinstance(made, Place) and made != y:
        add_sum(program, made, y, of_inputs, count, shape.real)
    work.used = mark


class Targets(NamedTuple):
    """Places of gradients; 0 for those that are not asked for."""

    x: Address  # its way through SiLU included unless there is a base
    base: Address  # made with norms and forms alone: else it is a product of matrices
    spline: Address
    scaler: Address
    base_weight: Address


def add_backward(
    program: Program, shape: Shape, tensors: Tensors, work: Arena, sizes: Sizes, targets: Targets, *, g: Address = 0,
    factors: Address = 0, of_loss: Address = 0, forms: Address = 0,
) -> None:  # fmt: skip
    """Add the pass back to a program, from the gradient ``g`` of the outputs.

    ``factors`` ``(O, I)``, times ``of_loss``, are what signs of edges' values are multiplied with, and ``forms`` those of
    penalties.moments.
    """
    mark, parts, edges = work.used, sizes.sample_parts, shape.inputs * shape.outputs
    made, sums = list(targets), []
    for n, length in enumerate((edges * shape.length, edges, edges), 2):
        target = targets[n]
        if parts > 1 and isinstance(target, Place):
            made[n] = place = work.take(parts * length * shape.size)
            sums.append((place, target, parts, length, shape.real))
    names = "of_x", "of_base", "of_spline", "of_scaler", "of_base_weight"
    given = dict(zip(names, made, strict=True)) | {"y": g, "norms": factors, "of_loss": of_loss, "forms": forms}
    given["visit"] = partial(pull_forms, shape.order, shape.real) if forms else 0
    given["visit_tile"] = partial(_add_with_signs, shape.order, shape.real) if factors else 0
    program.add(
        partial(_pull_back, shape.order, shape.real), parts * sizes.input_parts, make_job(shape, tensors, sizes, work, **given)
    )
    for each in sums:
        add_sum(program, *each)
    work.used = mark


class Layer(NamedTuple):
    """A layer at some samples: contiguous tensors, as in :class:`~efficient_kan.kernels.LayerInputs`."""

    x: Tensor
    base: Tensor | None
    knots: Tensor
    tables: tuple[Tensor, Tensor]  # see common.tables
    parameters: Parameters
    order: int

    def shape(self) -> Shape:
        """What decides how it is computed."""
        outputs, inputs, length = self.parameters.spline_weight.shape
        threads = torch.get_num_threads()
        return Shape(self.x.shape[0], inputs, outputs, self.knots.shape[1], length, self.order, self.x.element_size(), threads)

    def tensors(self) -> tuple[Tensor | None, ...]:
        """In the order of :class:`Tensors`."""
        return self.x, self.base, self.knots, *self.tables, *self.parameters


def places_of(there: Sequence[bool]) -> list[Address]:
    """The first bases of a program; 0 for those that are not there."""
    return [Place(n) if given else 0 for n, given in enumerate(there)]


class Passed(NamedTuple):
    """What a pass forward makes: outputs and, of edges' values, what norms are made of."""

    y: Tensor | None  # (B, O)
    sums: Tensor | None  # (parts of the samples, O, I): of absolute values
    moments: Tensor | None  # (parts of the samples, I, T + 1, ...), see penalties.moments


def multiply(layer: Layer, *, outputs: bool = True, sums: bool = False, moments: bool = False) -> Passed:
    """The layer's outputs, and what else is asked for.

    Without outputs it is the same on any number of threads; with them, parts of the samples are added up.
    """
    x, shape = layer.x, layer.shape()
    sizes = shape.plan().forward if outputs else shape.plan().penalty
    y = x.new_empty((shape.batch, shape.outputs)) if outputs else None
    of_edges = x.new_empty((sizes.sample_parts, shape.outputs, shape.inputs)) if sums else None
    of_inputs = None
    if moments:
        lengths = sizes.sample_parts, shape.inputs, shape.knots + 1, moments_length(shape.order)
        of_inputs = (x.new_empty if shape.batch else x.new_zeros)(lengths, dtype=torch.float64)
    run(_forward_program, shape, sizes, (*layer.tensors(), y, of_edges, of_inputs))
    return Passed(y, of_edges, of_inputs)


def run(make: Any, shape: Shape, sizes: Sizes, tensors: Sequence[Tensor | None]) -> None:
    """Run the program that ``make`` makes for a layer; its bases are tensors, samples first, and memory to work in."""
    program, numbers = make(shape, sizes, tuple([tensor is not None for tensor in tensors]))
    samples: Any = tensors[0]
    work = samples.new_empty(numbers)
    if stored(work):  # while everything that is made is fake, it is not
        program.run((*addresses(*tensors), work.data_ptr()))


@lru_cache(maxsize=256)
def _forward_program(shape: Shape, sizes: Sizes, there: tuple[bool, ...]) -> tuple[Program, int]:
    program, work = Program(), Arena(len(there))
    *tensors, y, sums, moments = places_of(there)
    add_forward(program, shape, Tensors(*tensors), work, sizes, y=y, sums=sums, moments=moments)
    return program, work.most // shape.size


@lru_cache(maxsize=256)
def _backward_program(shape: Shape, sizes: Sizes, there: tuple[bool, ...]) -> tuple[Program, int]:
    program, work = Program(), Arena(len(there))
    places = places_of(there)
    tensors, (g, factors, forms), targets = Tensors(*places[:9]), places[9:12], Targets(*places[12:])
    add_backward(program, shape, tensors, work, sizes, targets, g=g, factors=factors, forms=forms)
    return program, work.most // shape.size


def pull_back(
    layer: Layer, g: Tensor | None, *, factors: Tensor | None = None, forms: Tensor | None = None, needs_x: bool,
    needs_base: bool = False, needs_parameters: bool,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """The gradients of ``x``, its way through SiLU included unless there is a base, of base, and of parameters but the mask.

    ``g`` is that of the outputs, ``(B, O)``; it may be missing. ``factors`` ``(O, I)`` are what signs of edges' values are
    multiplied with, ``forms`` those of penalties.moments.
    """
    x, shape, needs_base = layer.x, layer.shape(), needs_base and layer.base is not None
    sizes = shape.plan().penalty if g is None else shape.plan().backward
    of_edges = needs_base and (factors is not None or forms is not None)
    spline_weight, scaler, _, base_weight = layer.parameters
    wanted = (spline_weight, scaler, base_weight) if needs_parameters else (None, None, None)
    asked = x if needs_x else None, x if of_edges else None, *wanted
    make = torch.empty_like if shape.batch else torch.zeros_like
    targets = [None if t is None else make(t) for t in asked]
    asks = shape.batch and any(target is not None for target in targets)
    # An address of 0 is no gradient: where one has no numbers there is nothing to compute.
    if asks and not (stored(x) and not all(stored(given) for given in (g, factors) if given is not None)):
        run(_backward_program, shape, sizes, (*layer.tensors(), g, factors, forms, *targets))
    of_x, of_base, *rest = targets
    if needs_base and factors is None and g is not None:  # with signs it was made above
        product = g @ base_weight_of(layer.parameters)
        of_base = product if of_base is None else of_base.add_(product)
    return of_x, of_base, *rest


def base_weight_of(parameters: Parameters) -> Tensor:
    """Factors of base activations, ``(O, I)``."""
    spline_weight, _, mask, base_weight = parameters
    if base_weight is None:
        return spline_weight[..., -1]
    return base_weight if mask is None else base_weight * mask
