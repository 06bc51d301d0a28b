"""Splines on other knots, against scipy's and against the definition of the closest one."""

from __future__ import annotations

import itertools

import numpy
import pytest
import torch
from scipy.integrate import quad_vec
from scipy.interpolate import BSpline
from torch import Tensor

from efficient_kan.knots import extend, inserted_knots, interior_of, uniform_knots
from efficient_kan.projection import evaluated, inserted, projected, quadrature

ORDERS = [1, 2, 3, 5]


def splines(features: int, grid_size: int, order: int, outputs: int = 2, repeated: bool = False) -> tuple[Tensor, Tensor]:
    """Uneven knots ``(I, T)``, a double one among them if asked for, and coefficients ``(O, I, n)``."""
    generator = torch.Generator().manual_seed(grid_size + 10 * order)
    steps = 0.1 + torch.rand(features, grid_size, generator=generator, dtype=torch.float64)
    if repeated and grid_size > 1:
        steps[:, grid_size // 2] = 0
    interior = torch.cat((torch.zeros(features, 1, dtype=torch.float64), steps.cumsum(1)), dim=1) - 1
    coefficients = torch.randn(outputs, features, grid_size + order, generator=generator, dtype=torch.float64)
    return extend(interior, order), coefficients


def scipys(knots: Tensor, coefficients: Tensor, order: int) -> BSpline:
    """scipy's spline on one row of knots, with bases of coefficient 0 added so that its base interval is the whole support."""
    t, c, k = knots.numpy(), coefficients.numpy(), order
    t = numpy.concatenate((t[0] - numpy.arange(k, 0, -1.0), t, t[-1] + numpy.arange(1.0, k + 1)))
    return BSpline(t, numpy.concatenate((numpy.zeros((k, *c.shape[1:])), c, numpy.zeros((k, *c.shape[1:])))), k)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("grid_size", "new"), [(1, 1), (1, 4), (5, 5), (5, 7), (5, 12), (6, 36)])
@pytest.mark.parametrize("repeated", [False, True], ids=["", "repeated"])
def test_inserted_splines_are_scipys_on_the_whole_line(order: int, grid_size: int, new: int, repeated: bool) -> None:
    knots, coefficients = splines(3, grid_size, order, repeated=repeated)
    new_knots = inserted_knots(knots, new, order)
    assert new_knots.shape == (3, new + 2 * order + 1)
    for row, old in zip(new_knots, knots, strict=True):
        remaining = row.tolist()
        for knot in old.tolist():
            remaining.remove(knot)  # each old knot is there, as often as before
    found = inserted(coefficients, knots, new_knots, order)
    for i in range(3):
        x = numpy.linspace(float(knots[i, 0]) - 0.1, float(knots[i, -1]) + 0.1, 301)
        for o in range(2):
            first, second = scipys(knots[i], coefficients[o, i], order), scipys(new_knots[i], found[o, i], order)
            numpy.testing.assert_allclose(second(x), first(x), rtol=0, atol=1e-13)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("new", [1, 3, 5, 8])
def test_projected_splines_are_the_closest_for_equal_weights_of_intervals(order: int, new: int) -> None:
    """The difference is orthogonal to every new basis, by scipy's adaptive integration of scipy's splines."""
    knots, coefficients = splines(1, 5, order, outputs=1)
    ends = interior_of(knots, order)[0, [0, -1]]
    generator = torch.Generator().manual_seed(new)
    inner = (
        torch.rand(new - 1, generator=generator, dtype=torch.float64).sort().values * (ends[1] - ends[0] - 0.2) + ends[0] + 0.1
    )
    interior = torch.cat((ends[:1] - 0.3, inner, ends[1:] - 0.1)).unsqueeze(0)
    new_knots = extend(interior, order)
    found = projected(coefficients, knots, new_knots, order)
    old, best = scipys(knots[0], coefficients[0, 0], order), scipys(new_knots[0], found[0, 0], order)
    bases = scipys(new_knots[0], torch.eye(new + order, dtype=torch.float64), order)
    products = numpy.zeros(new + order)
    for low, high in zip(interior[0, :-1].tolist(), interior[0, 1:].tolist(), strict=True):
        breaks = [low, *[t for t in knots[0].tolist() if low < t < high], high]
        for a, b in itertools.pairwise(breaks):
            products += quad_vec(lambda x: (best(x) - old(x)) * bases(x), a, b, epsabs=1e-13)[0] / (high - low)
    assert numpy.abs(products).max() <= 1e-12 * float(coefficients.abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("order", ORDERS)
def test_projection_onto_a_larger_space_is_exact(order: int, dtype: torch.dtype) -> None:
    knots, coefficients = (tensor.to(dtype) for tensor in splines(2, 4, order))
    new_knots = extend(interior_of(inserted_knots(knots, 11, order), order), order)
    found = projected(coefficients, knots, new_knots, order)
    assert found.dtype == dtype
    points = quadrature(knots, new_knots, order).points
    difference = evaluated(points, new_knots, found, order) - evaluated(points, knots, coefficients, order)
    assert difference.abs().max() <= 200 * torch.finfo(dtype).eps * coefficients.abs().max()


@pytest.mark.parametrize("order", ORDERS)
def test_quadrature_integrates_products_of_pieces(order: int) -> None:
    knots, _ = splines(2, 4, order)
    new_knots = uniform_knots(2, 3, order, (-0.9, 0.4), dtype=torch.float64)
    points, weights, breaks = quadrature(knots, new_knots, order)
    assert torch.equal(breaks[:, [0, -1]], interior_of(new_knots, order)[:, [0, -1]])
    low, high = -0.9, 0.4
    for power in range(2 * order + 1):
        exact = (high ** (power + 1) - low ** (power + 1)) / (power + 1)
        torch.testing.assert_close(
            (weights * points**power).sum(1), torch.full((2,), exact, dtype=torch.float64), rtol=1e-13, atol=1e-14
        )
