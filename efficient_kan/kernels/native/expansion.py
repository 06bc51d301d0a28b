"""Features of a block of samples, and the gradients of their product with weights, by differentiable operations."""

from __future__ import annotations

import torch
from torch import Tensor

from efficient_kan import _tracing
from efficient_kan.basis import LocalBasis, dense_basis, local_basis
from efficient_kan.kernels import LayerInputs
from efficient_kan.kernels.native import blocks


def tensors_of(inputs: LayerInputs) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    x, base, knots, weight, order = inputs.with_base()
    assert base is not None
    return x, base, knots, weight, order


def features_of(x: Tensor, base: Tensor, knots: Tensor, spline_order: int) -> Tensor:
    """The features ``(I, M, rows)`` of a block ``(rows, I)``, by operations that suit who looks on."""
    if not _tracing.plain_operations_only():
        return expand(x, base, knots, spline_order)[1]
    bases = dense_basis(x.T, knots, spline_order)
    return torch.cat((bases, base.T.unsqueeze(0).to(bases.dtype))).transpose(0, 1)


def expand(x: Tensor, base: Tensor, knots: Tensor, spline_order: int) -> tuple[LocalBasis, Tensor]:
    """The local bases of a block ``(rows, I)`` and its features ``(I, M, rows)``, the base activation last."""
    local = local_basis(x.T, knots, spline_order)
    features = knots.shape[1] - spline_order
    # Made from base, because under vmap base may have an example dimension that x and knots lack.
    zeros = base.new_zeros((), dtype=x.dtype).expand(x.shape[1], features, x.shape[0])
    dense = zeros.scatter(1, local.which, local.values)
    # Bases that do not exist were dropped into the last row, which is now overwritten.
    dense[:, -1] = base.T
    return local, dense


def pull_back(grad_features: Tensor, local: LocalBasis, x: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
    """From the gradient of features ``(I, M, rows)`` to those of ``x`` and ``base``, ``(rows, I)``."""
    of_x = (grad_features.gather(1, local.which) * local.derivatives).sum(1)
    return of_x.T.to(x.dtype), grad_features[:, -1].T.to(base.dtype, copy=True)


def input_grads(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor] | tuple[None, None]:
    return blocks.join_pairs(pairs) if pairs else (None, None)


def linear_gradients(inputs: LayerInputs, grad: Tensor, *, needs_inputs: bool, needs_weight: bool) -> tuple[Tensor | None, ...]:
    """The gradients of :func:`spline_linear` with respect to ``x``, ``base`` and ``weight``, by differentiable operations.

    Without a base, that of ``x`` is the whole one, through SiLU.
    """
    full = inputs.with_base()
    assert full.base is not None
    of_x, of_base, of_weight = gradients(
        full.x,
        full.base,
        full.knots,
        full.weight,
        full.spline_order,
        grad,
        needs_inputs=needs_inputs,
        needs_weight=needs_weight,
    )
    return through_silu(inputs, of_x, of_base), of_base, of_weight


def through_silu(inputs: LayerInputs, of_x: Tensor | None, of_base: Tensor | None) -> Tensor | None:
    """The gradient of ``x``, with that of the base activation passed on where ``inputs`` leave SiLU to the kernel."""
    if inputs.base is not None or of_x is None or of_base is None:
        return of_x
    share = torch.sigmoid(inputs.x)
    return of_x + of_base * share * (1 + inputs.x * (1 - share))


def gradients(
    x: Tensor,
    base: Tensor,
    knots: Tensor,
    weight: Tensor,
    spline_order: int,
    grad: Tensor,
    *,
    needs_inputs: bool,
    needs_weight: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    matrix = weight.flatten(1)
    grad_weight: Tensor | None = None
    grads: list[tuple[Tensor, Tensor]] = []
    with blocks.autocast_off(x):
        for rows in blocks.row_blocks(x):
            local, features = expand(x[rows], base[rows], knots, spline_order)
            if needs_weight:
                part = grad[rows].T @ features.flatten(0, 1).to(weight.dtype).T
                grad_weight = blocks.accumulate(grad_weight, part)
            if needs_inputs:
                shape = features.shape
                del features
                grads.append(pull_back((matrix.T @ grad[rows].T).view(shape), local, x, base))
        if grad_weight is not None:
            grad_weight = grad_weight.view(weight.shape).to(weight.dtype)
    return *input_grads(grads), grad_weight
