"""A layer's outputs from all of its bases, in few operations.

Shape legend: ``B`` samples, ``I`` in_features, ``O`` out_features, ``N = G + k`` bases of an input.

For coarse grids on a CPU, where the time of a small layer is that of calling operations. The bases come from
:mod:`efficient_kan.kernels.native.recursion`. They and the base activations are multiplied with weights of their own, so that
nothing is joined, and a mask of ones is left out.

Bases within :func:`efficient_kan.kernels.feature_budget` are kept for the backward pass, which is torch's own but for that of
the bases. Others are expanded block by block, forward and backward, in one node of autograd's graph. Derivatives of higher
order are those of differentiable operations.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from efficient_kan import _tracing, kernels
from efficient_kan.basis import local_basis
from efficient_kan.kernels import Parameters
from efficient_kan.kernels.native import blocks, recursion
from efficient_kan.kernels.native import parameters as of_layers

# Edges of a layer up to which its mask is compared with ones, which are kept for that, instead of being multiplied with.
_COMPARED_EDGES = 2**14


class _Weights(NamedTuple):
    """Of both products."""

    splines: Tensor  # shape: (O, I * N)
    base: Tensor  # shape: (O, I)
    scale: Tensor | None  # shape: (O, I): what ``splines`` are multiplied with
    mask: Tensor | None  # shape: (O, I): the same of ``base``; None where it is ones


def linear(x: Tensor, base: Tensor | None, knots: Tensor, parameters: Parameters, order: int) -> Tensor:
    """``y`` ``(B, O)`` with the weight that ``parameters`` fold to, outside autocast; see :class:`LayerInputs`."""
    graph = torch.is_grad_enabled()
    if graph and _streams(x, knots, parameters.spline_weight.dtype) and blocks.any_requires_grad(x, base, *parameters):
        y: Tensor = _Streamed.apply(x, base, knots, *parameters, order)  # type: ignore[no-untyped-call]
        return y
    table, weights = recursion.table(knots, order), _weights(parameters)
    if x.shape[0] <= blocks.MIN_ROWS // 4:
        return _outputs(x, base, table, weights, graph=graph)
    parts = [_outputs(blocks.part(x, rows), blocks.part(base, rows), table, weights, graph=graph) for rows in _rows(x, knots)]
    return blocks.join(parts)


def _outputs(x: Tensor, base: Tensor | None, table: recursion.Table, weights: _Weights, *, graph: bool) -> Tensor:
    if graph and x.requires_grad:
        matrix: Tensor = _bases(x, table)  # type: ignore[no-untyped-call]
    else:
        matrix = table.bases(x, slopes=False).matrix
    splines, of_active, *_ = weights
    dtype = of_active.dtype
    if x.dtype is not dtype:  # of 16 bits: one product, for the sum of two would be rounded twice
        joined = torch.cat(_features(matrix, x, base, dtype), dim=1)
        return functional.linear(joined, torch.cat((splines, of_active), dim=1))
    active = functional.silu(x) if base is None else base.to(dtype)
    return torch.addmm(torch.mm(active, of_active.t()), matrix, splines.t())


class _Bases(torch.autograd.Function):
    """The bases of samples, ``(B, I * N)``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, table: recursion.Table) -> Tensor:
        bases = table.bases(x, slopes=True)
        ctx.save_for_backward(x, bases.slopes)
        ctx.dim, ctx.table = bases.dim, table
        return bases.matrix

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, slopes = ctx.saved_tensors
        if torch.is_grad_enabled() or _tracing.transformed(grad):
            return _of_samples(x, ctx.table, grad), None
        if ctx.dim == 2:
            return (grad.view(slopes.shape) * slopes).sum(2), None
        return (grad.t().reshape(slopes.shape) * slopes).sum(1).t(), None


# Function.apply looks for transforms of torch.func first, which takes as long as some operations; there are none here.
_bases = super(torch.autograd.Function, _Bases).apply


def _of_samples(x: Tensor, table: recursion.Table, grad: Tensor) -> Tensor:
    """The gradient of samples from that of their bases ``(B, I * N)``, by differentiable operations."""
    local = local_basis(x.T, table.knots, table.order)
    of_bases = functional.pad(grad.T.reshape(x.shape[1], -1, x.shape[0]), (0, 0, 0, 1))  # with those that do not exist
    return (of_bases.gather(1, local.which) * local.derivatives).sum(1).T


class _Streamed(torch.autograd.Function):
    """The outputs, with nothing kept but the node's arguments."""

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
        ctx.save_for_backward(x, base, knots, spline_weight, scaler, mask, base_weight)
        ctx.order = order
        return linear(x, base, knots, Parameters(spline_weight, scaler, mask, base_weight), order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, base, knots, *rest = ctx.saved_tensors
        parameters = Parameters(*rest)
        if torch.is_grad_enabled() or _tracing.transformed(grad):
            return of_layers.differentiable(ctx, x, base, knots, parameters, grad)
        needs_x, needs_base, _, *needs = ctx.needs_input_grad[:-1]
        needs_inputs, needs_weight = needs_x or needs_base, any(needs)
        of_splines: Tensor | None = None
        of_actives: Tensor | None = None
        of_x, of_base = [], []
        with blocks.autocast_off(x):
            table, weights = recursion.table(knots, ctx.order), _weights(parameters)
            for rows in _rows(x, knots):
                part, of_y = blocks.part(x, rows), blocks.part(grad, rows)
                bases = table.bases(part, slopes=needs_inputs)
                if needs_weight:
                    matrix, active = _features(bases.matrix, part, blocks.part(base, rows), weights.base.dtype)
                    of_splines = blocks.total(of_splines, torch.mm(of_y.t(), matrix))
                    of_actives = blocks.total(of_actives, torch.mm(of_y.t(), active))
                    del matrix, active
                if needs_inputs:
                    assert bases.slopes is not None
                    if bases.dim == 2:
                        of_part = (torch.mm(of_y, weights.splines).view(bases.slopes.shape) * bases.slopes).sum(2)
                    else:
                        of_bases = torch.mm(weights.splines.t(), of_y.t())
                        of_part = (of_bases.view(bases.slopes.shape) * bases.slopes).sum(1).t()
                    of_active = torch.mm(of_y, weights.base)
                    if base is None:
                        of_part = of_part + torch.ops.aten.silu_backward(of_active.to(part.dtype), part)
                    else:
                        of_base.append(of_active.to(base.dtype))
                    of_x.append(of_part.to(x.dtype))
            gradients: tuple[Tensor | None, ...] = (None,) * 4
            if of_splines is not None and of_actives is not None:
                gradients = _gradients(parameters, weights, of_splines, of_actives)
        return blocks.join(of_x) if needs_x else None, blocks.join(of_base) if needs_base else None, None, *gradients, None


def _streams(x: Tensor, knots: Tensor, dtype: torch.dtype) -> bool:
    """Whether nothing is kept: the bases of all samples, and their slopes, are too many for that, or weights have 16 bits.

    Sums of products over blocks are rounded to 32 bits at least, which torch's own backward pass would not do.
    """
    numbers = x.numel() * knots.shape[1] * (2 if x.requires_grad else 1)
    return numbers * x.element_size() > kernels.feature_budget() or x.dtype is not dtype


def _weights(parameters: Parameters) -> _Weights:
    spline_weight, scaler, mask, base_weight = parameters
    if base_weight is None:
        return _Weights(spline_weight[..., :-1].flatten(1), spline_weight[..., -1], None, None)
    scale = scaler
    if mask is not None and _is_ones(mask):
        mask = None
    if mask is not None:
        scale, base_weight = mask if scaler is None else scaler * mask, base_weight * mask
    splines = spline_weight if scale is None else spline_weight * scale.unsqueeze(-1)
    return _Weights(splines.flatten(1), base_weight, scale, mask)


def _is_ones(mask: Tensor) -> bool:
    """Whether a mask is known to be ones. It can be written in ways that leave no trace, so this looks at its values."""
    if type(mask) is not Tensor or mask.numel() > _COMPARED_EDGES or torch._C._len_torch_dispatch_stack():
        return False
    return torch.equal(mask, _ones(mask.shape, mask.dtype, mask.device))


@lru_cache(maxsize=64)
def _ones(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.ones(shape, dtype=dtype, device=device)


def _rows(x: Tensor, knots: Tensor) -> Any:
    return blocks.row_slices(x, knots.shape[1], max(1, blocks.MIN_ROWS // 4))


def _features(matrix: Tensor, x: Tensor, base: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Bases ``(rows, I * N)`` and base activations ``(rows, I)`` in the dtype of the weights."""
    return matrix.to(dtype), (functional.silu(x) if base is None else base).to(dtype)


def _gradients(parameters: Parameters, weights: _Weights, of_splines: Tensor, of_actives: Tensor) -> tuple[Tensor | None, ...]:
    """Of the parameters, from those of the weights of both products."""
    spline_weight, scaler, _, base_weight = parameters
    dtype, scale, mask = spline_weight.dtype, weights.scale, weights.mask
    of_splines, of_actives = of_splines.to(dtype), of_actives.to(dtype)
    of_splines = of_splines.view(*of_actives.shape, -1)
    if base_weight is None:
        return torch.cat((of_splines, of_actives.unsqueeze(-1)), dim=-1), None, None, None
    of_scaler: Tensor | None = None
    if scaler is not None:
        of_scaler = (of_splines * spline_weight).sum(-1)
        of_scaler = of_scaler if mask is None else of_scaler * mask
    of_spline_weight = of_splines if scale is None else of_splines * scale.unsqueeze(-1)
    return of_spline_weight, of_scaler, None, of_actives if mask is None else of_actives * mask
