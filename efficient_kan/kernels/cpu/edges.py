"""Norms of all edges: compiled passes over samples that are sorted into knot intervals. And deviations of inputs.

Shape legend: ``B`` samples, ``I`` in_features, ``O`` out_features, ``M = G + k + 1`` features, ``T = G + 2k + 1`` knots.

A forward pass computes the norms and, at once, their gradients with respect to the weights, which are of the weights' size and
kept; a second pass, where samples need gradients, computes those. Beside them some megabytes are held for each thread, whatever
the sizes are. Derivatives of higher order are those of the kernel `native`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from numba import carray
from torch import Tensor

from efficient_kan.kernels import LayerInputs, native
from efficient_kan.kernels.cpu import columns, moments, policy, signs, threads
from efficient_kan.kernels.cpu.compiled import REAL, STAMP, Entry, addresses, at, stored

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


def input_std(inputs: LayerInputs) -> Tensor:
    """``std_b x[b, i]`` with divisor ``B - 1``, shape ``(I,)``; its gradient is zero where the value is zero."""
    deviations: Tensor = _InputStd.apply(inputs.x)  # type: ignore[no-untyped-call]
    return deviations


def _of_tensors(
    norm: Callable[[LayerInputs], Tensor], order: int, x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor
) -> Tensor:
    return norm(LayerInputs(x, base, knots, weight, order))


class _EdgeL1(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, order: int) -> Tensor:
        norms, gradient = weight.new_empty(weight.shape[:2]), _lying_like(weight)
        _run(signs.sums(order, REAL[weight.dtype]), (x, base, knots, weight), (norms, gradient))
        ctx.save_for_backward(x, base, knots, weight, gradient)
        ctx.order = order
        return norms

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, base, knots, weight, gradient = ctx.saved_tensors
        if torch.is_grad_enabled() or policy.transformed(grad):
            norm = partial(_of_tensors, native.edge_l1, ctx.order)
            return *_differentiable(norm, ctx.needs_input_grad[:4], (x, base, knots, weight), grad), None
        of_x, of_base = _like_samples(ctx, x, base)
        if of_x is not None:
            scale = (grad / x.shape[0]).contiguous()
            _run(signs.slopes(ctx.order, REAL[x.dtype]), (x, base, knots, weight), (scale, of_x, of_base))
        return of_x, of_base, None, _scaled(gradient, grad) if ctx.needs_input_grad[3] else None, None


class _EdgeStd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, order: int) -> Tensor:
        deviations, gradient = weight.new_empty(weight.shape[:2]), _lying_like(weight)
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
            norm = partial(_of_tensors, native.edge_std, ctx.order)
            return *_differentiable(norm, ctx.needs_input_grad[:4], (x, base, knots, weight), grad), None
        of_x, of_base = _like_samples(ctx, x, base)
        if of_x is not None:
            scale = _over_deviation(grad, deviations, x.shape[0]).contiguous()
            targets = (scale, means, sizes, of_x, of_base)
            _run(moments.pull_back(ctx.order, REAL[x.dtype]), (x, base, knots, weight), targets)
        return of_x, of_base, None, _scaled(gradient, grad) if ctx.needs_input_grad[3] else None, None


class _InputStd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        mean, deviation = x.new_empty(x.shape[1]), x.new_empty(x.shape[1])
        source = x.contiguous()
        if stored(source):
            places = addresses(source, mean, deviation)
            threads.run(columns.deviations(REAL[x.dtype]), x.shape[1], *places, *x.shape, least=_LEAST)
        ctx.save_for_backward(x, mean, deviation)
        return deviation

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor | None:
        x, mean, deviation = ctx.saved_tensors
        if torch.is_grad_enabled() or policy.transformed(grad):
            return _differentiable(native.column_std, ctx.needs_input_grad, (x,), grad)[0]
        of_x: Tensor = (x - x[0]).sub_(mean).mul_(_over_deviation(grad, deviation, x.shape[0]))
        return of_x


def _over_deviation(grad: Tensor, deviation: Tensor, samples: int) -> Tensor:
    """What a deviation's gradient multiplies what its samples are beside their mean with; zero where the deviation is."""
    nonzero = deviation > 0
    return torch.where(nonzero, grad / torch.where(nonzero, deviation, 1.0), 0.0) / (samples - 1)


def _lying_like(weight: Tensor) -> Tensor:
    """Room for the gradient of weights, which lies as they do where compiled passes take that: its sum with others is cheap."""
    return torch.empty_like(weight) if policy.lies_across(weight) else weight.new_empty(weight.shape)


def _run(
    function: Entry,
    inputs: tuple[Tensor, Tensor | None, Tensor, Tensor],
    others: tuple[Tensor | None, ...],
) -> None:
    """Call a compiled pass for all inputs, with ``others`` dense; what is None has address 0."""
    x, base, knots, weight = inputs
    across = policy.lies_across(weight)
    x, knots, weight = x.contiguous(), knots.contiguous(), weight if across else weight.contiguous()
    tensors = (x, None if base is None else base.contiguous(), knots, weight, *others)
    if not all(stored(tensor) for tensor in tensors if tensor is not None):
        return
    sizes = (*x.shape, weight.shape[0], knots.shape[1], int(across))
    threads.run(function, x.shape[1], *addresses(*tensors), *sizes, least=_LEAST)


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


@cache
def _scale_across(real: Any) -> Entry:
    """``scale(gradient, factors, out, I, O, M, start, stop)``: as :func:`_scale_edges` of inputs, ``gradient (I, M, O)``."""
    stamp = STAMP

    def scale(gradient_at: int, factors_at: int, out_at: int, I: int, O: int, M: int, start: int, stop: int) -> None:
        assert stamp
        shape, factors = (I, M, O), at(factors_at, real(0))
        gradient, out = carray(at(gradient_at, real(0)), shape), carray(at(out_at, real(0)), shape)
        of_input = np.empty(O, real)
        for i in range(start, stop):
            for o in range(O):
                of_input[o] = factors[o * I + i]
            for m in range(M):
                from_row, to_row = gradient[i, m], out[i, m]
                for o in range(O):
                    to_row[o] = from_row[o] * of_input[o]

    return Entry(scale)


def _scaled(gradient: Tensor, grad: Tensor) -> Tensor:
    """``gradient * grad.unsqueeze(-1)``: torch takes several times as long, for its loops are over so few features."""
    factors, out = grad.contiguous(), torch.empty_like(gradient)
    if stored(gradient) and stored(factors):
        places, (O, I, M) = addresses(gradient, factors, out), gradient.shape
        if policy.lies_across(gradient):
            threads.run(_scale_across(REAL[gradient.dtype]), I, *places, I, O, M, least=max(1, _LEAST_EDGES // O))
        else:
            threads.run(_scale_edges(REAL[gradient.dtype]), O * I, *places, M, least=_LEAST_EDGES)
    return out


def _like_samples(ctx: Any, x: Tensor, base: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Room for the gradients with respect to ``x`` and ``base``, where one of them is needed and exists."""
    if not (ctx.needs_input_grad[0] or ctx.needs_input_grad[1]):
        return None, None
    return torch.empty(x.shape, dtype=x.dtype, device=x.device), None if base is None else x.new_empty(x.shape)


def _differentiable(
    function: Callable[..., Tensor], needs: Sequence[bool], tensors: tuple[Tensor | None, ...], grad: Tensor
) -> list[Tensor | None]:
    """The gradients of ``function(*tensors)`` by operations that can be differentiated again, or transformed."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views, because base depends on x: each gradient is with respect to its own argument alone.
        inputs: list[Any] = [None if tensor is None else tensor.view_as(tensor) for tensor in tensors]
        wanted = [tensor for tensor, needed in zip(inputs, needs, strict=True) if needed]
        found = iter(torch.autograd.grad(function(*inputs), wanted, grad, create_graph=again))
    return [next(found) if needed else None for needed in needs]
