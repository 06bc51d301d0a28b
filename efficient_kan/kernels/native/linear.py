"""A layer's outputs for who looks on: transforms of torch.func, compilers, tracers and exporters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from efficient_kan.kernels.native import blocks, expansion


def outputs(x: Tensor, base: Tensor, knots: Tensor, weight: Tensor, spline_order: int) -> Tensor:
    matrix = weight.flatten(1)
    with blocks.autocast_off(x):
        parts = []
        for rows in blocks.row_blocks(x):
            features = expansion.features_of(x[rows], base[rows], knots, spline_order)
            parts.append(features.flatten(0, 1).to(weight.dtype).T @ matrix.T)
        return blocks.join(parts)


class SplineLinear(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, base: Tensor, knots: Tensor, weight: Tensor, spline_order: int) -> Tensor:
        return outputs(x, base, knots, weight, spline_order)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.spline_order = inputs[4]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, base, knots, weight = ctx.saved_tensors
        of_x, of_base, of_weight = expansion.gradients(
            x,
            base,
            knots,
            weight,
            ctx.spline_order,
            grad,
            needs_inputs=ctx.needs_input_grad[0] or ctx.needs_input_grad[1],
            needs_weight=ctx.needs_input_grad[3],
        )
        return of_x, of_base, None, of_weight, None
