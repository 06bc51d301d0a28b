"""The parameters of a source network under their own names: what arms that are not a package of their own are built on.

`I` inputs, `O` outputs, `M = G + k` coefficients per edge.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from reference import penalties


class SourceLayer(nn.Module):
    """Copies of the parameters, mask and base activation of a layer of `efficient_kan.KAN`; subclasses compute with them."""

    base_weight: Tensor  # shape: (O, I)
    spline_weight: Tensor  # shape: (O, I, M)
    edge_mask: Tensor  # shape: (O, I)

    def __init__(self, source: Any) -> None:
        super().__init__()
        for name, parameter in source.named_parameters(recurse=False):
            self.register_parameter(name, nn.Parameter(parameter.detach().clone()))
        self.register_buffer("edge_mask", source.edge_mask.detach().clone())
        self.act = source.base_activation

    def coefficients(self) -> Tensor:
        """Spline coefficients with the scale and the mask of their edge: (O, I, M)."""
        scaler = self._parameters.get("spline_scaler")
        scaled = self.spline_weight if scaler is None else self.spline_weight * scaler.unsqueeze(-1)
        return scaled * self.edge_mask.unsqueeze(-1)

    def base_coefficients(self) -> Tensor:
        """Base weights with the mask of their edge: (O, I)."""
        return self.base_weight * self.edge_mask

    def with_bias(self, y: Tensor) -> Tensor:
        """Add the bias, if the source has one: (B, O) -> (B, O)."""
        bias = self._parameters.get("bias")
        return y if bias is None else y + bias


class Network(nn.Module):
    """Layers one after another, under the parameter names of `efficient_kan.KAN`."""

    def __init__(self, layers: Iterable[SourceLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, I) to (B, O)."""
        for layer in self.layers:
            x = layer(x)
        return x


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """Return `.grad` of every parameter that has one."""
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def weight_l1(network: Network) -> Tensor:
    """Return the penalty `weight_l1` of all layers, straight from its formula."""
    terms = []
    for layer in network.layers:
        assert isinstance(layer, SourceLayer)
        terms.append(penalties.l1_and_entropy(penalties.weight_norms(layer.spline_weight, layer.edge_mask)))
    return torch.stack(terms).sum()
