"""Triton kernels for NVIDIA GPUs: features are computed in registers, beside the matrix product that uses them.

The contract of :mod:`efficient_kan.kernels` for weights in float32, bfloat16 and float16 on float32 knots and orders
1 to 5, outside the transforms of ``torch.func``. Native computes ``edge_std``, see there, and ``input_std``.
Float32 products are IEEE, or TF32 where torch's own would be; 16-bit weights are summed in float32. Results repeat bit by bit.
"""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from efficient_kan import _tracing
from efficient_kan.kernels import LayerInputs, native
from efficient_kan.kernels.cuda import folding, interpreter

ORDERS = range(1, 6)
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_CAPABILITY = (8, 0)


def spline_linear(inputs: LayerInputs) -> Tensor:
    """``y[b, o] = sum_i phi_oi(x[b, i])``, shape ``(B, O)`` in the dtype of ``weight``."""
    return layer_product(inputs, 0)


def layer_product(inputs: LayerInputs, by_native: int) -> Tensor:
    """:func:`spline_linear`, some of whose kernels native stands in for: the flags of :mod:`.model`."""
    from efficient_kan.kernels.cuda import ops

    y: Tensor = ops.linear(*_prepared(inputs, _layout(inputs.weight.dtype)), by_native)
    return y


def for_auto() -> ModuleType:
    """These kernels as ``auto`` takes them."""
    from efficient_kan.kernels.cuda import automatic as kernels

    return kernels


def explain(inputs: LayerInputs) -> str:
    """Which kernels compute these inputs' product under ``auto``, and why."""
    from efficient_kan.kernels.cuda import model, tiles

    return model.explained(model.sizes_of(inputs), tiles.kind(inputs.weight.dtype))


def failed(inputs: LayerInputs) -> str | None:
    """Why native computes with such inputs since the check at first use, or ``None``."""
    from efficient_kan.kernels.cuda import check

    return check.remembered(inputs.x.device, inputs.spline_order, inputs.weight.dtype)


def edge_l1(inputs: LayerInputs) -> Tensor:
    """``mean_b |phi_oi(x[b, i])|``, shape ``(O, I)``; the subgradient at zero is zero."""
    from efficient_kan.kernels.cuda import ops

    norms: Tensor = ops.edge_l1(*_prepared(inputs))
    return norms.T.to(inputs.weight.dtype)


def edge_std(inputs: LayerInputs) -> Tensor:
    """``std_b phi_oi(x[b, i])`` with divisor ``B - 1``, shape ``(O, I)``, by native.

    Its work is a covariance of ``M + 1`` features per input in float64, ``(M + 1) / O`` of the layer's own product, which
    batched matrix products of the vendor's library do at the full float64 rate of the chip.
    """
    return native.edge_std(inputs)


def input_std(inputs: LayerInputs) -> Tensor:
    """``std_b x[b, i]`` with divisor ``B - 1``, shape ``(I,)``, by native."""
    return native.input_std(inputs)


@cache
def unavailable() -> str | None:
    """Why this kernel cannot be used in this process, or ``None``."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if _interpreted():
        return interpreter.fault()
    if not torch.cuda.is_available():
        return "torch finds no CUDA GPU"
    if torch.version.hip is not None:
        return "made for NVIDIA GPUs, not for ROCm"
    return None


def takes(inputs: LayerInputs) -> bool:
    """Whether these kernels take the inputs; `native` takes the rest."""
    return refusal(inputs) is None


def refusal(inputs: LayerInputs) -> str | None:
    """Why native computes with these inputs where the kernels are available, or ``None``."""
    x, base, knots, weight, order = inputs
    if weight.dtype not in _DTYPES or knots.dtype != torch.float32 or not (base is None or base.dtype in _DTYPES):
        return f"weights in {weight.dtype} on knots in {knots.dtype}"
    if order not in ORDERS:
        return f"spline order {order}"
    if torch._C._are_functorch_transforms_active():
        return "inside a transform of torch.func"
    if _tracing.plain_operations_only():
        return "recorded for use elsewhere, or differentiated forwards"
    if not x.is_cuda:
        return None if _interpreted() and x.device.type == "cpu" else f"samples on {x.device}"
    # Not asked while tracing: where it matters, the check at first use fails and native computes.
    return None if torch.compiler.is_compiling() else _too_old(x.device)


@cache
def _too_old(device: torch.device) -> str | None:
    found = torch.cuda.get_device_capability(device)
    return None if found >= _CAPABILITY else f"{device} has compute capability {found}, below {_CAPABILITY}"


def _interpreted() -> bool:
    """Whether triton runs kernels in Python, on CPU tensors; it decides that when it defines them."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def fold(spline_weight: Tensor, scaler: Tensor | None, mask: Tensor, base_weight: Tensor) -> Tensor:
    """See :func:`efficient_kan.kernels.fold`; written as the layer's product reads it, so that nothing copies it again."""
    layout = _layout(_multiplied_as(spline_weight))
    if (written := folding.fold(spline_weight, scaler, mask, base_weight, layout)) is not None:
        return written
    scale = mask if scaler is None else scaler * mask
    base = (base_weight * mask).unsqueeze(-1)
    folded = torch.cat([part.permute(layout) for part in (spline_weight * scale.unsqueeze(-1), base)])
    return folded.permute([layout.index(axis) for axis in range(3)])


def _multiplied_as(weight: Tensor) -> torch.dtype:
    """The dtype of the weights in the layer's product: autocast's where that is on."""
    device = weight.device.type
    cast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if cast else weight.dtype


def _layout(dtype: torch.dtype) -> tuple[int, int, int]:
    """The axes of weights ``(O, I, M)`` in the order in which the layer's product reads them from memory.

    Feature-major; then outputs last, but for TF32, whose products on Hopper take the other order only.
    """
    if torch.compiler.is_compiling():  # which cannot trace how products are computed; the launch puts weights in order
        return (2, 1, 0)
    from efficient_kan.kernels.cuda import tiles

    return (2, 0, 1) if tiles.kind(dtype) == "tf32" else (2, 1, 0)


def _prepared(
    inputs: LayerInputs, layout: tuple[int, int, int] = (2, 1, 0)
) -> tuple[Tensor, Tensor | None, Tensor, Tensor, int]:
    """Contiguous tensors, and the weights ``(M, I, O)``, in memory in the order of ``layout``."""
    x, base, knots, weight, order = inputs
    base = None if base is None else base.contiguous()
    weight = weight.permute(layout).contiguous()
    return x.contiguous(), base, knots.contiguous(), weight if layout == (2, 1, 0) else weight.mT, order
