"""Norms of all edges on the CPU: compiled passes over samples that are sorted into knot intervals.

Shape legend: ``B`` samples, ``I`` in_features, ``O`` out_features, ``M = G + k + 1`` features, ``T = G + 2k + 1`` knots.

A forward pass computes the norms and, at once, their gradients with respect to the weights, which are of the weights' size and
kept; a second pass, where samples need gradients, computes those. Beside them some megabytes are held for each thread, whatever
the sizes are. Derivatives of higher order are those of the native kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from efficient_kan.kernels import LayerInputs, native
from efficient_kan.kernels.cpu import moments, signs
from efficient_kan.kernels.cpu.threads import run


def edge_l1(inputs: LayerInputs) -> Tensor:
    """``mean_b |phi_oi(x[b, i])|``, shape ``(O, I)``; the subgradient at zero is zero."""
    norms: Tensor = torch.ops.efficient_kan.edge_l1(*inputs)[0]
    return norms


def edge_std(inputs: LayerInputs) -> Tensor:
    """``std_b phi_oi(x[b, i])`` with divisor ``B - 1``, shape ``(O, I)``; its gradient is zero where the value is zero."""
    deviations: Tensor = torch.ops.efficient_kan.edge_std(*inputs)[0]
    return deviations


_library = torch.library.Library("efficient_kan", "FRAGMENT")
_library.define("edge_l1(Tensor x, Tensor base, Tensor knots, Tensor weight, int spline_order) -> (Tensor, Tensor)")
_library.define(
    "edge_l1_of_samples(Tensor x, Tensor base, Tensor knots, Tensor weight, int spline_order, Tensor scale) -> (Tensor, Tensor)"
)
_library.define(
    "edge_std(Tensor x, Tensor base, Tensor knots, Tensor weight, int spline_order) -> (Tensor, Tensor, Tensor, Tensor)"
)
_library.define(
    "edge_std_of_samples(Tensor x, Tensor base, Tensor knots, Tensor weight, int spline_order, Tensor scale, Tensor mean, "
    "Tensor sizes) -> (Tensor, Tensor)"
)


def _edge_l1(x: Tensor, base: Tensor, knots: Tensor, weight: Tensor, spline_order: int) -> tuple[Tensor, Tensor]:
    """The norms and their gradients with respect to their own weights, ``(O, I, M)``."""
    norms, gradient = _like_edges(weight), _like_weight(weight)
    arrays = _arrays(x, base, knots, weight)
    run(signs.sums(spline_order), x.shape[1], *arrays, signs.lanes_of(arrays[3].dtype), *_arrays(norms, gradient))
    return norms, gradient


def _edge_l1_of_samples(
    x: Tensor, base: Tensor, knots: Tensor, weight: Tensor, spline_order: int, scale: Tensor
) -> tuple[Tensor, Tensor]:
    of_x, of_base = _like_samples(x), _like_samples(x)
    arrays = _arrays(x, base, knots, weight, scale)
    run(signs.slopes(spline_order), x.shape[1], *arrays, signs.lanes_of(arrays[3].dtype), *_arrays(of_x, of_base))
    return of_x, of_base


def _edge_std(
    x: Tensor, base: Tensor, knots: Tensor, weight: Tensor, spline_order: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The deviations, their gradients with respect to their own weights, the means of all edges, the samples in each run."""
    result = _like_edges(weight), _like_weight(weight), *_like_means(knots, weight)
    (I, T), D = knots.shape, spline_order + 1
    deviations, gradient, mean, sizes = _arrays(*result)
    moments_of_runs = _arrays(
        x.new_zeros((I, T, D), dtype=torch.float64), x.new_zeros((I, T, D * (D + 1) // 2), dtype=torch.float64)
    )
    arrays = _arrays(x, base, knots, weight)
    run(moments.deviations(spline_order), I, *arrays, deviations, mean, gradient, sizes, *moments_of_runs)
    return result


def _edge_std_of_samples(
    x: Tensor, base: Tensor, knots: Tensor, weight: Tensor, spline_order: int, scale: Tensor, mean: Tensor, sizes: Tensor
) -> tuple[Tensor, Tensor]:
    of_x, of_base = _like_samples(x), _like_samples(x)
    arrays = _arrays(x, base, knots, weight)
    run(moments.pull_back(spline_order), x.shape[1], *arrays, *_arrays(scale, mean, sizes, of_x, of_base))
    return of_x, of_base


def _l1_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:4], output[1])
    ctx.spline_order = inputs[4]


def _l1_backward(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    *inputs, gradient = ctx.saved_tensors
    if torch.is_grad_enabled():
        return _differentiable(native.edge_l1, ctx, inputs, grad)
    of_x = of_base = of_weight = None
    if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
        scale = grad / inputs[0].shape[0]
        of_x, of_base = torch.ops.efficient_kan.edge_l1_of_samples(*inputs, ctx.spline_order, scale)
    if ctx.needs_input_grad[3]:
        of_weight = gradient * grad.unsqueeze(-1)
    return of_x, of_base, None, of_weight, None


def _std_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:4], *output)
    ctx.spline_order = inputs[4]


def _std_backward(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    *inputs, deviations, gradient, mean, sizes = ctx.saved_tensors
    if torch.is_grad_enabled():
        return _differentiable(native.edge_std, ctx, inputs, grad)
    of_x = of_base = of_weight = None
    if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
        nonzero = deviations > 0
        scale = torch.where(nonzero, grad / torch.where(nonzero, deviations, 1.0), 0.0) / (inputs[0].shape[0] - 1)
        of_x, of_base = torch.ops.efficient_kan.edge_std_of_samples(*inputs, ctx.spline_order, scale, mean, sizes)
    if ctx.needs_input_grad[3]:
        of_weight = gradient * grad.unsqueeze(-1)
    return of_x, of_base, None, of_weight, None


def _differentiable(
    norm: Callable[[LayerInputs], Tensor], ctx: Any, inputs: list[Tensor], grad: Tensor
) -> tuple[Tensor | None, ...]:
    """The same gradients by differentiable operations, for derivatives of higher order."""
    # Views, because base depends on x: each gradient is with respect to its own argument alone.
    x, base, knots, weight = (tensor.view_as(tensor) for tensor in inputs)
    needed = {n: t for n, t in ((0, x), (1, base), (3, weight)) if ctx.needs_input_grad[n]}
    norms = norm(LayerInputs(x, base, knots, weight, ctx.spline_order))
    grads = dict(zip(needed, torch.autograd.grad(norms, list(needed.values()), grad, create_graph=True), strict=True))
    return grads.get(0), grads.get(1), None, grads.get(3), None


def _arrays(*tensors: Tensor) -> tuple[Any, ...]:
    return tuple(tensor.detach().contiguous().numpy() for tensor in tensors)


def _like_edges(weight: Tensor) -> Tensor:
    return weight.new_empty(weight.shape[:2])


def _like_weight(weight: Tensor) -> Tensor:
    return weight.new_empty(weight.shape)


def _like_samples(x: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _like_means(knots: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    mean = weight.new_empty((weight.shape[1], weight.shape[0]), dtype=torch.float64)
    return mean, weight.new_zeros(knots.shape, dtype=torch.float64)


def _fake_edge_l1(x: Tensor, base: Tensor, knots: Tensor, weight: Tensor, spline_order: int) -> tuple[Tensor, Tensor]:
    return _like_edges(weight), _like_weight(weight)


def _fake_edge_std(
    x: Tensor, base: Tensor, knots: Tensor, weight: Tensor, spline_order: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _like_edges(weight), _like_weight(weight), *_like_means(knots, weight)


def _fake_of_samples(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return _like_samples(x), _like_samples(x)


for _name, _function, _fake in (
    ("edge_l1", _edge_l1, _fake_edge_l1),
    ("edge_l1_of_samples", _edge_l1_of_samples, _fake_of_samples),
    ("edge_std", _edge_std, _fake_edge_std),
    ("edge_std_of_samples", _edge_std_of_samples, _fake_of_samples),
):
    _library.impl(_name, _function, "CPU")
    torch.library.register_fake(f"efficient_kan::{_name}", _fake, lib=_library)
torch.library.register_autograd("efficient_kan::edge_l1", _l1_backward, setup_context=_l1_setup, lib=_library)
torch.library.register_autograd("efficient_kan::edge_std", _std_backward, setup_context=_std_setup, lib=_library)
