"""The weight that a layer's parameters fold to, and the gradients of both."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from efficient_kan import kernels
from efficient_kan.kernels import LayerInputs, Parameters
from efficient_kan.kernels.native import expansion


def folded(parameters: Parameters) -> Tensor:
    """The weight ``(O, I, M)``, as :func:`efficient_kan.kernels.fold` gives it."""
    spline_weight, scaler, mask, base_weight = parameters
    if mask is None or base_weight is None:
        return spline_weight
    scale = mask if scaler is None else scaler * mask
    return torch.cat((spline_weight * scale.unsqueeze(-1), (base_weight * mask).unsqueeze(-1)), dim=-1)


def gradients(parameters: Parameters, of_weight: Tensor) -> tuple[Tensor | None, ...]:
    """Of the parameters, from that of the weight, by differentiable operations."""
    spline_weight, scaler, mask, base_weight = parameters
    if mask is None or base_weight is None:
        return of_weight, None, None, None
    return kernels.unfold(spline_weight, scaler, mask, of_weight)


def differentiable(
    ctx: Any, x: Tensor, base: Tensor | None, knots: Tensor, parameters: Parameters, grad: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients of a node ``(x, base, knots, *parameters, order)`` by operations that can be differentiated again, or
    transformed.
    """
    needs_x, needs_base, _, *needs = ctx.needs_input_grad[:-1]
    inputs = LayerInputs(x, base, knots, folded(parameters), ctx.order)
    of_x, of_base, of_weight = expansion.linear_gradients(
        inputs, grad, needs_inputs=needs_x or needs_base, needs_weight=any(needs)
    )
    found: tuple[Tensor | None, ...] = (None,) * 4
    if of_weight is not None:
        found = gradients(parameters, of_weight)
    return of_x if needs_x else None, of_base if needs_base else None, None, *found, None
