"""Peak memory of a call of any size under fake tensors: shapes are followed, nothing is computed and nothing is allocated.

What an operator allocates and frees inside is not seen, and a GPU may run other operators than a CPU does (Adam's, for one,
handles all parameters at once there): simulated bytes stand beside measured ones and never in their place.
"""

from __future__ import annotations

import copy
import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.cases import Mode, Penalty, Point
from benchmarks.measure import workload
from benchmarks.measure.live import LiveStorages, tensors_of
from benchmarks.measure.memory import Peak
from efficient_kan import KAN
from efficient_kan.kernels import native
from reference.arm import Arm


def simulated_peak(arm: Arm, point: Point, mode: Mode, penalty: Penalty = "none", *, seed: int = 0, rounding: int = 1) -> Peak:
    """Return the bytes of live storages before one call of `mode` at `point` and at most during it.

    As where they are measured, an earlier call has created the optimiser's state, and gradients are absent before the call.
    Storages count with their sizes rounded up to a multiple of `rounding`: 512 is what CUDA's caching allocator does.
    Everything lives on a fake CPU, whatever `point.device` is: a CPU build of torch cannot run autograd on a fake GPU.
    """
    return Simulation(arm, point, seed=seed).peak(point.batch, mode, penalty, rounding=rounding)


class Simulation:
    """The network of `arm` with the sizes of `point`, for calls of any batch size."""

    def __init__(self, arm: Arm, point: Point, *, seed: int = 0) -> None:
        self._arm, self._seed = arm, seed
        self._point = point.model_copy(update={"device": "cpu"})
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        if "kan" in arm.requires:
            # pykan fits splines by least squares while it is built, which has no fake form.
            self._module = arm.build(workload.network(self._point, seed))
            return
        dtype: torch.dtype = getattr(torch, point.dtype)
        source = KAN(list(point.layers), point.grid_size, point.spline_order, device="meta", dtype=dtype)
        with self._mode, warnings.catch_warnings():
            # An arm that copies the network with copy.deepcopy makes torch itself look at the address of a fake tensor.
            warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor", UserWarning)
            self._module = arm.build(_fake_copy(source, self._mode))

    def peak(self, batch: int, mode: Mode, penalty: Penalty = "none", *, rounding: int = 1) -> Peak:
        """Return the bytes before and at most during one call on `batch` samples; see `simulated_peak`."""
        point = self._point.model_copy(update={"batch": batch})
        module = _fake_copy(self._module, self._mode)
        with self._mode, FakeStorages(tensors_of(module), rounding=rounding) as live, _last_blocks_only(live):
            call = workload.call(self._arm, module, workload.data(point, self._seed), mode, penalty)
            call()
            for parameter in module.parameters():
                parameter.grad = None
            gc.collect()
            live.reset_peak()
            call()
        return Peak(live.before, live.peak)


class FakeStorages(LiveStorages):
    """Live storages of fake tensors, as large as the real ones would be."""

    def least_bytes(self, func: Any, args: Any) -> int:
        """Return the bytes of the first input for mse_loss, whose scalar keeps the storage of all squared differences."""
        if func is not torch.ops.aten.mse_loss.default or (len(args) > 2 and args[2] == 0):
            return 0
        size: int = args[0].numel() * args[0].element_size()
        return size


@contextmanager
def _last_blocks_only(live: LiveStorages) -> Iterator[None]:
    """Let `efficient_kan` take all blocks of a loop but the last full ones as a single one that does not count for the peak.

    A loop over a hundred million samples in blocks of some thousand would take minutes. Every block leaves the same kind of
    result behind, and the results add up to the same bytes however they are cut; the peak of the loop is in its last full
    block, when all but one are there. The block before it does not count either, because what a loop's variables still hold
    of the block before is the large one.
    """
    whole = native._blocks

    def last(length: int, size: int) -> Iterator[slice]:
        start = (length // size - 2) * size
        if start < 2 * size:
            yield from whole(length, size)
            return
        with live.paused():
            yield slice(0, start)
            yield slice(start, start + size)
        for rest in whole(length - start - size, size):
            yield slice(start + size + rest.start, start + size + rest.stop)

    native._blocks = last
    try:
        yield
    finally:
        native._blocks = whole


_Module = TypeVar("_Module", bound=nn.Module)


def _fake_copy(module: _Module, mode: FakeTensorMode) -> _Module:
    """Return `module` with fake tensors on a CPU in place of its parameters and buffers; what it shares, the copy shares."""
    memo: dict[int, object] = {}

    def fake(tensor: Tensor) -> Tensor:
        with mode:
            return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="cpu")

    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(fake(parameter), parameter.requires_grad)
    for buffer in module.buffers():
        memo[id(buffer)] = fake(buffer)
    return copy.deepcopy(module, memo)
