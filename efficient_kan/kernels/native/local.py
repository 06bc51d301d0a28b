"""A layer's outputs from the bases that are not zero: one node of autograd's graph, from the parameters on.

Shape legend: ``B`` samples, ``I`` in_features, ``O`` out_features, ``M = G + k + 1`` features per input.

For GPUs, and for fine grids on a CPU: to look for a sample's ``k + 1`` bases costs the same on every grid. Features within
:func:`efficient_kan.kernels.feature_budget` are kept for the backward pass; others are expanded block by block, forward and
backward. Derivatives of higher order are those of `native`'s differentiable operations.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from efficient_kan import _tracing, kernels
from efficient_kan.kernels import Parameters
from efficient_kan.kernels.native import blocks, expansion
from efficient_kan.kernels.native import parameters as of_layers


class _Block(NamedTuple):
    """The features of some samples and the slopes of those bases that ``which`` names."""

    features: Tensor  # shape: (I, M, rows)
    slopes: Tensor | None = None  # shape: (I, k+1, rows)
    which: Tensor | None = None  # shape: (I, k+1, rows)


def linear(x: Tensor, base: Tensor | None, knots: Tensor, parameters: Parameters, order: int) -> Tensor:
    """``y`` ``(B, O)`` with the weight that ``parameters`` fold to, outside autocast; see :class:`LayerInputs`."""
    if torch.is_grad_enabled() and blocks.any_requires_grad(x, base, *parameters):
        y: Tensor = _Layer.apply(x, base, knots, *parameters, order)  # type: ignore[no-untyped-call]
        return y
    weight = of_layers.folded(parameters)
    return blocks.join([product for product, _ in _products(x, base, knots, weight, order, slopes=False)])


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        base: Tensor | None,
        knots: Tensor,
        spline_weight: Tensor,
        scaler: Tensor | None,
        mask: Tensor | None,
        base_weight: Tensor | None,
        order: int,
    ) -> Tensor:
        weight = of_layers.folded(Parameters(spline_weight, scaler, mask, base_weight))
        slopes = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        size = x.numel() * weight.shape[2] * (2 if slopes else 1) * x.element_size()
        keeps = size <= kernels.feature_budget()
        parts: list[Tensor] = []
        kept: list[Tensor | None] = []
        for product, block in _products(x, base, knots, weight, order, slopes=slopes and keeps):
            parts.append(product)
            kept += block if keeps else ()
        ctx.save_for_backward(x, base, knots, weight, spline_weight, scaler, mask, base_weight, *kept)
        ctx.order = order
        return blocks.join(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, base, knots, weight, *rest = ctx.saved_tensors
        parameters, kept = Parameters(*rest[:4]), rest[4:]
        needs_x, needs_base, _, *needs = ctx.needs_input_grad[:-1]
        if torch.is_grad_enabled() or _tracing.transformed(grad):
            return of_layers.differentiable(ctx, x, base, knots, parameters, grad)
        needs_inputs, needs_weight = needs_x or needs_base, any(needs)
        matrix, of_weight = weight.flatten(1).T, None
        of_x, of_base = [], []
        with blocks.autocast_off(x):
            for n, rows in enumerate(blocks.row_slices(x, 1, blocks.MIN_ROWS)):
                part, of_y = blocks.part(x, rows), blocks.part(grad, rows)
                if kept:
                    block = _Block(*kept[3 * n : 3 * n + 3])
                else:
                    block = _expand(part, blocks.part(base, rows), knots, ctx.order, slopes=needs_inputs)
                if needs_weight:
                    product = torch.mm(of_y.T, _matrix(block, weight.dtype).T)
                    of_weight = product if of_weight is None else blocks.accumulate(of_weight, product)
                if needs_inputs:
                    of_features = torch.mm(matrix, of_y.T).view(block.features.shape)
                    of_x.append(_pull_back(of_features, block, part if base is None else None).to(x.dtype))
                    if base is not None:
                        of_base.append(of_features[:, -1].T.to(base.dtype, copy=True))
        gradients: tuple[Tensor | None, ...] = (None,) * 4
        if of_weight is not None:
            gradients = of_layers.gradients(parameters, of_weight.view(weight.shape).to(weight.dtype))
        return blocks.join(of_x) if needs_x else None, blocks.join(of_base) if needs_base else None, None, *gradients, None


def _products(
    x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, order: int, *, slopes: bool
) -> Iterator[tuple[Tensor, _Block]]:
    """Outputs and features of one block of samples after the other."""
    for rows in blocks.row_slices(x, 1, blocks.MIN_ROWS):
        block = _expand(blocks.part(x, rows), blocks.part(base, rows), knots, order, slopes=slopes)
        yield functional.linear(_matrix(block, weight.dtype).T, weight.flatten(1)), block


def _matrix(block: _Block, dtype: torch.dtype) -> Tensor:
    matrix = block.features.flatten(0, 1)
    return matrix if matrix.dtype == dtype else matrix.to(dtype)


def _expand(x: Tensor, base: Tensor | None, knots: Tensor, order: int, *, slopes: bool) -> _Block:
    base = functional.silu(x) if base is None else base
    local, features = expansion.expand(x, base, knots, order)
    return _Block(features, local.derivatives if slopes else None, local.which if slopes else None)


def _pull_back(of_features: Tensor, block: _Block, silu_of: Tensor | None) -> Tensor:
    """From the gradient of features ``(I, M, rows)`` to that of samples ``(rows, I)``, with SiLU's share at those given."""
    assert block.slopes is not None and block.which is not None
    of_x = (of_features.gather(1, block.which) * block.slopes).sum(1)
    if silu_of is not None:
        of_x += torch.ops.aten.silu_backward(of_features[:, -1].to(silu_of.dtype), silu_of.T)
    return of_x.T
