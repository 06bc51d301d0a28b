"""The B-spline basis (B, I, G + k) of all samples, and its first derivative."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.dev.micro.setting import SIZES, Layer, Size, bytes_of
from efficient_kan.basis import bspline_basis, bspline_basis_derivative
from reference import cox_de_boor

_Basis = Callable[[Tensor, Tensor, int], Tensor]
# In float32 against float64; a knot that rounds the other way moves a value by the slope times the rounding.
_TOLERANCE = 1e-4


def _pykan(x: Tensor, knots: Tensor, k: int) -> Tensor:
    kan = pytest.importorskip("kan.spline")
    found: Tensor = kan.B_batch(x, knots, k)
    return found


_IMPLEMENTATIONS: dict[str, _Basis] = {
    "efficient_kan": bspline_basis,
    "cox_de_boor": cox_de_boor.basis,
    "pykan": _pykan,
}


def _samples_and_knots(layer: Layer) -> tuple[Tensor, Tensor]:
    (kan_layer,) = layer.source.layers
    knots = kan_layer.grid
    assert isinstance(knots, Tensor)
    return layer.data.x, knots


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("implementation", _IMPLEMENTATIONS)
def bench_basis(timed: Any, layer: Any, size: Size, implementation: str) -> None:
    """All values."""
    x, knots = _samples_and_knots(layer("efficient_kan", size))
    evaluate = _IMPLEMENTATIONS[implementation]
    truth = cox_de_boor.basis(x.double(), knots.double(), size.k)
    torch.testing.assert_close(evaluate(x, knots, size.k).double(), truth, rtol=0, atol=_TOLERANCE)
    sizes = {"input_bytes": bytes_of([x]), "output_bytes": truth.numel() * x.element_size()}
    timed(lambda: evaluate(x, knots, size.k), "basis", size, sizes)


@pytest.mark.parametrize("size", SIZES, ids=str)
def bench_basis_derivative(timed: Any, layer: Any, size: Size) -> None:
    """All derivatives with respect to x, without autograd: the peers have no such function."""
    x, knots = _samples_and_knots(layer("efficient_kan", size))
    result = bspline_basis_derivative(x, knots, size.k)
    x64 = x.double().requires_grad_()
    ramp = torch.arange(result.shape[-1], dtype=x64.dtype, device=x64.device)
    (truth,) = torch.autograd.grad((cox_de_boor.basis(x64, knots.double(), size.k) * ramp).sum(), x64)
    error = ((result.double() * ramp).sum(-1) - truth).abs().max() / truth.abs().max()
    assert error <= _TOLERANCE, f"derivative is off by {error:.3g} of its largest value"
    sizes = {"input_bytes": bytes_of([x]), "output_bytes": bytes_of([result])}
    timed(lambda: bspline_basis_derivative(x, knots, size.k), "basis derivative", size, sizes)
