"""Moments of the samples of each span, taken where a pass through samples has them in order; and the way back.

Shape legend: ``I`` inputs, ``T`` knots of an input, ``k`` the spline order, ``D = k + 1`` features of a sample: the powers 1 to
k of its place in the span, and its base activation.

Of an input and a span there are, in float64, the number of samples, the means ``(D,)`` of their features, and the lower
triangle ``(D (D + 1) / 2,)`` of their scatter matrix: see `edge_std`. Its *form* ``(D, D + 1)`` maps ``(f, 1)`` to the gradient
with respect to ``f``.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import literally

from efficient_kan.kernels.cpu.codegen.jit import STAMP, Entry, at, call, inlined, moved, noinline, reader
from efficient_kan.kernels.cpu.common.job import held, read
from efficient_kan.kernels.cpu.penalties.moment_loops import pull_form, span_moments


def moments_length(order: int) -> int:
    """Numbers of an input and a span."""
    return 1 + (order + 1) * (order + 4) // 2


def form_length(order: int) -> int:
    """Numbers of a form."""
    return (order + 1) * (order + 2)


@inlined
def moments_of(job_at: int, part: int, i: int, span: int, order: int) -> Any:
    """Of a part of the samples, input ``i`` and a span: a pointer to their number, means and scatter after it."""
    job = read(job_at)
    place = ((part * job.inputs + i) * (job.knot_count + 1) + span) * (1 + (order + 1) * (order + 4) // 2)
    return at(job.moments + place * 8, 0.0)


@noinline
def merge(to: Any, of: Any, order: int) -> None:
    """Add moments to others (Chan et al. 1979)."""
    size, n = to[0], of[0]
    total, place = size + n, order + 2
    for a in range(order + 1):
        for c in range(a + 1):
            shifts = (of[1 + a] - to[1 + a]) * (of[1 + c] - to[1 + c])
            to[place] += of[place] + shifts * (size * n / total)
            place += 1
    for a in range(order + 1):
        to[1 + a] += (of[1 + a] - to[1 + a]) * (n / total)
    to[0] = total


class Visit(NamedTuple):
    """Where a pass has the samples of a panel in order."""

    job: int
    room: int
    part: int  # of the samples
    first: int  # input of the group
    width: int  # inputs of the group
    samples: int  # of the panel; when moments are taken, 0 for a panel that is not the part's first


_read = reader(Visit)


@noinline
def visit(job_at: int, room: int, part: int, first: int, width: int, samples: int) -> None:
    """Call what the job names: code that only penalties need is compiled for them alone."""
    job = read(job_at)
    place = room + job.visited
    numbers = at(place, 0)
    numbers[0], numbers[1], numbers[2] = job_at, room, part
    numbers[3], numbers[4], numbers[5] = first, width, samples
    call(job.visit, place, 0, 0)


@cache
def add_moments(order: int, real: Any) -> Entry:
    """Add moments of a panel's samples to those of former panels."""
    stamp = STAMP

    def add(visit_at: int, start: int, stop: int) -> None:
        assert stamp
        of, zero = _read(visit_at), real(0)
        job, block = read(of.job), at(of.room + read(of.job).block, 0.0)
        if of.samples:
            first = moments_of(of.job, of.part, of.first, 0, order)
            for n in range(of.width * (job.knot_count + 1) * (1 + (order + 1) * (order + 4) // 2)):
                first[n] = 0.0
        for n in range(of.width):
            here = held(of.job, of.room, of.first + n, n, np.int64(0), order, zero)
            for m in range(here.spans[0]):
                span, place, some = here.spans[3 * m + 1], here.spans[3 * m + 2], here.spans[3 * m + 3]
                mean = moved(block, 1)
                span_moments(moved(here.terms, place), job.stride, some, mean, moved(mean, order + 1), literally(order))
                block[0] = some
                merge(moments_of(of.job, of.part, of.first + n, span, order), block, order)

    return Entry(add)


@cache
def pull_forms(order: int, real: Any) -> Entry:
    """Gradients of a panel's samples and base activations, in order, from the forms of their spans.

    Those of base activations go on through SiLU, unless they are asked for.
    """
    stamp, size = STAMP, np.dtype(real).itemsize

    def pull(visit_at: int, start: int, stop: int) -> None:
        assert stamp
        of, zero = _read(visit_at), real(0)
        job, length = read(of.job), (order + 1) * (order + 2)
        for n in range(of.width):
            here = held(of.job, of.room, of.first + n, n, np.int64(0), order, zero)
            for m in range(here.spans[0]):
                span, place, some = here.spans[3 * m + 1], here.spans[3 * m + 2], here.spans[3 * m + 3]
                row = at(here.table + span * (2 + (order + 1) * (order + 1)) * size, zero)
                form = at(job.forms + ((of.first + n) * (job.knot_count + 1) + span) * length * 8, 0.0)
                of_x, of_base = moved(here.pulled, place), moved(here.pulled_base, place)
                pull_form(moved(here.terms, place), job.stride, some, row, form, of_x, of_base, literally(order))
            if not job.of_base:
                for b in range(of.samples):
                    here.pulled[b] += here.rise[b] * here.pulled_base[b]

    return Entry(pull)
