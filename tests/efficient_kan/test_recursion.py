"""The table of `native`'s dense bases: equal to the recursion of the package for few and many samples, on both of its ways."""

from __future__ import annotations

import pytest
import torch

from efficient_kan.basis import bspline_basis, bspline_basis_derivative
from efficient_kan.kernels.native import recursion


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("samples", "inputs", "grid_size"), [(1, 2, 3), (40, 7, 5), (8, 784, 5), (300, 60, 4), (4, 700, 50)])
def test_bases_and_slopes_are_those_of_the_package(order: int, samples: int, inputs: int, grid_size: int) -> None:
    source = torch.Generator().manual_seed(order)
    steps = 0.1 + torch.rand(inputs, grid_size + 2 * order + 1, dtype=torch.float64, generator=source)
    knots = steps.cumsum(dim=1) - steps.sum(dim=1, keepdim=True) / 2
    x = 1.5 * torch.randn(samples, inputs, dtype=torch.float64, generator=source)
    x[-1] = knots[:, order]  # samples on a knot: the span to its right
    expected, derivatives = bspline_basis(x, knots, order), bspline_basis_derivative(x, knots, order)
    for slopes in (False, True):
        found = recursion.table(knots, order).bases(x, slopes=slopes)
        torch.testing.assert_close(found.matrix.view_as(expected), expected, rtol=1e-12, atol=1e-12)
    assert found.slopes is not None
    ordered = found.slopes if found.dim == 2 else found.slopes.permute(2, 0, 1)
    torch.testing.assert_close(ordered, derivatives, rtol=1e-12, atol=1e-12 * float(derivatives.abs().max()))


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("inputs", [2, 2000])
def test_what_is_no_number_or_beyond_all_knots_has_no_bases(order: int, inputs: int) -> None:
    knots = torch.linspace(-1, 1, 6 + 2 * order).expand(inputs, -1).contiguous()
    x = torch.tensor([torch.nan, torch.inf, -torch.inf, 5.0, -5.0]).unsqueeze(1).expand(-1, inputs).contiguous()
    found = recursion.table(knots, order).bases(x, slopes=True)
    assert found.slopes is not None
    assert not found.matrix.any() and not found.slopes.any()
