"""A network as one node of autograd's graph, penalty included: the passes of `products.by_span`, layer after layer.

A step of a small network is bound by calls: some 100 µs a layer, of Python and of torch. Here those of autograd are made once.
What is computed, and so rounding, is the same as layer by layer; outputs of layers between are kept to the end of the pass
back, so networks for which that would matter go by layers (:func:`takes_network`). Derivatives of higher order are those of
the kernel `native`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from efficient_kan import kernels
from efficient_kan.kernels import LayerInputs, Parameters, native
from efficient_kan.kernels.cpu import dispatch
from efficient_kan.kernels.cpu.codegen.jit import REAL, addresses, stored
from efficient_kan.kernels.cpu.codegen.program import Address, Arena, Place, Program
from efficient_kan.kernels.cpu.common.job import Shape as LayerShape
from efficient_kan.kernels.cpu.common.job import Tensors
from efficient_kan.kernels.cpu.common.sums import add_bias, add_sum_of_rows
from efficient_kan.kernels.cpu.common.tables import tables
from efficient_kan.kernels.cpu.penalties import of_layer
from efficient_kan.kernels.cpu.penalties.of_layer import Described
from efficient_kan.kernels.cpu.products import by_span

# Outputs of layers that are kept longer than layer by layer: at most so many bytes, or such a part of the parameters'.
_KEPT_BYTES = 2**20
_KEPT_PART = 8
_PROGRAMS = 128  # that are remembered: some 10 kB a layer, more with a penalty

# A layer's sizes (I, O, T, k), and its tensors: knots (I, T), spline weight (O, I, N), scaler (O, I) or None, mask (O, I), base
# weight (O, I), bias (O,) or None.
Shape = tuple[int, int, int, int]
_TENSORS = 6


@lru_cache(maxsize=1024)
def takes_network(batch: int, shapes: tuple[Shape, ...], size: int) -> bool:
    """Whether networks of layers ``(I, O, T, k)`` are computed here with so many samples, of ``size`` bytes a number."""
    fits = all(k in dispatch.ORDERS and t > 2 * k + 1 for _, _, t, k in shapes)
    chained = all(before[1] == after[0] for before, after in itertools.pairwise(shapes))
    kept = batch * sum(o for _, o, _, _ in shapes[:-1]) * size
    parameters = sum(i * o * (t - k) for i, o, t, k in shapes) * size
    return fits and chained and kept <= max(_KEPT_BYTES, parameters // _KEPT_PART)


def network(
    x: Tensor, layers: Sequence[Sequence[Tensor | None]], orders: Sequence[int], penalty: object = None,
    base: Tensor | None = None,
) -> tuple[Tensor, Tensor | None] | None:  # fmt: skip
    """The outputs ``(..., O)`` of a network, and a penalty; None where this is not for it.

    Base activations are SiLU, but for those of the first layer if they are given as ``base``, with the samples ``(B, I)``.
    """
    dtype, real = x.dtype, stored(x)
    if (
        type(x) not in dispatch.TYPES
        or x.device.type not in ("cpu", "meta")
        or dtype not in REAL
        or x.layout is not torch.strided
        or x.is_nested
        or x.dim() == 0
    ):
        return None
    if dtype is not torch.float64 and torch.is_autocast_enabled("cpu"):  # which leaves float64 alone
        return None
    graph, described = x.requires_grad, []
    flat: list[Tensor | None] = []
    given: list[int] = []  # addresses
    for layer, order in zip(layers, orders, strict=True):
        grid, _, _, mask, _, _ = layer
        assert grid is not None and mask is not None
        if mask.requires_grad or grid.requires_grad or mask.dim() != 2 or grid.dim() != 2:
            return None
        edges, knot_count = mask.shape, grid.shape[1]
        outputs, inputs = edges
        described.append((inputs, outputs, knot_count, order))
        counts = (inputs, knot_count), (*edges, knot_count - order - 1), edges, edges, edges, (outputs,)
        for tensor, count in zip(layer, counts, strict=True):
            if tensor is None:
                given.append(0)
                continue
            plain = tensor.dtype is dtype and tensor.is_contiguous() and type(tensor) in dispatch.TYPES and not tensor.is_neg()
            # Of what is shared among ranks there may be a part, or nothing for now.
            if not plain or tensor.shape != count or (real and not tensor.is_cpu):
                return None
            graph = graph or tensor.requires_grad
            given.append(tensor.data_ptr() if real else 0)
            if real and not given[-1]:
                return None
        flat += layer
    if base is not None:
        base = dispatch.dense(base)
        if base.dtype is not dtype or type(base) not in dispatch.TYPES or stored(base) is not real:
            return None
        graph = graph or base.requires_grad
    shapes = tuple(described)
    flat_already = x.dim() == 2
    batch, width = x.shape if flat_already else (math.prod(x.shape[:-1]), x.shape[-1])
    found = None if penalty is None else of_layer.described(penalty)
    if not batch or (penalty is not None and (found is None or batch < found.least)):
        return None
    if width != shapes[0][0] or not takes_network(batch, shapes, x.element_size()):
        return None
    samples = dispatch.dense(x if flat_already else x.reshape(-1, width))
    kind = None if found is None else of_layer.Kind(found.kind, found.options[4] != 0.0)
    lacks = tuple([tensor is None for tensor in flat])
    key = _Key(shapes, lacks, base is not None, batch, x.element_size(), torch.get_num_threads(), kind)
    call = _Call(key, penalty, found)
    if graph and torch.is_grad_enabled():
        result = _node(samples, base, call, given, *flat)  # type: ignore[no-untyped-call]
        y, loss = result if found is not None else (result, None)
    else:
        y, loss, _ = _forward(samples, base, call, given, flat, again=False)
    return y if flat_already else y.view(*x.shape[:-1], y.shape[1]), loss


class _Key(NamedTuple):
    """What decides which programs compute a network."""

    shapes: tuple[Shape, ...]
    lacks: tuple[bool, ...]  # which tensors are not there
    base: bool  # whether base activations are given
    batch: int
    size: int  # of a number
    threads: int
    penalty: of_layer.Kind | None

    def layer(self, n: int) -> LayerShape:
        inputs, outputs, knots, order = self.shapes[n]
        return LayerShape(self.batch, inputs, outputs, knots, knots - order - 1, order, self.size, self.threads)


class _Call(NamedTuple):
    """What a node is made with beside tensors."""

    key: _Key
    penalty: Any
    described: Described | None

    def options(self) -> int:
        """The address of the penalty's."""
        return 0 if self.described is None else self.described.options.buffer_info()[0]


# The bases of a network's programs: samples, base activations, outputs or their gradient, what is kept between the passes, of
# the layers' type and of float64 (apart: hooks on saved tensors may convert numbers), memory to work in, the penalty or its
# gradient, its options, gradients of samples and of base activations; then of each layer its tensors and, after them, its
# tables, the gradients of spline weight, scaler, base weight and bias, and that of deviations.
_X, _BASE, _Y, _KEPT, _WIDE, _WORK, _LOSS, _OPTIONS, _OF_X, _OF_BASE, _FIRST = range(11)
_GUIDE, _TABLE, _OF_SPLINE, _OF_SCALER, _OF_BASE_WEIGHT, _OF_BIAS, _DEVIATIONS, _OF_LAYER = range(_TENSORS, _TENSORS + 8)


def _of(n: int, which: int) -> Place:
    """A base of layer ``n``."""
    return Place(_FIRST + n * _OF_LAYER + which)


class _Layout(NamedTuple):
    """Places of what is kept between the passes."""

    hidden: list[Place]  # outputs of layers but the last
    penalties: list[of_layer.Kept]
    total: Place
    lengths: tuple[int, int]  # numbers of the layers' type, and of float64


@lru_cache(maxsize=_PROGRAMS)
def _layout(key: _Key) -> _Layout:
    arena, wide, shapes = Arena(_KEPT), Arena(_WIDE), [key.layer(n) for n in range(len(key.shapes))]
    hidden = [arena.take(key.batch * shape.outputs * key.size) for shape in shapes[:-1]]
    penalties = []
    for n, shape in enumerate(shapes if key.penalty is not None else []):
        assert key.penalty is not None
        penalties.append(of_layer.keep(arena, wide, shape, key.penalty, _of(n, _DEVIATIONS)))
    total = wide.take(8) if key.penalty is not None else Place(_WIDE)
    return _Layout(hidden, penalties, total, (arena.most // key.size, wide.most // 8))


def _tensors(key: _Key, n: int, hidden: list[Place]) -> tuple[Tensors, Address]:
    """Places of the tensors of layer ``n``, and of its bias."""
    lacks = key.lacks[n * _TENSORS : (n + 1) * _TENSORS]
    knots, spline, scaler, mask, base_weight, bias = (0 if lacks[m] else _of(n, m) for m in range(_TENSORS))
    x, of_base = (hidden[n - 1], 0) if n else (Place(_X), Place(_BASE) if key.base else 0)
    return Tensors(x, of_base, knots, _of(n, _GUIDE), _of(n, _TABLE), spline, scaler, mask, base_weight), bias


@lru_cache(maxsize=_PROGRAMS)
def _forward_program(key: _Key) -> tuple[Program, int, tuple[int, int]]:
    """With how many numbers there are to work in, and to be kept, of the layers' type and of float64."""
    program, work, kept = Program(), Arena(_WORK), _layout(key)
    losses = of_layer.Losses(Place(_OPTIONS), kept.total, Place(_LOSS))
    for n in range(len(key.shapes)):
        shape, (tensors, bias) = key.layer(n), _tensors(key, n, kept.hidden)
        y = kept.hidden[n] if n < len(kept.hidden) else Place(_Y)
        if key.penalty is None:
            by_span.add_forward(program, shape, tensors, work, shape.plan().forward, y=y)
        else:
            of_layer.add_forward(program, shape, tensors, work, key.penalty, kept.penalties[n], losses, y, n)
        if bias != 0:
            add_bias(program, y, bias, key.batch, shape.outputs, shape.real)
    return program, work.most // key.size, kept.lengths


@lru_cache(maxsize=_PROGRAMS)
def _backward_program(key: _Key, needs: tuple[bool, ...]) -> tuple[Program, int]:
    """``needs``: which gradients, of the samples, the base activations and all tensors of layers."""
    program, work, kept = Program(), Arena(_WORK), _layout(key)
    losses, g = of_layer.Losses(Place(_OPTIONS), 0, Place(_LOSS)), Place(_Y)
    asks = [True in needs[2 + n * _TENSORS : 2 + (n + 1) * _TENSORS] for n in range(len(key.shapes))]
    lowest = 0 if True in needs[:2] else (*asks, True).index(True)  # base activations may ask alone, for a product of matrices
    for n in range(len(key.shapes) - 1, lowest - 1, -1):
        shape, (tensors, bias) = key.layer(n), _tensors(key, n, kept.hidden)
        of_parameters = needs[2 + n * _TENSORS : 2 + (n + 1) * _TENSORS]
        if bias != 0 and of_parameters[5]:
            add_sum_of_rows(program, g, _of(n, _OF_BIAS), work, key.batch, shape.outputs, shape.real)
        of_x: Address = work.take(key.batch * shape.inputs * key.size) if n > lowest else 0
        of_x, of_base = (Place(_OF_X) if n == 0 and needs[0] else of_x), Place(_OF_BASE) if n == 0 and needs[1] else 0
        asked: list[Address] = [0, 0, 0]
        if True in of_parameters[:5]:
            asked = [_of(n, _OF_SPLINE), 0 if tensors.scaler == 0 else _of(n, _OF_SCALER), _of(n, _OF_BASE_WEIGHT)]
        targets = by_span.Targets(of_x, of_base, *asked)
        if not any(targets):
            continue  # the bias alone
        if key.penalty is None:
            by_span.add_backward(program, shape, tensors, work, shape.plan().backward, targets, g=g)
        else:
            of_layer.add_backward(program, shape, tensors, work, key.penalty, kept.penalties[n], losses, targets, g)
        g = of_x
    return program, work.most // key.size


class _Left(NamedTuple):
    """What a pass forward leaves for the pass back."""

    kept: Tensor
    wide: Tensor | None  # of float64
    gradients: list[Tensor | None]  # of deviations of edges
    tables: list[tuple[Tensor, Tensor]]


def _forward(
    x: Tensor, base: Tensor | None, call: _Call, given: list[int], flat: Sequence[Tensor | None], *, again: bool
) -> tuple[Tensor, Tensor | None, _Left]:
    """The pass forward; ``again``: whether there is a pass back."""
    key = call.key
    grids: Any = flat[::_TENSORS]
    made = [tables(grid, shape[3]) for grid, shape in zip(grids, key.shapes, strict=True)]
    y, loss = x.new_empty((key.batch, key.shapes[-1][1])), None if key.penalty is None else x.new_empty(())
    program, length, (of_kept, of_wide) = _forward_program(key)
    kept, work = x.new_zeros(of_kept), x.new_empty(length)  # zeros, since hooks on saved tensors see what lies between places
    wide = None if key.penalty is None else x.new_zeros(of_wide, dtype=torch.float64)
    gradients: list[Tensor | None] = [None] * len(made)
    if again and key.penalty is not None and key.penalty.kind == of_layer.SAMPLE_STD:
        gradients = [x.new_empty((o, i, t - k)) for i, o, t, k in key.shapes]
    if stored(work):  # while everything that is made is fake, it is not
        bases = [*addresses(x, base, y, kept, wide, work, loss), call.options(), 0, 0]
        for n, (guide, table) in enumerate(made):
            bases += *given[n * _TENSORS : (n + 1) * _TENSORS], guide.data_ptr(), table.data_ptr(), 0, 0, 0, 0
            bases += addresses(gradients[n])
        program.run(bases)
    return y, loss, _Left(kept, wide, gradients, made)


def _backward(
    call: _Call, left: _Left, x: Tensor, base: Tensor | None, flat: Sequence[Tensor | None], grad: Tensor,
    of_loss: Tensor | None, needs: tuple[bool, ...],
) -> list[Tensor | None]:  # fmt: skip
    """The gradients of the samples, the base activations and all tensors of layers."""
    found: list[Tensor | None] = [None] * len(flat)
    for n in range(0, len(flat), _TENSORS):
        edges, bias = True in needs[2 + n : 2 + n + 5], needs[2 + n + 5]
        for m, asked in ((n + 1, edges), (n + 2, edges), (n + 4, edges), (n + 5, bias)):
            parameter = flat[m]
            found[m] = torch.empty_like(parameter) if asked and parameter is not None else None
    of_edges = call.described is not None and call.described.kind != of_layer.WEIGHT_L1
    of_x = torch.empty_like(x) if needs[0] else None
    of_base = torch.empty_like(x) if needs[1] and of_edges else None
    program, length = _backward_program(call.key, (needs[0], of_base is not None, *needs[2:]))
    work = x.new_empty(length)
    if stored(work) and stored(grad):
        tensors, gradients = addresses(*flat), addresses(*found)
        bases = [*addresses(x, base, grad, left.kept, left.wide, work, of_loss), call.options()]
        bases += addresses(of_x, of_base)
        for n, (guide, table) in enumerate(left.tables):
            first = n * _TENSORS
            bases += *tensors[first : first + _TENSORS], guide.data_ptr(), table.data_ptr()
            bases += gradients[first + 1], gradients[first + 2], gradients[first + 4], gradients[first + 5]
            bases += addresses(left.gradients[n])
        program.run(bases)
    if needs[1] and (call.described is None or call.described.kind != of_layer.SAMPLE_L1):
        # The way through the outputs is a product of matrices, unless it was made with signs.
        _, spline, scaler, mask, base_weight, _ = flat
        assert spline is not None
        product = grad @ by_span.base_weight_of(Parameters(spline, scaler, mask, base_weight))
        of_base = product if of_base is None else of_base.add_(product)
    return [of_x, of_base, *found]


class _Network(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, base: Tensor | None, call: _Call, given: list[int], *flat: Tensor | None
    ) -> Any:  # fmt: skip
        y, loss, left = _forward(x, base, call, given, flat, again=True)
        ctx.save_for_backward(left.kept, left.wide, *left.gradients, x, base, *flat)  # released with the graph
        ctx.call, ctx.tables = call, left.tables
        return y if loss is None else (y, loss)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, of_loss: Tensor | None = None) -> tuple[Tensor | None, ...]:
        call, tensors = ctx.call, dispatch.saved(ctx)
        (kept, wide, *gradients), (x, base, *flat) = tensors[: 2 + len(ctx.tables)], tensors[2 + len(ctx.tables) :]
        if torch.is_grad_enabled() or dispatch.transformed(grad) or (of_loss is not None and dispatch.transformed(of_loss)):
            grads = [grad] if of_loss is None else [grad, of_loss]
            return _differentiable(call, x, base, flat, grads, ctx.needs_input_grad)
        needs = *ctx.needs_input_grad[:2], *ctx.needs_input_grad[4:]
        grad, of_loss = dispatch.dense(grad), None if of_loss is None else dispatch.dense(of_loss)
        left = _Left(kept, wide, gradients, ctx.tables)
        of_x, of_base, *found = _backward(call, left, x, base, flat, grad, of_loss, needs)
        return of_x, of_base, None, None, *found


# Function.apply looks for transforms of torch.func first, which takes as long as some operations; there are none here.
_node = super(torch.autograd.Function, _Network).apply


class _OnNative(NamedTuple):
    """A layer's tensors as penalties read them."""

    kernel: str
    in_features: int
    out_features: int
    spline_weight: Tensor
    spline_scaler: Tensor | None
    edge_mask: Tensor
    base_weight: Tensor
    layer_inputs: LayerInputs


def _differentiable(
    call: _Call, x: Tensor, base: Tensor | None, flat: Sequence[Tensor | None], grads: list[Tensor], needed: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """The gradients by operations that can be differentiated again, or transformed: those of `native`, layer by layer."""
    from efficient_kan.penalties import WeightL1

    again, penalty = torch.is_grad_enabled(), call.penalty
    with torch.enable_grad():
        # Views, so that each gradient is with respect to its own argument alone.
        x, base, *flat = views = [tensor if tensor is None else tensor.view_as(tensor) for tensor in (x, base, *flat)]  # type: ignore[assignment]
        y, losses = x, []
        for n, shape in enumerate(call.key.shapes):
            grid, spline_weight, scaler, mask, base_weight, bias = flat[n * _TENSORS : (n + 1) * _TENSORS]
            assert grid is not None and spline_weight is not None and mask is not None and base_weight is not None
            weight = kernels.fold("native", spline_weight, scaler, mask, base_weight)
            inputs = LayerInputs(y, None if n else base, grid, weight, shape[3])
            if penalty is not None:
                layer = _OnNative("native", shape[0], shape[1], spline_weight, scaler, mask, base_weight, inputs)
                of_weights = isinstance(penalty, WeightL1)
                losses.append(penalty.loss_of_tensors(layer) if of_weights else penalty.layer_loss(layer, inputs))
            y = native.spline_linear(inputs)
            y = y if bias is None else y + bias
        results = [y, torch.stack(losses).sum()] if losses else [y]
        needs = *needed[:2], *needed[4:]
        wanted = [tensor for tensor, asks in zip(views, needs, strict=True) if asks and tensor is not None]
        found = iter(torch.autograd.grad(results, wanted, grads, create_graph=again, allow_unused=True, materialize_grads=True))
    of_x, of_base, *rest = [next(found) if asks else None for asks in needs]
    return of_x, of_base, None, None, *rest
