"""A layer to time: its three products by our kernels, by native, and as the bare matrix product of that shape."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from efficient_kan.kernels import LayerInputs, cuda, native

Sizes = tuple[int, int, int, int, int]  # B, I, O, M and the order, as in `model.Sizes`
KERNELS = ("forward", "input_grad", "weight_grad")
# Kind of products -> dtype of the weights, and how torch multiplies float32 numbers.
KINDS = {"float32": (torch.float32, "highest"), "tf32": (torch.float32, "high"), "half": (torch.bfloat16, "highest")}


@contextmanager
def products(kind: str) -> Iterator[None]:
    """Have float32 numbers multiplied as ``kind`` says."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(KINDS[kind][1])
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@dataclass(frozen=True)
class Problem:
    """A layer without a base activation of its own, and a gradient of its outputs; make it and use it under `products`."""

    inputs: LayerInputs
    grad: Tensor  # shape: (B, O)

    @property
    def tensors(self) -> list[Tensor]:
        """What its products read."""
        return [self.inputs.x, self.inputs.knots, self.inputs.weight, self.grad]

    def ours(self, kernel: str) -> Tensor:
        """By our kernel, as a step of training gives it its tensors."""
        from efficient_kan.kernels.cuda import ops, products

        x, base, knots, weight, order = self._prepared
        match kernel:
            case "forward":
                return products.forward(x, base, knots, weight, order)
            case "input_grad":
                return products.input_grad(x, base, knots, weight, self.grad, order)[0]
        return ops._sum(products.weight_grad(x, base, knots, self.grad, order)).to(weight.dtype).permute(2, 1, 0)

    @cached_property
    def _prepared(self) -> tuple[Tensor, Tensor | None, Tensor, Tensor, int]:
        return cuda._prepared(self.inputs, cuda._layout(self.grad.dtype))

    def native(self, kernel: str) -> Tensor:
        """By native."""
        with torch.no_grad():
            if kernel == "forward":
                return native.spline_linear(self.inputs)
            needs = {"needs_inputs": kernel == "input_grad", "needs_weight": kernel == "weight_grad"}
            of_x, _, of_weight = native.linear_gradients(self.inputs, self.grad, **needs)
        found = of_x if kernel == "input_grad" else of_weight
        assert found is not None
        return found

    def double(self) -> Problem:
        """The same numbers in float64."""
        x, _, knots, weight, order = self.inputs
        return Problem(LayerInputs(x.double(), None, knots.double(), weight.double(), order), self.grad.double())


@dataclass(frozen=True)
class Bare:
    """The matrix product alone, on features that are there already."""

    features: Tensor  # shape: (B, I*M)
    weight: Tensor  # shape: (O, I*M)
    grad: Tensor  # shape: (B, O)

    @property
    def tensors(self) -> list[Tensor]:
        """What its products read."""
        return [self.features, self.weight, self.grad]

    def product(self, kernel: str) -> Tensor:
        """The product of ``kernel``, in the layout in which `torch.nn.Linear` has it."""
        match kernel:
            case "forward":
                return self.features @ self.weight.T
            case "input_grad":
                return self.grad @ self.weight
        return self.grad.T @ self.features


def made(sizes: Sizes, kind: str, device: torch.device, *, uniform: bool, seed: int = 0) -> Problem:
    """A layer whose samples lie inside its grid and a fifth beyond, with knots at equal distances or not."""
    B, I, O, M, k = sizes
    like: Any = {"generator": torch.Generator(device).manual_seed(seed), "device": device, "dtype": torch.float32}
    dtype = KINDS[kind][0]
    G = M - k - 1
    x = 1.25 * (2 * torch.rand(B, I, **like) - 1)
    knots = torch.linspace(-1 - 2 * k / G, 1 + 2 * k / G, G + 2 * k + 1, device=device, dtype=torch.float32).repeat(I, 1)
    if not uniform:
        knots = (knots + torch.rand(knots.shape, **like) / G).sort(dim=1).values
    weight = torch.randn(O, I, M, **like).to(dtype)
    return Problem(LayerInputs(x, None, knots, weight, k), torch.randn(B, O, **like).to(dtype))


def bare(sizes: Sizes, kind: str, device: torch.device, *, seed: int = 0) -> Bare:
    """Random numbers in the shapes of the layer's products."""
    B, I, O, M, _ = sizes
    like: Any = {"generator": torch.Generator(device).manual_seed(seed), "device": device, "dtype": torch.float32}
    shapes = ((B, I * M), (O, I * M), (B, O))
    return Bare(*(torch.randn(shape, **like).to(KINDS[kind][0]) for shape in shapes))
