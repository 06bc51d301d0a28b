"""The kernels of :mod:`efficient_kan.kernels.cuda` as ``auto`` takes them: each where it is no slower than native.

The contract of :mod:`efficient_kan.kernels`; what is not of the layer's product is that of the package.
"""

from __future__ import annotations

from torch import Tensor

from efficient_kan.kernels import LayerInputs, cuda
from efficient_kan.kernels.cuda import edge_l1, edge_std, input_std

__all__ = ["edge_l1", "edge_std", "input_std", "spline_linear"]


def spline_linear(inputs: LayerInputs) -> Tensor:
    """See :func:`efficient_kan.kernels.cuda.spline_linear`."""
    from efficient_kan.kernels.cuda import model

    return cuda.layer_product(inputs, model.by_native(inputs))
