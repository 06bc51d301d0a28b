"""The launches as operators of torch: opaque to torch.compile, known to fake tensors, differentiable.

Every tensor of the size of the weights or larger is an argument or a result, so that memory simulated under fake tensors counts
it. First derivatives are kernels; where a graph of the backward is wanted, native's differentiable operations make it.

``by_native`` of the layer's product tells which of its three kernels native stands in for, as :mod:`.model` chose: a sum of its
flags. So it does for all where the check at first use fails.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from efficient_kan.kernels import LayerInputs, native
from efficient_kan.kernels.cuda import check, launch, model, norms, products, shares

_LAYER = "Tensor x, Tensor? base, Tensor knots, Tensor weight"


@torch.library.custom_op(
    "efficient_kan::cuda_linear", mutates_args=(), schema=f"({_LAYER}, int order, int by_native) -> Tensor"
)
def linear(x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, order: int, by_native: int) -> Tensor:
    """``y`` ``(B, O)`` from weights ``(M, I, O)``."""
    if by_native & model.FORWARD or check.failure(x.device, order, weight.dtype):
        return native.spline_linear(_native_inputs(x, base, knots, weight, order))
    return products.forward(x, base, knots, weight, order)


@torch.library.custom_op(
    "efficient_kan::cuda_linear_input_grad",
    mutates_args=(),
    schema=f"({_LAYER}, Tensor grad, int order, int by_native) -> (Tensor, Tensor)",
)
def linear_input_grad(
    x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, grad: Tensor, order: int, by_native: int
) -> tuple[Tensor, Tensor]:
    """The gradients of ``x`` and ``base``, ``(B, I)`` each; without a base the second is empty."""
    if by_native & model.INPUT_GRAD or check.failure(x.device, order, weight.dtype):
        of_x, of_base, _ = _native_grads("linear", x, base, knots, weight, grad, order, True, False)
        return of_x.contiguous(), of_base.contiguous()  # as the fakes say
    return products.input_grad(x, base, knots, weight, grad, order)


@torch.library.custom_op(
    "efficient_kan::cuda_linear_weight_grad",
    mutates_args=(),
    schema="(Tensor x, Tensor? base, Tensor knots, Tensor grad, int order, int by_native) -> Tensor",
)
def linear_weight_grad(x: Tensor, base: Tensor | None, knots: Tensor, grad: Tensor, order: int, by_native: int) -> Tensor:
    """Shares of the gradient of the weights, ``(shares, M, I, O)`` float32."""
    if by_native & model.WEIGHT_GRAD or check.failure(x.device, order, grad.dtype):
        weight = grad.new_empty(knots.shape[1] - order, x.shape[1], grad.shape[1])
        count, _ = shares.of_weight_grad(x.shape[0], weight.shape)
        found = _native_grads("linear", x, base, knots, weight, grad, order, False, True)[2]
        return _as_shares(found, count)
    return products.weight_grad(x, base, knots, grad, order)


@torch.library.custom_op("efficient_kan::cuda_edge_l1", mutates_args=(), schema=f"({_LAYER}, int order) -> Tensor")
def edge_l1(x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, order: int) -> Tensor:
    """The norms, ``(I, O)`` float32."""
    if check.failure(x.device, order, weight.dtype):
        found = native.edge_l1(_native_inputs(x, base, knots, weight, order))
        return found.T.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    return norms.edge_l1(x, base, knots, weight, order)


@torch.library.custom_op(
    "efficient_kan::cuda_edge_l1_input_grad", mutates_args=(), schema=f"({_LAYER}, Tensor scale, int order) -> (Tensor, Tensor)"
)
def edge_l1_input_grad(
    x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, scale: Tensor, order: int
) -> tuple[Tensor, Tensor]:
    """The gradients of ``x`` and ``base``, ``(B, I)`` each; without a base the second is empty."""
    if check.failure(x.device, order, weight.dtype):
        grad = scale.T * x.shape[0]
        of_x, of_base, _ = _native_grads("edge_l1", x, base, knots, weight, grad, order, True, False)
        return of_x.contiguous(), of_base.contiguous()  # as the fakes say
    return norms.edge_l1_input_grad(x, base, knots, weight, scale, order)


@torch.library.custom_op(
    "efficient_kan::cuda_edge_l1_weight_grad", mutates_args=(), schema=f"({_LAYER}, Tensor scale, int order) -> Tensor"
)
def edge_l1_weight_grad(x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, scale: Tensor, order: int) -> Tensor:
    """Shares of the gradient of the weights, ``(shares, M, I, O)`` float32."""
    if check.failure(x.device, order, weight.dtype):
        count, _ = shares.of_edge_l1_weight_grad(x.shape[0], weight.shape)
        grad = scale.T * x.shape[0]
        return _as_shares(_native_grads("edge_l1", x, base, knots, weight, grad, order, False, True)[2], count)
    return norms.edge_l1_weight_grad(x, base, knots, weight, scale, order)


@linear.register_fake
def _(x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, order: int, by_native: int) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[2], dtype=weight.dtype)


@linear_input_grad.register_fake
def _(
    x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, grad: Tensor, order: int, by_native: int
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), launch.base_grad_like(x, base)


@edge_l1_input_grad.register_fake
def _(x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, grad: Tensor, order: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), launch.base_grad_like(x, base)


@linear_weight_grad.register_fake
def _(x: Tensor, base: Tensor | None, knots: Tensor, grad: Tensor, order: int, by_native: int) -> Tensor:
    size = torch.Size((knots.shape[1] - order, x.shape[1], grad.shape[1]))
    return x.new_empty(shares.of_weight_grad(x.shape[0], size)[0], *size)


@edge_l1.register_fake
def _(x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, order: int) -> Tensor:
    return x.new_empty(weight.shape[1:])


@edge_l1_weight_grad.register_fake
def _(x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, scale: Tensor, order: int) -> Tensor:
    count, _ = shares.of_edge_l1_weight_grad(x.shape[0], weight.shape)
    return x.new_empty(count, *weight.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, base, knots, weight, ctx.order, *by_native = inputs
    ctx.by_native = sum(by_native)
    ctx.silu = base is None
    ctx.save_for_backward(*((x, knots, weight) if base is None else (x, knots, weight, base)))


def _saved(ctx: Any) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    x, knots, weight, *base = ctx.saved_tensors
    return x, None if ctx.silu else base[0], knots, weight


def _linear_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, base, knots, weight = _saved(ctx)
    needs_inputs, needs_weight = ctx.needs_input_grad[0] or ctx.needs_input_grad[1], ctx.needs_input_grad[3]
    of_x, of_base, of_weight = None, None, None
    if _differentiable():
        of_x, of_base, of_weight = _native_grads("linear", x, base, knots, weight, grad, ctx.order, needs_inputs, needs_weight)
    else:
        grad = grad.contiguous()
        if needs_inputs:
            of_x, of_base = linear_input_grad(x, base, knots, weight, grad, ctx.order, ctx.by_native)
        if needs_weight:
            of_weight = _sum(linear_weight_grad(x, base, knots, grad, ctx.order, ctx.by_native)).to(weight.dtype)
    return of_x, None if base is None else of_base, None, of_weight, None, None


def _edge_l1_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, base, knots, weight = _saved(ctx)
    needs_inputs, needs_weight = ctx.needs_input_grad[0] or ctx.needs_input_grad[1], ctx.needs_input_grad[3]
    of_x, of_base, of_weight = None, None, None
    if _differentiable():
        of_x, of_base, of_weight = _native_grads(
            "edge_l1", x, base, knots, weight, grad.T, ctx.order, needs_inputs, needs_weight
        )
    else:
        scale = (grad / x.shape[0]).contiguous()
        if needs_inputs:
            of_x, of_base = edge_l1_input_grad(x, base, knots, weight, scale, ctx.order)
        if needs_weight:
            of_weight = _sum(edge_l1_weight_grad(x, base, knots, weight, scale, ctx.order)).to(weight.dtype)
    return of_x, None if base is None else of_base, None, of_weight, None


def _differentiable() -> bool:
    """Whether the backward itself must consist of operations that torch differentiates or transforms."""
    return torch.is_grad_enabled() or torch._C._are_functorch_transforms_active()


linear.register_autograd(_linear_backward, setup_context=_save)
edge_l1.register_autograd(_edge_l1_backward, setup_context=_save)


def _native_inputs(x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, order: int) -> LayerInputs:
    return LayerInputs(x, base, knots, weight.permute(2, 1, 0), order)


def _native_grads(
    what: str,
    x: Tensor,
    base: Tensor | None,
    knots: Tensor,
    weight: Tensor,
    grad: Tensor,
    order: int,
    needs_inputs: bool,
    needs_weight: bool,
) -> tuple[Any, Any, Any]:
    """The backward of one of native's functions, the gradient of the weights feature-major."""
    inputs = _native_inputs(x, base, knots, weight, order)
    gradients = native.linear_gradients if what == "linear" else native.edge_l1_gradients
    of_x, of_base, of_weight = gradients(inputs, grad.to(weight.dtype), needs_inputs=needs_inputs, needs_weight=needs_weight)
    if base is None and of_x is not None:
        of_base = x.new_empty(0)
    return of_x, of_base, None if of_weight is None else of_weight.permute(2, 1, 0)


def _sum(shares: Tensor) -> Tensor:
    """Over the first axis; a view where that has one entry."""
    return shares[0] if shares.shape[0] == 1 else shares.sum(0)


def _as_shares(whole: Tensor, count: int) -> Tensor:
    """``whole`` in the first of ``count`` shares, the others zero."""
    out = torch.zeros((count, *whole.shape), dtype=torch.float32, device=whole.device)
    out[0] = whole
    return out
