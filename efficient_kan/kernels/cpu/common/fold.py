"""Weights of a group of inputs and a tile of outputs in scratch memory, outputs-last, from a layer's parameters; and back.

An edge's spline is ``mask * scaler * spline_weight`` times the bases, and the factor of its base activation is
``mask * base_weight``; without a scaler or a mask those are ones, and without base weights that factor is the last number of
``spline_weight``'s row. Rows of spline weights are transposed as they are; edges' scales multiply what is made of them.
"""

from __future__ import annotations

from typing import Any

from efficient_kan.kernels.cpu.codegen.jit import at, moved, noinline, size_of
from efficient_kan.kernels.cpu.codegen.simd import VECTOR_BYTES
from efficient_kan.kernels.cpu.common.job import read
from efficient_kan.kernels.cpu.common.transpose import transpose


@noinline
def fold(job_at: int, room: int, i: int, width: int, o: int, some: int, zero: Any) -> None:
    """``weights``, ``scales`` and ``bases`` of ``some`` outputs from ``o`` on, then zeros; ``width`` inputs from ``i`` on."""
    job, size, one = read(job_at), size_of(zero), type(zero)(1)
    rows, tile, lanes = width * job.length, job.tile, VECTOR_BYTES // size
    weights = at(room + job.weights, zero)
    source = at(job.spline + (o * job.inputs + i) * job.length * size, zero)
    transpose(source, job.inputs * job.length, weights, tile, some, rows, lanes)
    if some < tile:
        for row in range(rows):
            for n in range(some, tile):
                weights[row * tile + n] = zero
    scaler, mask, base = at(job.scaler, zero), at(job.mask, zero), at(job.base_weight, zero)
    for n in range(width):
        scales, bases = at(room + job.scales + n * tile * size, zero), at(room + job.bases + n * tile * size, zero)
        for c in range(some, tile):
            scales[c], bases[c] = zero, zero
        for c in range(some):
            edge = (o + c) * job.inputs + i + n
            of_mask = mask[edge] if job.mask else one
            scales[c] = of_mask * scaler[edge] if job.scaler else of_mask
            bases[c] = of_mask * base[edge] if job.base_weight else weights[((n + 1) * job.length - 1) * tile + c]


@noinline
def unfold(job_at: int, room: int, part: int, i: int, width: int, o: int, some: int, zero: Any) -> None:
    """The gradients of parameters of ``some`` outputs from ``o`` on, from those of what :func:`fold` makes, which is there.

    Gradients are of a ``part`` of the samples. ``of_weights``, of folded weights, are overwritten.
    """
    job, size, one = read(job_at), size_of(zero), type(zero)(1)
    tile, whole, edges = job.tile, job.whole, part * job.outputs * job.inputs
    place = o if whole > tile else 0
    grads = at(room + job.of_weights + place * size, zero)
    length = job.length if job.base_weight else job.length - 1
    mask = at(job.mask, zero)
    for n in range(width):
        first, scales = n * job.length, at(room + job.scales + n * tile * size, zero)
        of_base = at(room + job.of_bases + (n * whole + place) * size, zero)
        totals = at(room + job.bases + n * tile * size, zero)
        for c in range(tile):
            totals[c] = zero
        for f in range(length):
            of_row = moved(grads, (first + f) * whole)
            if job.of_scaler:
                row = at(room + job.weights + (first + f) * tile * size, zero)
                for c in range(tile):
                    totals[c] += of_row[c] * row[c]
            for c in range(tile):
                of_row[c] *= scales[c]
        if not job.base_weight:
            for c in range(some):
                grads[(first + length) * whole + c] = of_base[c]
        for c in range(some):
            edge = (o + c) * job.inputs + i + n
            of_mask = mask[edge] if job.mask else one
            if job.of_scaler:
                at(job.of_scaler, zero)[edges + edge] = totals[c] * of_mask
            if job.of_base_weight:
                at(job.of_base_weight, zero)[edges + edge] = of_base[c] * of_mask
    target = at(job.of_spline + ((edges + o * job.inputs) + i) * job.length * size, zero)
    transpose(grads, whole, target, job.inputs * job.length, width * job.length, some, VECTOR_BYTES // size)


@noinline
def clear(job_at: int, room: int, width: int, zero: Any) -> None:
    """Set the gradients of weights of a group to zero."""
    job = read(job_at)
    of_weights, of_bases = at(room + job.of_weights, zero), at(room + job.of_bases, zero)
    if job.of_spline:
        for n in range(width * job.length * job.whole):
            of_weights[n] = zero
        for n in range(width * job.whole):
            of_bases[n] = zero
