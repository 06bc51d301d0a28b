"""The arm `cox_de_boor`, also the float64 oracle: the dense recursion, one matrix product, plain autograd, nothing clever.

`B` samples, `I` inputs, `O` outputs, `n` knots, `k` order, `M = n - k - 1` bases. Half-open intervals, so x at the last knot
has no basis; 0/0 := 0 in each term of the recursion; zero outside the knots.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from reference import penalties


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


class Layer(nn.Module):
    """phi_oi(x) = m_oi (b_oi act(x) + s_oi sum_g c_oig B_g(x)), y_o = sum_i phi_oi(x_i)."""

    base_weight: Tensor
    spline_weight: Tensor
    grid: Tensor
    edge_mask: Tensor

    def __init__(self, source: Any) -> None:
        super().__init__()
        for name, parameter in source.named_parameters(recurse=False):
            self.register_parameter(name, nn.Parameter(parameter.detach().clone()))
        for name in ("grid", "edge_mask"):
            self.register_buffer(name, getattr(source, name).detach().clone())
        self.k, self.act = source.spline_order, source.base_activation

    def terms(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, I, M + 1) and the weights (O, I, M + 1) that combine them."""
        features = torch.cat([basis(x, self.grid, self.k), self.act(x).unsqueeze(-1)], -1)
        scaler = self._parameters.get("spline_scaler")
        spline = self.spline_weight if scaler is None else self.spline_weight * scaler.unsqueeze(-1)
        return features, torch.cat([spline, self.base_weight.unsqueeze(-1)], -1) * self.edge_mask.unsqueeze(-1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, I) to (B, O)."""
        features, weights = self.terms(x)
        y = features.flatten(1) @ weights.flatten(1).T
        bias = self._parameters.get("bias")
        return y if bias is None else y + bias

    def edges(self, x: Tensor) -> Tensor:
        """All phi_oi(x_bi): (B, I) -> (B, O, I), the tensor that fast methods avoid."""
        return torch.einsum("bim,oim->boi", *self.terms(x))


class Network(nn.Module):
    """Layers one after another, under the parameter names of `efficient_kan.KAN`."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(layer) for layer in source.layers)

    def __iter__(self) -> Iterator[Layer]:
        return (layer for layer in self.layers if isinstance(layer, Layer))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, I) to (B, O)."""
        for layer in self:
            x = layer(x)
        return x


def build(source: Any) -> Network:
    """Return the network with the weights and knots of the `efficient_kan.KAN` `source`."""
    return Network(source)


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """Return `.grad` of every parameter that has one."""
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def penalised(module: nn.Module, x: Tensor, penalty: str) -> tuple[Tensor, Tensor]:
    """Return outputs and the penalty, straight from the formulas of `reference.penalties`."""
    assert isinstance(module, Network)
    total = x.new_zeros(())
    for layer in module:
        if penalty == "weight_l1":
            total = total + penalties.l1_and_entropy(penalties.weight_norms(layer.spline_weight, layer.edge_mask))
        elif penalty == "sample_l1":
            total = total + penalties.l1_and_entropy(penalties.sample_norms(layer.edges(x)))
        else:
            total = total + penalties.l1_and_row_column_entropy(penalties.std_norms(layer.edges(x), x))
        x = layer(x)
    return x, total
