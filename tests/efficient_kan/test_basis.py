"""The B-spline basis against scipy, its conventions, its derivatives, and what it does where knots repeat."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from efficient_kan.basis import bspline_basis, bspline_basis_derivative
from efficient_kan.knots import uniform_knots

ORDERS = (1, 2, 3, 4, 5)
FEATURES = 3
SAMPLES = 400


def random_knots(kind: str, grid_size: int, order: int, seed: int) -> Tensor:
    """``(I, G + 2k + 1)`` float64 knots, different for every feature."""
    generator = torch.Generator().manual_seed(seed)
    count = grid_size + 2 * order + 1
    # Gaps of at least 0.05 keep the conditioning of a derivative, and with it the tolerance, the same for all seeds.
    gaps = 0.05 + torch.rand(FEATURES, count - 1, generator=generator, dtype=torch.float64)
    if kind == "repeated":
        gaps[torch.rand(gaps.shape, generator=generator) < 0.4] = 0.0
        gaps[:, count // 2] = 0.5
    start = torch.zeros(FEATURES, 1, dtype=torch.float64)
    return torch.cat((start, gaps.cumsum(1)), dim=1) / gaps.sum(1, keepdim=True) * 3 - 1


def scipy_basis(x: Tensor, knots: Tensor, order: int, derivative: int = 0) -> Tensor:
    """All bases ``(B, I, G + k)`` by scipy, under this package's convention outside ``[t_0, t_{T-1})``."""
    columns = []
    for values, row in zip(x.double().T.numpy(), knots.double().numpy(), strict=True):
        bases = len(row) - order - 1
        # scipy evaluates between its k-th knots from either end: k more knots on each side extend that to all of ours.
        outer = np.arange(1, order + 1)
        padded = np.concatenate((row[0] - outer[::-1], row, row[-1] + outer))
        coefficients = np.eye(bases + 2 * order)[:, order : order + bases]
        result = np.zeros((len(values), bases))
        inside = (values >= row[0]) & (values < row[-1])
        result[inside] = BSpline(padded, coefficients, order)(values[inside], nu=derivative)
        columns.append(torch.from_numpy(result))
    return torch.stack(columns, dim=1)


def samples_over(knots: Tensor, seed: int = 0) -> Tensor:
    """``(B, I)`` samples over the knots and a little beyond."""
    low, high = knots[:, 0], knots[:, -1]
    draws = torch.rand(SAMPLES, knots.shape[0], generator=torch.Generator().manual_seed(seed), dtype=knots.dtype)
    return low - 0.2 + draws * (high - low + 0.4)


def samples_between_knots(grid_size: int, order: int) -> tuple[Tensor, Tensor]:
    """A few ``(B, I)`` samples away from the knots, where finite differences may be taken, and the knots."""
    knots = random_knots("random", grid_size, order, seed=order)
    middles = ((knots[:, :-1] + knots[:, 1:]) / 2).T.contiguous()
    return middles.requires_grad_(), knots


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("grid_size", [1, 2, 7])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", ["random", "repeated"])
def test_values_and_derivatives_equal_scipy(kind: str, order: int, grid_size: int, seed: int) -> None:
    knots = random_knots(kind, grid_size, order, seed)
    x = samples_over(knots, seed)
    torch.testing.assert_close(bspline_basis(x, knots, order), scipy_basis(x, knots, order), rtol=0, atol=1e-13)
    ours, theirs = bspline_basis_derivative(x, knots, order), scipy_basis(x, knots, order, derivative=1)
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13 * max(1.0, theirs.abs().max().item()))


@pytest.mark.parametrize("kind", ["random", "repeated"])
@pytest.mark.parametrize("order", [3, 4, 5])
def test_second_derivatives_by_autograd_equal_scipy(order: int, kind: str) -> None:
    knots = random_knots(kind, 4, order, seed=order)
    x = samples_over(knots).requires_grad_()
    weights = torch.randn(FEATURES, knots.shape[1] - order - 1, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    (first,) = torch.autograd.grad((bspline_basis(x, knots, order) * weights).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    (of_derivative,) = torch.autograd.grad((bspline_basis_derivative(x, knots, order) * weights).sum(), x)
    terms = scipy_basis(x.detach(), knots, order, derivative=2) * weights
    scale = max(1.0, terms.abs().max().item())
    torch.testing.assert_close(second, terms.sum(-1), rtol=0, atol=1e-12 * scale)
    torch.testing.assert_close(of_derivative, terms.sum(-1), rtol=0, atol=1e-12 * scale)


@pytest.mark.parametrize("kind", ["random", "repeated"])
@pytest.mark.parametrize("order", ORDERS)
def test_the_gradient_is_the_derivative(order: int, kind: str) -> None:
    knots = random_knots(kind, 3, order, seed=7)
    x = torch.cat((samples_over(knots), knots.T)).requires_grad_()
    upstream = torch.randn(*x.shape, knots.shape[1] - order - 1, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    (gradient,) = torch.autograd.grad(bspline_basis(x, knots, order), x, upstream)
    expected = (bspline_basis_derivative(x.detach(), knots, order) * upstream).sum(-1)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-13 * max(1.0, expected.abs().max().item()))


@pytest.mark.parametrize("order", ORDERS)
def test_at_a_knot_the_piece_on_its_right_counts(order: int) -> None:
    knots = random_knots("repeated", 4, order, seed=order)
    at = knots.T.contiguous()
    torch.testing.assert_close(bspline_basis(at, knots, order), scipy_basis(at, knots, order), rtol=0, atol=1e-13)
    ours, theirs = bspline_basis_derivative(at, knots, order), scipy_basis(at, knots, order, derivative=1)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13 * theirs.abs().max().item())


def test_the_hat_function_by_hand() -> None:
    knots = torch.tensor([[0.0, 1.0, 3.0, 4.0]])
    x = torch.tensor([[0.0], [0.5], [1.0], [2.0], [3.0], [3.5], [4.0]])
    expected = torch.tensor([[0, 0], [0.5, 0], [1, 0], [0.5, 0.5], [0, 1], [0, 0.5], [0, 0]])
    assert torch.equal(bspline_basis(x, knots, 1)[:, 0], expected)
    slopes = torch.tensor([[1, 0], [1, 0], [-0.5, 0.5], [-0.5, 0.5], [0, -1], [0, -1], [0, 0]])
    assert torch.equal(bspline_basis_derivative(x, knots, 1)[:, 0], slopes)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_outside_the_outermost_knots_and_at_nan_and_infinities(dtype: torch.dtype, order: int) -> None:
    knots = random_knots("random", 3, order, seed=3).to(dtype)
    low, high = knots[0, 0].item(), knots[0, -1].item()
    below = torch.nextafter(torch.tensor(low, dtype=dtype), torch.tensor(-math.inf, dtype=dtype)).item()
    huge = torch.finfo(dtype).max
    outside = [below, high, low - 1, high + 1, -huge, huge, math.nan, math.inf, -math.inf]
    x = torch.tensor(outside, dtype=dtype).unsqueeze(1).requires_grad_()
    values = bspline_basis(x, knots[:1], order)
    (gradient,) = torch.autograd.grad(values.sum(), x)
    for name, tensor in (
        ("values", values),
        ("derivatives", bspline_basis_derivative(x, knots[:1], order)),
        ("gradient", gradient),
    ):
        assert torch.equal(tensor, torch.zeros_like(tensor)), name


@pytest.mark.parametrize("order", ORDERS)
def test_at_most_k_plus_1_bases_are_non_zero_and_none_is_negative(order: int) -> None:
    knots = random_knots("random", 6, order, seed=11)
    values = bspline_basis(samples_over(knots), knots, order)
    assert int((values != 0).sum(-1).max()) == order + 1
    assert values.min() >= 0


@pytest.mark.parametrize("order", ORDERS)
def test_gradcheck_and_gradgradcheck(order: int) -> None:
    x, knots = samples_between_knots(2, order)
    assert gradcheck(lambda z: bspline_basis(z, knots, order), x)
    assert gradcheck(lambda z: bspline_basis_derivative(z, knots, order), x)
    assert gradgradcheck(lambda z: bspline_basis(z, knots, order), x)


@pytest.mark.parametrize("leading", [(), (1,), (0,), (5,), (2, 3), (2, 0, 3), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("function", [bspline_basis, bspline_basis_derivative], ids=lambda f: f.__name__)
def test_leading_shapes(function: object, leading: tuple[int, ...]) -> None:
    knots = random_knots("random", 4, 3, seed=5)
    x = torch.rand(*leading, FEATURES, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    result = function(x, knots, 3)  # type: ignore[operator]
    assert result.shape == (*leading, FEATURES, 7)
    assert result.dtype == torch.float64
    flat = function(x.reshape(-1, FEATURES), knots, 3)  # type: ignore[operator]
    assert torch.equal(result.reshape(-1), flat.reshape(-1))
    (gradient,) = torch.autograd.grad(result.sum(), x)
    assert gradient.shape == x.shape


def test_strided_samples_give_the_same_values() -> None:
    knots = random_knots("random", 4, 3, seed=5)
    x = samples_over(knots)
    wide = torch.zeros(SAMPLES, 2 * FEATURES, dtype=x.dtype)
    wide[:, ::2] = x
    assert torch.equal(bspline_basis(wide[:, ::2], knots, 3), bspline_basis(x, knots, 3))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["all-equal", "clamped", "two-values"])
def test_repeated_knots_give_finite_values_and_gradients(kind: str, dtype: torch.dtype, order: int) -> None:
    grid_size = 4
    count = grid_size + 2 * order + 1
    row = {
        "all-equal": torch.full((count,), 0.5),
        "clamped": torch.cat((torch.full((order,), -1.0), torch.linspace(-1, 1, grid_size + 1), torch.ones(order))),
        "two-values": torch.cat((torch.full((count // 2,), -1.0), torch.ones(count - count // 2))),
    }[kind]
    knots = row.unsqueeze(0).to(dtype)
    x = torch.tensor([-1.0, -0.5, 0.0, 0.5, 0.75, 1.0, 2.0], dtype=dtype).unsqueeze(1).requires_grad_()
    values = bspline_basis(x, knots, order)
    (gradient,) = torch.autograd.grad((values * torch.arange(values.shape[-1], dtype=dtype)).sum(), x)
    assert values.isfinite().all()
    assert gradient.isfinite().all()
    total = values.sum(-1).flatten()
    within = (x.flatten() >= -1) & (x.flatten() < 1) if kind == "clamped" else torch.zeros(len(x), dtype=torch.bool)
    torch.testing.assert_close(total[within], torch.ones_like(total[within]))
    if kind == "all-equal":
        assert not values.any()


def test_pykan_gives_nan_gradients_on_repeated_knots() -> None:
    from kan.spline import B_batch

    knots = torch.tensor([[-1.0, -1, -1, -1, 0, 1, 1, 1, 1]], dtype=torch.float64)
    x = torch.tensor([[-0.5], [0.25]], dtype=torch.float64, requires_grad=True)
    (theirs,) = torch.autograd.grad(B_batch(x, knots, k=3).sum(), x)
    assert theirs.isnan().all()
    (ours,) = torch.autograd.grad(bspline_basis(x, knots, 3).sum(), x)
    # The bases sum to one there, so the gradient of their sum is zero.
    torch.testing.assert_close(ours, torch.zeros_like(ours), rtol=0, atol=1e-14)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("grid_range", [(-1.0, 1.0), (0.0, 1e-6), (1e6, 1e6 + 1), (-1e30, 1e30)], ids=str)
def test_float32_is_accurate_on_awkward_ranges(grid_range: tuple[float, float], order: int) -> None:
    knots = uniform_knots(1, 5, order, grid_range, dtype=torch.float32)
    low, high = grid_range
    x = (low + (high - low) * torch.rand(SAMPLES, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).float()
    exact = scipy_basis(x, knots, order)
    # Differences of float32 numbers are formed exactly or to one rounding: no cancellation may grow with the offset.
    assert (bspline_basis(x, knots, order) - exact).abs().max() <= 4 * order * torch.finfo(torch.float32).eps
