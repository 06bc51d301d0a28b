"""Least squares of every rank against numpy, and the initial splines that are fitted with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from efficient_kan import KANLinear
from efficient_kan.basis import bspline_basis
from efficient_kan.fit import fit_coefficients, least_squares
from efficient_kan.knots import interior_of, uniform_knots

EPS32 = torch.finfo(torch.float32).eps
CUT = 1e-12


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def of_rank(features: int, rows: int, columns: int, rank: int) -> Tensor:
    """Matrices of a rank, with singular values between 1 and 2."""
    left = torch.linalg.qr(draw(features, rows, rank, seed=1)).Q
    right = torch.linalg.qr(draw(features, columns, rank, seed=2)).Q
    return (left * torch.linspace(1, 2, rank, dtype=torch.float64)) @ right.mT


def zero_columns(features: int, rows: int, columns: int) -> Tensor:
    design = of_rank(features, rows, columns, min(rows, columns))
    design[:, :, 1::3] = 0.0
    return design


DESIGNS = {
    "full-rank-tall": of_rank(3, 40, 7, 7),
    "full-rank-square": of_rank(3, 7, 7, 7),
    "underdetermined": of_rank(3, 5, 11, 5),
    "one-sample": of_rank(3, 1, 8, 1),
    "one-column": of_rank(3, 9, 1, 1),
    "rank-deficient-tall": of_rank(3, 40, 11, 4),
    "rank-deficient-wide": of_rank(3, 9, 23, 4),
    "zero-columns-tall": zero_columns(3, 40, 8),
    "zero-columns-wide": zero_columns(3, 6, 11),
    "zero-rows": torch.cat((torch.zeros(3, 20, 6, dtype=torch.float64), of_rank(3, 3, 6, 3)), dim=1),
    "all-zero": torch.zeros(3, 5, 4, dtype=torch.float64),
}


@pytest.mark.parametrize("curves", [1, 4])
@pytest.mark.parametrize("name", DESIGNS)
def test_equals_numpy_lstsq(name: str, curves: int) -> None:
    design = DESIGNS[name]
    targets = draw(design.shape[0], design.shape[1], curves, seed=3)
    expected = np.stack([np.linalg.lstsq(a, b, rcond=CUT)[0] for a, b in zip(design.numpy(), targets.numpy(), strict=True)])
    torch.testing.assert_close(least_squares(design, targets, CUT), torch.from_numpy(expected), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["underdetermined", "rank-deficient-tall", "rank-deficient-wide", "zero-columns-wide"])
def test_the_solution_is_the_shortest_one(name: str) -> None:
    design = DESIGNS[name]
    solution = least_squares(design, draw(*design.shape[:2], 2, seed=3), CUT)
    # The shortest solution has no part in the null space of the design.
    _, s, vh = torch.linalg.svd(design)
    for n in range(len(design)):
        null = vh[n, int((s[n] > CUT).sum()) :]
        assert len(null) >= 1
        assert (null @ solution[n]).abs().max() < 1e-13


def test_features_of_different_rank_share_a_batch() -> None:
    design = torch.stack([of_rank(1, 12, 6, rank)[0] for rank in (1, 3, 6)])
    targets = draw(3, 12, 2, seed=4)
    together = least_squares(design, targets, CUT)
    for n in range(3):
        alone = least_squares(design[n : n + 1], targets[n : n + 1], CUT)[0]
        torch.testing.assert_close(together[n], alone, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("grid_size", [1, 5, 20, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_initial_splines_interpolate_the_noise_at_the_grid_points(dtype: torch.dtype, grid_size: int, order: int) -> None:
    """The matrix is underdetermined, where torch's own lstsq on CPU may return a wrong rank (pytorch issue #187411)."""
    scale_noise, inputs, outputs = 0.5, 2, 3
    layer = KANLinear(
        inputs,
        outputs,
        grid_size,
        order,
        scale_noise=scale_noise,
        generator=torch.Generator().manual_seed(5),
        dtype=dtype,
    )
    points = interior_of(layer.grid, order).T.contiguous()
    curves = torch.einsum(
        "big,oig->bio", bspline_basis(points.double(), layer.grid.double(), order), layer.spline_weight.double()
    )
    generator = torch.Generator().manual_seed(5)
    torch.rand(outputs, inputs, generator=generator, dtype=dtype)  # the base weights come first
    draws = torch.rand(grid_size + 1, outputs, inputs, generator=generator, dtype=dtype)
    noise = ((draws - 0.5) * scale_noise / grid_size).permute(0, 2, 1)
    amplitude = scale_noise / (2 * grid_size)
    assert noise.abs().max() <= amplitude
    # Rounding of coefficients to dtype, and of a float64 solve whose condition grows with G at even orders.
    tolerance = 20 * torch.finfo(dtype).eps + 2 * grid_size * torch.finfo(torch.float64).eps
    assert (curves - noise.double()).abs().max() <= tolerance * amplitude


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_splines_are_recovered_from_their_values(dtype: torch.dtype) -> None:
    knots = uniform_knots(2, 6, 3, (-1, 1), dtype=dtype)
    coefficients = draw(4, 2, 9)
    x = (2 * torch.rand(300, 2, generator=torch.Generator().manual_seed(1), dtype=dtype) - 1) * 0.999
    curves = torch.einsum("big,oig->ibo", bspline_basis(x.double(), knots.double(), 3), coefficients)
    fitted = fit_coefficients(x, curves, knots, 3)
    assert fitted.dtype == dtype
    assert fitted.shape == (4, 2, 9)
    torch.testing.assert_close(fitted, coefficients.to(dtype), rtol=0, atol=(1e-12 if dtype == torch.float64 else 2 * EPS32))


def test_bases_without_samples_get_zero_coefficients() -> None:
    knots = uniform_knots(1, 10, 2, (-1, 1), dtype=torch.float64)
    x = torch.linspace(-1, -0.65, 50, dtype=torch.float64).unsqueeze(1)
    fitted = fit_coefficients(x, torch.ones(1, 50, 1, dtype=torch.float64), knots, 2)[0, 0]
    reached = bspline_basis(x, knots, 2)[:, 0].any(0)
    assert not fitted[~reached].any()
    torch.testing.assert_close(fitted[reached], torch.ones_like(fitted[reached]))


@pytest.mark.parametrize(("dtype", "offset", "kept"), [(torch.float32, EPS32, False), (torch.float64, 1e-9, True)], ids=str)
def test_the_rank_is_judged_at_the_precision_of_the_samples(dtype: torch.dtype, offset: float, kept: bool) -> None:
    """One sample passes a knot: by one bit of float32, which rounding may have made, or by many bits of float64."""
    knots = torch.tensor([[-1.0, 0.0, 1.0, 2.0, 3.0]], dtype=dtype)
    x = torch.tensor([[0.2], [0.4], [0.6], [0.8], [1.0 + offset]], dtype=dtype)
    assert (bspline_basis(x, knots, 1)[:, 0, 2] > 0).tolist() == [False, False, False, False, True]
    fitted = fit_coefficients(x, draw(1, 5, 1), knots, 1)[0, 0]
    assert bool(fitted[2].abs() > 1e3) == kept
    assert fitted[:2].abs().max() < 10


@pytest.mark.parametrize("samples", [100, 10_000, 300_000])
def test_a_basis_few_samples_reach_is_kept_however_many_samples_there_are(samples: int) -> None:
    knots = uniform_knots(1, 4, 1, (0, 4), dtype=torch.float32)
    x = torch.cat((torch.linspace(0, 1, samples), torch.tensor([3.0]))).unsqueeze(1)
    values = torch.cat((torch.zeros(samples), torch.ones(1))).double().view(1, -1, 1)
    fitted = fit_coefficients(x, values, knots, 1)
    predicted = torch.einsum("big,oig->bo", bspline_basis(x, knots, 1), fitted)
    assert abs(predicted[-1, 0].item() - 1) < 4 * EPS32
