"""The arm `torchcurves`: `torchcurves.BSplineBasis` (PyPI torchcurves) with the weights of a given network.

The package evaluates curves, `I` of them in `O` dimensions, on one knot vector for all, and its documentation builds a KAN by
summing over the curves. Its curves live between the knots number k and M (counted from 0), where k + 1 bases overlap, and raw
inputs are mapped there; ours taper to zero over the k outermost intervals. So the knots get k more on each side and the curves
k more coefficients, all zero: on the wider interval the curve is ours, its ends are zero, and clamping the input to it (the
package's own map `real.clamp`) gives zero beyond, with zero slope. Scale, mask, base activation and bias are plain torch
around it.

What it builds: k + 1 basis values and 64-bit positions (B, I, k + 1), the coefficients gathered at them (B, I, k + 1, O), their
sum (B, I, O), which is summed over I. Backward gathers again for the gradient of the input, and has one more (B, I, k + 1, O)
for the gradient of the coefficients. Both are more than the (B, O, I) of one value per edge and sample. Time per layer is
B * I * (k + 1) * O whatever G is; its autograd function keeps inputs, bases and positions only. Gradients of coefficients are
summed over the batch one by one: in float32 their error grows with B and is beyond the gate at 4096 samples, 32-32-32, G = 5.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reference.arm import Unsupported
from reference.network import Network, SourceLayer, weight_l1


class Layer(SourceLayer):
    """Curves on padded knots, summed over the inputs, plus the base branch."""

    def __init__(self, source: Any) -> None:
        from torchcurves import BSplineBasis, Sum

        super().__init__(source)
        self.k = source.spline_order
        self.curves = BSplineBasis(degree=self.k, knots_config=padded_knots(source), input_map="real.clamp")
        self.sum = Sum(dim=-2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, I) to (B, O)."""
        control_points = F.pad(self.coefficients().permute(1, 2, 0), (0, 0, self.k, self.k))  # shape: (I, M + 2k, O)
        spline: Tensor = self.sum(self.curves(x, control_points))
        return self.with_bias(spline + F.linear(self.act(x), self.base_coefficients()))


def padded_knots(source: Any) -> Tensor:
    """Return the knots that all inputs of the layer `source` share, and k more on each side: (G + 4k + 1,).

    Raises `Unsupported` if inputs differ in their knots.
    """
    grid, k = source.grid.detach(), source.spline_order
    knots: Tensor = grid[0]
    if not torch.equal(grid, knots.expand_as(grid)):
        raise Unsupported("torchcurves has one knot vector for all curves, these differ from input to input")
    # Only bases with zero coefficients reach the new knots, so any increasing ones will do.
    steps = (knots[-1] - knots[0]) / (len(knots) - 1) * torch.arange(1, k + 1, device=knots.device, dtype=knots.dtype)
    return torch.cat([knots[0] - steps.flip(0), knots, knots[-1] + steps])


def build(source: Any) -> Network:
    """Return the network with the weights and knots of the `efficient_kan.KAN` `source`."""
    return Network(Layer(layer) for layer in source.layers)


def penalised(module: nn.Module, x: Tensor, penalty: str) -> tuple[Tensor, Tensor]:
    """Return outputs and `weight_l1`, straight from its formula: the package has coefficients but no penalty on them.

    Raises `Unsupported` for the other penalties.
    """
    if penalty != "weight_l1":
        raise Unsupported(f"torchcurves forms single edges without their base activation, which {penalty} needs")
    assert isinstance(module, Network)
    return module(x), weight_l1(module)
