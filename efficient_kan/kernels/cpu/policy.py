"""What is computed how: in which blocks, with features kept or expanded again, and what is left to `native`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from efficient_kan import _tracing, kernels
from efficient_kan.kernels import LayerInputs, Parameters
from efficient_kan.kernels.cpu.compiled import LINE_BYTES
from efficient_kan.kernels.cpu.vectors import VECTOR_BYTES

_ORDERS = range(1, 6)
_DTYPES = (torch.float32, torch.float64)
TYPES = (Tensor, nn.Parameter, FakeTensor)
# Bytes of features expanded at a time: what a core's own cache holds, while rows suffice for full-speed products.
_BLOCK_BYTES = 2**21
_LEAST_ROWS, _LEAST_INPUTS = 256, 32
_LARGE = 128  # coefficients of an edge whose ends, which share a line of memory with others, are few
# The sparse product takes one input after the other from 64 features of an input on; from fewer if there are few samples: any
# number of them up to 64 samples, and one more for every 8 samples further; with vectors twice as long, to twice as many.
_FINE, _FEW, _SLOPE = 64, 2 * VECTOR_BYTES, VECTOR_BYTES // 4
_TERMS = 0.6  # features for each term of a sample from which on the sparse product gains on the library's


def takes(inputs: LayerInputs) -> bool:
    """Whether the compiled kernel takes these inputs; `native` takes the rest.

    16-bit weights, tensors that are not plain, and whatever traces or transforms: compiled code is not seen there.
    """
    x, base, knots, weight, order = inputs
    if _tracing.observed():
        return False
    if order not in _ORDERS or x.dtype not in _DTYPES or weight.dtype != x.dtype or knots.dtype != x.dtype:
        return False
    if base is not None and (type(base) not in TYPES or base.dtype != x.dtype):
        return False
    return type(x) in TYPES and type(weight) in TYPES and type(knots) in TYPES and x.device.type in ("cpu", "meta")


def takes_unfolded(x: Tensor, base: Tensor | None, knots: Tensor, parameters: Parameters, order: int) -> bool:
    """Whether the compiled kernel multiplies with these parameters without folding them all."""
    spline_weight, scaler, mask, base_weight = parameters
    if mask is None or base_weight is None or not folds(spline_weight, scaler, mask, base_weight):
        return False
    outputs, inputs, length = spline_weight.shape
    if torch.is_autocast_enabled("cpu") or not fine(x.shape[0], (outputs, inputs, length + 1), order):
        return False
    return takes(LayerInputs(x, base, knots, spline_weight, order))


def folds(spline_weight: Tensor, scaler: Tensor | None, mask: Tensor, base_weight: Tensor) -> bool:
    """Whether the compiled kernel folds these parameters."""
    tensors = [spline_weight, mask, base_weight] if scaler is None else [spline_weight, mask, base_weight, scaler]
    if _tracing.observed() or mask.requires_grad or spline_weight.dtype not in _DTYPES:
        return False
    return all(type(t) in TYPES and t.dtype == spline_weight.dtype and t.is_contiguous() for t in tensors)


def transformed(grad: Tensor) -> bool:
    """Whether a gradient stands for several (``is_grads_batched``, torch.func), which compiled code would not see."""
    batched: bool = torch._C._functorch.is_legacy_batchedtensor(grad)
    return batched or type(grad) not in TYPES or torch._C._are_functorch_transforms_active()


def folds_across(samples: int, shape: Sequence[int], order: int) -> bool:
    """Whether weights of a ``shape`` ``(O, I, M)`` are folded for the sparse product with ``samples``; see `sparse`."""
    if samples == 0 or order not in _ORDERS or torch.is_autocast_enabled("cpu"):
        return False
    return sparse(samples, shape, order) and not fine(samples, shape, order)


def lies_across(weight: Tensor) -> bool:
    """Whether weights ``(O, I, M)`` lie in memory as those of :func:`folds_across`, ``(I, M, O)``."""
    return weight.shape[0] > 1 and weight.permute(1, 2, 0).is_contiguous()


def fine(samples: int, shape: Sequence[int], order: int) -> bool:
    """Whether the sparse product takes one input after the other and folds its weights on the way; see `fine`.

    That pays where there are many of them for the samples, and an input for every thread. Measured at 8 to 16384 samples, 16 to
    256 outputs, with vectors of both widths: AVX-512 on an Intel processor, AVX2 on one of AMD's.
    """
    outputs, inputs, features = shape
    if outputs == 0 or inputs < torch.get_num_threads() or features < min(_FINE, (samples - _FEW) / _SLOPE):
        return False
    return sparse(samples, shape, order)


def sparse(samples: int, shape: Sequence[int], order: int) -> bool:
    """Whether to multiply ``samples`` and weights of a ``shape`` ``(O, I, M)`` with the bases that are not zero alone.

    It takes fewer operations, but turns the weights over and reads them in pieces, which costs more the further apart those of
    an input lie, if there are few samples for it; and the library's products gain with the number of outputs. Measured at 1 to
    8192 samples, 32 to 1024 inputs, 8 to 1024 outputs: AVX-512 on an Intel processor, AVX2 on one of AMD's.
    """
    outputs, inputs, features = shape
    wide, far = max(outputs, 64) / 64, max(1.0, inputs / max(256, 2 * samples))
    return bool(features > _TERMS * (order + 3) * wide**0.35 * far**0.5)


def keeps(features: int, x: Tensor) -> bool:
    """Whether so many numbers, the features of all samples, are kept from the forward to the backward pass."""
    return features * x.element_size() <= kernels.feature_budget()


def large(weight: Tensor) -> bool:
    """Whether to write a gradient of spline weights past the caches, which takes vectors that are whole lines of memory.

    What reads it next, an optimiser, comes to it when it has left them. Measured at 1 to 17 MB with the optimiser's step.
    """
    return VECTOR_BYTES == LINE_BYTES and weight.shape[2] >= _LARGE and weight.nbytes > _BLOCK_BYTES


def block_shape(x: Tensor, weight: Tensor) -> tuple[int, int]:
    """How many samples and inputs are worked on together, at most."""
    rows, inputs = x.shape
    feature = weight.shape[2] * x.element_size()
    height = max(1, min(rows, max(_LEAST_ROWS, _BLOCK_BYTES // (_LEAST_INPUTS * feature))))
    width = max(_LEAST_INPUTS, _BLOCK_BYTES // (height * feature) // _LEAST_INPUTS * _LEAST_INPUTS)
    if width >= inputs:
        return max(_LEAST_ROWS, _BLOCK_BYTES // (max(inputs, 1) * feature)), max(inputs, 1)
    return height, width
