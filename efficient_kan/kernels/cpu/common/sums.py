"""Sums of what parts of a layer's work have made, and biases.

Shape legend: ``B`` samples, ``O`` outputs.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

from efficient_kan.kernels.cpu.codegen.jit import STAMP, Entry, at, reader
from efficient_kan.kernels.cpu.codegen.program import Address, Arena, Program

_LEAST = 2**14  # numbers that are worth a thread


class _Sum(NamedTuple):
    source: int  # (parts, length)
    target: int  # (length,)
    parts: int
    length: int


_read = reader(_Sum)


@cache
def _add_parts(real: Any) -> Entry:
    """Numbers ``start..stop`` of the sum of parts, one after the other."""
    size, stamp = np.dtype(real).itemsize, STAMP

    def add_parts(job_at: int, start: int, stop: int) -> None:
        assert stamp
        job, zero = _read(job_at), real(0)
        target, first = at(job.target, zero), at(job.source, zero)
        for n in range(start, stop):
            target[n] = first[n]
        for part in range(1, job.parts):
            source = at(job.source + part * job.length * size, zero)
            for n in range(start, stop):
                target[n] += source[n]

    return Entry(add_parts)


def add_sum(program: Program, source: Address, target: Address, parts: int, length: int, real: Any) -> None:
    """``target = sum(source)`` over parts of so many numbers."""
    program.add(partial(_add_parts, real), length, _Sum(source, target, parts, length), _LEAST)


class _Bias(NamedTuple):
    rows: int  # (B, O)
    bias: int  # (O,)
    sums: int  # (O,) of float64
    batch: int
    outputs: int


_read_bias = reader(_Bias)


@cache
def _add_bias(real: Any) -> Entry:
    """Add the bias to all rows."""
    size, stamp = np.dtype(real).itemsize, STAMP

    def add_bias(job_at: int, start: int, stop: int) -> None:
        assert stamp
        job, zero = _read_bias(job_at), real(0)
        bias = at(job.bias, zero)
        for b in range(job.batch):
            row = at(job.rows + b * job.outputs * size, zero)
            for o in range(job.outputs):
                row[o] += bias[o]

    return Entry(add_bias)


@cache
def _sum_rows(real: Any) -> Entry:
    """The gradient of the bias, from that of rows."""
    size, stamp = np.dtype(real).itemsize, STAMP

    def sum_rows(job_at: int, start: int, stop: int) -> None:
        assert stamp
        job, zero = _read_bias(job_at), real(0)
        bias, sums = at(job.bias, zero), at(job.sums, 0.0)
        for o in range(job.outputs):
            sums[o] = 0.0
        for b in range(job.batch):
            row = at(job.rows + b * job.outputs * size, zero)
            for o in range(job.outputs):
                sums[o] += np.float64(row[o])
        for o in range(job.outputs):
            bias[o] = real(sums[o])

    return Entry(sum_rows)


def add_bias(program: Program, rows: Address, bias: Address, batch: int, outputs: int, real: Any) -> None:
    """``rows += bias``."""
    program.add(partial(_add_bias, real), 1, _Bias(rows, bias, 0, batch, outputs))


def add_sum_of_rows(
    program: Program, rows: Address, bias: Address, work: Arena, batch: int, outputs: int, real: Any
) -> None:  # fmt: skip
    """``bias = sum(rows)``."""
    mark = work.used
    program.add(partial(_sum_rows, real), 1, _Bias(rows, bias, work.take(8 * outputs), batch, outputs))
    work.used = mark


def compile_all(real: Any) -> None:
    """Compile this module's functions, which some divisions of work need and others do not."""
    for entry in (_add_parts, _add_bias, _sum_rows):
        entry(real)
