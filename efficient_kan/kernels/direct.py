"""A layer's outputs in few operations: one node of autograd's graph, from the parameters on.

Shape legend: ``B`` samples, ``I`` in_features, ``O`` out_features, ``N = G + k`` bases and ``M = N + 1`` features per input,
``T = G + 2k + 1`` knots.

A part of the kernel `native`. A small layer takes as long as the calls of its operations, a large one as reading and writing
memory: the bases come from a recursion of few operations over vectors (:func:`_dense`), and the node includes scales and mask.
Features within :func:`efficient_kan.kernels.feature_budget` are kept for the backward pass; others are expanded block by block,
forward and backward. Derivatives of higher order are those of `native`'s differentiable operations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from efficient_kan import _tracing, kernels
from efficient_kan._device import device_type
from efficient_kan.kernels import LayerInputs, Parameters, native

# Knots of an input up to which all its bases cost less than to look for those that are not zero.
_DENSE_KNOTS = 72
# What an empty span counts as, and where samples are that are no numbers.
_LIMITS = {dtype: (torch.finfo(dtype).tiny, torch.finfo(dtype).max) for dtype in (torch.float32, torch.float64)}


class _Block(NamedTuple):
    """The features of some samples and the slopes of their bases, or of those (k + 1) bases that ``which`` names."""

    features: Tensor  # shape: (I, M, rows)
    slopes: Tensor | None = None  # shape: (I, N or k+1, rows)
    which: Tensor | None = None  # shape: (I, k+1, rows)


def linear(x: Tensor, base: Tensor | None, knots: Tensor, parameters: Parameters, order: int) -> Tensor:
    """``y`` ``(B, O)`` with the weight that ``parameters`` fold to, outside autocast; see :class:`LayerInputs`."""
    if torch.is_grad_enabled() and _any_requires_grad(x, base, *parameters):
        y: Tensor = _Layer.apply(x, base, knots, *parameters, order)  # type: ignore[no-untyped-call]
        return y
    weight = _folded(parameters)
    if x.shape[0] <= native._MIN_ROWS // 4:
        return _product(_expand(x, base, knots, order, slopes=False), weight)
    return _join([product for product, _ in _products(x, base, knots, weight, order, slopes=False)])


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
        weight = _folded(Parameters(spline_weight, scaler, mask, base_weight))
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
        return _join(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, base, knots, weight, *rest = ctx.saved_tensors
        parameters, kept = Parameters(*rest[:4]), rest[4:]
        needs_x, needs_base, _, *needs = ctx.needs_input_grad[:-1]
        if torch.is_grad_enabled() or _tracing.transformed(grad):
            return _differentiable(ctx, x, base, knots, parameters, grad)
        needs_inputs, needs_weight = needs_x or needs_base, any(needs)
        matrix, of_weight = weight.flatten(1).T, None
        of_x, of_base = [], []
        with native.autocast_off(x):
            for n, rows in enumerate(_rows(x, knots)):
                part, of_y = _part(x, rows), _part(grad, rows)
                if kept:
                    block = _Block(*kept[3 * n : 3 * n + 3])
                else:
                    block = _expand(part, None if base is None else _part(base, rows), knots, ctx.order, slopes=needs_inputs)
                if needs_weight:
                    product = torch.mm(of_y.T, _matrix(block, weight.dtype).T)
                    of_weight = product if of_weight is None else native.accumulate(of_weight, product)
                if needs_inputs:
                    of_features = torch.mm(matrix, of_y.T).view(block.features.shape)
                    of_x.append(_pull_back(of_features, block, part if base is None else None).to(x.dtype))
                    if base is not None:
                        of_base.append(of_features[:, -1].T.to(base.dtype, copy=True))
        gradients: tuple[Tensor | None, ...] = (None,) * 4
        if of_weight is not None:
            gradients = _of_parameters(parameters, of_weight.view(weight.shape).to(weight.dtype))
        return _join(of_x) if needs_x else None, _join(of_base) if needs_base else None, None, *gradients, None


def _products(
    x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, order: int, *, slopes: bool
) -> Iterator[tuple[Tensor, _Block]]:
    """Outputs and features of one block of samples after the other."""
    for rows in _rows(x, knots):
        block = _expand(_part(x, rows), None if base is None else _part(base, rows), knots, order, slopes=slopes)
        yield _product(block, weight), block


def _product(block: _Block, weight: Tensor) -> Tensor:
    return functional.linear(_matrix(block, weight.dtype).T, weight.flatten(1))


def _matrix(block: _Block, dtype: torch.dtype) -> Tensor:
    matrix = block.features.flatten(0, 1)
    return matrix if matrix.dtype == dtype else matrix.to(dtype)


def _expand(x: Tensor, base: Tensor | None, knots: Tensor, order: int, *, slopes: bool) -> _Block:
    if _is_dense(x, knots):
        return _dense(x, base, knots, order, slopes=slopes)
    base = functional.silu(x) if base is None else base
    local, features = native.expand(x, base, knots, order)
    return _Block(features, local.derivatives if slopes else None, local.which if slopes else None)


def _dense(x: Tensor, base: Tensor | None, knots: Tensor, order: int, *, slopes: bool) -> _Block:
    """All bases, by a recursion whose operations run along vectors of samples and have nothing to choose.

    A basis of order 1 is the difference of two ramps that fall from 1 to 0, one over each of its spans; the ramp of an empty
    span is a step. From there on :math:`B_{j,p} = L_{j+1} + s_j - s_{j+1}`, where ``L`` are the bases of order ``p - 1`` and
    ``s_j`` is the rising share of the j-th. An empty span counts as ``tiny``: what is divided by it is 0.
    """
    samples = x.reshape(-1, 1, 1) if x.shape[0] == 1 else x.T.contiguous().unsqueeze(1)  # shape: (I, 1, rows)
    t, last = knots.unsqueeze(-1), knots.shape[1] - 1  # shape of t: (I, T, 1)
    ends = t.narrow(1, 1, last)
    spans = ends - t.narrow(1, 0, last)
    level = ((ends - samples) / spans).nan_to_num_().clamp_(0.0, 1.0).diff(dim=1)
    ratios = None
    if order > 1:
        least, most = _LIMITS[knots.dtype]
        distance = (t - samples).nan_to_num_(nan=most)  # so that a sample that is no number lies beyond all knots
        for p in range(2, order + 1):
            n = last + 1 - p
            ratios = level / (t.narrow(1, p, n) - t.narrow(1, 0, n)).clamp_min_(least)
            level = (ratios * distance.narrow(1, 0, n)).diff(dim=1).add_(level.narrow(1, 1, n - 1))
    last_row = functional.silu(samples) if base is None else base.T.unsqueeze(1).to(x.dtype)
    features, bases = torch.cat((level, last_row), dim=1), last - order
    if not slopes:
        return _Block(features)
    if ratios is None:
        ratios = (samples >= t).diff(dim=1) / spans.clamp_min_(_LIMITS[knots.dtype][0])
    return _Block(features, (ratios.narrow(1, 0, bases) - ratios.narrow(1, 1, bases)).mul_(order))


def _pull_back(of_features: Tensor, block: _Block, silu_of: Tensor | None) -> Tensor:
    """From the gradient of features ``(I, M, rows)`` to that of samples ``(rows, I)``, with SiLU's share at those given."""
    assert block.slopes is not None
    of_bases = of_features[:, :-1] if block.which is None else of_features.gather(1, block.which)
    of_x = (of_bases * block.slopes).sum(1)
    if silu_of is not None:
        of_x += torch.ops.aten.silu_backward(of_features[:, -1].to(silu_of.dtype), silu_of.T)
    return of_x.T


def _folded(parameters: Parameters) -> Tensor:
    """The weight ``(O, I, M)``, as :func:`efficient_kan.kernels.fold` gives it."""
    spline_weight, scaler, mask, base_weight = parameters
    if mask is None or base_weight is None:
        return spline_weight
    scale = mask if scaler is None else scaler * mask
    return torch.cat((spline_weight * scale.unsqueeze(-1), (base_weight * mask).unsqueeze(-1)), dim=-1)


def _of_parameters(parameters: Parameters, of_weight: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients of parameters, by differentiable operations."""
    spline_weight, scaler, mask, base_weight = parameters
    if mask is None or base_weight is None:
        return of_weight, None, None, None
    return kernels.unfold(spline_weight, scaler, mask, of_weight)


def _differentiable(
    ctx: Any, x: Tensor, base: Tensor | None, knots: Tensor, parameters: Parameters, grad: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients by operations that can be differentiated again, or transformed."""
    needs_x, needs_base, _, *needs = ctx.needs_input_grad[:-1]
    spline_weight, scaler, mask, base_weight = parameters
    weight = spline_weight
    if mask is not None and base_weight is not None:
        weight = kernels.fold("native", spline_weight, scaler, mask, base_weight)
    inputs = LayerInputs(x, base, knots, weight, ctx.order)
    of_x, of_base, of_weight = native.linear_gradients(
        inputs, grad, needs_inputs=needs_x or needs_base, needs_weight=any(needs)
    )
    gradients: tuple[Tensor | None, ...] = (None,) * 4
    if of_weight is not None:
        gradients = _of_parameters(parameters, of_weight)
    return of_x if needs_x else None, of_base if needs_base else None, None, *gradients, None


def _part(samples: Tensor, rows: slice | None) -> Tensor:
    return samples if rows is None else samples[rows]


def _rows(x: Tensor, knots: Tensor) -> Iterable[slice | None]:
    """Slices over samples, or None for all of them."""
    if _is_dense(x, knots):
        return native.row_slices(x, knots.shape[1], max(1, native._MIN_ROWS // 4))
    return native.row_slices(x, 1, native._MIN_ROWS)


def _is_dense(x: Tensor, knots: Tensor) -> bool:
    """On other devices than CPUs native has the blocks, and so the memory, of its other functions."""
    return knots.shape[1] <= _DENSE_KNOTS and (x.is_cpu or device_type(x) == "cpu")


def _any_requires_grad(*tensors: Tensor | None) -> bool:
    return any(t is not None and t.requires_grad for t in tensors)


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
