"""Peak memory of a call of any size on `meta` tensors: shapes are followed, nothing is computed and nothing is allocated.

What an operator allocates and frees inside is not seen: simulated bytes stand beside measured ones and never in their place.

`policy` names the device that is followed. "cpu": the layer's blocks are those of a CPU, Adam handles one parameter after the
other, copies in a common dtype count, see `benchmarks.measure.live.promoted_copies`, and so do real tensors such as Adam's
step counts. "cuda": Adam handles all parameters at once (torch's default there, with temporaries of their size), no such
copies, and what stays in the host's memory does not count. Not followed are the workspaces of cuBLAS (8 to 32 MiB),
temporaries inside kernels, the CUDA context, and fragmentation.

Of this package's layers "cpu" follows the kernel that this machine has, compiled where numba is, and "cuda" the kernel `native`
with the blocks of a GPU, wherever it is simulated. The Triton kernels, which make features in registers, are not followed.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from benchmarks.measure import shortcuts, workload
from benchmarks.measure.live import tensors_of
from benchmarks.measure.memory import Peak
from benchmarks.measure.meta import MetaStorages
from benchmarks.schema.cases import Mode, Penalty, Point, Policy
from efficient_kan import KAN, KANLinear
from efficient_kan._device import meta_stands_for
from reference.arm import Arm, Unsupported


def simulated_peak(
    arm: Arm,
    point: Point,
    mode: Mode,
    penalty: Penalty = "none",
    *,
    seed: int = 0,
    rounding: int = 1,
    policy: Policy = "cpu",
) -> Peak:
    """Return the bytes of live storages before one call of `mode` at `point` and at most during it.

    As where they are measured, an earlier call has created the optimiser's state, and gradients are absent before the call.
    Storages count with their sizes rounded up to a multiple of `rounding`: 512 is what CUDA's caching allocator does.
    `policy`, not `point.device`, says which device is followed; see the module's description.

    Raises `Unsupported` for an arm that looks at values, of which there are none.
    """
    return Simulation(arm, point, seed=seed, policy=policy).peak(point.batch, mode, penalty, rounding=rounding)


class Simulation:
    """The network of `arm` with the sizes of `point`, for calls of any batch size."""

    def __init__(self, arm: Arm, point: Point, *, seed: int = 0, policy: Policy = "cpu") -> None:
        self._arm, self._seed, self._policy = arm, seed, policy
        self._point = point.model_copy(update={"device": "meta"})
        if "kan" in arm.requires:
            # pykan fits splines by least squares while it is built, which has no form for meta tensors.
            built = arm.build(workload.network(point.model_copy(update={"device": "cpu"}), seed))
        else:
            dtype: torch.dtype = getattr(torch, point.dtype)
            source = KAN(list(point.layers), point.grid_size, point.spline_order, device="meta", dtype=dtype)
            built = _on_values(arm, lambda: arm.build(source))
        if policy == "cuda":
            _compute_natively(built)
        self._module = _meta_copy(built)
        self._equal_edges = shortcuts.equal_edges(built)

    def peak(self, batch: int, mode: Mode, penalty: Penalty = "none", *, rounding: int = 1) -> Peak:
        """Return the bytes before and at most during one call on `batch` samples; see `simulated_peak`."""
        gc.freeze()  # so that the collection between the calls looks at what they made, not at all of torch
        try:
            return _on_values(self._arm, lambda: self._peak(batch, mode, penalty, rounding))
        finally:
            gc.unfreeze()

    def _peak(self, batch: int, mode: Mode, penalty: Penalty, rounding: int) -> Peak:
        point = self._point.model_copy(update={"batch": batch})
        module = _meta_copy(self._module)
        with MetaStorages(tensors_of(module), rounding=rounding, policy=self._policy) as live:
            with torch.device("meta"):
                data = workload.data(point, self._seed)
            shortcuts.shorten_symbolic(module, self._equal_edges, live)
            foreach = True if self._policy == "cuda" else None
            with meta_stands_for(self._policy), shortcuts.last_blocks_only(live):
                call = workload.call(self._arm, module, data, mode, penalty, foreach=foreach)
                call()
                for parameter in module.parameters():
                    parameter.grad = None
                gc.collect()
                live.reset_peak()
                call()
        return Peak(live.before, live.peak)


def _compute_natively(module: nn.Module) -> None:
    """Let the layers of this package inside `module`, changed in place, use torch's operations, which alone can be followed."""
    for layer in module.modules():
        if isinstance(layer, KANLinear):
            layer.kernel = "native"


_Result = TypeVar("_Result")


def _on_values(arm: Arm, function: Callable[[], _Result]) -> _Result:
    """Return what `function` gives. Raises `Unsupported` if it needs the values of a tensor."""
    try:
        return function()
    except (NotImplementedError, RuntimeError) as error:
        if "meta" not in str(error).lower():
            raise
        reason = str(error).partition(", but")[0].splitlines()[0]
        raise Unsupported(f"{arm.name} needs values, which a simulation does not have: {reason}") from error


_Module = TypeVar("_Module", bound=nn.Module)


def _meta_copy(module: _Module) -> _Module:
    """Return `module` with meta tensors in place of parameters, buffers and attributes; what it shares, the copy shares."""
    memo: dict[int, object] = {}

    def meta(tensor: Tensor) -> Tensor:
        return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="meta")

    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(meta(parameter), parameter.requires_grad)
    for buffer in module.buffers():
        memo[id(buffer)] = meta(buffer)
    for part in module.modules():
        # pykan's functions of every edge, in lists that nobody changes.
        memo |= {id(value): value for name, value in vars(part).items() if name.startswith("funs")}
        memo |= {id(value): meta(value) for value in vars(part).values() if isinstance(value, Tensor)}
    copied = copy.deepcopy(module, memo)
    for part in copied.modules():
        if "device" in vars(part):  # where layers of pykan make tensors
            part.device = "meta"  # type: ignore[assignment]
    return copied
