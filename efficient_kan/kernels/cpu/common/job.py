"""The record that products and penalties pass to compiled code, and the scratch memory that it names.

Shape legend: ``B`` samples, ``I`` inputs, ``O`` outputs, ``T`` knots of an input, ``k`` the spline order, ``L`` numbers of an
edge's row of spline weights: its ``G + k`` coefficients and, where there are no base weights, its base weight.

All loops are over *groups* of inputs, *panels* of samples and *tiles* of outputs. Of a group and a panel, scratch memory holds
the samples in the order of their spans; of a group and a tile, the weights, outputs-last.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from efficient_kan.kernels import Parameters
from efficient_kan.kernels.cpu.codegen.jit import LINE_BYTES, addresses, at, inlined, moved, reader, size_of
from efficient_kan.kernels.cpu.common.transpose import APART
from efficient_kan.kernels.cpu.dispatch import Sizes


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
    y: int  # (B, O), 0 if not asked for; or its gradient, 0 for zeros; of SampleStd (O, I): deviations, or their gradients
    of_x: int
    of_base: int
    of_spline: int
    of_scaler: int
    of_base_weight: int
    norms: int  # (parts of the samples, O, I): sums of absolute values; backward (O, I): what signs are multiplied with
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
    whole: int  # outputs whose gradients of weights are summed up at a time: a tile, or all
    sample_parts: int
    input_parts: int
    stride: int  # between rows of samples in scratch memory
    columns: int  # (group, stride): samples, transposed
    column: int  # (stride,): those of one input in order
    cells: int  # (stride,) integers: their spans
    starts: int  # 2 (T + 1) integers
    spans: int  # (group, 1 + 3 min(T + 1, panel)) integers of 64 bits: number of spans; each with first sample and count
    rows: int  # (group, stride) integers: the samples' numbers, in order
    terms: int  # (group, k + 2, stride): powers 1..k of the place in the span, base activation and its slope
    weights: int  # (group L, tile)
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
        at(room + job.spans + n * (1 + 3 * min(job.knot_count + 1, job.panel)) * 8, 0),
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


def make_job(
    x: Tensor, base: Tensor | None, knots: Tensor, tables: tuple[Tensor, Tensor], parameters: Parameters, order: int,
    y: Tensor | None, targets: tuple[Tensor | None, ...], sizes: Sizes, norms: Tensor | None = None,
) -> tuple[Job, Tensor]:  # fmt: skip
    """The job, and the tensor that is its scratch memory: to be held until it is done.

    ``targets`` are the gradients of x, base, spline weights, scalers and base weights, or None.
    """
    (batch, inputs), count = x.shape, knots.shape[1]
    outputs, _, length = parameters.spline_weight.shape
    size, backward = x.element_size(), any(t is not None for t in targets)
    signs = backward and norms is not None
    stride = -(-sizes.panel // APART) * APART + APART
    whole = sizes.tile if sizes.panel >= batch else -(-outputs // sizes.tile) * sizes.tile
    of_group = sizes.group * size
    lengths = {
        "columns": of_group * stride,
        "column": stride * size,
        "cells": stride * 4,
        "starts": 2 * (count + 1) * 4,
        "spans": sizes.group * (1 + 3 * min(count + 1, sizes.panel)) * 8,
        "rows": sizes.group * stride * 4,
        "terms": of_group * (order + 2) * stride,
        "weights": of_group * length * sizes.tile,
        "scales": of_group * sizes.tile,
        "bases": of_group * sizes.tile,
        "sums": sizes.panel * sizes.tile * size,
        "of_weights": of_group * length * whole if backward else 0,
        "of_bases": of_group * whole if backward else 0,
        "row": sizes.tile * size,
        "pulled": of_group * stride if backward else 0,
        "pulled_base": of_group * stride if backward else 0,
        "factors": sizes.tile * size if signs else 0,
        "signed": sizes.panel * sizes.tile * size if signs else 0,
        "numbers": sizes.panel * 4 if signs else 0,
    }
    places, total = {}, 0
    for name, bytes_ in lengths.items():
        places[name] = total
        total += -(-bytes_ // LINE_BYTES) * LINE_BYTES
    total += 4 * LINE_BYTES  # threads' own parts are not in the same sets of a cache
    scratch = x.new_empty((total * sizes.sample_parts * sizes.input_parts + LINE_BYTES) // size)
    named = dict(zip(Job._fields, addresses(x, base, knots, *tables, *parameters, y, *targets, norms), strict=False))
    job = Job(
        **named, scratch=_aligned(scratch), scratch_bytes=total, batch=batch, inputs=inputs, knot_count=count, outputs=outputs,
        length=length, panel=sizes.panel, group=sizes.group, tile=sizes.tile, whole=whole,
        sample_parts=sizes.sample_parts, input_parts=sizes.input_parts, stride=stride, **places,
    )  # fmt: skip
    return job, scratch


def _aligned(scratch: Tensor) -> int:
    return -(-addresses(scratch)[0] // LINE_BYTES) * LINE_BYTES
