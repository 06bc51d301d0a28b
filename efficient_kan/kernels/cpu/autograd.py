"""The kernel's functions as nodes of autograd's graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from efficient_kan import kernels
from efficient_kan.kernels import LayerInputs, Parameters, native, unfold
from efficient_kan.kernels.cpu import dispatch
from efficient_kan.kernels.cpu.common.edges import scale_rows
from efficient_kan.kernels.cpu.common.tables import tables
from efficient_kan.kernels.cpu.penalties import edge_std as std
from efficient_kan.kernels.cpu.penalties.input_std import deviations as input_deviations
from efficient_kan.kernels.cpu.penalties.input_std import pull_back as pull_back_input
from efficient_kan.kernels.cpu.products import by_span
from efficient_kan.kernels.cpu.products.by_span import Layer


def spline_linear(inputs: LayerInputs) -> Tensor:
    """``y[b, o] = sum_i phi_oi(x[b, i])``, shape ``(B, O)``; see :func:`efficient_kan.kernels.native.spline_linear`."""
    x, base, knots, weight, order = inputs
    return unfolded_linear(x, base, knots, Parameters(weight.contiguous(), None, None, None), order)


def unfolded_linear(x: Tensor, base: Tensor | None, knots: Tensor, parameters: Parameters, order: int) -> Tensor:
    """The outputs with the weight that these parameters fold to; see :func:`efficient_kan.kernels.layer_linear`."""
    x, base, knots = x.contiguous(), None if base is None else base.contiguous(), knots.contiguous()
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, base, *parameters)):
        y: Tensor = _Linear.apply(x, base, knots, *parameters, order)  # type: ignore[no-untyped-call]
        return y
    multiplied = by_span.multiply(Layer(x, base, knots, tables(knots, order), parameters, order)).y
    assert multiplied is not None
    return multiplied


class _Linear(torch.autograd.Function):
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
        parameters, made = Parameters(spline_weight, scaler, mask, base_weight), tables(knots, order)
        ctx.save_for_backward(x, base, knots, *made, *parameters)
        ctx.order = order
        y = by_span.multiply(Layer(x, base, knots, made, parameters, order)).y
        assert y is not None
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, base, knots, guide, table, *rest = dispatch.saved(ctx)
        parameters = Parameters(*rest)
        needs_x, needs_base, _, *needs = ctx.needs_input_grad[:-1]
        if torch.is_grad_enabled() or dispatch.transformed(grad):
            return _differentiable(ctx, x, base, knots, parameters, grad)
        layer = Layer(x, base, knots, (guide, table), parameters, ctx.order)
        of_x, of_base, of_spline, of_scaler, of_base_weight = by_span.pull_back(
            layer, dispatch.dense(grad), needs_x=needs_x, needs_base=needs_base, needs_parameters=any(needs)
        )
        return of_x, of_base, None, of_spline, of_scaler, None, of_base_weight, None


def _differentiable(
    ctx: Any, x: Tensor, base: Tensor | None, knots: Tensor, parameters: Parameters, grad: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients by operations that can be differentiated again, or transformed: those of the kernel `native`."""
    spline_weight, scaler, mask, base_weight = parameters
    needs_x, needs_base, _, *needs = ctx.needs_input_grad[:-1]
    weight = spline_weight
    if mask is not None and base_weight is not None:
        weight = kernels.fold("native", spline_weight, scaler, mask, base_weight)
    of_x, of_base, of_weight = native.linear_gradients(
        LayerInputs(x, base, knots, weight, ctx.order), grad, needs_inputs=needs_x or needs_base, needs_weight=any(needs)
    )
    of_parameters: tuple[Tensor | None, ...] = (of_weight, None, None, None)
    if mask is not None and base_weight is not None and of_weight is not None:
        of_parameters = unfold(spline_weight, scaler, mask, of_weight)
    return of_x if needs_x else None, of_base if needs_base else None, None, *of_parameters, None


def edge_l1(inputs: LayerInputs) -> Tensor:
    """``mean_b |phi_oi(x[b, i])|``, shape ``(O, I)``; the subgradient at zero is zero."""
    norms: Tensor = _EdgeL1.apply(*_contiguous(inputs))  # type: ignore[no-untyped-call]
    return norms


def edge_std(inputs: LayerInputs) -> Tensor:
    """``std_b phi_oi(x[b, i])`` with divisor ``B - 1``, shape ``(O, I)``; its gradient is zero where the value is zero."""
    deviations: Tensor = _EdgeStd.apply(*_contiguous(inputs))  # type: ignore[no-untyped-call]
    return deviations


def input_std(inputs: LayerInputs) -> Tensor:
    """``std_b x[b, i]`` with divisor ``B - 1``, shape ``(I,)``; its gradient is zero where the value is zero."""
    deviations: Tensor = _InputStd.apply(inputs.x)  # type: ignore[no-untyped-call]
    return deviations


def _contiguous(inputs: LayerInputs) -> LayerInputs:
    x, base, knots, weight, order = inputs
    return LayerInputs(
        x.contiguous(), None if base is None else base.contiguous(), knots.contiguous(), weight.contiguous(), order
    )


def _folded(x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, order: int) -> Layer:
    return Layer(x, base, knots, tables(knots, order), Parameters(weight, None, None, None), order)


class _EdgeL1(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, order: int) -> Tensor:
        ctx.save_for_backward(x, base, knots, weight)
        ctx.order = order
        sums = by_span.multiply(_folded(x, base, knots, weight, order), outputs=False, sums=True).sums
        assert sums is not None
        return sums.sum(0).div_(x.shape[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, base, knots, weight = dispatch.saved(ctx)
        needs_x, needs_base, _, needs_weight, _ = ctx.needs_input_grad
        if torch.is_grad_enabled() or dispatch.transformed(grad):
            return _of_native(native.edge_l1, ctx, (x, base, knots, weight), grad)
        factors = dispatch.dense(grad / max(x.shape[0], 1))
        layer, options = _folded(x, base, knots, weight, ctx.order), {"needs_x": needs_x, "needs_base": needs_base}
        of_x, of_base, of_weight, *_ = by_span.pull_back(layer, None, factors=factors, needs_parameters=needs_weight, **options)
        return of_x, of_base, None, of_weight, None


class _EdgeStd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, order: int) -> Tensor:
        layer = _folded(x, base, knots, weight, order)
        found = std.deviations(layer)
        ctx.save_for_backward(x, base, knots, weight, *found)
        ctx.order = order
        return found.values

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, base, knots, weight, *found = dispatch.saved(ctx)
        needs_x, needs_base, _, needs_weight, _ = ctx.needs_input_grad
        if torch.is_grad_enabled() or dispatch.transformed(grad):
            return _of_native(native.edge_std, ctx, (x, base, knots, weight), grad)
        of, of_x, of_base = std.Deviations(*found), None, None
        factors = native.over_deviation(grad, of.values, x.shape[0]).contiguous()
        if needs_x or needs_base:
            layer = _folded(x, base, knots, weight, ctx.order)
            forms = std.forms(layer, of, factors)
            of_x, of_base, *_ = by_span.pull_back(
                layer, None, forms=forms, needs_x=needs_x, needs_base=needs_base, needs_parameters=False
            )
        return of_x, of_base, None, _scaled(of.gradient, factors) if needs_weight else None, None


class _InputStd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        deviation, mean = input_deviations(x.contiguous())
        ctx.save_for_backward(x, mean, deviation)
        return deviation

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor | None:
        x, mean, deviation = dispatch.saved(ctx)
        if torch.is_grad_enabled() or dispatch.transformed(grad):
            again = torch.is_grad_enabled()
            with torch.enable_grad():
                view = x.view_as(x)
                of_x: Tensor = torch.autograd.grad(native.column_std(view), view, grad, create_graph=again)[0]
            return of_x
        return pull_back_input(x, deviation, mean, dispatch.dense(grad))


def _scaled(gradient: Tensor, grad: Tensor) -> Tensor:
    """``gradient * grad.unsqueeze(-1)``."""
    out = torch.empty_like(gradient)
    scale_rows(gradient, dispatch.dense(grad), out)
    return out


def fold(spline_weight: Tensor, scaler: Tensor | None, mask: Tensor, base_weight: Tensor) -> Tensor:
    """The weight of :class:`LayerInputs` from contiguous parameters; see :func:`efficient_kan.kernels.fold`."""
    folded: Tensor = _Fold.apply(spline_weight, scaler, mask, base_weight)  # type: ignore[no-untyped-call]
    return folded


class _Fold(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, spline_weight: Tensor, scaler: Tensor | None, mask: Tensor, base_weight: Tensor) -> Tensor:
        ctx.save_for_backward(spline_weight, scaler, mask)
        outputs, inputs, length = spline_weight.shape
        folded = spline_weight.new_empty((outputs, inputs, length + 1))
        scale_rows(spline_weight, mask if scaler is None else scaler * mask, folded[..., :-1])
        torch.mul(base_weight, mask, out=folded[..., -1])
        return folded

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        spline_weight, scaler, mask = dispatch.saved(ctx)
        if torch.is_grad_enabled() or dispatch.transformed(grad):
            return unfold(spline_weight, scaler, mask, grad)
        grad, of_spline = dispatch.dense(grad), torch.empty_like(spline_weight)
        of_scaler = None if scaler is None else torch.empty_like(scaler)
        other = None if scaler is None else spline_weight
        scale_rows(grad[..., :-1], mask if scaler is None else scaler * mask, of_spline, other, of_scaler)
        return of_spline, None if of_scaler is None else of_scaler.mul_(mask), None, grad[..., -1] * mask


def _of_native(
    norm: Callable[[LayerInputs], Tensor], ctx: Any, tensors: tuple[Tensor | None, ...], grad: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients of a norm of edges by operations that can be differentiated again, or transformed."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views, because base depends on x: each gradient is with respect to its own argument alone.
        inputs: list[Any] = [None if tensor is None else tensor.view_as(tensor) for tensor in tensors]
        needs = ctx.needs_input_grad[:-1]
        wanted = [tensor for tensor, needed in zip(inputs, needs, strict=True) if needed]
        found = iter(torch.autograd.grad(norm(LayerInputs._make((*inputs, ctx.order))), wanted, grad, create_graph=again))
    return *[next(found) if needed else None for needed in needs], None
