"""The layer's outputs and their gradients, by dense features and torch's products or by the sparse product."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from efficient_kan.kernels import LayerInputs, native
from efficient_kan.kernels.cpu import policy, sparse
from efficient_kan.kernels.cpu.basis import pieces
from efficient_kan.kernels.cpu.features import Block


def spline_linear(inputs: LayerInputs) -> Tensor:
    """``y[b, o] = sum_i phi_oi(x[b, i])``, shape ``(B, O)``; see :func:`efficient_kan.kernels.native.spline_linear`."""
    x, base, knots, weight, order = inputs
    x, knots, weight = x.contiguous(), knots.contiguous(), weight.contiguous()
    base = None if base is None else base.contiguous()
    differentiable = torch.is_grad_enabled() and (
        x.requires_grad or weight.requires_grad or (base is not None and base.requires_grad)
    )
    function = _Sparse if policy.sparse(weight, order) else _Dense
    if not differentiable:
        if function is _Sparse:
            return _sparse_outputs(x, base, knots, pieces(knots, order), sparse.rows(weight), weight.shape[0], order)
        return _dense_outputs(Block(x, base, knots, pieces(knots, order), order), weight, None)
    y: Tensor = function.apply(x, base, knots, weight, order)  # type: ignore[no-untyped-call]
    return y


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, order: int) -> Tensor:
        block = Block(x, base, knots, pieces(knots, order), order)
        kept: list[Tensor] | None = [] if ctx.needs_input_grad[3] and policy.keeps(x, weight) else None
        y = _dense_outputs(block, weight, kept)
        ctx.save_for_backward(x, base, knots, weight, block.table, *(kept or ()))
        ctx.order, ctx.keeps = order, kept is not None
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, base, knots, weight, table, *kept = ctx.saved_tensors
        needs_x, needs_base, _, needs_weight, _ = ctx.needs_input_grad
        if torch.is_grad_enabled() or policy.transformed(grad):
            return _differentiable(ctx, LayerInputs(x, base, knots, weight, ctx.order), grad)
        grad = grad.contiguous()
        block = Block(x, base, knots, table, ctx.order)
        of_x = torch.empty_like(x) if needs_x or needs_base else None
        of_base = None if base is None or of_x is None else torch.empty_like(base)
        of_weight = torch.empty_like(weight) if needs_weight else None
        for number, (rows, columns) in enumerate(policy.blocks(x, weight)):
            if of_weight is not None:
                _add_weight_gradient(block, rows, columns, grad[rows], of_weight, kept[number] if ctx.keeps else None)
            if of_x is not None:
                of_features = torch.mm(grad[rows], weight[:, columns].flatten(1))
                block.pull_back(rows, columns, of_features, of_x, of_base)
                del of_features
        return of_x if needs_x else None, of_base if needs_base else None, None, of_weight, None


def _dense_outputs(block: Block, weight: Tensor, kept: list[Tensor] | None) -> Tensor:
    """Outputs, block by block. The features of the blocks are appended to ``kept``, if there is such a list."""
    x = block.x
    y = x.new_empty((x.shape[0], weight.shape[0]))
    for rows, columns in policy.blocks(x, weight):
        features = _add_outputs(block, rows, columns, weight, y)
        if kept is not None:
            kept.append(features)
        del features
    return y


def _add_outputs(block: Block, rows: slice, columns: slice, weight: Tensor, y: Tensor) -> Tensor:
    """Add a block's outputs, those of the first inputs being the first, and return its features."""
    features, target = _expanded(block, rows, columns, weight), y[rows]
    torch.addmm(target, features, weight[:, columns].flatten(1).T, beta=1 if columns.start else 0, out=target)
    return features


def _add_weight_gradient(
    block: Block, rows: slice, columns: slice, grad: Tensor, of_weight: Tensor, features: Tensor | None
) -> None:
    """Add a block's share of the gradient of the weight; that of the first samples is the first."""
    if features is None:
        features = _expanded(block, rows, columns, of_weight)
    target = of_weight[:, columns].flatten(1)
    torch.addmm(target, grad.T, features, beta=1 if rows.start else 0, out=target)


def _expanded(block: Block, rows: slice, columns: slice, weight: Tensor) -> Tensor:
    """The features of a block as a matrix."""
    flat = weight.new_empty((rows.stop - rows.start, (columns.stop - columns.start) * weight.shape[2]))
    block.expand(rows, columns, flat)
    return flat


class _Sparse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, order: int) -> Tensor:
        table, rows = pieces(knots, order), sparse.rows(weight)
        ctx.save_for_backward(x, base, knots, weight, table, rows if ctx.needs_input_grad[0] else None)
        ctx.order = order
        return _sparse_outputs(x, base, knots, table, rows, weight.shape[0], order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, base, knots, weight, table, rows = ctx.saved_tensors
        needs_x, needs_base, _, needs_weight, _ = ctx.needs_input_grad
        if torch.is_grad_enabled() or policy.transformed(grad):
            return _differentiable(ctx, LayerInputs(x, base, knots, weight, ctx.order), grad)
        outputs = weight.shape[0]
        padded = _padded(grad.contiguous())
        of_x = of_base = of_weight = None
        if needs_x:
            of_x = torch.empty_like(x)
            sparse.trace_back(x, base is not None, knots, table, rows, padded, ctx.order, of_x)
        if needs_base:
            of_base = grad @ weight[..., -1]
        if needs_weight:
            of_rows = x.new_empty((*weight.shape[1:], padded.shape[1]))
            sparse.weigh(x, base, knots, table, padded, ctx.order, of_rows)
            of_weight = of_rows[..., :outputs].permute(2, 0, 1)
        return of_x, of_base, None, of_weight, None


def _sparse_outputs(
    x: Tensor, base: Tensor | None, knots: Tensor, table: Tensor, rows: Tensor, outputs: int, order: int
) -> Tensor:
    y = x.new_empty((x.shape[0], rows.shape[2]))
    sparse.multiply(x, base, knots, table, rows, order, y)
    return y if outputs == y.shape[1] else y[:, :outputs].contiguous()


def _padded(grad: Tensor) -> Tensor:
    """Rows of whole vectors."""
    width = sparse.stride(grad.shape[1], grad.dtype)
    return grad if width == grad.shape[1] else torch.nn.functional.pad(grad, (0, width - grad.shape[1]))


def _differentiable(ctx: Any, inputs: LayerInputs, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients by operations that can be differentiated again, or transformed: those of the kernel `native`."""
    needs_x, needs_base, _, needs_weight, _ = ctx.needs_input_grad
    of_x, of_base, of_weight = native.linear_gradients(
        inputs, grad, needs_inputs=needs_x or needs_base, needs_weight=needs_weight
    )
    return of_x if needs_x else None, of_base if needs_base else None, None, of_weight, None
