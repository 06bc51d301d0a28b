"""What the kernel `native` does beside its matrix products, counted on tensors without values."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from efficient_kan._device import meta_stands_for
from efficient_kan.kernels import LayerInputs, native

_PRODUCTS = {"mm", "bmm", "addmm"}
# So many samples and inputs that what depends on knots and weights alone does not count.
_SAMPLES, _INPUTS = 4096, 8


class Work(NamedTuple):
    """Bytes that operations read and write, for every sample and input, and how many operations are launched."""

    bytes: float
    launches: int


class Counter(TorchDispatchMode):
    """Counts operations that launch something, and the bytes that those beside matrix products read and write."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.launches = 0
        self.bytes = 0

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operator(*args, **(kwargs or {}))
        name = operator._schema.name.removeprefix("aten::")
        if operator.is_view or "empty" in name:
            return result
        self.launches += 1
        if name not in _PRODUCTS:
            tensors = [part for part in tree_leaves((args, kwargs or {}, result)) if isinstance(part, Tensor)]
            self.bytes += sum(min(t.numel() * t.element_size(), t.untyped_storage().nbytes()) for t in tensors)
        return result


@cache
def work(kernel: str, grid_size: int, order: int) -> Work:
    """Of `native` in float32 on a GPU, for ``forward``, ``input_grad`` or ``weight_grad``, with one output."""
    shapes = (_INPUTS, grid_size + 2 * order + 1), (_SAMPLES, _INPUTS), (_SAMPLES, 1), (1, _INPUTS, grid_size + order + 1)
    knots, x, grad, weight = (torch.empty(shape, dtype=torch.float32, device="meta") for shape in shapes)
    inputs = LayerInputs(x, torch.empty_like(x), knots, weight, order)
    with torch.no_grad(), meta_stands_for("cuda"), Counter() as counted:
        if kernel == "forward":
            native.spline_linear(inputs)
        else:
            native.linear_gradients(inputs, grad, needs_inputs=kernel == "input_grad", needs_weight=kernel == "weight_grad")
    return Work(counted.bytes / (_SAMPLES * _INPUTS), counted.launches)
