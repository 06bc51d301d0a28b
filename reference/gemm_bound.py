"""The arm `gemm_bound`: the matrix products of a dense KAN alone, on features that are already there.

Per layer Y = Phi W^T, and backward dW = dY^T Phi and dPhi = dY W, with Phi (B, I*M), W (O, I*M), M = G + k + 1. Expanding x
into Phi and its backward cost nothing here, so no method that multiplies dense features can be faster. As everywhere, dPhi of
the first layer is needed only if x requires a gradient. Under autocast features and weights are there in its dtype, so that no
cast is paid for; the weights multiplied then are those of the first call.
"""

from __future__ import annotations

from dataclasses import dataclass
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


class _ReadyCast(torch.autograd.Function):
    """Stand in for the cast of a weight: give a ready one forward, and pass on its gradient in the weight's dtype."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, cast: Tensor) -> Tensor:
        ctx.dtype = weight.dtype
        return cast.view_as(cast)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return grad_outputs[0].to(ctx.dtype), None


@dataclass(frozen=True)
class _Ready:
    """What a layer multiplies: features, the gradient of its input, and the weight, None if that needs no cast."""

    features: Tensor
    gradient: Tensor
    weight: Tensor | None


class GemmBound(nn.Module):
    """A network of bare products, with the widths, G and k of `source`."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        layers = list(source.layers)
        self.features_per_input = [layer.grid_size + layer.spline_order + 1 for layer in layers]
        self.weights = nn.ParameterList()
        for layer in layers:
            self.weights.append(nn.Parameter(layer.folded_weight().detach().flatten(1).contiguous()))
        self._ready: dict[tuple[int, torch.dtype], list[_Ready]] = {}

    def _prepare(self, x: Tensor) -> list[_Ready]:
        key = x.shape[0], _dtype(x)
        if key not in self._ready:
            generator = torch.Generator("cpu" if x.is_meta else x.device).manual_seed(0)
            ready: list[_Ready] = []
            for weight, per_input in zip(self.weights, self.features_per_input, strict=True):
                features = torch.rand(len(x), weight.shape[1], generator=generator, device=x.device, dtype=x.dtype)
                gradient = torch.rand(len(x), weight.shape[1] // per_input, generator=generator, device=x.device, dtype=x.dtype)
                if key[1] == x.dtype:
                    ready.append(_Ready(features, gradient, None))
                else:  # the first layer's input keeps its dtype
                    cast = gradient.to(key[1]) if ready else gradient
                    ready.append(_Ready(features.to(key[1]), cast, weight.detach().to(key[1])))
            self._ready = {key: ready}
        return self._ready[key]

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, I) to (B, O): only shape, dtype and device of x matter."""
        for weight, ready in zip(self.weights, self._prepare(x), strict=True):
            right = weight if ready.weight is None else _ReadyCast.apply(weight, ready.weight)  # type: ignore[no-untyped-call]
            x = _ReadyMade.apply(x, ready.features, ready.gradient) @ right.T  # type: ignore[no-untyped-call]
        return x


def _dtype(x: Tensor) -> torch.dtype:
    """The dtype in which a product with `x` is computed."""
    kind = x.device.type
    cast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind) and x.dtype != torch.float64
    return torch.get_autocast_dtype(kind) if cast else x.dtype


def build(source: Any) -> GemmBound:
    """Return the bare products in the sizes, dtype and device of the `efficient_kan.KAN` `source`."""
    return GemmBound(source)
