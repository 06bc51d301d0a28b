"""The one decision: what the compiled kernel takes, and how it divides the work, once for each shape and number of threads.

There is one product for layers, `products.by_span`. A :class:`Plan` follows from shapes, the number of threads and the length
of the processor's vectors alone, never from a measurement, and so does rounding. Constants are sizes of caches, and of work
that is worth a thread or folding weights once more; they were chosen on three processors, one with AVX2 and two with AVX-512.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from efficient_kan import _tracing
from efficient_kan.kernels import LayerInputs, Parameters
from efficient_kan.kernels.cpu.codegen.simd import VECTOR_BYTES, WIDTH

ORDERS = range(1, 6)
_DTYPES = (torch.float32, torch.float64)
TYPES = (Tensor, nn.Parameter, FakeTensor)


def takes(inputs: LayerInputs) -> bool:
    """Whether the compiled kernel takes these inputs; `native` takes the rest.

    16-bit weights, tensors that are not plain, and whatever traces or transforms: compiled code is not seen there.
    """
    return _takes(inputs, inputs.weight.shape[2] + inputs.spline_order)


def _takes(inputs: LayerInputs, knot_count: int) -> bool:
    x, base, knots, weight, order = inputs
    if _tracing.observed():
        return False
    if knots.shape != (x.shape[1], knot_count) or weight.shape[1] != x.shape[1]:
        return False  # knots may broadcast over inputs
    if order not in ORDERS or x.dtype not in _DTYPES or weight.dtype != x.dtype or knots.dtype != x.dtype:
        return False
    if base is not None and (type(base) not in TYPES or base.dtype != x.dtype):
        return False
    if type(x) not in TYPES or type(weight) not in TYPES or type(knots) not in TYPES or x.device.type not in ("cpu", "meta"):
        return False
    if weight.device != x.device or knots.device != x.device or (base is not None and base.device != x.device):
        return False  # which torch refuses with its own message
    return not (x.is_neg() or weight.is_neg() or knots.is_neg() or (base is not None and base.is_neg()))  # views that negate


def takes_unfolded(x: Tensor, base: Tensor | None, knots: Tensor, parameters: Parameters, order: int) -> bool:
    """Whether the compiled kernel multiplies with these parameters as they are."""
    if not folds(parameters) or torch.is_autocast_enabled("cpu"):
        return False
    knot_count = parameters.spline_weight.shape[2] + order + 1
    return _takes(LayerInputs(x, base, knots, parameters.spline_weight, order), knot_count)


def folds(parameters: Parameters) -> bool:
    """Whether compiled code reads these parameters as they are."""
    spline_weight, scaler, mask, base_weight = parameters
    if mask is None or base_weight is None or mask.requires_grad or _tracing.observed():
        return False
    dtype, device, edges = spline_weight.dtype, spline_weight.device, spline_weight.shape[:2]
    if type(spline_weight) not in TYPES or dtype not in _DTYPES or device.type not in ("cpu", "meta"):
        return False
    if not spline_weight.is_contiguous() or spline_weight.is_neg():
        return False
    # Others may broadcast to a layer's shape, or be elsewhere: native computes with them, or torch refuses them.
    return all(
        type(t) in TYPES
        and t.shape == edges
        and t.dtype == dtype
        and t.device == device
        and t.is_contiguous()
        and not t.is_neg()
        for t in ((mask, base_weight) if scaler is None else (mask, base_weight, scaler))
    )


def dense(tensor: Tensor) -> Tensor:
    """The same numbers where compiled code looks for them, zeros included that torch keeps no memory for."""
    tensor = tensor.contiguous().resolve_neg()
    return torch.zeros(tensor.shape, dtype=tensor.dtype, device=tensor.device) if tensor._is_zerotensor() else tensor


def saved(ctx: Any) -> list[Any]:
    """What a node saved, contiguous as it was: hooks on saved tensors may give back another layout."""
    return [t if t is None or t.is_contiguous() else t.contiguous() for t in ctx.saved_tensors]


def transformed(grad: Tensor) -> bool:
    """Whether a gradient stands for several (``is_grads_batched``, torch.func), which compiled code would not see."""
    batched: bool = torch._C._functorch.is_legacy_batchedtensor(grad)
    return batched or type(grad) not in TYPES or torch._C._are_functorch_transforms_active()


_GROUP = 16  # inputs of a group at most: what they have of a sample or an edge is a line of memory or more
_PANEL_BYTES = 2**11  # samples of an input in a panel, while a group is full: what is kept of them stays in a core's own cache
_LARGEST_PANEL = 8  # times as many samples where the grid is fine, for as few inputs
_SAMPLES_PER_FEATURE = 8  # in a panel: fewer would fold weights again too often
_WEIGHT_BYTES = 2**18  # of a group's weights for a tile
_LEAST = 256  # samples that are worth a thread while there are inputs to share
_LEAST_PRODUCTS = 2**16  # of samples, inputs and outputs that are worth a thread
_FOLDS = 4  # samples for each feature that are worth folding all weights for, one more time
_NEAR_BYTES = 2**18  # of a layer's weights that stay in a core's own cache
_PIECE_BYTES = 2**11  # of a row, up to which processors do not foresee the next piece
_NAMED = 8  # weights of an edge, for each that a sample's bases name, from which on the others are left alone


class Sizes(NamedTuple):
    """How work is divided: samples of a panel, inputs of a group, outputs of a tile, and parts for threads.

    ``named``: of the weights, only those of bases that are not zero for some sample are read, and no others' gradients summed.
    ``far``: weights of the next tile, and where gradients go, are prefetched.
    """

    panel: int
    group: int
    tile: int
    sample_parts: int
    input_parts: int
    named: bool = False
    far: bool = False


class Plan(NamedTuple):
    """How a layer computes a batch; operations and bytes are of the forward pass."""

    forward: Sizes
    backward: Sizes
    penalty: Sizes  # of norms, deviations and forms alone: no parts of samples, so the same on any number of threads
    operations: int
    bytes: int


@lru_cache(maxsize=1024)
def plan(batch: int, inputs: int, outputs: int, features: int, order: int, size: int, threads: int) -> Plan:
    """The plan for ``batch`` samples of a layer of ``features`` an input, numbers of ``size`` bytes, and so many threads."""
    threads = min(threads, max(1, batch * inputs * outputs // _LEAST_PRODUCTS))
    samples = min(threads, max(1, batch // max(_LEAST, _FOLDS * features)))
    forward = _divided(batch, inputs, outputs, features, size, (samples, max(1, min(threads // samples, inputs))))
    of_inputs = max(1, min(threads, inputs))
    parts = min(threads // of_inputs, max(1, batch // _LEAST)), of_inputs
    backward = _divided(batch, inputs, outputs, features, size, parts)
    penalty = _divided(batch, inputs, outputs, features, size, (1, 1))._replace(input_parts=of_inputs)
    named = _NAMED * batch * (order + 1) <= features and batch <= min(forward.panel, backward.panel)
    if named:
        forward, backward = forward._replace(named=True), backward._replace(named=True)
    elif size * features * inputs * outputs > _NEAR_BYTES:
        forward, backward, penalty = (
            sizes._replace(far=size * features * sizes.group <= _PIECE_BYTES) for sizes in (forward, backward, penalty)
        )
    spans = min(max(batch, 1), max(features - 2 * order, 1))
    operations = 2 * inputs * outputs * (batch * (order + 2) + spans * (order + 1) ** 2)
    panels = samples * max(1, -(-batch // (samples * forward.panel)))
    weights = batch * (order + 1) if named else features
    numbers = panels * inputs * outputs * (weights + 2) + batch * (inputs + outputs)
    return Plan(forward, backward, penalty, operations, size * numbers)


def _divided(batch: int, inputs: int, outputs: int, features: int, size: int, parts: tuple[int, int]) -> Sizes:
    return Sizes(*divide(-(-batch // parts[0]), features, outputs, size, -(-inputs // parts[1])), *parts)


def tile_of(outputs: int, size: int) -> int:
    """Outputs of a tile: a power of two of vectors."""
    lanes, wide = VECTOR_BYTES // size, 1
    while wide < WIDTH and wide * lanes < outputs:
        wide *= 2
    return wide * lanes


def divide(batch: int, features: int, outputs: int, size: int, inputs: int) -> tuple[int, int, int]:
    """Samples of a panel, inputs of a group and outputs of a tile."""
    tile, panel, scale = tile_of(outputs, size), _PANEL_BYTES // size, 1
    while scale < _LARGEST_PANEL and panel * scale < _SAMPLES_PER_FEATURE * features:
        scale *= 2
    group = min(_GROUP, max(1, _WEIGHT_BYTES // (features * tile * size)))
    if batch > panel:
        group = min(group, _GROUP // scale)
    return max(1, min(panel * scale, batch)), max(1, min(group, inputs)), tile


def explain(inputs: LayerInputs) -> str:
    """The plan for these inputs in words."""
    (batch, count), (outputs, _, features), size = inputs.x.shape, inputs.weight.shape, inputs.x.element_size()
    chosen = plan(batch, count, outputs, features, inputs.spline_order, size, torch.get_num_threads())
    lines = [
        f"product by_span: the bases that are not zero, {inputs.spline_order + 1} of {features - 1} an input, and no others",
        f"  forward: {chosen.operations / 1e9:.3g} GFLOP, {chosen.bytes / 1e6:.3g} MB; backward about twice as much",
        f"  vectors of {VECTOR_BYTES} bytes, {torch.get_num_threads()} threads of torch",
    ]
    for name, sizes in (("forward", chosen.forward), ("backward", chosen.backward)):
        lines.append(
            f"  {name}: panels of {sizes.panel} samples, groups of {sizes.group} inputs, tiles of {sizes.tile} outputs; "
            f"{sizes.sample_parts} by {sizes.input_parts} parts of samples and inputs"
            + ("; weights of the samples' bases alone" if sizes.named else "")
            + ("; the next tile's weights prefetched" if sizes.far else "")
        )
    return "\n".join(lines)
