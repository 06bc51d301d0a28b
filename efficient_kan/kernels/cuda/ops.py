"""The launches as operators of torch: opaque to torch.compile, known to fake tensors, differentiable.

Every tensor of the size of the weights or larger is an argument or a result, so that memory simulated under fake tensors counts
it. First derivatives are kernels; where a graph of the backward is wanted, native's differentiable operations make it.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from efficient_kan.kernels import LayerInputs, native
from efficient_kan.kernels.cuda import check, launch

_LAYER = "Tensor x, Tensor base, Tensor knots, Tensor weight"


@torch.library.custom_op("efficient_kan::cuda_linear", mutates_args=(), schema=f"({_LAYER}, int order) -> Tensor")
def linear(x: Tensor, base: Tensor, knots: Tensor, weight: Tensor, order: int) -> Tensor:
    """``y`` ``(B, O)`` from weights ``(M, I, O)``."""
    if check.failure(x.device, order, weight.dtype):
        return native.spline_linear(_native_inputs(x, base, knots, weight, order))
    return launch.forward(x, base, knots, weight, order)


@torch.library.custom_op(
    "efficient_kan::cuda_linear_input_grad", mutates_args=(), schema=f"({_LAYER}, Tensor grad, int order) -> (Tensor, Tensor)"
)
def linear_input_grad(
    x: Tensor, base: Tensor, knots: Tensor, weight: Tensor, grad: Tensor, order: int
) -> tuple[Tensor, Tensor]:
    """The gradients of ``x`` and ``base``, ``(B, I)`` each."""
    if check.failure(x.device, order, weight.dtype):
        of_x, of_base, _ = _native_grads(native._SplineLinear, x, base, knots, weight, grad, order, (True, True, False))
        return of_x, of_base
    return launch.input_grad(x, base, knots, weight, grad, order)


@torch.library.custom_op(
    "efficient_kan::cuda_linear_weight_grad",
    mutates_args=(),
    schema="(Tensor x, Tensor base, Tensor knots, Tensor grad, int order) -> Tensor",
)
def linear_weight_grad(x: Tensor, base: Tensor, knots: Tensor, grad: Tensor, order: int) -> Tensor:
    """Shares of the gradient of the weights, ``(shares, M, I, O)`` float32."""
    if check.failure(x.device, order, grad.dtype):
        weight = grad.new_empty(knots.shape[1] - order, x.shape[1], grad.shape[1])
        count, _ = launch.weight_grad_shares(x.shape[0], weight.shape)
        found = _native_grads(native._SplineLinear, x, base, knots, weight, grad, order, (False, False, True))[2]
        return _as_shares(found, count)
    return launch.weight_grad(x, base, knots, grad, order)


@torch.library.custom_op("efficient_kan::cuda_edge_l1", mutates_args=(), schema=f"({_LAYER}, int order) -> Tensor")
def edge_l1(x: Tensor, base: Tensor, knots: Tensor, weight: Tensor, order: int) -> Tensor:
    """The norms, ``(I, O)`` float32."""
    if check.failure(x.device, order, weight.dtype):
        norms = native.edge_l1(_native_inputs(x, base, knots, weight, order))
        return norms.T.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    return launch.edge_l1(x, base, knots, weight, order)


@torch.library.custom_op(
    "efficient_kan::cuda_edge_l1_input_grad", mutates_args=(), schema=f"({_LAYER}, Tensor scale, int order) -> (Tensor, Tensor)"
)
def edge_l1_input_grad(
    x: Tensor, base: Tensor, knots: Tensor, weight: Tensor, scale: Tensor, order: int
) -> tuple[Tensor, Tensor]:
    """The gradients of ``x`` and ``base``, ``(B, I)`` each."""
    if check.failure(x.device, order, weight.dtype):
        grad = scale.T * x.shape[0]
        of_x, of_base, _ = _native_grads(native._EdgeL1, x, base, knots, weight, grad, order, (True, True, False))
        return of_x, of_base
    return launch.edge_l1_input_grad(x, base, knots, weight, scale, order)


@torch.library.custom_op(
    "efficient_kan::cuda_edge_l1_weight_grad", mutates_args=(), schema=f"({_LAYER}, Tensor scale, int order) -> Tensor"
)
def edge_l1_weight_grad(x: Tensor, base: Tensor, knots: Tensor, weight: Tensor, scale: Tensor, order: int) -> Tensor:
    """Shares of the gradient of the weights, ``(shares, M, I, O)`` float32."""
    if check.failure(x.device, order, weight.dtype):
        count, _ = launch.edge_l1_weight_grad_shares(x.shape[0], weight.shape)
        grad = scale.T * x.shape[0]
        return _as_shares(_native_grads(native._EdgeL1, x, base, knots, weight, grad, order, (False, False, True))[2], count)
    return launch.edge_l1_weight_grad(x, base, knots, weight, scale, order)


@linear.register_fake
def _(x: Tensor, base: Tensor, knots: Tensor, weight: Tensor, order: int) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[2], dtype=weight.dtype)


@linear_input_grad.register_fake
@edge_l1_input_grad.register_fake
def _(x: Tensor, base: Tensor, knots: Tensor, weight: Tensor, grad: Tensor, order: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(base)


@linear_weight_grad.register_fake
def _(x: Tensor, base: Tensor, knots: Tensor, grad: Tensor, order: int) -> Tensor:
    size = torch.Size((knots.shape[1] - order, x.shape[1], grad.shape[1]))
    return x.new_empty(launch.weight_grad_shares(x.shape[0], size)[0], *size)


@edge_l1.register_fake
def _(x: Tensor, base: Tensor, knots: Tensor, weight: Tensor, order: int) -> Tensor:
    return x.new_empty(weight.shape[1:])


@edge_l1_weight_grad.register_fake
def _(x: Tensor, base: Tensor, knots: Tensor, weight: Tensor, scale: Tensor, order: int) -> Tensor:
    count, _ = launch.edge_l1_weight_grad_shares(x.shape[0], weight.shape)
    return x.new_empty(count, *weight.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.order = inputs[4]


def _linear_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, base, knots, weight = ctx.saved_tensors
    needs = (*ctx.needs_input_grad[:2], ctx.needs_input_grad[3])
    if torch.is_grad_enabled():
        of_x, of_base, of_weight = _native_grads(native._SplineLinear, x, base, knots, weight, grad, ctx.order, needs)
        return of_x, of_base, None, of_weight, None
    of_x, of_base, of_weight = None, None, None
    grad = grad.contiguous()
    if needs[0] or needs[1]:
        of_x, of_base = linear_input_grad(x, base, knots, weight, grad, ctx.order)
    if needs[2]:
        of_weight = linear_weight_grad(x, base, knots, grad, ctx.order).sum(0).to(weight.dtype)
    return of_x, of_base, None, of_weight, None


def _edge_l1_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, base, knots, weight = ctx.saved_tensors
    needs = (*ctx.needs_input_grad[:2], ctx.needs_input_grad[3])
    if torch.is_grad_enabled():
        of_x, of_base, of_weight = _native_grads(native._EdgeL1, x, base, knots, weight, grad.T, ctx.order, needs)
        return of_x, of_base, None, of_weight, None
    of_x, of_base, of_weight = None, None, None
    scale = (grad / x.shape[0]).contiguous()
    if needs[0] or needs[1]:
        of_x, of_base = edge_l1_input_grad(x, base, knots, weight, scale, ctx.order)
    if needs[2]:
        of_weight = edge_l1_weight_grad(x, base, knots, weight, scale, ctx.order).sum(0).to(weight.dtype)
    return of_x, of_base, None, of_weight, None


linear.register_autograd(_linear_backward, setup_context=_save)
edge_l1.register_autograd(_edge_l1_backward, setup_context=_save)


def _native_inputs(x: Tensor, base: Tensor, knots: Tensor, weight: Tensor, order: int) -> LayerInputs:
    return LayerInputs(x, base, knots, weight.permute(2, 1, 0), order)


def _native_grads(
    function: Any, x: Tensor, base: Tensor, knots: Tensor, weight: Tensor, grad: Tensor, order: int, needs: tuple[bool, ...]
) -> tuple[Any, Any, Any]:
    """The backward of one of native's functions, the gradient of the weights feature-major."""
    saved = (x, base, knots, weight.permute(2, 1, 0))
    ctx = SimpleNamespace(saved_tensors=saved, needs_input_grad=(*needs[:2], False, needs[2], False), spline_order=order)
    of_x, of_base, _, of_weight, _ = function.backward(ctx, grad.to(weight.dtype))
    return of_x, of_base, None if of_weight is None else of_weight.permute(2, 1, 0)


def _as_shares(whole: Tensor, count: int) -> Tensor:
    """``whole`` in the first of ``count`` shares, the others zero."""
    out = torch.zeros((count, *whole.shape), dtype=torch.float32, device=whole.device)
    out[0] = whole
    return out
