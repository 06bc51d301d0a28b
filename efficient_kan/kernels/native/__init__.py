"""The kernel in plain torch operations, for every device and dtype.

Shape legend: ``B`` samples, ``I`` in_features, ``O`` out_features, ``G`` grid_size, ``k`` spline_order,
``M = G + k + 1`` features per input (its bases and its base activation).

Each function expands a block of samples into features ``(I, M, rows)``, uses them and drops them; its hand-written backward
expands again. So what a step keeps is ``x`` and ``base``, as in an MLP, and what it holds for a moment is one block. The
backwards consist of differentiable operations, which gives derivatives of higher order.

============================================  ==================================================================
outputs of a layer, where                     are computed
============================================  ==================================================================
nothing looks on                              by `dense`, or on fine grids and GPUs by `local`
torch.compile, vmap, torch.func.grad          here, by nodes whose backward is written by hand
TorchScript, torch.export, ONNX, make_fx      here, by torch's operators without such nodes, all samples at once,
                                              on comparisons with the knots (``searchsorted`` has no ONNX form)
forward-mode differentiation                  the same in blocks of samples, with torch's derivatives
============================================  ==================================================================

Norms of edges are computed here in all cases.
"""

from __future__ import annotations

import torch
from torch import Tensor

from efficient_kan import _tracing
from efficient_kan._device import device_type
from efficient_kan.kernels import LayerInputs, Parameters
from efficient_kan.kernels.native import blocks, dense, expansion, local
from efficient_kan.kernels.native.edges import column_std as column_std
from efficient_kan.kernels.native.edges import edge_l1 as edge_l1
from efficient_kan.kernels.native.edges import edge_l1_gradients as edge_l1_gradients
from efficient_kan.kernels.native.edges import edge_std as edge_std
from efficient_kan.kernels.native.edges import input_std as input_std
from efficient_kan.kernels.native.edges import over_deviation as over_deviation
from efficient_kan.kernels.native.expansion import linear_gradients as linear_gradients
from efficient_kan.kernels.native.linear import SplineLinear, outputs

# Knots of an input up to which all its bases cost less than to look for those that are not zero.
_DENSE_KNOTS = 72


def spline_linear(inputs: LayerInputs) -> Tensor:
    """``y[b, o] = sum_i phi_oi(x[b, i])``, shape ``(B, O)`` in the dtype of ``weight``."""
    if _tracing.plain_operations_only():
        return outputs(*expansion.tensors_of(inputs))
    if _tracing.observed():
        y: Tensor = SplineLinear.apply(*inputs.with_base())  # type: ignore[no-untyped-call]
        return y
    x, base, knots, weight, order = inputs
    with blocks.autocast_off(x):
        return unfolded_linear(x, base, knots, Parameters(weight, None, None, None), order)


def takes_unfolded(x: Tensor, base: Tensor | None, knots: Tensor, parameters: Parameters, order: int) -> bool:
    """Whether :func:`unfolded_linear` takes these arguments; :func:`spline_linear` takes the rest."""
    if _tracing.observed() or (parameters[2] is not None and parameters[2].requires_grad):
        return False
    return not (torch._C._is_any_autocast_enabled() and blocks.autocast(x))


def unfolded_linear(x: Tensor, base: Tensor | None, knots: Tensor, parameters: Parameters, order: int) -> Tensor:
    """:func:`spline_linear` with the weight that these parameters fold to."""
    # On other devices than CPUs native has the blocks, and so the memory, of its other functions.
    if knots.shape[1] <= _DENSE_KNOTS and (x.is_cpu or device_type(x) == "cpu"):
        return dense.linear(x, base, knots, parameters, order)
    return local.linear(x, base, knots, parameters, order)
