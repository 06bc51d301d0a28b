"""A network of small layers as one node of autograd's graph, computed by :mod:`efficient_kan.kernels.cpu.small`.

A step of a small network is bound by calls: some 150 µs a layer, of Python and of torch. Here they are one call forward and
one backward. Chosen by shapes alone (:func:`takes_network`), since its rounding differs from that of layers one by one;
derivatives of higher order are those of the kernel `native`.
"""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from efficient_kan import kernels
from efficient_kan.kernels import LayerInputs, native
from efficient_kan.kernels.cpu import dispatch, small
from efficient_kan.kernels.cpu.codegen.jit import REAL, stored

# Features of an input, widths, and products of a pass (samples, inputs, features, outputs) up to which this is faster.
_FEATURES, _WIDTH, _PRODUCTS = 32, 64, 6_000_000

# A layer's sizes (I, O, T, k), and its tensors: knots (I, T), spline weight (O, I, N), scaler (O, I) or None, mask (O, I), base
# weight (O, I), bias (O,) or None.
Shape = tuple[int, int, int, int]
_TENSORS = 6


class _Sizes(NamedTuple):
    """What depends on a network's shapes alone."""

    products: int  # for a sample
    small: bool
    forward_room: int
    backward_room: int
    outputs: int


@lru_cache(maxsize=256)
def _sizes(shapes: tuple[Shape, ...]) -> _Sizes:
    fits = all(t - k <= _FEATURES and i <= _WIDTH and o <= _WIDTH for i, o, t, k in shapes)
    chained = all(before[1] == after[0] for before, after in itertools.pairwise(shapes))
    rooms = [small.room_length(shapes, backward=backward) for backward in (False, True)]
    return _Sizes(sum(i * o * (t - k) for i, o, t, k in shapes), fits and chained, rooms[0], rooms[1], shapes[-1][1])


def takes_network(batch: int, shapes: Sequence[Shape]) -> bool:
    """Whether networks of layers ``(I, O, T, k)`` are computed here with so many samples."""
    sizes = _sizes(tuple(shapes))
    return sizes.small and batch * sizes.products <= _PRODUCTS


def explain_network(batch: int, shapes: Sequence[Shape]) -> str:
    """Why, or why not, in a line of text."""
    products = batch * _sizes(tuple(shapes)).products
    limits = f"up to {_FEATURES} features of an input, {_WIDTH} inputs or outputs of a layer, {_PRODUCTS:,} products of a pass"
    which = "the whole network in one pass" if takes_network(batch, shapes) else "layer by layer"
    return f"cpu: {which} ({products:,} products; in one pass: {limits}; kernels.set_whole_networks(False) for layers)"


def network(x: Tensor, layers: Sequence[Sequence[Tensor | None]], orders: Sequence[int]) -> Tensor | None:
    """The outputs ``(..., O)`` of a network whose base activations are SiLU, or None where this is not for it."""
    dtype, dense = x.dtype, type(x) in dispatch.TYPES and x.layout is torch.strided and not x.is_nested
    if not dense or dtype not in REAL or x.dim() == 0:
        return None
    if dtype is not torch.float64 and torch.is_autocast_enabled("cpu"):  # which leaves float64 alone
        return None
    graph, real, described = x.requires_grad, stored(x), []
    flat: list[Tensor | None] = []
    numbers: list[int] = []
    for layer, order in zip(layers, orders, strict=True):
        grid, _, _, mask, _, _ = layer
        assert grid is not None and mask is not None
        if mask.requires_grad or grid.requires_grad:
            return None
        outputs, inputs = mask.shape
        shape = inputs, outputs, grid.shape[1], order
        described.append(shape)
        numbers += shape
        for tensor in layer:
            if tensor is None:
                numbers.append(0)
            elif tensor.dtype is not dtype or not tensor.is_contiguous() or type(tensor) not in dispatch.TYPES:
                return None
            elif not real:
                graph, numbers = graph or tensor.requires_grad, [*numbers, 0]
            elif tensor.is_cpu:
                graph = graph or tensor.requires_grad
                numbers.append(tensor.data_ptr())
            else:
                return None
        flat += layer
        numbers += small.NO_GRADIENTS
    shapes = tuple(described)
    *leading, width = x.shape
    if width != shapes[0][0] or not takes_network(math.prod(leading), shapes):
        return None
    samples = x if len(leading) == 1 else x.reshape(-1, width)
    samples = samples if samples.is_contiguous() else samples.contiguous()
    if graph and torch.is_grad_enabled():
        y: Tensor = _node(samples, shapes, numbers, *flat)  # type: ignore[no-untyped-call]
    else:
        y = _forward(samples, shapes, numbers, None)
    return y if len(leading) == 1 else y.view(*leading, y.shape[1])


def _forward(x: Tensor, shapes: tuple[Shape, ...], numbers: list[int], kept: Tensor | None) -> Tensor:
    sizes = _sizes(shapes)
    y, room = x.new_empty((x.shape[0], sizes.outputs)), x.new_empty(sizes.forward_room)
    if stored(x):
        plan = array("q", numbers)
        places = x.data_ptr(), y.data_ptr(), 0 if kept is None else kept.data_ptr(), room.data_ptr()
        small.forward(REAL[x.dtype])(plan.buffer_info()[0], len(shapes), *places, x.shape[0])
    return y


class _Network(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shapes: tuple[Shape, ...], numbers: list[int], *flat: Tensor | None) -> Tensor:
        kept = x.new_empty(small.kept_length(x.shape[0], shapes))
        ctx.save_for_backward(x, kept, *flat)
        ctx.shapes = shapes
        return _forward(x, shapes, numbers, kept)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, kept, *flat = ctx.saved_tensors
        needs_x, _, _, *needs = ctx.needs_input_grad
        shapes, grad = ctx.shapes, grad.contiguous()
        if torch.is_grad_enabled() or dispatch.transformed(grad):
            return _differentiable(x, flat, shapes, grad, needs_x, needs)
        found: list[Tensor | None] = []
        numbers: list[int] = []
        for n, shape in enumerate(shapes):
            of_layer = flat[n * _TENSORS : (n + 1) * _TENSORS]
            _, spline_weight, scaler, _, base_weight, bias = of_layer
            numbers += shape
            numbers += _addresses(of_layer)
            gradients: list[Tensor | None] = [None] * 4
            if any(needs[n * _TENSORS : (n + 1) * _TENSORS]):
                gradients = [None if p is None else torch.empty_like(p) for p in (spline_weight, scaler, base_weight, bias)]
            numbers += _addresses(gradients)
            found += None, gradients[0], gradients[1], None, gradients[2], gradients[3]
        of_x, room = torch.empty_like(x) if needs_x else None, x.new_empty(_sizes(shapes).backward_room)
        if stored(x):
            plan = array("q", numbers)
            places = kept.data_ptr(), grad.data_ptr(), 0 if of_x is None else of_x.data_ptr(), room.data_ptr()
            small.backward(REAL[x.dtype])(plan.buffer_info()[0], len(shapes), *places, x.shape[0])
        return of_x, None, None, *found


# Function.apply looks for transforms of torch.func first, which takes as long as some operations; there are none here.
_node = super(torch.autograd.Function, _Network).apply


def _addresses(tensors: Sequence[Tensor | None]) -> list[int]:
    return [0 if tensor is None or type(tensor) is FakeTensor else tensor.data_ptr() for tensor in tensors]


def _differentiable(
    x: Tensor,
    flat: Sequence[Tensor | None],
    shapes: tuple[Shape, ...],
    grad: Tensor,
    needs_x: bool,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """The gradients by operations that can be differentiated again, or transformed: those of `native`, layer by layer."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views, so that each gradient is with respect to its own argument alone.
        x = x.view_as(x)
        flat = [None if tensor is None else tensor.view_as(tensor) for tensor in flat]
        y = x
        for n, shape in enumerate(shapes):
            grid, spline_weight, scaler, mask, base_weight, bias = flat[n * _TENSORS : (n + 1) * _TENSORS]
            assert grid is not None and spline_weight is not None and mask is not None and base_weight is not None
            weight = kernels.fold("native", spline_weight, scaler, mask, base_weight)
            y = native.spline_linear(LayerInputs(y, None, grid, weight, shape[3]))
            y = y if bias is None else y + bias
        wanted = [tensor for tensor, needed in zip([x, *flat], [needs_x, *needs], strict=True) if needed and tensor is not None]
        found = iter(torch.autograd.grad(y, wanted, grad, create_graph=again))
    of_x = next(found) if needs_x else None
    return of_x, None, None, *[next(found) if needed else None for needed in needs]
