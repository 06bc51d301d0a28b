"""The weight of the layer's product from a layer's parameters, written once, where the kernels read it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from efficient_kan import _tracing
from efficient_kan.kernels import unfold

_TYPES = (Tensor, torch.nn.Parameter, FakeTensor)


def fold(
    spline_weight: Tensor, scaler: Tensor | None, mask: Tensor, base_weight: Tensor, layout: tuple[int, int, int]
) -> Tensor | None:
    """``(O, I, G + k + 1)`` with its axes in memory in the order of ``layout``; None where torch's operators have to do it."""
    if mask.requires_grad or _tracing.observed():
        return None
    for part in (spline_weight, scaler, mask, base_weight):
        if part is not None and (type(part) not in _TYPES or part.dtype != mask.dtype):
            return None
    folded: Tensor = _Fold.apply(spline_weight, scaler, mask, base_weight, layout)  # type: ignore[no-untyped-call]
    return folded


class _Fold(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        spline_weight: Tensor,
        scaler: Tensor | None,
        mask: Tensor,
        base_weight: Tensor,
        layout: tuple[int, int, int],
    ) -> Tensor:
        ctx.save_for_backward(spline_weight, scaler, mask)
        O, I, length = spline_weight.shape
        shape = (O, I, length + 1)
        folded = spline_weight.new_empty([shape[axis] for axis in layout]).permute([layout.index(axis) for axis in range(3)])
        torch.mul(spline_weight, _scale(scaler, mask), out=folded[..., :-1])
        torch.mul(base_weight, mask, out=folded[..., -1])
        return folded

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        spline_weight, scaler, mask = ctx.saved_tensors
        if torch.is_grad_enabled() or _tracing.transformed(grad):
            return *unfold(spline_weight, scaler, mask, grad), None
        of_spline, of_scaler = torch.empty_like(spline_weight), None
        if ctx.needs_input_grad[1]:
            of_scaler = torch.mul(grad[..., :-1], spline_weight, out=of_spline).sum(-1).mul_(mask)
        torch.mul(grad[..., :-1], _scale(scaler, mask), out=of_spline)
        return of_spline, of_scaler, None, grad[..., -1] * mask, None


def _scale(scaler: Tensor | None, mask: Tensor) -> Tensor:
    return (mask if scaler is None else scaler * mask).unsqueeze(-1)
