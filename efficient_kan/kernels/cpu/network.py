"""A network of small layers as one node of autograd's graph, penalty included, computed by `products.by_sample`.

A step of a small network is bound by calls: some 150 µs a layer, of Python and of torch. Here it is one node, and a compiled
call a layer forward and one backward, on one thread. Chosen by shapes, threads and penalty (:func:`takes_network`), never by a
measurement, since its rounding differs from that of layers one by one; derivatives of higher order are those of the kernel
`native`.
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
from efficient_kan.kernels.cpu import dispatch
from efficient_kan.kernels.cpu.codegen.jit import REAL, stored
from efficient_kan.kernels.cpu.codegen.simd import NEAREST_CACHE, VECTOR_BYTES
from efficient_kan.kernels.cpu.common.tables import tables
from efficient_kan.kernels.cpu.penalties import of_network
from efficient_kan.kernels.cpu.penalties.of_network import Described
from efficient_kan.kernels.cpu.products import by_sample

# What `by_sample` does, in operations on vectors forward: k + 2 for a sample, an input and a vector of outputs, and these for a
# sample and an input's span and bases. `by_span` does half of the former, and shares all among threads.
_BASES = 5
# What it saves: a layer's calls one by one, in such operations, by the kind of the penalty (0: none).
_CALLS = {0: 90_000, of_network.SAMPLE_L1: 120_000, of_network.WEIGHT_L1: 270_000, of_network.SAMPLE_STD: 400_000}

# A layer's sizes (I, O, T, k), and its tensors: knots (I, T), spline weight (O, I, N), scaler (O, I) or None, mask (O, I), base
# weight (O, I), bias (O,) or None.
Shape = tuple[int, int, int, int]
_TENSORS = 6


class _Sizes(NamedTuple):
    """What depends on a network's shapes alone."""

    operations: int  # on vectors, of a sample's products
    bases: int  # the same of its bases
    small: bool


@lru_cache(maxsize=256)
def _sizes(shapes: tuple[Shape, ...], size: int) -> _Sizes:
    """For numbers of ``size`` bytes. Outputs of a panel fit into the nearest cache, an input's rows into a fifth of it."""
    coefficients, widest = by_sample.fitting(NEAREST_CACHE, size)
    fits = all(t - k - 1 <= coefficients and o <= widest and k in dispatch.ORDERS for i, o, t, k in shapes)
    chained = all(before[1] == after[0] for before, after in itertools.pairwise(shapes))
    lanes = VECTOR_BYTES // size
    operations = sum(i * -(-o // lanes) * (k + 2) for i, o, _, k in shapes)
    return _Sizes(operations, _BASES * sum(i for i, *_ in shapes), fits and chained)


class _Scratch(NamedTuple):
    """Of a network at so many samples."""

    layouts: tuple[tuple[int, ...], ...]
    statistics: tuple[int, ...]  # where those of layers start, in one tensor; the last entry is the penalty's total
    hidden: tuple[int, ...]  # where outputs of layers but the last start; the last entry is how many numbers there are
    length: int  # of scratch memory, in numbers


@lru_cache(maxsize=1024)
def _scratch(batch: int, shapes: tuple[Shape, ...], size: int) -> _Scratch:
    """What a pass needs memory for."""
    layouts, bytes_ = zip(*(by_sample.layout(batch, *shape, size) for shape in shapes), strict=True)
    lengths = [by_sample.statistics_length(shape[0], layout[5]) for shape, layout in zip(shapes, layouts, strict=True)]
    hidden = itertools.accumulate((batch * shape[1] for shape in shapes[:-1]), initial=0)
    statistics = itertools.accumulate(lengths, initial=0)
    return _Scratch(tuple(layouts), tuple(statistics), tuple(hidden), max(bytes_) // size)


def takes_network(batch: int, shapes: Sequence[Shape], size: int, penalty: object = None) -> bool:
    """Whether networks of layers ``(I, O, T, k)`` are computed here with so many samples, of ``size`` bytes a number."""
    return _takes(batch, tuple(shapes), size, penalty is not None, of_network.described(penalty))


def _takes(batch: int, shapes: tuple[Shape, ...], size: int, penalised: bool, penalty: Described | None) -> bool:
    if penalised and (penalty is None or batch < penalty.least):
        return False
    sizes = _sizes(shapes, size)
    return sizes.small and _extra(batch, sizes) <= _worth(shapes, penalty)


def _extra(batch: int, sizes: _Sizes) -> float:
    """Operations that a pass does and each of torch's threads would not, were layers computed by spans."""
    threads = torch.get_num_threads()
    return batch * (sizes.operations * (1 - 0.5 / threads) + sizes.bases * (1 - 1 / threads))


def _worth(shapes: tuple[Shape, ...], penalty: Described | None) -> int:
    return len(shapes) * _CALLS[0 if penalty is None else penalty.kind]


def explain_network(batch: int, shapes: Sequence[Shape], size: int, penalty: object = None) -> str:
    """Why, or why not, in a line of text."""
    shapes, found = tuple(shapes), of_network.described(penalty)
    if penalty is not None and found is None:
        return f"cpu: layer by layer (in one pass: without a penalty, or with one of efficient_kan's own, not {penalty!r:.80})"
    which = "the whole network in one pass" if takes_network(batch, shapes, size, penalty) else "layer by layer"
    (coefficients, widest), threads = by_sample.fitting(NEAREST_CACHE, size), torch.get_num_threads()
    return (
        f"cpu: {which} (in one pass: up to {widest} outputs of a layer and {coefficients} coefficients of an edge, for a "
        f"nearest cache of {NEAREST_CACHE // 1024} KiB, while that takes up to {_worth(shapes, found):,} operations on vectors "
        f"more than layers on {threads} thread{'s' * (threads > 1)} do: {_extra(batch, _sizes(shapes, size)):,.0f} here; "
        "kernels.set_whole_networks(False) for layers)"
    )


def network(
    x: Tensor, layers: Sequence[Sequence[Tensor | None]], orders: Sequence[int], penalty: object = None
) -> tuple[Tensor, Tensor | None] | None:
    """The outputs ``(..., O)`` of a network whose base activations are SiLU, and a penalty; None where this is not for it."""
    dtype, dense = x.dtype, type(x) in dispatch.TYPES and x.layout is torch.strided and not x.is_nested
    if not dense or dtype not in REAL or x.dim() == 0:
        return None
    if dtype is not torch.float64 and torch.is_autocast_enabled("cpu"):  # which leaves float64 alone
        return None
    graph, real, described = x.requires_grad, stored(x), []
    flat: list[Tensor | None] = []
    addresses: list[int] = []
    for layer, order in zip(layers, orders, strict=True):
        grid, _, _, mask, _, _ = layer
        assert grid is not None and mask is not None
        if mask.requires_grad or grid.requires_grad:
            return None
        outputs, inputs = mask.shape
        described.append((inputs, outputs, grid.shape[1], order))
        edges = outputs * inputs
        counts = inputs * grid.shape[1], edges * (grid.shape[1] - order - 1), edges, edges, edges, outputs
        for tensor, count in zip(layer, counts, strict=True):
            if tensor is None:
                addresses.append(0)
                continue
            plain = tensor.dtype is dtype and tensor.is_contiguous() and type(tensor) in dispatch.TYPES and not tensor.is_neg()
            # Of what is shared among ranks there may be a part, or nothing for now.
            if not plain or tensor.numel() != count or (real and not tensor.is_cpu):
                return None
            graph = graph or tensor.requires_grad
            addresses.append(tensor.data_ptr() if real else 0)
            if real and not addresses[-1]:
                return None
        flat += layer
    shapes = tuple(described)
    flat_already = x.dim() == 2
    batch, width = x.shape if flat_already else (math.prod(x.shape[:-1]), x.shape[-1])
    found = None if penalty is None else of_network.described(penalty)
    if width != shapes[0][0] or not _takes(batch, shapes, x.element_size(), penalty is not None, found):
        return None
    samples = x if flat_already else x.reshape(-1, width)
    samples = dispatch.dense(samples)
    if graph and torch.is_grad_enabled():
        result = _node(samples, shapes, penalty, found, addresses, *flat)  # type: ignore[no-untyped-call]
        y, loss = result if found is not None else (result, None)
    else:
        y, loss, *_ = _forward(samples, shapes, found, flat, addresses, keeps=False)
    return y if flat_already else y.view(*x.shape[:-1], y.shape[1]), loss


class _Computed(NamedTuple):
    """What a pass forward leaves."""

    y: Tensor | None
    loss: Tensor | None
    hidden: Tensor  # outputs of layers but the last, one after the other
    made: list[tuple[Tensor, Tensor]]  # tables of knots
    statistics: Tensor | None


def _forward(
    x: Tensor, shapes: tuple[Shape, ...], penalty: Described | None, flat: Sequence[Tensor | None], addresses: list[int], *,
    keeps: bool,
) -> _Computed:  # fmt: skip
    """The pass forward; ``keeps`` what the pass back needs."""
    batch, size = x.shape[0], x.element_size()
    layouts, places, hidden, length = _scratch(batch, shapes, size)
    made = [tables(flat[n * _TENSORS], shape[3]) for n, shape in enumerate(shapes)]  # type: ignore[arg-type]
    y, room = x.new_empty((batch, shapes[-1][1])), x.new_empty(length if keeps else length + hidden[-1])
    kept = x.new_empty(hidden[-1]) if keeps else room
    statistics, loss = None, None
    if penalty is not None:
        statistics, loss = x.new_zeros(places[-1] + 1, dtype=torch.float64), x.new_empty(())
    if stored(room):
        real, scratch = REAL[x.dtype], room.data_ptr()
        values = [x.data_ptr(), *_places(kept.data_ptr() if keeps else scratch + length * size, size, hidden), y.data_ptr()]
        of_statistics = 0 if statistics is None else statistics.data_ptr()
        kind = _kind(penalty)
        numbers: list[int] = []
        for n, (guide, table) in enumerate(made):
            grid, *parameters = addresses[n * _TENSORS : (n + 1) * _TENSORS]
            numbers += values[n], values[n + 1], grid, guide.data_ptr(), table.data_ptr(), *parameters, 0, 0, 0, 0, 0, 0
            numbers += of_statistics + 8 * places[n], kind, scratch, *layouts[n]
        _run(by_sample.forward, numbers, shapes, real)
        if penalty is not None and loss is not None:
            records = _penalised(penalty, shapes, batch, addresses, of_statistics, loss.data_ptr(), size)
            of_network.evaluate(real)(records.buffer_info()[0], len(shapes))
    return _Computed(y, loss, kept, made, statistics)


def _places(first: int, size: int, hidden: Sequence[int]) -> list[int]:
    """The addresses of outputs of layers but the last."""
    return [first + start * size for start in hidden[:-1]]


def _run(function: Any, numbers: list[int], shapes: tuple[Shape, ...], real: Any) -> None:
    """Compiled passes through layers: one call for as many as are of one order, one after the other."""
    records, first = array("q", numbers), 0
    place, length, order = records.buffer_info()[0], 8 * len(by_sample.Layer._fields), shapes[0][3]
    if all(shape[3] == order for shape in shapes):
        function(order, real)(place, len(shapes))
        return
    for order, group in itertools.groupby(shape[3] for shape in shapes):
        count = len(list(group))
        function(order, real)(place + first * length, count)
        first += count


def _kind(penalty: Described | None) -> int:
    """What the pass through a layer takes of values of edges."""
    return 0 if penalty is None or penalty.kind == of_network.WEIGHT_L1 else penalty.kind


def _penalised(
    penalty: Described, shapes: tuple[Shape, ...], batch: int, addresses: Sequence[int], statistics: int, loss: int, size: int,
    gradients: Sequence[Sequence[int]] = (),
) -> array[int]:  # fmt: skip
    """Records of the penalty of all layers; ``gradients`` are those of coefficients, scalers and base weights."""
    layouts, places, _, _ = _scratch(batch, shapes, size)
    numbers: list[int] = []
    for n, (inputs, outputs, knots, order) in enumerate(shapes):
        grid, coefficients, scaler, mask, base, _ = addresses[n * _TENSORS : (n + 1) * _TENSORS]
        numbers += penalty.kind, penalty.options.buffer_info()[0], statistics + 8 * places[n], statistics + 8 * places[-1], loss
        numbers += grid, coefficients, scaler, mask, base, *(gradients[n] if gradients else (0, 0, 0))
        numbers += batch, inputs, outputs, knots, layouts[n][5], order
    return array("q", numbers)


def _of_weights(penalty: Described) -> bool:
    """Whether a penalty has terms without values of edges."""
    _, _, coef, coefdiff, _, _ = penalty.options
    return penalty.kind == of_network.WEIGHT_L1 or bool(coef or coefdiff)


class _Saved(NamedTuple):
    """What the pass back needs beside the tensors that autograd keeps."""

    shapes: tuple[Shape, ...]
    penalty: Any
    described: Described | None
    computed: _Computed


def _backward(
    saved: _Saved, x: Tensor, flat: Sequence[Tensor | None], grad: Tensor, of_loss: Tensor | None, needs_x: bool,
    needs: Sequence[bool],
) -> list[Tensor | None]:  # fmt: skip
    """The gradients of the samples and of all tensors of layers."""
    shapes, penalty, (_, _, kept, made, of_values) = saved.shapes, saved.described, saved.computed
    batch, size, real = x.shape[0], x.element_size(), REAL[x.dtype]
    layouts, places, hidden, length = _scratch(batch, shapes, size)
    found: list[Tensor | None] = [None] * len(flat)
    for n in range(0, len(flat), _TENSORS):
        if True in needs[n : n + _TENSORS]:
            for m in (1, 2, 4, 5):
                parameter = flat[n + m]
                found[n + m] = None if parameter is None else torch.empty_like(parameter)
    of_x, of_hidden, room = torch.empty_like(x) if needs_x else None, torch.empty_like(kept), x.new_empty(length)
    if stored(room) and stored(grad):
        addresses, of_parameters = _addresses(flat), _addresses(found)
        values = [x.data_ptr(), *_places(kept.data_ptr(), size, hidden)]
        targets = [0 if of_x is None else of_x.data_ptr(), *_places(of_hidden.data_ptr(), size, hidden), grad.data_ptr()]
        statistics, loss, scratch = _addresses([of_values, of_loss, room])
        kind, gradients = _kind(penalty), []
        numbers: list[int] = []
        for n in range(len(shapes) - 1, -1, -1):
            grid, *parameters = addresses[n * _TENSORS : (n + 1) * _TENSORS]
            _, of_coefficients, of_scaler, _, of_base, of_bias = of_parameters[n * _TENSORS : (n + 1) * _TENSORS]
            guide, table = made[n]
            gradients.append((of_coefficients, of_scaler, of_base))
            numbers += values[n], targets[n + 1], grid, guide.data_ptr(), table.data_ptr(), *parameters
            numbers += targets[n], of_coefficients, of_scaler, of_base, of_bias, loss
            numbers += statistics + 8 * places[n], kind, scratch, *layouts[n]
        _run(by_sample.backward, numbers, shapes[::-1], real)
        if penalty is not None and _of_weights(penalty):
            records = _penalised(penalty, shapes, batch, addresses, statistics, loss, size, gradients[::-1])
            of_network.add_gradients(real)(records.buffer_info()[0], len(shapes))
    return [of_x, *found]


class _Network(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, shapes: tuple[Shape, ...], penalty: object, described: Described | None, addresses: list[int],
        *flat: Tensor | None,
    ) -> Any:  # fmt: skip
        computed = _forward(x, shapes, described, flat, addresses, keeps=True)
        y, loss = computed.y, computed.loss
        ctx.save_for_backward(x, *flat)
        # Without outputs: those would keep this node, and it them.
        ctx.saved = _Saved(shapes, penalty, described, computed._replace(y=None, loss=None))
        return y if loss is None else (y, loss)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, of_loss: Tensor | None = None) -> tuple[Tensor | None, ...]:
        saved, tensors = ctx.saved, dispatch.saved(ctx)
        needs_x, _, _, _, _, *needs = ctx.needs_input_grad
        x, *flat = tensors
        if torch.is_grad_enabled() or dispatch.transformed(grad) or (of_loss is not None and dispatch.transformed(of_loss)):
            grads = [grad] if of_loss is None else [grad, of_loss]
            return _differentiable(x, flat, saved.shapes, saved.penalty, grads, needs_x, needs)
        of_x, *found = _backward(saved, x, flat, dispatch.dense(grad), of_loss, needs_x, needs)
        return of_x, None, None, None, None, *found


# Function.apply looks for transforms of torch.func first, which takes as long as some operations; there are none here.
_node = super(torch.autograd.Function, _Network).apply


def _addresses(tensors: Sequence[Tensor | None]) -> list[int]:
    return [0 if tensor is None or type(tensor) is FakeTensor else tensor.data_ptr() for tensor in tensors]


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
    x: Tensor, flat: Sequence[Tensor | None], shapes: tuple[Shape, ...], penalty: Any, grads: list[Tensor], needs_x: bool,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """The gradients by operations that can be differentiated again, or transformed: those of `native`, layer by layer."""
    from efficient_kan.penalties import WeightL1

    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views, so that each gradient is with respect to its own argument alone.
        x = x.view_as(x)
        flat = [None if tensor is None else tensor.view_as(tensor) for tensor in flat]
        y, losses = x, []
        for n, shape in enumerate(shapes):
            grid, spline_weight, scaler, mask, base_weight, bias = flat[n * _TENSORS : (n + 1) * _TENSORS]
            assert grid is not None and spline_weight is not None and mask is not None and base_weight is not None
            weight = kernels.fold("native", spline_weight, scaler, mask, base_weight)
            inputs = LayerInputs(y, None, grid, weight, shape[3])
            if penalty is not None:
                layer = _OnNative("native", shape[0], shape[1], spline_weight, scaler, mask, base_weight, inputs)
                of_weights = isinstance(penalty, WeightL1)
                losses.append(penalty.loss_of_tensors(layer) if of_weights else penalty.layer_loss(layer, inputs))
            y = native.spline_linear(inputs)
            y = y if bias is None else y + bias
        results = [y, torch.stack(losses).sum()] if losses else [y]
        wanted = [tensor for tensor, needed in zip([x, *flat], [needs_x, *needs], strict=True) if needed and tensor is not None]
        found = iter(torch.autograd.grad(results, wanted, grads, create_graph=again, allow_unused=True, materialize_grads=True))
    of_x = next(found) if needs_x else None
    return of_x, None, None, None, None, *[next(found) if needed else None for needed in needs]
