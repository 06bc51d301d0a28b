"""Norms of edges and deviations of inputs, and their gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from efficient_kan import _tracing
from efficient_kan._precision import widest
from efficient_kan.kernels import LayerInputs
from efficient_kan.kernels.native import blocks, expansion


def edge_l1(inputs: LayerInputs) -> Tensor:
    """``mean_b |phi_oi(x[b, i])|``, shape ``(O, I)``; the subgradient at zero is zero."""
    if _tracing.plain_operations_only():
        return _mean_magnitudes(*expansion.tensors_of(inputs))
    norms: Tensor = _EdgeL1.apply(*inputs.with_base())  # type: ignore[no-untyped-call]
    return norms


def edge_std(inputs: LayerInputs) -> Tensor:
    """``std_b phi_oi(x[b, i])`` with divisor ``B - 1``, shape ``(O, I)``; its gradient is zero where the value is zero.

    The variance of a linear combination needs the covariance of its features alone: ``v . Cov(Phi_i) v``, an ``(M, M)``
    matrix per input. Accumulated in float64, because rounding errors of a covariance can exceed a small variance; on the CPU
    where the device has none.
    """
    place = widest(inputs.x.device)
    *tensors, order = expansion.tensors_of(inputs)
    x, base, knots, weight = (tensor.to(place.device) for tensor in tensors)
    if _tracing.plain_operations_only():
        norms = _deviations(x, base, knots, weight, order, place.dtype)[0]
    else:
        norms = _EdgeStd.apply(x, base, knots, weight, order, place.dtype)[0]  # type: ignore[no-untyped-call]
    return norms.to(inputs.x.device)


def input_std(inputs: LayerInputs) -> Tensor:
    """``std_b x[b, i]`` with divisor ``B - 1``, shape ``(I,)``; its gradient is zero where the value is zero."""
    return column_std(inputs.x)


def column_std(x: Tensor) -> Tensor:
    """``x.std(0)``, whose own loop along columns costs several times as much; its gradient is zero where the value is."""
    shifted = x - x[0].detach()  # so that equal samples have deviation zero, and a large mean costs no digits
    if shifted.requires_grad or _tracing.plain_operations_only():
        squares = (shifted - shifted.mean(0)).square()
    else:  # in place: the system hands out memory for as many numbers again more slowly than they are worked out
        shifted.sub_(shifted.mean(0))
        squares = shifted.mul_(shifted)  # vmap has no rule for square_()
    return _root(squares.sum(0) / (x.shape[0] - 1))


def _mean_magnitudes(x: Tensor, base: Tensor, knots: Tensor, weight: Tensor, spline_order: int) -> Tensor:
    vectors = _in_range(weight).transpose(0, 1)  # shape: (I, O, M)
    wide = torch.promote_types(weight.dtype, torch.float32)
    total: Tensor | None = None
    with blocks.autocast_off(x):
        for rows in blocks.row_blocks(x, share=blocks.EDGE_SHARE, outputs=weight.shape[0]):
            features = expansion.features_of(x[rows], base[rows], knots, spline_order).to(vectors.dtype)
            parts = [
                torch.linalg.vector_norm(vectors[cols] @ features[cols], ord=1, dim=2, dtype=wide)
                for cols in blocks.column_blocks(features, vectors)
            ]
            total = blocks.accumulate(total, torch.cat(parts))
        assert total is not None
        return (total / x.shape[0]).to(weight.dtype).T


def _in_range(tensor: Tensor) -> Tensor:
    """The same in float32 if it is of float16: values of edges, and their gradients over ``B``, may leave its range."""
    return tensor.to(torch.float32) if tensor.dtype == torch.float16 else tensor


class _EdgeL1(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, base: Tensor, knots: Tensor, weight: Tensor, spline_order: int) -> Tensor:
        return _mean_magnitudes(x, base, knots, weight, spline_order)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.spline_order = inputs[4]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs_inputs = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        x, base, knots, weight = ctx.saved_tensors
        of_x, of_base, of_weight = _edge_l1_gradients(x, base, knots, weight, ctx.spline_order, grad, needs_inputs=needs_inputs)
        return of_x, of_base, None, of_weight, None


def edge_l1_gradients(
    inputs: LayerInputs, grad: Tensor, *, needs_inputs: bool, needs_weight: bool
) -> tuple[Tensor | None, ...]:
    """The gradients of :func:`edge_l1`, as :func:`linear_gradients` gives those of :func:`spline_linear`."""
    full = inputs.with_base()
    assert full.base is not None
    of_x, of_base, of_weight = _edge_l1_gradients(
        full.x, full.base, full.knots, full.weight, full.spline_order, grad, needs_inputs=needs_inputs
    )
    return expansion.through_silu(inputs, of_x, of_base), of_base, of_weight if needs_weight else None


def _edge_l1_gradients(
    x: Tensor, base: Tensor, knots: Tensor, weight: Tensor, spline_order: int, grad: Tensor, *, needs_inputs: bool
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    vectors = _in_range(weight).transpose(0, 1)
    scale = (_in_range(grad).T / x.shape[0]).unsqueeze(-1)  # shape: (I, O, 1)
    grad_vectors: Tensor | None = None
    grads: list[tuple[Tensor, Tensor]] = []
    with blocks.autocast_off(x):
        for rows in blocks.row_blocks(x, share=blocks.EDGE_SHARE, outputs=weight.shape[0]):
            local, features = expansion.expand(x[rows], base[rows], knots, spline_order)
            features = features.to(vectors.dtype)
            of_vectors, of_features = [], []
            for cols in blocks.column_blocks(features, vectors):
                signs = torch.sign(vectors[cols] @ features[cols]) * scale[cols]  # shape: (cols, O, rows)
                of_vectors.append(signs @ features[cols].mT)
                if needs_inputs:
                    of_features.append(vectors[cols].mT @ signs)
            grad_vectors = blocks.accumulate(grad_vectors, torch.cat(of_vectors))
            if needs_inputs:
                grads.append(expansion.pull_back(torch.cat(of_features), local, x, base))
        assert grad_vectors is not None
        return *expansion.input_grads(grads), grad_vectors.transpose(0, 1).to(weight.dtype)


def _deviations(
    x: Tensor, base: Tensor, knots: Tensor, weight: Tensor, spline_order: int, wide: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Of every edge ``(O, I)``, and the means of the features, by sums in the dtype ``wide``."""
    with blocks.autocast_off(x):
        deviations, means = [], []
        for cols in blocks.covariance_blocks(x, weight):
            mean, covariance = _moments(x[:, cols], base[:, cols], knots[cols], spline_order, wide)
            vectors = _without_constant(weight[:, cols], wide)
            variance = ((vectors @ covariance) * vectors).sum(-1)
            deviation = _root(variance) if _tracing.plain_operations_only() else variance.clamp(min=0).sqrt()
            deviations.append(deviation.to(weight.dtype))
            means.append(mean)
        return torch.cat(deviations).T, torch.cat(means)


def _root(variance: Tensor) -> Tensor:
    """The square root, or 0 where rounding left the variance below 0; where it is 0 its gradient is 0."""
    positive = variance > 0
    return torch.where(positive, torch.where(positive, variance, 1.0).sqrt(), torch.where(variance < 0, 0.0, variance))


class _EdgeStd(torch.autograd.Function):
    """Returns the deviations and the mean features, which backward needs again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, base: Tensor, knots: Tensor, weight: Tensor, spline_order: int, wide: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        return _deviations(x, base, knots, weight, spline_order, wide)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs[:4], *output)
        ctx.mark_non_differentiable(output[1])
        ctx.spline_order, ctx.wide = inputs[4:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, base, knots, weight, deviations, means = ctx.saved_tensors
        order, wide = ctx.spline_order, ctx.wide
        needs_inputs = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        scale = over_deviation(grad.to(wide), deviations.to(wide), x.shape[0])
        grad_weight: list[Tensor] = []
        columns: list[tuple[Tensor, Tensor]] = []
        with blocks.autocast_off(x):
            for cols in blocks.covariance_blocks(x, weight):
                bx, bbase, bknots = x[:, cols], base[:, cols], knots[cols]
                # The saved means are constants to autograd; derivatives of higher order need them as functions of x.
                mean = _moments(bx, bbase, bknots, order, wide)[0] if torch.is_grad_enabled() else means[cols]
                vectors = _without_constant(weight[:, cols], wide)
                scaled = scale.T[cols].unsqueeze(-1) * vectors  # shape: (cols, O, M+1)
                form = scaled.mT @ vectors  # shape: (cols, M+1, M+1)
                scatter: Tensor | None = None
                grads: list[tuple[Tensor, Tensor]] = []
                for rows in blocks.row_blocks(bx, share=blocks.FLOAT64_SHARE):
                    local, features = expansion.expand(bx[rows], bbase[rows], bknots, order)
                    centred = _with_constant(features, wide) - mean.unsqueeze(-1)
                    scatter = blocks.accumulate(scatter, centred @ centred.mT)
                    if needs_inputs:
                        of_features = form @ centred
                        of_features = torch.cat((of_features[:, :-2] + of_features[:, -1:], of_features[:, -2:-1]), dim=1)
                        grads.append(expansion.pull_back(of_features, local, x, base))
                assert scatter is not None
                grad_weight.append(_onto_weight(scaled @ scatter).to(weight.dtype))
                if needs_inputs:
                    columns.append(blocks.join_pairs(grads))
        of_weight = torch.cat(grad_weight, dim=1)
        if not needs_inputs:
            return None, None, None, of_weight, None, None
        grad_x, grad_base = (torch.cat(parts, dim=1) for parts in zip(*columns, strict=True))
        return grad_x, grad_base, None, of_weight, None, None


def over_deviation(grad: Tensor, deviation: Tensor, samples: int) -> Tensor:
    """Factor of (value - mean) in the gradient of a standard deviation; 0 where the deviation is 0.

    And where it is next to the smallest number, of which the quotient would overflow.
    """
    kind = torch.finfo(deviation.dtype)
    nonzero = deviation > kind.tiny / kind.eps
    return torch.where(nonzero, grad / torch.where(nonzero, deviation, 1.0), 0.0) / (samples - 1)


def _with_constant(features: Tensor, wide: torch.dtype) -> Tensor:
    """Features in the dtype ``wide`` and, as one more row, the sum of the bases: ``(I, M, rows) -> (I, M + 1, rows)``."""
    features = features.to(wide)
    return torch.cat((features, features[:, :-1].sum(1, keepdim=True)), dim=1)


def _without_constant(weight: Tensor, wide: torch.dtype) -> Tensor:
    """Split each spline into its mean coefficient and the rest: ``(O, I, M) -> (I, O, M + 1)`` in the dtype ``wide``.

    The bases sum to one inside the grid, so the mean adds nothing to a variance there, and left in the quadratic form it
    would cancel only to rounding.
    """
    vectors = weight.transpose(0, 1).to(wide)
    mean = vectors[..., :-1].mean(-1, keepdim=True)
    return torch.cat((vectors[..., :-1] - mean, vectors[..., -1:], mean), dim=-1)


def _onto_weight(grad_vectors: Tensor) -> Tensor:
    """The transpose of :func:`_without_constant`: ``(I, O, M + 1) -> (O, I, M)``."""
    rest, base, mean = grad_vectors[..., :-2], grad_vectors[..., -2:-1], grad_vectors[..., -1:]
    spline = rest - rest.mean(-1, keepdim=True) + mean / rest.shape[-1]
    return torch.cat((spline, base), dim=-1).transpose(0, 1)


def _moments(x: Tensor, base: Tensor, knots: Tensor, spline_order: int, wide: torch.dtype) -> tuple[Tensor, Tensor]:
    """Mean ``(I, M + 1)`` and covariance ``(I, M + 1, M + 1)`` of the features, merged over blocks (Chan et al. 1979)."""
    mean: Tensor | None = None
    scatter: Tensor | None = None
    count = 0
    for rows in blocks.row_blocks(x, share=blocks.FLOAT64_SHARE):
        features = _with_constant(expansion.features_of(x[rows], base[rows], knots, spline_order), wide)
        size = features.shape[-1]
        part = features.mean(-1)
        centred = features - part.unsqueeze(-1)
        if mean is None or scatter is None:
            mean, scatter = part, centred @ centred.mT
        else:
            shift = part - mean
            outer = shift.unsqueeze(-1) * shift.unsqueeze(-2) * (count * size / (count + size))
            scatter = scatter + centred @ centred.mT + outer
            mean = mean + shift * (size / (count + size))
        count += size
    assert mean is not None and scatter is not None
    return mean, scatter / (count - 1)
