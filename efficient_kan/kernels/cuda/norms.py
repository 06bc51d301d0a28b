"""``edge_l1`` and its gradients: from tensors to launches of :mod:`.edges`; arguments as in :mod:`.products`."""

from __future__ import annotations

import torch
from torch import Tensor

from efficient_kan.kernels.cuda import edges, launch, shares, tiles


def edge_l1(x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, order: int) -> Tensor:
    """Means of ``|phi|``, ``(I, O)`` float32."""
    (B, I), (M, _, O) = x.shape, weight.shape
    t = tiles.for_launch("edge_l1", x, O, order, weight.dtype)
    programs = I * t.along(O, "BLOCK_O")
    count, length = shares.of_samples(B, programs, I * O, t.blocks["BLOCK_B"])
    out = x.new_empty(count, I, O)
    if out.numel():
        meta = launch.constants(base, knots, order)
        launch.start(
            edges.edge_l1, count * programs, t, x, base, knots, weight, out, B, I, O, M, knots.shape[1], length, **meta
        )
    return out.sum(0) / B


def edge_l1_input_grad(
    x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, scale: Tensor, order: int
) -> tuple[Tensor, Tensor]:
    """``scale`` is ``(I, O)`` float32, the gradient of the norms divided by the number of samples."""
    (B, I), (M, _, O) = x.shape, weight.shape
    grad_x, grad_base = torch.empty_like(x), launch.base_grad_like(x, base)
    if x.numel():
        t = tiles.for_launch("edge_l1_input_grad", x, O, order, weight.dtype)
        tensors = (x, base, knots, weight, scale, grad_x, grad_base)
        grid = I * t.along(B, "BLOCK_B")
        meta = launch.constants(base, knots, order)
        launch.start(edges.edge_l1_input_grad, grid, t, *tensors, B, I, O, M, knots.shape[1], **meta)
    return grad_x, grad_base


def edge_l1_weight_grad(x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, scale: Tensor, order: int) -> Tensor:
    """Shares of the gradient, ``(shares, M, I, O)`` float32, whose sum it is."""
    (B, I), (M, _, O) = x.shape, weight.shape
    count, length = shares.of_edge_l1_weight_grad(B, weight.shape)
    out = x.new_empty(count, M, I, O)
    if out.numel():
        t = tiles.for_launch("edge_l1_weight_grad", x, O, order, weight.dtype)
        grid = count * I * t.along(M, "BLOCK_M") * t.along(O, "BLOCK_O")
        tensors = (x, base, knots, weight, scale, out)
        meta = launch.constants(base, knots, order, weight.dtype)
        launch.start(edges.edge_l1_weight_grad, grid, t, *tensors, B, I, O, M, knots.shape[1], length, **meta)
    return out
