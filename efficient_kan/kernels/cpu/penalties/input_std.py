"""Standard deviations of inputs over the samples, ``s_i = std_b x_bi`` with divisor ``B - 1``.

Two passes in float64: of the differences to the first sample, so that a large mean costs no digits, then of the squares of
those to the mean. torch's own loop along columns takes several times as long. Operations: ``4 B I``. Bytes: x twice.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from efficient_kan.kernels.cpu.codegen import openmp
from efficient_kan.kernels.cpu.codegen.jit import REAL, STAMP, Entry, addresses, at, moved, reader, stored

_LEAST = 16  # inputs that are worth a thread


class _Columns(NamedTuple):
    x: int  # (batch, inputs)
    deviations: int  # (inputs,), as the rest
    origin: int  # float64, as the rest
    mean: int
    square: int
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


def deviations(x: Tensor) -> tuple[Tensor, Tensor]:
    """``(I,)`` deviations and, in float64, means of ``x - x[0]``; ``x`` is contiguous. NaN without samples."""
    (batch, inputs), found = x.shape, x.new_empty(x.shape[1])
    origin, mean, square = x.new_empty((3, inputs), dtype=torch.float64)
    if not batch:
        return found.fill_(math.nan), mean.fill_(math.nan)
    if stored(x):
        job = _Columns._make((*addresses(x, found, origin, mean, square), batch, inputs))
        openmp.run(_deviate(REAL[x.dtype]), inputs, job, least=_LEAST)
    return found, mean
