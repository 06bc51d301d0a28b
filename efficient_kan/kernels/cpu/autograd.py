"""The kernel's functions as nodes of autograd's graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
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
from efficient_kan.kernels.cpu.products import by_span
from efficient_kan.kernels.cpu.products.by_span import Layer


def spline_linear(inputs: LayerInputs) -> Tensor:
    """``y[b, o] = sum_i phi_oi(x[b, i])``, shape ``(B, O)``; see :func:`efficient_kan.kernels.native.spline_linear`."""
    x, base, knots, weight, order = inputs
    return unfolded_linear(x, base, knots, Parameters(weight.contiguous(), None, None, None), order)


def unfolded_linear(x: Tensor, base: Tensor | None, knots: Tensor, parameters: Parameters, order: int) -> Tensor:
    """The outputs with the weight that these parameters fold to; see :func:`efficient_kan.kernels.unfolded_linear`."""
    x, base, knots = x.contiguous(), None if base is None else base.contiguous(), knots.contiguous()
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, base, *parameters)):
        y: Tensor = _Linear.apply(x, base, knots, *parameters, order)  # type: ignore[no-untyped-call]
        return y
    return by_span.multiply(Layer(x, base, knots, tables(knots, order), parameters, order))


def linear_and_edge_l1(
    x: Tensor, base: Tensor | None, knots: Tensor, parameters: Parameters, order: int
) -> tuple[Tensor, Tensor]:
    """:func:`unfolded_linear` and :func:`edge_l1` from one pass forward and one back."""
    y, norms = _linear_and_norms(x, base, knots, parameters, order, outputs=True)
    assert y is not None
    return y, norms


def _linear_and_norms(
    x: Tensor, base: Tensor | None, knots: Tensor, parameters: Parameters, order: int, *, outputs: bool
) -> tuple[Tensor | None, Tensor]:
    x, base, knots = x.contiguous(), None if base is None else base.contiguous(), knots.contiguous()
    found: tuple[Tensor | None, Tensor] = _LinearAndNorms.apply(outputs, x, base, knots, *parameters, order)  # type: ignore[no-untyped-call]
    return found


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
        return by_span.multiply(Layer(x, base, knots, made, parameters, order))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, base, knots, guide, table, *rest = dispatch.saved(ctx)
        parameters = Parameters(*rest)
        needs_x, needs_base, _, *needs = ctx.needs_input_grad[:-1]
        if torch.is_grad_enabled() or dispatch.transformed(grad):
            return _differentiable(ctx, x, base, knots, parameters, grad)
        layer = Layer(x, base, knots, (guide, table), parameters, ctx.order)
        of_x, _, of_spline, of_scaler, of_base_weight = by_span.pull_back(
            layer, dispatch.dense(grad), None, needs_x=needs_x, needs_parameters=any(needs)
        )
        of_base = grad @ _base_weight(parameters) if needs_base else None
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


class _LinearAndNorms(torch.autograd.Function):
    """Outputs, if they are asked for, and the norms of edges."""

    @staticmethod
    def forward(
        ctx: Any,
        outputs: bool,
        x: Tensor,
        base: Tensor | None,
        knots: Tensor,
        spline_weight: Tensor,
        scaler: Tensor | None,
        mask: Tensor | None,
        base_weight: Tensor | None,
        order: int,
    ) -> tuple[Tensor | None, Tensor]:
        parameters, made = Parameters(spline_weight, scaler, mask, base_weight), tables(knots, order)
        ctx.save_for_backward(x, base, knots, *made, *parameters)
        ctx.order = order
        ctx.set_materialize_grads(False)
        return by_span.multiply_with_norms(Layer(x, base, knots, made, parameters, order), outputs=outputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, of_norms: Tensor | None) -> tuple[Tensor | None, ...]:
        x, base, knots, guide, table, *rest = dispatch.saved(ctx)
        parameters, wanted = Parameters(*rest), ctx.needs_input_grad[1:-1]
        grads = [g for g in (grad, of_norms) if g is not None]
        if not grads:
            return (None,) * len(ctx.needs_input_grad)
        if torch.is_grad_enabled() or any(dispatch.transformed(g) for g in grads):
            outputs, norms = grad is not None, of_norms is not None
            function = partial(_native_results, ctx.order, outputs=outputs, norms=norms)
            return None, *_of_native(function, wanted, (x, base, knots, *parameters), grads), None
        needs_x, needs_base, _, *needs = wanted
        of_x, of_base, of_spline, of_scaler, of_base_weight = by_span.pull_back(
            Layer(x, base, knots, (guide, table), parameters, ctx.order),
            None if grad is None else dispatch.dense(grad),
            None if of_norms is None else dispatch.dense(of_norms),
            needs_x=needs_x,
            needs_base=needs_base,
            needs_parameters=any(needs),
        )
        if needs_base and of_norms is None and grad is not None:
            of_base = grad @ _base_weight(parameters)
        return None, of_x, of_base, None, of_spline, of_scaler, None, of_base_weight, None


def _native_results(
    order: int, x: Tensor, base: Tensor | None, knots: Tensor, *parameters: Tensor | None, outputs: bool, norms: bool
) -> list[Tensor]:
    """What :class:`_LinearAndNorms` computes, by the kernel `native`."""
    spline_weight, scaler, mask, base_weight = parameters
    assert spline_weight is not None
    weight = spline_weight
    if mask is not None and base_weight is not None:
        weight = kernels.fold("native", spline_weight, scaler, mask, base_weight)
    inputs = LayerInputs(x, base, knots, weight, order)
    return [*([native.spline_linear(inputs)] if outputs else []), *([native.edge_l1(inputs)] if norms else [])]


def _base_weight(parameters: Parameters) -> Tensor:
    """Of folded weights."""
    spline_weight, _, mask, base_weight = parameters
    base_weight = spline_weight[..., -1] if base_weight is None else base_weight
    return base_weight if mask is None else base_weight * mask


def edge_l1(inputs: LayerInputs) -> Tensor:
    """``mean_b |phi_oi(x[b, i])|``, shape ``(O, I)``; the subgradient at zero is zero."""
    x, base, knots, weight, order = _contiguous(inputs)
    return _linear_and_norms(x, base, knots, Parameters(weight, None, None, None), order, outputs=False)[1]


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


def _deviations(order: int, x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor) -> list[Tensor]:
    return [native.edge_std(LayerInputs(x, base, knots, weight, order))]


class _EdgeStd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, order: int) -> Tensor:
        deviations, gradient, means, sizes = std.deviations(LayerInputs(x, base, knots, weight, order))
        pulls_back = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        ctx.save_for_backward(x, base, knots, weight, gradient, *((deviations, means, sizes) if pulls_back else (None,) * 3))
        ctx.order = order
        return deviations

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, base, knots, weight, gradient, deviations, means, sizes = dispatch.saved(ctx)
        if torch.is_grad_enabled() or dispatch.transformed(grad):
            return *_of_native(
                partial(_deviations, ctx.order), ctx.needs_input_grad[:4], (x, base, knots, weight), [grad]
            ), None
        of_x, of_base = None, None
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            scale = native.over_deviation(grad, deviations, x.shape[0]).contiguous()
            of_x, of_base = std.pull_back(LayerInputs(x, base, knots, weight, ctx.order), scale, means, sizes)
        return of_x, of_base, None, _scaled(gradient, grad) if ctx.needs_input_grad[3] else None, None


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
            return _of_native(lambda x: [native.column_std(x)], ctx.needs_input_grad, (x,), [grad])[0]
        of_x: Tensor = (x - x[:1]).sub_(mean).mul_(native.over_deviation(grad, deviation, x.shape[0]))
        return of_x


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
    function: Callable[..., list[Tensor]], needs: Sequence[bool], tensors: tuple[Tensor | None, ...], grads: list[Tensor]
) -> list[Tensor | None]:
    """The gradients of ``function(*tensors)`` by operations that can be differentiated again, or transformed.

    ``grads`` are those of its results.
    """
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views, because base depends on x: each gradient is with respect to its own argument alone.
        inputs: list[Any] = [None if tensor is None else tensor.view_as(tensor) for tensor in tensors]
        wanted = [tensor for tensor, needed in zip(inputs, needs, strict=True) if needed]
        found = iter(torch.autograd.grad(function(*inputs), wanted, grads, create_graph=again))
    return [next(found) if needed else None for needed in needs]
