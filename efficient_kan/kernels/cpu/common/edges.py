"""Rows of numbers, one an edge, times a factor of the edge: torch's own loops over so few numbers take several times as long.

``out[e] = factors[e] * source[e]`` and, where they are wanted, ``totals[e] = source[e] . other[e]``.
"""

from __future__ import annotations

from array import array
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from efficient_kan.kernels.cpu.codegen import openmp
from efficient_kan.kernels.cpu.codegen.jit import REAL, STAMP, Entry, addresses, at, reader, stored

_LEAST = 2048  # edges that are worth a thread


class _Rows(NamedTuple):
    source: int  # rows of `length` numbers, `stride` apart
    factors: int
    out: int  # rows `out_stride` apart
    other: int  # contiguous rows, or 0
    totals: int
    length: int
    stride: int
    out_stride: int


_read = reader(_Rows)


@cache
def _scale(real: Any) -> Entry:
    stamp, size = STAMP, np.dtype(real).itemsize

    def scale(job_at: int, start: int, stop: int) -> None:
        assert stamp
        job, zero = _read(job_at), real(0)
        for edge in range(start, stop):
            source, out = at(job.source + edge * job.stride * size, zero), at(job.out + edge * job.out_stride * size, zero)
            factor = at(job.factors, zero)[edge]
            if job.other:
                other, total = at(job.other + edge * job.length * size, zero), zero
                for n in range(job.length):
                    total += source[n] * other[n]
                at(job.totals, zero)[edge] = total
            for n in range(job.length):
                out[n] = factor * source[n]

    return Entry(scale)


def compile_all(real: Any) -> None:
    """Compile what :func:`scale_rows` calls for numbers of this type."""
    _scale(real)


def _apart(rows: Tensor) -> int:
    """How far apart rows lie. What torch says of the distance along an axis of one entry may be any number."""
    return rows.stride(1) if rows.shape[1] > 1 else rows.stride(0)


def scale_rows(source: Tensor, factors: Tensor, out: Tensor, other: Tensor | None = None, totals: Tensor | None = None) -> None:
    """``source`` and ``out`` are ``(O, I, L)``, rows contiguous and at equal distances; the rest is contiguous."""
    if stored(source) and stored(out):
        lengths = source.shape[2], _apart(source), _apart(out)
        job = array("q", (*addresses(source, factors, out, other, totals), *lengths))
        openmp.run(_scale(REAL[out.dtype]), factors.numel(), job.buffer_info()[0], least=_LEAST)
