"""The record that products and penalties pass to compiled code, and the scratch memory that it names.

Shape legend: ``B`` samples, ``I`` inputs, ``O`` outputs, ``T`` knots of an input, ``k`` the spline order, ``L`` numbers of an
edge's row of spline weights: its ``G + k`` coefficients and, where there are no base weights, its base weight.

All loops are over *groups* of inputs, *panels* of samples and *tiles* of outputs. Of a group and a panel, scratch memory holds
the samples in the order of their spans; of a group and a tile, the weights, outputs-last.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from efficient_kan.kernels.cpu.codegen.jit import LINE_BYTES, at, inlined, moved, reader, size_of
from efficient_kan.kernels.cpu.codegen.program import Address, Arena
from efficient_kan.kernels.cpu.common.transpose import APART
from efficient_kan.kernels.cpu.dispatch import Plan, Sizes, plan


class Job(NamedTuple):
    """Addresses, 0 for what is not there; sizes; and where things are in each thread's scratch memory, in bytes."""

    x: int  # (B, I)
    base: int  # (B, I); 0: SiLU of x
    knots: int  # (I, T)
    guide: int  # see common.tables
    table: int  # see common.tables
    spline: int  # (O, I, L)
    scaler: int  # (O, I), as mask and base_weight
    mask: int
    base_weight: int
    y: int  # (B, O), 0 if not asked for; or its gradient, 0 for zeros
    of_x: int
    of_base: int
    of_spline: int
    of_scaler: int
    of_base_weight: int
    norms: int  # (parts of the samples, O, I): sums of absolute values; backward (O, I): what signs are multiplied with
    of_loss: int  # one number that these are multiplied with; 0: 1
    moments: int  # (parts of the samples, I, T + 1, ...) of float64, see penalties.moments
    forms: int  # (I, T + 1, ...), the same
    visit: int  # address of the function that takes moments of a panel's samples, or uses forms; see penalties.moments
    visit_tile: int  # address of the function that does what norms need to an input and a tile of outputs; see by_span
    scratch: int
    scratch_bytes: int
    batch: int
    inputs: int
    knot_count: int  # T
    outputs: int
    length: int  # L
    panel: int
    group: int
    tile: int
    named: int  # whether only weights of the bases of the panel's spans are worked on
    far: int  # whether what the next tile needs of parameters is prefetched
    whole: int  # outputs whose gradients of weights are summed up at a time: a tile, or all
    sample_parts: int
    input_parts: int
    stride: int  # between rows of samples in scratch memory
    span_bytes: int  # between rows of `spans`
    range_bytes: int  # between rows of `ranges`
    columns: int  # (group, stride): samples, transposed
    column: int  # (stride,): those of one input in order
    cells: int  # (stride,) integers: their spans
    starts: int  # 2 (T + 1) integers
    spans: int  # (group, 1 + 3 min(T + 1, panel)) integers of 64 bits: number of spans; each with first sample and count
    ranges: int  # (group, 3, or 3 + 2 min(T + 1, panel) if `named`) the same: ranges of weights, each one's first row and count
    rows: int  # (group, stride) integers: the samples' numbers, in order
    terms: int  # (group, k + 2, stride): powers 1..k of the place in the span, base activation and its slope
    weights: int  # (group L, tile)
    masks: int  # (group, tile)
    scales: int  # (group, tile)
    bases: int  # (group, tile)
    sums: int  # (panel, tile): outputs, or gradients of outputs
    of_weights: int  # (group L, whole)
    of_bases: int  # (group, whole)
    row: int  # (tile,): what a panel adds to an input's row of sums, of norms or of gradients of base weights
    pulled: int  # (group, stride): gradients of samples in order
    pulled_base: int  # the same of base activations
    factors: int  # (tile,) of `norms`
    signed: int  # (panel, tile): gradients of the values of edges of one span, in order
    numbers: int  # (panel,) integers: 0, 1, 2, ...
    block: int  # moments of a span's samples
    visited: int  # what is visited: 8 integers of 64 bits


read = reader(Job)


@inlined
def vectors_of(outputs: int, lanes: int) -> int:
    """Vectors of a tile of ``outputs``, rounded up to a power of two."""
    wide = 1
    while wide * lanes < outputs:
        wide *= 2
    return wide


class Held(NamedTuple):
    """Pointers to what scratch memory holds of one input and, of weights, a tile of outputs; see :class:`Job`."""

    spans: Any
    rows: Any
    terms: Any
    active: Any
    rise: Any
    table: int  # address of the input's first row
    weights: Any
    scale: Any
    base: Any
    of_weights: Any
    of_base: Any
    pulled: Any
    pulled_base: Any


@inlined
def held(job_at: int, room: int, i: int, n: int, o: Any, order: int, zero: Any) -> Any:
    """Of input ``i``, ``n`` of the group, and the tile from output ``o`` on, in scratch memory at ``room``."""
    job, size = read(job_at), size_of(zero)
    stride, tile, place, row = job.stride, job.tile, o if job.whole > job.tile else 0, 2 + (order + 1) * (order + 1)
    terms = at(room + job.terms + n * (order + 2) * stride * size, zero)
    return Held(
        at(room + job.spans + n * job.span_bytes, 0),
        at(room + job.rows + n * stride * 4, np.int32(0)),
        terms,
        moved(terms, order * stride),
        moved(terms, (order + 1) * stride),
        job.table + i * (job.knot_count + 1) * row * size,
        at(room + job.weights + n * job.length * tile * size, zero),
        at(room + job.scales + n * tile * size, zero),
        at(room + job.bases + n * tile * size, zero),
        at(room + job.of_weights + (n * job.length * job.whole + place) * size, zero),
        at(room + job.of_bases + (n * job.whole + place) * size, zero),
        at(room + job.pulled + n * stride * size, zero),
        at(room + job.pulled_base + n * stride * size, zero),
    )


class Shape(NamedTuple):
    """What decides how a layer is computed."""

    batch: int
    inputs: int
    outputs: int
    knots: int  # T
    length: int  # L
    order: int
    size: int  # bytes of a number
    threads: int

    def plan(self) -> Plan:
        """How its work is divided."""
        features = self.knots - self.order
        return plan(self.batch, self.inputs, self.outputs, features, self.order, self.size, self.threads)

    @property
    def real(self) -> type:
        """The type of its numbers."""
        return np.float32 if self.size == 4 else np.float64


class Tensors(NamedTuple):
    """Places of a layer's tensors, 0 for what is not there; see :class:`Job`."""

    x: Address
    base: Address
    knots: Address
    guide: Address
    table: Address
    spline: Address
    scaler: Address
    mask: Address
    base_weight: Address


def make_job(shape: Shape, tensors: Tensors, sizes: Sizes, work: Arena, **others: Address) -> Job:
    """The job, whose scratch memory is taken from ``work``; ``others`` are the fields of :class:`Job` from ``y`` on."""
    backward = any(others.get(name) for name in ("of_x", "of_base", "of_spline"))
    signs = backward and bool(others.get("norms"))
    stride = -(-sizes.panel // APART) * APART + APART
    whole = sizes.tile if sizes.panel >= shape.batch else -(-shape.outputs // sizes.tile) * sizes.tile
    of_group, size, spans = sizes.group * shape.size, shape.size, min(shape.knots + 1, sizes.panel)
    span_bytes, range_bytes = 8 * (1 + 3 * spans), 8 * (1 + 2 * (spans + 1 if sizes.named else 1))
    lengths = {
        "columns": of_group * stride,
        "column": stride * size,
        "cells": stride * 4,
        "starts": 2 * (shape.knots + 1) * 4,
        "spans": sizes.group * span_bytes,
        "ranges": sizes.group * range_bytes,
        "rows": sizes.group * stride * 4,
        "terms": of_group * (shape.order + 2) * stride,
        "weights": of_group * shape.length * sizes.tile,
        "masks": of_group * sizes.tile,
        "scales": of_group * sizes.tile,
        "bases": of_group * sizes.tile,
        "sums": sizes.panel * sizes.tile * size,
        "of_weights": of_group * shape.length * whole if backward else 0,
        "of_bases": of_group * whole if backward else 0,
        "row": sizes.tile * size,
        "pulled": of_group * stride if backward else 0,
        "pulled_base": of_group * stride if backward else 0,
        "factors": sizes.tile * size if signs else 0,
        "signed": sizes.panel * sizes.tile * size if signs else 0,
        "numbers": sizes.panel * 4 if signs else 0,
        "block": 8 * (shape.order + 1) * (shape.order + 4),
        "visited": 8 * 8,
    }
    places, total = {}, 0
    for name, bytes_ in lengths.items():
        places[name] = total
        total += -(-bytes_ // LINE_BYTES) * LINE_BYTES
    total += 4 * LINE_BYTES  # threads' own parts are not in the same sets of a cache
    scratch = work.take(total * sizes.sample_parts * sizes.input_parts)
    given: Any = dict.fromkeys(Job._fields[: Job._fields.index("scratch")], 0) | tensors._asdict() | others
    return Job(
        **given, scratch=scratch, scratch_bytes=total, batch=shape.batch, inputs=shape.inputs, knot_count=shape.knots,
        outputs=shape.outputs, length=shape.length, panel=sizes.panel, group=sizes.group, tile=sizes.tile, named=sizes.named,
        far=sizes.far, whole=whole, sample_parts=sizes.sample_parts, input_parts=sizes.input_parts, stride=stride,
        span_bytes=span_bytes, range_bytes=range_bytes, **places,
    )  # fmt: skip
