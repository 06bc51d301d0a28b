"""The model by which ``auto`` chooses on a GPU: what it says of native is counted again, and it is in its senses."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from efficient_kan import KANLinear, kernels
from efficient_kan.kernels import LayerInputs, native

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
_PRODUCTS = {"mm", "bmm", "addmm"}


class Moved(TorchDispatchMode):
    """Counts operations that launch something, and bytes that those beside matrix products read and write."""

    def __init__(self) -> None:
        super().__init__()
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


@needs_triton
@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("kernel", ["forward", "input_grad"])
def test_what_native_moves_and_launches(kernel: str, order: int) -> None:
    from efficient_kan.kernels.cuda import model

    B, I, O, G = 512, 32, 8, 5
    M = G + order + 1
    knots = torch.linspace(-2, 2, G + 2 * order + 1).repeat(I, 1)
    inputs = LayerInputs(torch.randn(B, I), torch.randn(B, I), knots, torch.randn(O, I, M), order)
    with torch.no_grad(), Moved() as counted:
        if kernel == "forward":
            native.spline_linear(inputs)
        else:
            native.linear_gradients(inputs, torch.randn(B, O), needs_inputs=True, needs_weight=False)
    assert counted.bytes == pytest.approx(model.native_bytes(kernel, model.Sizes(B, I, O, M, order)), rel=0.15)
    assert counted.launches == pytest.approx(model.native_launches(order), rel=0.15)


@needs_triton
@pytest.mark.parametrize("kind", ["float32", "tf32", "half"])
def test_more_work_takes_longer_and_very_many_outputs_are_natives(kind: str) -> None:
    from efficient_kan.kernels.cuda import model

    small, large = model.Sizes(4096, 64, 64, 9, 3), model.Sizes(16384, 256, 256, 9, 3)
    vast = model.Sizes(16384, 256, 16384, 9, 3)
    for kernel in model.KERNELS:
        assert model.times(kernel, small, kind).ours < model.times(kernel, large, kind).ours
        assert model.times(kernel, large, kind).ours <= model.times(kernel, large, kind).native
        assert model.times(kernel, vast, kind).ours > model.times(kernel, vast, kind).native
        assert model.times(kernel, large, kind).source == "model"


@needs_triton
def test_the_models_shares_are_the_tables() -> None:
    from efficient_kan.kernels.cuda import model, resources
    from tests.efficient_kan.test_cuda import TABLE

    table = resources.read(TABLE)
    names = {"float32": "float32", "tf32": "tf32", "half": "bfloat16"}
    for (kernel, kind), shares in model._SHARES.items():
        found = [table[resources.Variant(kernel, outputs, 3, names[kind], 90)].arbitrary for outputs in (64, 256)]
        assert shares == pytest.approx(found, abs=0.01), (kernel, kind)


def test_explain_without_a_gpu() -> None:
    assert kernels.explain(KANLinear(3, 4, kernel="native"), 7) == "native (by name)"
    assert kernels.explain(KANLinear(3, 4, device="meta"), 7) == "native (there is no other for meta)"
    layer = KANLinear(3, 4, kernel="cuda")
    if not torch.cuda.is_available():
        assert kernels.explain(layer, 7).startswith("native (")
    with pytest.raises(ValueError, match="layer"):
        kernels.explain(torch.nn.Linear(2, 3), 7)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch"):
        kernels.explain(layer, -1)
