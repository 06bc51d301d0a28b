"""The layer's outputs: expand a block of samples into features, multiply, and the same backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from efficient_kan.kernels import LayerInputs, native
from efficient_kan.kernels.cpu import policy
from efficient_kan.kernels.cpu.basis import pieces
from efficient_kan.kernels.cpu.features import expand, pull_back


def spline_linear(inputs: LayerInputs) -> Tensor:
    """``y[b, o] = sum_i phi_oi(x[b, i])``, shape ``(B, O)``; see :func:`efficient_kan.kernels.native.spline_linear`."""
    x, base, knots, weight, order = inputs
    x, knots = x.contiguous(), knots.contiguous()
    base = None if base is None else base.contiguous()
    differentiable = torch.is_grad_enabled() and (
        x.requires_grad or weight.requires_grad or (base is not None and base.requires_grad)
    )
    if not differentiable:
        return _dense(x, base, knots, pieces(knots, order), weight, order, None)
    y: Tensor = _SplineLinear.apply(x, base, knots, weight, order)  # type: ignore[no-untyped-call]
    return y


class _SplineLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, order: int) -> Tensor:
        table = pieces(knots, order)
        features = None
        if ctx.needs_input_grad[3] and policy.keeps(x, weight):
            features = x.new_empty((x.shape[0], *weight.shape[1:]))
        y = _dense(x, base, knots, table, weight, order, features)
        ctx.save_for_backward(x, base, knots, weight, table, features)
        ctx.order = order
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, base, knots, weight, table, features = ctx.saved_tensors
        needs_x, needs_base, _, needs_weight, _ = ctx.needs_input_grad
        if torch.is_grad_enabled() or policy.transformed(grad):
            return _differentiable(ctx, grad)
        grad = grad.contiguous()
        of_x = torch.empty_like(x) if needs_x or needs_base else None
        of_base = None if base is None or of_x is None else torch.empty_like(base)
        matrix = weight.flatten(1)
        of_matrix: Tensor | None = None
        scratch: Tensor | None = None
        for rows in policy.blocks(x, weight):
            part = grad[rows]
            block = None if features is None else features[rows]
            if needs_weight:
                if block is None:
                    scratch = _scratch(scratch, part, weight)
                    block = scratch[: part.shape[0]]
                    expand(x[rows], None if base is None else base[rows], knots, table, ctx.order, block)
                flat = block.flatten(1)
                of_matrix = part.T @ flat if of_matrix is None else of_matrix.addmm_(part.T, flat)
            if of_x is not None:
                scratch = _scratch(scratch, part, weight)
                of_features = scratch[: part.shape[0]]
                torch.mm(part, matrix, out=of_features.flatten(1))
                base_rows = None if of_base is None else of_base[rows]
                pull_back(x[rows], knots, table, ctx.order, of_features, of_x[rows], base_rows)
        of_weight = None if of_matrix is None else of_matrix.view(weight.shape)
        return of_x if needs_x else None, of_base if needs_base else None, None, of_weight, None


def _dense(
    x: Tensor, base: Tensor | None, knots: Tensor, table: Tensor, weight: Tensor, order: int, features: Tensor | None
) -> Tensor:
    """Outputs, by way of features that are kept if there is a tensor for them."""
    matrix = weight.flatten(1).T
    y = x.new_empty((x.shape[0], weight.shape[0]))
    scratch: Tensor | None = None
    for rows in policy.blocks(x, weight):
        out = y[rows]
        if features is not None:
            block = features[rows]
        else:
            scratch = _scratch(scratch, out, weight)
            block = scratch[: out.shape[0]]
        expand(x[rows], None if base is None else base[rows], knots, table, order, block)
        torch.mm(block.flatten(1), matrix, out=out)
    return y


def _scratch(scratch: Tensor | None, rows: Tensor, weight: Tensor) -> Tensor:
    """The features of a block, in the tensor of the block before if there was one: the first is the largest."""
    return rows.new_empty((rows.shape[0], *weight.shape[1:])) if scratch is None else scratch


def _differentiable(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients by operations that can be differentiated again, or transformed: those of the kernel `native`."""
    x, base, knots, weight = ctx.saved_tensors[:4]
    needs_x, needs_base, _, needs_weight, _ = ctx.needs_input_grad
    inputs = LayerInputs(x, base, knots, weight, ctx.order)
    of_x, of_base, of_weight = native.linear_gradients(
        inputs, grad, needs_inputs=needs_x or needs_base, needs_weight=needs_weight
    )
    return of_x if needs_x else None, of_base if needs_base else None, None, of_weight, None
