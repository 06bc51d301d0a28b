"""The arm `gemm_bound`: the matrix products of a dense KAN alone, on features that are already there.

Per layer Y = Phi W^T, and backward dW = dY^T Phi and dPhi = dY W, with Phi (B, I*M), W (O, I*M), M = G + k + 1. Expanding x
into Phi and its backward cost nothing here, so no method that multiplies dense features can be faster. As everywhere, dPhi of
the first layer is needed only if x requires a gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _ReadyMade(torch.autograd.Function):
    """Stand in for the expansion: give ready features forward and a ready gradient backward, without any work."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, features: Tensor, gradient: Tensor) -> Tensor:
        ctx.gradient = gradient
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        return ctx.gradient, None, None


class GemmBound(nn.Module):
    """A network of bare products, with the widths, G and k of `source`."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        layers = list(source.layers)
        self.features_per_input = [layer.grid_size + layer.spline_order + 1 for layer in layers]
        self.weights = nn.ParameterList()
        for layer in layers:
            scaled = layer.spline_weight * layer.spline_scaler.unsqueeze(-1)
            joined = torch.cat([scaled, layer.base_weight.unsqueeze(-1)], -1)
            self.weights.append(nn.Parameter(joined.detach().flatten(1).contiguous()))
        self._ready: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def _prepare(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        batch = x.shape[0]
        if batch not in self._ready:
            generator = torch.Generator("cpu" if x.is_meta else x.device).manual_seed(0)
            ready = []
            for weight, per_input in zip(self.weights, self.features_per_input, strict=True):
                features = torch.rand(batch, weight.shape[1], generator=generator, device=x.device, dtype=x.dtype)
                gradient = torch.rand(batch, weight.shape[1] // per_input, generator=generator, device=x.device, dtype=x.dtype)
                ready.append((features, gradient))
            self._ready = {batch: ready}
        return self._ready[batch]

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, I) to (B, O): only shape, dtype and device of x matter."""
        for weight, (features, gradient) in zip(self.weights, self._prepare(x), strict=True):
            x = _ReadyMade.apply(x, features, gradient) @ weight.T  # type: ignore[no-untyped-call]
        return x


def build(source: Any) -> GemmBound:
    """Return the bare products in the sizes, dtype and device of the `efficient_kan.KAN` `source`."""
    return GemmBound(source)
