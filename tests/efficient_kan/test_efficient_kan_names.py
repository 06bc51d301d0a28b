"""Names and positions of arguments that users of efficient-kan know, against plain formulas."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from efficient_kan import KAN, KANLinear
from efficient_kan.knots import interior_of
from reference import cox_de_boor


def layer(dtype: torch.dtype = torch.float64, **options: Any) -> KANLinear:
    generator = torch.Generator().manual_seed(0)
    made = KANLinear(3, 4, dtype=dtype, generator=generator, kernel="native", **options)
    with torch.no_grad():
        made.grid.add_(0.05 * torch.rand(made.grid.shape, generator=generator, dtype=made.grid.dtype))
    return made


def samples(count: int = 50, dtype: torch.dtype = torch.float64) -> Tensor:
    return (torch.rand(count, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2.4 - 1.2).to(dtype)


def bases(x: Tensor, grid: Tensor, order: int) -> Tensor:
    points = x.unsqueeze(-1)
    found = ((points >= grid[:, :-1]) & (points < grid[:, 1:])).to(x.dtype)
    for p in range(1, order + 1):
        left = (points - grid[:, : -p - 1]) / (grid[:, p:-1] - grid[:, : -p - 1]) * found[..., :-1]
        right = (grid[:, p + 1 :] - points) / (grid[:, p + 1 :] - grid[:, 1:-p]) * found[..., 1:]
        found = left + right
    return found


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_b_splines(order: int) -> None:
    made, x = layer(spline_order=order), samples()
    assert made.b_splines(x).shape == (50, 3, 5 + order)
    torch.testing.assert_close(made.b_splines(x), bases(x, made.grid, order), rtol=1e-12, atol=1e-14)
    assert torch.equal(made.b_splines(x.view(5, 10, 3)), made.b_splines(x).view(5, 10, 3, -1))
    assert made.bfloat16().b_splines(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("scaler", [False, True])
def test_scaled_spline_weight_completes_the_formula(scaler: bool) -> None:
    made, x = layer(enable_standalone_scale_spline=scaler), samples()
    assert made.enable_standalone_scale_spline is scaler
    expected = made.spline_weight if made.spline_scaler is None else made.spline_weight * made.spline_scaler.unsqueeze(-1)
    assert torch.equal(made.scaled_spline_weight, expected)
    spline = made.b_splines(x).flatten(1) @ made.scaled_spline_weight.flatten(1).T
    base = nn.functional.linear(made.base_activation(x), made.base_weight)
    torch.testing.assert_close(base + spline, made(x), rtol=1e-12, atol=1e-13)
    made.edge_mask[1, 2] = 0
    assert not made.scaled_spline_weight[1, 2].any() and made.scaled_spline_weight[1, 1].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_curve2coeff_recovers_coefficients(dtype: torch.dtype) -> None:
    made, x = layer(dtype), samples(200, dtype)
    curves = torch.einsum("big,oig->bio", made.b_splines(x), made.spline_weight)
    found = made.curve2coeff(x, curves)
    assert found.shape == (4, 3, 8) and found.dtype == dtype
    torch.testing.assert_close(found, made.spline_weight, rtol=0, atol=1e-4 if dtype == torch.float32 else 1e-12)


def test_curve2coeff_of_few_points_is_the_solution_of_least_norm() -> None:
    """At the grid points, as efficient-kan draws its initial noise: fewer points than coefficients."""
    made = layer()
    x = interior_of(made.grid, 3).T
    y = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = made.curve2coeff(x, y)
    matrix = bases(x, made.grid, 3).transpose(0, 1)
    expected = (torch.linalg.pinv(matrix) @ y.transpose(0, 1)).permute(2, 0, 1)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("x", "y", "argument"),
    [
        (samples()[0], torch.zeros(1, 3, 4, dtype=torch.float64), "x"),
        (samples()[:0], torch.zeros(0, 3, 4, dtype=torch.float64), "x"),
        (samples(), torch.zeros(50, 4, 3, dtype=torch.float64), "y"),
        (samples(), torch.zeros(50, 3, 4), "y"),
        (samples(), torch.zeros(50, 3, 4, dtype=torch.int64), "y"),
        (samples(), torch.full((50, 3, 4), torch.nan, dtype=torch.float64), "y"),
        (samples() * torch.inf, torch.zeros(50, 3, 4, dtype=torch.float64), "x"),
    ],
)
def test_curve2coeff_refuses_what_does_not_meet(x: Tensor, y: Tensor, argument: str) -> None:
    with pytest.raises(ValueError, match=f"^{argument}: expected .*, got"):
        layer().curve2coeff(x, y)


def test_grid_size_and_order_of_a_network() -> None:
    kan = KAN([2, 3, 1], grid_size=7, spline_order=2)
    assert (kan.grid_size, kan.spline_order) == (7, 2)
    mixed = KAN.from_layers([KANLinear(2, 3, 5, 3), KANLinear(3, 1, 6, 2)])
    with pytest.raises(ValueError, match=r"^grid_size: expected the same in all layers.*, got \[5, 6\]"):
        _ = mixed.grid_size
    with pytest.raises(ValueError, match=r"^spline_order: expected the same in all layers.*, got \[3, 2\]"):
        _ = mixed.spline_order


@pytest.mark.filterwarnings("ignore:update_grid")
def test_positions_of_arguments_are_those_of_efficient_kan() -> None:
    sizes = ["grid_size", "spline_order", "scale_noise", "scale_base", "scale_spline"]
    rest = ["base_activation", "grid_eps", "grid_range"]
    for kind, expected in (
        (KANLinear, ["in_features", "out_features", *sizes, "enable_standalone_scale_spline", *rest]),
        (KAN, ["layers_hidden", *sizes, *rest]),
    ):
        parameters = inspect.signature(kind).parameters.values()
        assert [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD] == expected
    kan = KAN([2, 3, 1], 6, 2, 0.2, 0.9, 0.8, nn.Tanh, 0.1, [-2, 2])
    first = kan.kan_layers[0]
    assert isinstance(first.base_activation, nn.Tanh)
    values = (first.grid_size, first.spline_order, first.scale_noise, first.scale_base, first.scale_spline, first.grid_eps)
    assert values == (6, 2, 0.2, 0.9, 0.8, 0.1) and first.grid_range == (-2, 2)
    x = torch.rand(30, 2)
    kan(x, True)
    torch.testing.assert_close(kan(x), cox_de_boor.build(kan)(x), rtol=1e-4, atol=1e-5)
    assert kan.regularization_loss(1.0, 1.0).shape == ()
