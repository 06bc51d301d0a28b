"""Networks whose edges are splines of given functions, as if they had been trained to a formula."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from efficient_kan import KAN

Curve = Callable[[Tensor], Tensor]


@torch.no_grad()
def planted(
    widths: Sequence[int], edges: Mapping[tuple[int, int, int], Curve], x: Tensor, bias: float = 0.0, grid_size: int = 30
) -> KAN:
    """A network whose edges ``(layer, o, i)`` are these functions over the range of their samples; other edges are pruned."""
    kan = KAN(list(widths), grid_size, scale_base=0.0, bias=True, dtype=x.dtype, kernel="native")
    for n, layer in enumerate(kan.kan_layers):
        low, high = x.amin(0), x.amax(0)
        margin = 1e-9 + 1e-9 * (high - low)
        steps = (high - low + 2 * margin) / grid_size
        order = layer.spline_order
        layer.grid = (low - margin).unsqueeze(1) + steps.unsqueeze(1) * torch.arange(
            -order, grid_size + order + 1, dtype=x.dtype
        )
        at = torch.lerp(low, high, torch.linspace(0, 1, 40 * grid_size, dtype=x.dtype).unsqueeze(1))
        values = torch.zeros(len(at), layer.in_features, layer.out_features, dtype=x.dtype)
        mask = torch.zeros_like(layer.edge_mask)
        for (number, o, i), function in edges.items():
            if number == n:
                values[:, i, o], mask[o, i] = function(at[:, i]), 1.0
        layer.spline_weight.copy_(layer.curve2coeff(at, values.nan_to_num(0.0, 0.0, 0.0)))
        layer.spline_scaler.fill_(1.0)
        layer.base_weight.zero_()
        layer.edge_mask.copy_(mask)
        x = layer(x)
    kan.kan_layers[-1].bias.fill_(bias)
    return kan


def uniform(count: int, *ranges: tuple[float, float], seed: int = 0) -> Tensor:
    """Samples ``(count, number of ranges)``."""
    low, high = torch.tensor(ranges, dtype=torch.float64).T
    shares = torch.rand(count, len(ranges), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return low + (high - low) * shares


def quietly(call: Callable[[], object]) -> list[str]:
    """The warnings of a call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(warning.message) for warning in caught]
