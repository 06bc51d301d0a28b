"""The arm `cox_de_boor`, also the float64 oracle: the dense recursion, one matrix product, plain autograd, nothing clever.

`B` samples, `I` inputs, `O` outputs, `n` knots, `k` order, `M = n - k - 1` bases. Half-open intervals, so x at the last knot
has no basis; 0/0 := 0 in each term of the recursion; zero outside the knots.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from reference import penalties
from reference.network import Network, SourceLayer


def basis(x: Tensor, knots: Tensor, k: int) -> Tensor:
    """Evaluate the B-splines of order k: x (B, I), knots (I, n) -> (B, I, n - k - 1)."""
    x = x.unsqueeze(-1)
    values = ((x >= knots[:, :-1]) & (x < knots[:, 1:])).to(x.dtype)
    for p in range(1, k + 1):
        rise = _quotient(x - knots[:, : -p - 1], knots[:, p:-1] - knots[:, : -p - 1])
        fall = _quotient(knots[:, p + 1 :] - x, knots[:, p + 1 :] - knots[:, 1:-p])
        values = rise * values[..., :-1] + fall * values[..., 1:]
    return values


def _quotient(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b > 0, a / torch.where(b > 0, b, 1.0), 0.0)


class Layer(SourceLayer):
    """phi_oi(x) = m_oi (b_oi act(x) + s_oi sum_g c_oig B_g(x)), y_o = sum_i phi_oi(x_i)."""

    grid: Tensor

    def __init__(self, source: Any) -> None:
        super().__init__(source)
        self.register_buffer("grid", source.grid.detach().clone())
        self.k = source.spline_order

    def terms(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, I, M + 1) and the weights (O, I, M + 1) that combine them."""
        features = torch.cat([basis(x, self.grid, self.k), self.act(x).unsqueeze(-1)], -1)
        return features, torch.cat([self.coefficients(), self.base_coefficients().unsqueeze(-1)], -1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, I) to (B, O)."""
        features, weights = self.terms(x)
        return self.with_bias(features.flatten(1) @ weights.flatten(1).T)

    def edges(self, x: Tensor) -> Tensor:
        """All phi_oi(x_bi): (B, I) -> (B, O, I), the tensor that fast methods avoid."""
        return torch.einsum("bim,oim->boi", *self.terms(x))


def build(source: Any) -> Network:
    """Return the network with the weights and knots of the `efficient_kan.KAN` `source`."""
    return Network(Layer(layer) for layer in source.layers)


def penalised(module: nn.Module, x: Tensor, penalty: str) -> tuple[Tensor, Tensor]:
    """Return outputs and the penalty, straight from the formulas of `reference.penalties`."""
    assert isinstance(module, Network)
    total = x.new_zeros(())
    for layer in module.layers:
        assert isinstance(layer, Layer)
        if penalty == "weight_l1":
            total = total + penalties.l1_and_entropy(penalties.weight_norms(layer.spline_weight, layer.edge_mask))
        elif penalty == "sample_l1":
            total = total + penalties.l1_and_entropy(penalties.sample_norms(layer.edges(x)))
        else:
            total = total + penalties.l1_and_row_column_entropy(penalties.std_norms(layer.edges(x), x))
        x = layer(x)
    return x, total
