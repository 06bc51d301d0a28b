"""Kernels: implementations of one contract, picked by name.

A kernel is a module with three functions, each of :class:`LayerInputs` alone:

- ``spline_linear(inputs) -> (B, O)``: the layer's outputs without bias;
- ``edge_l1(inputs) -> (O, I)``: mean absolute value of every edge over the samples;
- ``edge_std(inputs) -> (O, I)``: standard deviation of every edge over the samples (divisor ``B - 1``).

All are differentiable with respect to ``x``, ``base`` and ``weight`` and never hold a tensor of ``B * I * O`` elements.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from efficient_kan import _checks

KERNELS = ("auto", "native")


class LayerInputs(NamedTuple):
    """What a layer computes with: ``phi_oi(x) = weight[o, i, :-1] . B(x_i) + weight[o, i, -1] * base_i``."""

    x: Tensor  # shape: (B, I), the dtype of knots
    base: Tensor  # shape: (B, I), the base activation of x
    knots: Tensor  # shape: (I, G+2k+1), at least float32
    weight: Tensor  # shape: (O, I, G+k+1), scales and masks folded in
    spline_order: int


class Kernel(Protocol):
    """The contract; see the module's description."""

    def spline_linear(self, inputs: LayerInputs) -> Tensor: ...

    def edge_l1(self, inputs: LayerInputs) -> Tensor: ...

    def edge_std(self, inputs: LayerInputs) -> Tensor: ...


def check_kernel(name: str) -> str:
    """``name`` if it is a known kernel, else ``ValueError``."""
    _checks.require(name in KERNELS, "kernel", f"one of {KERNELS}", name)
    return name


def resolve(name: str) -> Kernel:
    """The kernel that ``name`` stands for; ``"auto"`` is ``"native"``, which runs on every device and dtype."""
    check_kernel(name)
    from efficient_kan.kernels import native

    return native
