"""The arms `efficient_kan` and `efficient_kan[native]`: this package behind the face of `reference.arm`."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from efficient_kan import KAN, SampleL1, SampleStd, WeightL1
from efficient_kan.penalties import Penalty

_PENALTIES = {"weight_l1": WeightL1, "sample_l1": SampleL1, "sample_std": SampleStd}


def penalty_of(name: str) -> Penalty | None:
    """Return the package's own penalty called `name` with its default factors, None for "none"."""
    return None if name == "none" else _PENALTIES[name]()


def build(source: KAN) -> KAN:
    """Return a copy of `source`."""
    return copy.deepcopy(source)


def build_native(source: KAN) -> KAN:
    """Return a copy of `source` that computes with torch's operations alone."""
    kan = copy.deepcopy(source)
    for layer in kan.kan_layers:
        layer.kernel = "native"
    return kan


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """Return `.grad` of every parameter that has one."""
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def penalised(module: nn.Module, x: Tensor, penalty: str) -> tuple[Tensor, Tensor]:
    """Return outputs and the penalty."""
    assert isinstance(module, KAN)
    return module.forward_with_penalty(x, _PENALTIES[penalty]())
