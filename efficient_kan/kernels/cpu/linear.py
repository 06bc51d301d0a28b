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
        features = None
        if ctx.needs_input_grad[3] and policy.keeps(x, weight):
            features = x.new_empty((x.shape[0], *weight.shape[1:]))
        ctx.save_for_backward(x, base, knots, weight, block.table, features)
        ctx.order = order
        return _dense_outputs(block, weight, features)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, base, knots, weight, table, features = ctx.saved_tensors
        needs_x, needs_base, _, needs_weight, _ = ctx.needs_input_grad
        if torch.is_grad_enabled() or policy.transformed(grad):
            return _differentiable(ctx, grad)
        grad = grad.contiguous()
        block = Block(x, base, knots, table, ctx.order)
        of_x = torch.empty_like(x) if needs_x or needs_base else None
        of_base = None if base is None or of_x is None else torch.empty_like(base)
        of_weight = torch.empty_like(weight) if needs_weight else None
        whole = [(slice(0, x.shape[0]), slice(0, x.shape[1]))]
        scratch: Tensor | None = None
        for rows, columns in policy.blocks(x, weight) if features is None else whole:
            part = grad[rows]
            if of_weight is not None:
                if features is not None:
                    flat = features.flatten(1)
                else:
                    scratch = _scratch(scratch, rows, columns, weight)
                    flat = _view(scratch, rows, columns, weight.shape[2])
                    block.expand(rows, columns, flat)
                target = of_weight[:, columns].flatten(1)
                torch.addmm(target, part.T, flat, beta=1 if rows.start else 0, out=target)
            if of_x is not None:
                scratch = _scratch(scratch, rows, columns, weight)
                of_features = _view(scratch, rows, columns, weight.shape[2])
                torch.mm(part, weight[:, columns].flatten(1), out=of_features)
                block.pull_back(rows, columns, of_features, of_x, of_base)
        return of_x if needs_x else None, of_base if needs_base else None, None, of_weight, None


def _dense_outputs(block: Block, weight: Tensor, features: Tensor | None) -> Tensor:
    """Outputs, by way of features that are kept if there is a tensor for them."""
    x = block.x
    y = x.new_empty((x.shape[0], weight.shape[0]))
    if features is not None:
        block.expand(slice(0, x.shape[0]), slice(0, x.shape[1]), features)
        return torch.mm(features.flatten(1), weight.flatten(1).T, out=y)
    scratch: Tensor | None = None
    for rows, columns in policy.blocks(x, weight):
        scratch = _scratch(scratch, rows, columns, weight)
        flat = _view(scratch, rows, columns, weight.shape[2])
        block.expand(rows, columns, flat)
        target = y[rows]
        torch.addmm(target, flat, weight[:, columns].flatten(1).T, beta=1 if columns.start else 0, out=target)
    return y


def _scratch(scratch: Tensor | None, rows: slice, columns: slice, weight: Tensor) -> Tensor:
    """Room for the features of a block: that of the block before if there was one, for the first is the largest."""
    if scratch is not None:
        return scratch
    return weight.new_empty((rows.stop - rows.start) * (columns.stop - columns.start) * weight.shape[2])


def _view(scratch: Tensor, rows: slice, columns: slice, features: int) -> Tensor:
    """The features of a block as a matrix."""
    height, width = rows.stop - rows.start, (columns.stop - columns.start) * features
    return scratch[: height * width].view(height, width)


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
            return _differentiable(ctx, grad)
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


def _differentiable(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients by operations that can be differentiated again, or transformed: those of the kernel `native`."""
    x, base, knots, weight = ctx.saved_tensors[:4]
    needs_x, needs_base, _, needs_weight, _ = ctx.needs_input_grad
    inputs = LayerInputs(x, base, knots, weight, ctx.order)
    of_x, of_base, of_weight = native.linear_gradients(
        inputs, grad, needs_inputs=needs_x or needs_base, needs_weight=needs_weight
    )
    return of_x if needs_x else None, of_base if needs_base else None, None, of_weight, None
