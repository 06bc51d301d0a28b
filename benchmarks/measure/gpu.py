"""What timing on a GPU takes beside a clock: inputs that are not in its L2 cache, and its state before and after.

A call that finds its input in the L2 cache, where the former call left it, is faster than one in training, whose input comes
from memory. So every call of either side takes another copy of input and target, in turn, and all copies together are larger
than twice the cache. Weights stay: in training too they are what the former step left. So do the features of `gemm_bound`,
which stand for what a layer has just written.
"""

from __future__ import annotations

from typing import Self

import torch

from benchmarks.measure.workload import Data
from benchmarks.schema import nvml
from benchmarks.schema.rows import GpuReading, GpuTiming

_SHARE = 8  # copies may take one part in so many of the free memory
_ALIGNED = 512  # bytes, as the allocator hands them out: kernels read aligned rows in another way


class Watch:
    """The timing of one case on `device`: use it as a context, around the timing alone."""

    def __init__(self, device: torch.device) -> None:
        properties = torch.cuda.get_device_properties(device)
        self._l2_bytes = int(properties.L2_cache_size)
        self._free_bytes = int(torch.cuda.mem_get_info(device)[0])
        self._gpu = nvml.Gpu(f"GPU-{properties.uuid}")
        self._copies = 1
        self._rotated = False
        self._readings: list[GpuReading | None] = []

    def inputs(self, data: Data) -> tuple[Data, ...]:
        """Return `data` and as many copies as let no call find its input in the L2 cache; `data` alone without the memory."""
        one = data.x.nbytes + data.target.nbytes
        self._copies = 2 * self._l2_bytes // max(1, one) + 1
        self._rotated = self._copies == 1 or self._copies * one <= self._free_bytes // _SHARE
        if not self._rotated:
            self._copies = 1
        return copies(data, self._copies)

    def __enter__(self) -> Self:
        self._readings = [self._gpu.read()]
        return self

    def __exit__(self, *error: object) -> None:
        self._readings.append(self._gpu.read())
        self._gpu.close()

    def timing(self) -> GpuTiming:
        """Return what the row says of the GPU, after the timing."""
        before, after = self._readings
        return GpuTiming(
            l2="rotated inputs" if self._rotated else "warm L2",
            l2_bytes=self._l2_bytes,
            input_copies=self._copies,
            before=before,
            after=after,
        )


def copies(data: Data, count: int) -> tuple[Data, ...]:
    """Return `count` times the values of `data`, each in memory of its own; `data` is the first."""
    if count == 1:
        return (data,)
    others = zip(_copied(data.x, count - 1), _copied(data.target, count - 1), strict=True)
    return (data, *(Data(x, target) for x, target in others))


def _copied(tensor: torch.Tensor, count: int) -> list[torch.Tensor]:
    """As many copies in one block of memory, each aligned."""
    size, step = tensor.numel(), max(1, _ALIGNED // tensor.element_size())
    block = tensor.new_empty(count, -(-size // step) * step)
    block[:, :size] = tensor.flatten()
    return [row[:size].view(tensor.shape) for row in block]
