"""The arms `inkan` and `inkan[compiled]`: `inkan.KANLayer` (PyPI inkan) with the weights of a given network.

The package has one uniform cubic knot vector for all inputs of a layer, which continues beyond the grid and tapers as ours
does, and one packed weight: `M` coefficients and a base weight per edge. It has neither scale nor mask nor bias, so those are
plain torch around it: the packed weight is computed from the source's parameters at every forward, (O, I * M + I) elements.

What it builds: values and 64-bit positions of the 4 bases that are not zero, (B, I, 4) each and a dozen intermediate tensors of
that shape (fused when compiled), scattered into all bases (B, I, M), joined with the base activations into the features
(B, I * (M + 1)), one matrix product. With O <= 16 and M >= 32 it gathers the 4 coefficients instead and sums: (B, I, 4, O),
three times over. Time per layer is that of a dense product, B * I * M * O; plain autograd keeps the features.

Positions are computed as (x - first knot) / step, whose rounding error grows with G: in float32 it passes the gate on coarse
grids only (1024 samples, 32-32-32: G = 5 in 8 of 8 seeds, G = 7 in 4, G = 10 in none), in float64 up to G = 200.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from reference.arm import Unsupported
from reference.network import Network, SourceLayer, weight_l1


class Layer(SourceLayer):
    """`inkan.KANLayer`, whose packed weight comes from the source's parameters."""

    def __init__(self, source: Any, *, compiled: bool) -> None:
        from inkan import KANLayer

        super().__init__(source)
        knots = shared_uniform_knots(source)
        G, k = source.grid_size, source.spline_order
        with torch.device("meta"):  # its own initial weights are not wanted, nor the random numbers they would take
            inner = KANLayer(
                source.in_features,
                source.out_features,
                grid_size=G,
                grid_range=(float(knots[k]), float(knots[k + G])),
                base_activation=lambda: source.base_activation,
                compile_basis=compiled,
            )
        inner.grid_starts = knots[: G + k].clone()  # its own are computed in torch's default dtype
        del inner.weight
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, I) to (B, O)."""
        self.inner.weight = torch.cat([self.coefficients().flatten(1), self.base_coefficients()], 1)
        try:
            y: Tensor = self.inner(x)
        finally:
            del self.inner.weight
        return self.with_bias(y)


def shared_uniform_knots(source: Any) -> Tensor:
    """Return the knots (G + 2k + 1,) that all inputs of the layer `source` share.

    Raises `Unsupported` if they are not cubic, not shared or not uniform to rounding.
    """
    if source.spline_order != 3:
        raise Unsupported(f"inkan has cubic splines only, not order {source.spline_order}")
    grid = source.grid.detach()
    knots: Tensor = grid[0]
    if not torch.equal(grid, knots.expand_as(grid)):
        raise Unsupported("inkan has one knot vector for all inputs of a layer, these differ from input to input")
    exact = knots.double()
    uniform = exact[0] + (exact[-1] - exact[0]) * torch.arange(len(knots), device=knots.device) / (len(knots) - 1)
    if (exact - uniform).abs().max() > 8 * torch.finfo(knots.dtype).eps * exact.abs().max():
        raise Unsupported("inkan has uniform knots only, these are not")
    return knots


def build(source: Any) -> Network:
    """Return the network with everything eager (`compile_basis=False`)."""
    return Network(Layer(layer, compiled=False) for layer in source.layers)


def build_compiled(source: Any) -> Network:
    """Return the network as the package constructs it: the basis goes through `torch.compile`."""
    return Network(Layer(layer, compiled=True) for layer in source.layers)


def penalised(module: nn.Module, x: Tensor, penalty: str) -> tuple[Tensor, Tensor]:
    """Return outputs and `weight_l1`, straight from its formula: the package has coefficients but no penalty on them.

    Raises `Unsupported` for the other penalties.
    """
    if penalty != "weight_l1":
        raise Unsupported(f"inkan never forms the values of single edges that {penalty} needs")
    assert isinstance(module, Network)
    return module(x), weight_l1(module)
