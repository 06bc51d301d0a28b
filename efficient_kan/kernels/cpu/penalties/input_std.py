"""Standard deviations of inputs over the samples, ``s_i = std_b x_bi`` with divisor ``B - 1``.

Two passes in float64: of the differences to the first sample, so that a large mean costs no digits, then of the squares of
those to the mean. torch's own loop along columns takes several times as long. Operations: ``4 B I``. Bytes: x twice; backward
x and its gradient, twice.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from efficient_kan.kernels.cpu.codegen.jit import REAL, STAMP, Entry, addresses, at, moved, reader, stored
from efficient_kan.kernels.cpu.codegen.program import Address, Arena, Place, Program

_LEAST, _LEAST_NUMBERS = 16, 2**14  # inputs, and samples of all of these, that are worth a thread


class _Columns(NamedTuple):
    x: int  # (batch, inputs)
    deviations: int  # (inputs,), as the next four
    origin: int  # float64, as the next two
    mean: int
    square: int  # or the factor of a gradient
    slopes: int  # gradients of deviations
    of_loss: int  # one number that these are multiplied with; 0: 1
    of_x: int  # (batch, inputs)
    batch: int
    inputs: int


_read = reader(_Columns)


@cache
def _deviate(real: Any) -> Entry:
    """Deviations of inputs ``start..stop``."""
    stamp, size = STAMP, np.dtype(real).itemsize

    def deviate(job_at: int, start: int, stop: int) -> None:
        assert stamp
        job, zero, count = _read(job_at), real(0), stop - start
        origin, mean, square = at(job.origin + start * 8, 0.0), at(job.mean + start * 8, 0.0), at(job.square + start * 8, 0.0)
        row = at(job.x + start * size, zero)
        for i in range(count):
            origin[i], mean[i], square[i] = np.float64(row[i]), 0.0, 0.0
        for b in range(job.batch):
            row = at(job.x + (b * job.inputs + start) * size, zero)
            for i in range(count):
                mean[i] += np.float64(row[i]) - origin[i]
        for i in range(count):
            mean[i] /= job.batch
        for b in range(job.batch):
            row = at(job.x + (b * job.inputs + start) * size, zero)
            for i in range(count):
                away = np.float64(row[i]) - origin[i] - mean[i]
                square[i] += away * away
        of_input = moved(at(job.deviations, zero), start)
        for i in range(count):
            of_input[i] = real(np.sqrt(square[i] / (job.batch - 1)))

    return Entry(deviate)


@cache
def _pull_back(real: Any) -> Entry:
    """Add to the gradients of inputs ``start..stop``."""
    stamp, size = STAMP, np.dtype(real).itemsize
    least = float(np.finfo(real).tiny / np.finfo(real).eps)  # as in `native.over_deviation`

    def pull_back(job_at: int, start: int, stop: int) -> None:
        assert stamp
        job, zero, count = _read(job_at), real(0), stop - start
        origin, mean, factor = at(job.origin + start * 8, 0.0), at(job.mean + start * 8, 0.0), at(job.square + start * 8, 0.0)
        first, of_input = at(job.x + start * size, zero), at(job.deviations + start * size, zero)
        slopes, of_loss = at(job.slopes + start * size, zero), at(job.of_loss, zero)[0] if job.of_loss else real(1)
        for i in range(count):
            origin[i], deviation = np.float64(first[i]), np.float64(of_input[i])
            factor[i] = np.float64(slopes[i] * of_loss) / deviation / (job.batch - 1) if deviation > least else 0.0
        for b in range(job.batch):
            place = (b * job.inputs + start) * size
            row, of_row = at(job.x + place, zero), at(job.of_x + place, zero)
            for i in range(count):
                of_row[i] += real((np.float64(row[i]) - origin[i] - mean[i]) * factor[i])

    return Entry(pull_back)


def _least(batch: int) -> int:
    return max(_LEAST, -(-_LEAST_NUMBERS // max(batch, 1)))


class Inputs(NamedTuple):
    """Samples and their deviations: sizes, type and places."""

    batch: int
    inputs: int
    real: type
    x: Address  # (B, I)
    deviations: Address  # (I,)
    mean: Address  # (I,) of float64: of x - x[0]


def add_deviations(program: Program, work: Arena, of: Inputs) -> None:
    """Add deviations and means to a program."""
    mark, room = work.used, (work.take(8 * of.inputs), of.mean, work.take(8 * of.inputs))
    job = _Columns(of.x, of.deviations, *room, 0, 0, 0, of.batch, of.inputs)
    program.add(partial(_deviate, of.real), of.inputs, job, _least(of.batch))
    work.used = mark


def add_pull_back(program: Program, work: Arena, of: Inputs, slopes: Address, of_loss: Address, of_x: Address) -> None:
    """Add to the gradient of ``x`` that of deviations, ``slopes`` ``(I,)``, times ``of_loss`` unless that is 0."""
    mark, room = work.used, (work.take(8 * of.inputs), of.mean, work.take(8 * of.inputs))
    job = _Columns(of.x, of.deviations, *room, slopes, of_loss, of_x, of.batch, of.inputs)
    program.add(partial(_pull_back, of.real), of.inputs, job, _least(of.batch))
    work.used = mark


def deviations(x: Tensor) -> tuple[Tensor, Tensor]:
    """``(I,)`` deviations and, in float64, means of ``x - x[0]``; ``x`` is contiguous. NaN without samples."""
    (batch, inputs), found = x.shape, x.new_empty(x.shape[1])
    mean = x.new_empty(inputs, dtype=torch.float64)
    if not batch:
        return found.fill_(math.nan), mean.fill_(math.nan)
    _run(_program(batch, inputs, REAL[x.dtype], back=False), x, found, mean)
    return found, mean


def pull_back(x: Tensor, deviations: Tensor, mean: Tensor, slopes: Tensor) -> Tensor:
    """The gradient of ``x``, from the gradients ``slopes`` ``(I,)`` of :func:`deviations`."""
    of_x = torch.zeros_like(x)
    if x.shape[0]:
        _run(_program(*x.shape, REAL[x.dtype], back=True), x, deviations, mean, slopes, of_x)
    return of_x


def _run(made: tuple[Program, int], *tensors: Tensor) -> None:
    program, bytes_ = made
    work = torch.empty(bytes_, dtype=torch.uint8, device=tensors[0].device)
    if stored(work):
        program.run((*addresses(*tensors), work.data_ptr()))


@lru_cache(maxsize=256)
def _program(batch: int, inputs: int, real: Any, *, back: bool) -> tuple[Program, int]:
    program, work, of = Program(), Arena(5 if back else 3), Inputs(batch, inputs, real, Place(0), Place(1), Place(2))
    if back:
        add_pull_back(program, work, of, Place(3), 0, Place(4))
    else:
        add_deviations(program, work, of)
    return program, work.most
