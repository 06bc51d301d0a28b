"""The layer's product and its gradients: from tensors to launches of :mod:`.linear`, :mod:`.linear_grads` and :mod:`.local`.

``base`` is ``None`` where it is SiLU, which the kernels compute themselves; its gradient then is within that of ``x``.
Tensors are contiguous; weights are ``(M, I, O)``, of which :func:`forward` also takes a view of a contiguous ``(M, O, I)``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from efficient_kan.kernels.cuda import launch, linear, linear_grads, local, shares, support, tiles

# Samples that are sorted at a time.
_SORTED = 2**20


def forward(x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, order: int) -> Tensor:
    (B, I), (M, _, O) = x.shape, weight.shape
    if support.pays("forward", O, M, order, tiles.kind(weight.dtype)):
        return _local_forward(x, base, knots, weight.contiguous(), order)
    outputs_first = tiles.kind(weight.dtype) == "tf32"  # the only order that TF32 products take on Hopper
    weight = weight.mT.contiguous().mT if outputs_first else weight.contiguous()
    t = tiles.for_launch("forward", x, O, order, weight.dtype)
    programs = t.along(B, "BLOCK_B") * t.along(O, "BLOCK_O")
    if t.blocks["BLOCK_B"] > 64 and 2 * programs <= shares.FEW_PROGRAMS:
        t = t._replace(blocks={**t.blocks, "BLOCK_B": 64})
        programs = t.along(B, "BLOCK_B") * t.along(O, "BLOCK_O")
    count, length = shares.of_inputs(I, programs, B * O)
    y = x.new_empty(count, B, O, dtype=weight.dtype if count == 1 else torch.float32)
    if y.numel():
        tensors = (x, base, knots, weight, y)
        meta = {**launch.product_constants(base, knots, order, weight.dtype), "OUTPUTS_FIRST": outputs_first}
        launch.start(linear.forward, count * programs, t, *tensors, B, I, O, M, knots.shape[1], length, **meta)
    return y[0] if count == 1 else y.sum(0).to(weight.dtype)


def _local_forward(x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, order: int) -> Tensor:
    (B, I), (M, _, O) = x.shape, weight.shape
    t = tiles.for_launch("local_forward", x, O, order, weight.dtype)
    programs = t.along(B, "BLOCK_B") * t.along(O, "BLOCK_O")
    count, length = shares.of_inputs(I, programs, B * O)
    y = x.new_empty(count, B, O)
    if y.numel():
        tensors = (x, base, knots, weight, y)
        meta = launch.constants(base, knots, order)
        launch.start(local.forward, count * programs, t, *tensors, B, I, O, M, knots.shape[1], length, **meta)
    return y[0] if count == 1 else y.sum(0)


def input_grad(
    x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, grad: Tensor, order: int
) -> tuple[Tensor, Tensor]:
    (B, I), (M, _, O) = x.shape, weight.shape
    grad_x, grad_base = torch.empty_like(x), launch.base_grad_like(x, base)
    if x.numel() and support.pays("input_grad", O, M, order, tiles.kind(weight.dtype)):
        t = tiles.for_launch("local_input_grad", x, O, order, weight.dtype)
        tensors = (x, knots, weight.contiguous(), grad, grad_x, grad_base)
        grid = I * t.along(B, "BLOCK_B")
        launch.start(local.input_grad, grid, t, *tensors, B, I, O, M, knots.shape[1], **launch.constants(base, knots, order))
    elif x.numel():
        t = tiles.for_launch("input_grad", x, O, order, weight.dtype)
        grid = t.along(B, "BLOCK_B") * t.along(I, "BLOCK_I")
        tensors = (x, knots, weight.contiguous(), grad, grad_x, grad_base)
        meta = launch.product_constants(base, knots, order, weight.dtype)
        launch.start(linear_grads.input_grad, grid, t, *tensors, B, I, O, M, knots.shape[1], **meta)
    return grad_x, grad_base


def weight_grad(x: Tensor, base: Tensor | None, knots: Tensor, grad: Tensor, order: int) -> Tensor:
    """Shares of the gradient, ``(shares, M, I, O)`` float32, whose sum it is."""
    (B, I), O, T = x.shape, grad.shape[1], knots.shape[1]
    size = torch.Size((T - order, I, O))
    count, length = shares.of_weight_grad(B, size)
    out = x.new_empty(count, *size)
    if out.numel() and support.pays("weight_grad", O, size[0], order, tiles.kind(grad.dtype)):
        of_base = x.new_empty(count, 1, I, O)
        _dense_weight_grad(of_base, x, base, knots, grad, order, length)
        out[:, -1:] = of_base
        _local_weight_grad(out, x, knots, grad, order, length)
    elif out.numel():
        _dense_weight_grad(out, x, base, knots, grad, order, length)
    return out


def _dense_weight_grad(
    out: Tensor, x: Tensor, base: Tensor | None, knots: Tensor, grad: Tensor, order: int, length: int
) -> None:
    """Of as many features as ``out`` has, the base activation the last."""
    (B, I), O, T = x.shape, grad.shape[1], knots.shape[1]
    t = tiles.for_launch("weight_grad", x, O, order, grad.dtype)
    meta = launch.product_constants(base, knots, order, grad.dtype)
    grid = out.shape[0] * shares.weight_grad_programs(t, out.shape[1:])
    launch.start(linear_grads.weight_grad, grid, t, x, base, knots, grad, out, B, I, O, out.shape[1], T, length, **meta)


def _local_weight_grad(out: Tensor, x: Tensor, knots: Tensor, grad: Tensor, order: int, length: int) -> None:
    """All features but the last; a block of inputs at a time, so that what sorting takes does not grow with their number."""
    (count, M, I, O), T = out.shape, knots.shape[1]
    t = tiles.for_launch("local_weight_grad", x, O, order, grad.dtype)
    block = max(1, _SORTED // (count * length))
    for first in range(0, I, block):
        part = x[:, first : first + block].nan_to_num(math.inf, math.inf, -math.inf)  # what is no number is in no span
        part = functional.pad(part, (0, 0, 0, count * length - x.shape[0]), value=math.inf)
        ordered, rows = part.view(count, length, -1).mT.sort(dim=2, stable=True)
        ordered, rows, inputs = ordered.contiguous(), rows.contiguous(), ordered.shape[1]
        ends = torch.searchsorted(ordered, knots[first : first + inputs].expand(count, -1, -1).contiguous())
        lines = count * inputs * t.along(O, "BLOCK_O")
        run = -(-(M - 1) // max(1, min(shares.PROGRAMS // lines, (M - 1) // (4 * order))))
        grid = lines * -(-(M - 1) // run)
        tensors = (ordered, rows, ends, knots, grad, out)
        launch.start(local.weight_grad, grid, t, *tensors, I, O, M, T, inputs, first, length, run, K=order)
