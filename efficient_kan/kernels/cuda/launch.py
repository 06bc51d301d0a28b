"""One launch of a kernel: its constants, its device, and tensors that may be missing."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
from torch import Tensor

from efficient_kan.kernels.cuda import tiles


def product_constants(base: Tensor | None, knots: Tensor, order: int, dtype: torch.dtype) -> dict[str, Any]:
    """Constants of the layer's product and its gradients that do not come from the tiles."""
    rough = tiles.kind(dtype) != "float32"
    interpreted = triton.knobs.runtime.interpret
    return {**constants(base, knots, order, dtype), "EVEN": rough, "FAST": rough and not interpreted}


def constants(base: Tensor | None, knots: Tensor, order: int, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """Constants that do not come from the tiles; the precision where ``dtype`` says what is multiplied in blocks."""
    meta: dict[str, Any] = {"K": order, "STEPS": tiles.steps(knots.shape[1]), "SILU": base is None}
    return meta if dtype is None else {**meta, "PRECISION": tiles.precision(dtype)}


def start(kernel: triton.JITFunction[..., Any], grid: int, t: tiles.Tiles, *args: Any, **meta: Any) -> None:
    """Run ``grid`` programs of a kernel on the device of its first tensor; ``None`` stands for a tensor it does not touch."""
    args = tuple(args[0] if argument is None else argument for argument in args)  # no base: any pointer will do
    device: AbstractContextManager[Any] = torch.cuda.device(args[0].device) if args[0].is_cuda else nullcontext()
    with device:
        kernel[(grid,)](*args, **meta, **t.blocks, num_warps=t.num_warps, num_stages=t.num_stages, maxnreg=tiles.REGISTERS)


def base_grad_like(x: Tensor, base: Tensor | None) -> Tensor:
    """Room for the gradient of ``base``; none where there is no base."""
    return x.new_empty(0) if base is None else torch.empty_like(base)
