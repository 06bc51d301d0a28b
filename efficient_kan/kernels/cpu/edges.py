"""Norms of all edges: compiled passes over samples that are sorted into knot intervals.

Shape legend: ``B`` samples, ``I`` in_features, ``O`` out_features, ``M = G + k + 1`` features, ``T = G + 2k + 1`` knots.

A forward pass computes the norms and, at once, their gradients with respect to the weights, which are of the weights' size and
kept; a second pass, where samples need gradients, computes those. Beside them some megabytes are held for each thread, whatever
the sizes are. Derivatives of higher order are those of the kernel `native`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from efficient_kan.kernels import LayerInputs, native
from efficient_kan.kernels.cpu import moments, policy, signs, threads
from efficient_kan.kernels.cpu.compiled import REAL, STAMP, Entry, at, stored

# Inputs that are worth a thread.
_LEAST = 4
# Edges whose gradients are worth a thread.
_LEAST_EDGES = 2048


def edge_l1(inputs: LayerInputs) -> Tensor:
    """``mean_b |phi_oi(x[b, i])|``, shape ``(O, I)``; the subgradient at zero is zero."""
    norms: Tensor = _EdgeL1.apply(*inputs)  # type: ignore[no-untyped-call]
    return norms


def edge_std(inputs: LayerInputs) -> Tensor:
    """``std_b phi_oi(x[b, i])`` with divisor ``B - 1``, shape ``(O, I)``; its gradient is zero where the value is zero."""
    deviations: Tensor = _EdgeStd.apply(*inputs)  # type: ignore[no-untyped-call]
    return deviations


class _EdgeL1(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, order: int) -> Tensor:
        norms, gradient = weight.new_empty(weight.shape[:2]), weight.new_empty(weight.shape)
        _run(signs.sums(order, REAL[weight.dtype]), (x, base, knots, weight), (norms, gradient))
        ctx.save_for_backward(x, base, knots, weight, gradient)
        ctx.order = order
        return norms

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, base, knots, weight, gradient = ctx.saved_tensors
        if torch.is_grad_enabled() or policy.transformed(grad):
            return _differentiable(native.edge_l1, ctx, (x, base, knots, weight), grad)
        of_x, of_base = _like_samples(ctx, x, base)
        if of_x is not None:
            scale = (grad / x.shape[0]).contiguous()
            _run(signs.slopes(ctx.order, REAL[x.dtype]), (x, base, knots, weight), (scale, of_x, of_base))
        return of_x, of_base, None, _scaled(gradient, grad) if ctx.needs_input_grad[3] else None, None


class _EdgeStd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, order: int) -> Tensor:
        deviations, gradient = weight.new_empty(weight.shape[:2]), weight.new_empty(weight.shape)
        means = weight.new_empty((weight.shape[1], weight.shape[0]), dtype=torch.float64)
        sizes = weight.new_empty(knots.shape, dtype=torch.float64)
        _run(moments.deviations(order, REAL[x.dtype]), (x, base, knots, weight), (deviations, means, gradient, sizes))
        pulls_back = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        ctx.save_for_backward(x, base, knots, weight, gradient, *((deviations, means, sizes) if pulls_back else (None,) * 3))
        ctx.order = order
        return deviations

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, base, knots, weight, gradient, deviations, means, sizes = ctx.saved_tensors
        if torch.is_grad_enabled() or policy.transformed(grad):
            return _differentiable(native.edge_std, ctx, (x, base, knots, weight), grad)
        of_x, of_base = _like_samples(ctx, x, base)
        if of_x is not None:
            nonzero = deviations > 0
            scale = torch.where(nonzero, grad / torch.where(nonzero, deviations, 1.0), 0.0) / (x.shape[0] - 1)
            targets = (scale.contiguous(), means, sizes, of_x, of_base)
            _run(moments.pull_back(ctx.order, REAL[x.dtype]), (x, base, knots, weight), targets)
        return of_x, of_base, None, _scaled(gradient, grad) if ctx.needs_input_grad[3] else None, None


def _run(function: Entry, inputs: tuple[Tensor | None, ...], others: tuple[Tensor | None, ...]) -> None:
    """Call a compiled pass for all inputs, with ``others`` contiguous; what is None has address 0."""
    tensors = [None if tensor is None else tensor.contiguous() for tensor in inputs]
    x, _, knots, weight = tensors
    assert x is not None and knots is not None and weight is not None
    if not all(stored(tensor) for tensor in (*tensors, *others) if tensor is not None):
        return
    addresses = [0 if tensor is None else tensor.data_ptr() for tensor in (*tensors, *others)]
    threads.run(function, x.shape[1], *addresses, *x.shape, weight.shape[0], knots.shape[1], least=_LEAST)


@cache
def _scale_edges(real: Any) -> Entry:
    """``scale(gradient, factors, out, M, start, stop)``: rows of ``gradient (O I, M)`` times ``factors (O I,)``."""
    stamp = STAMP

    def scale(gradient_at: int, factors_at: int, out_at: int, M: int, start: int, stop: int) -> None:
        assert stamp
        gradient, factors, out = at(gradient_at, real(0)), at(factors_at, real(0)), at(out_at, real(0))
        for edge in range(start, stop):
            factor = factors[edge]
            for m in range(edge * M, edge * M + M):
                out[m] = gradient[m] * factor

    return Entry(scale)


def _scaled(gradient: Tensor, grad: Tensor) -> Tensor:
    """``gradient * grad.unsqueeze(-1)``: torch takes several times as long, for its loops are over so few features."""
    factors, out = grad.contiguous(), torch.empty_like(gradient)
    if stored(gradient) and stored(factors):
        addresses = (gradient.data_ptr(), factors.data_ptr(), out.data_ptr())
        function, edges = _scale_edges(REAL[gradient.dtype]), factors.numel()
        threads.run(function, edges, *addresses, gradient.shape[-1], least=_LEAST_EDGES)
    return out


def _like_samples(ctx: Any, x: Tensor, base: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Room for the gradients with respect to ``x`` and ``base``, where one of them is needed and exists."""
    if not (ctx.needs_input_grad[0] or ctx.needs_input_grad[1]):
        return None, None
    return torch.empty(x.shape, dtype=x.dtype, device=x.device), None if base is None else x.new_empty(x.shape)


def _differentiable(
    norm: Callable[[LayerInputs], Tensor], ctx: Any, saved: tuple[Tensor | None, ...], grad: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients by operations that can be differentiated again, or transformed."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views, because base depends on x: each gradient is with respect to its own argument alone.
        inputs: list[Any] = [None if tensor is None else tensor.view_as(tensor) for tensor in saved]
        needed = [n for n, needs in enumerate(ctx.needs_input_grad[:4]) if needs]
        x, base, knots, weight = inputs
        norms = norm(LayerInputs(x, base, knots, weight, ctx.order))
        found = torch.autograd.grad(norms, [inputs[n] for n in needed], grad, create_graph=again)
    grads = dict(zip(needed, found, strict=True))
    return grads.get(0), grads.get(1), None, grads.get(3), None
