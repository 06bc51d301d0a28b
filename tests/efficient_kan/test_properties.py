"""Properties that hold for all splines, layers and penalties, on drawn examples."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from efficient_kan import KAN, KANLinear, SampleL1, SampleStd, WeightL1
from efficient_kan.basis import bspline_basis, bspline_basis_derivative
from efficient_kan.knots import extend, interior_of, refined_knots

settings.register_profile("reproducible", derandomize=True, deadline=None, database=None, max_examples=25)
settings.load_profile("reproducible")

orders = st.integers(1, 5)
grid_sizes = st.integers(1, 9)
widths = st.integers(1, 4)
seeds = st.integers(0, 2**31)
PENALTIES = (SampleL1(), SampleStd(), SampleStd(normalize=False), WeightL1(), WeightL1(fold_scale=True, count_base=True))


def source(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def uniform(seed: int, *shape: int) -> Tensor:
    """In [-1, 1), float64."""
    return 2 * torch.rand(shape, generator=source(seed), dtype=torch.float64) - 1


def simple_knots(features: int, grid_size: int, order: int, seed: int) -> Tensor:
    """Random knots, all distinct, extended as layers have them."""
    gaps = 0.1 + torch.rand(features, grid_size, generator=source(seed), dtype=torch.float64)
    start = uniform(seed + 1, features, 1)
    return extend(torch.cat((start, start + gaps.cumsum(1)), dim=1), order)


def layer_with(
    inputs: int, outputs: int, grid_size: int, order: int, seed: int, *, uniform_grid: bool = False, scaler: bool = True
) -> KANLinear:
    """A float64 layer whose parameters, scales included, have size one; its knots are random or uniform."""
    layer = KANLinear(
        inputs,
        outputs,
        grid_size,
        order,
        enable_standalone_scale_spline=scaler,
        dtype=torch.float64,
        generator=source(seed),
    )
    with torch.no_grad():
        for n, parameter in enumerate(layer.parameters()):
            parameter.copy_(uniform(seed + n, *parameter.shape))
        if not uniform_grid:
            layer.grid.copy_(simple_knots(inputs, grid_size, order, seed))
    return layer


def samples_on_grid(layer: KANLinear, per_interval: int = 12) -> Tensor:
    """``(B, I)`` samples that fill every interval of every feature's grid, both ends included."""
    interior = interior_of(layer.grid, layer.spline_order)
    share = torch.linspace(0, 1, per_interval, dtype=layer.grid.dtype)
    points = torch.lerp(interior[:, :-1, None], interior[:, 1:, None], share)
    return points.flatten(1).T.contiguous()


@given(orders, grid_sizes, seeds)
def test_bases_sum_to_one_inside_the_grid(order: int, grid_size: int, seed: int) -> None:
    knots = simple_knots(2, grid_size, order, seed)
    interior = interior_of(knots, order)
    low, high = interior[:, 0], interior[:, -1]
    x = low + torch.rand(50, 2, generator=source(seed), dtype=torch.float64) * (high - low)
    x[0], x[1] = low, high
    total = bspline_basis(x, knots, order).sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=4e-15)
    slope = bspline_basis_derivative(x[x[:, 0] < high[0]], knots, order).sum(-1)  # at the right end, order 1 has a kink
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-12)


@given(orders, grid_sizes, seeds)
def test_a_basis_is_non_zero_on_its_own_knots_alone(order: int, grid_size: int, seed: int) -> None:
    knots = simple_knots(1, grid_size, order, seed)
    low, high = knots[0, 0].item() - 0.5, knots[0, -1].item() + 0.5
    x = torch.linspace(low, high, 300, dtype=torch.float64).unsqueeze(1)
    values = bspline_basis(x, knots, order)[:, 0]
    for j in range(grid_size + order):
        support = (x[:, 0] > knots[0, j]) & (x[:, 0] < knots[0, j + order + 1])
        assert (values[support, j] > 0).all()
        assert not values[~support, j].any()


@given(orders, grid_sizes, seeds)
def test_derivatives_below_the_order_are_continuous_at_knots(order: int, grid_size: int, seed: int) -> None:
    knots = simple_knots(1, grid_size, order, seed)
    step = 1e-7
    at = knots[0].unsqueeze(1)
    both = torch.cat((at - step, at + step)).requires_grad_()
    values = bspline_basis(both, knots, order)[:, 0]
    for j in range(values.shape[1]):
        derivative = values[:, j]
        jumps = []
        for _ in range(order + 1):
            below, above = derivative.detach().chunk(2)
            jumps.append(float((above - below).abs().max()))
            if derivative.requires_grad:
                (derivative,) = torch.autograd.grad(derivative.sum(), both, create_graph=True)
                derivative = derivative[:, 0]
        # Gaps >= 0.1 keep derivative p below 2^p k!/(k-p)! / 0.1^p; a continuous one changes by 2 step times the next.
        for p in range(order):
            bound = 2 ** (p + 1) * math.perm(order, p + 1) * 10 ** (p + 1)
            assert jumps[p] <= 2 * step * bound, f"derivative {p} of basis {j} jumps"
        assert jumps[order] > 1e-3, f"derivative {order} of basis {j} has no jump"


@given(orders, grid_sizes, widths, widths, seeds, st.floats(-3, 3))
def test_outputs_are_linear_in_coefficients(
    order: int, grid_size: int, inputs: int, outputs: int, seed: int, factor: float
) -> None:
    layers = [layer_with(inputs, outputs, grid_size, order, 7) for _ in range(3)]
    with torch.no_grad():
        for n, layer in enumerate(layers[:2]):
            layer.spline_weight.copy_(uniform(seed + n, *layer.spline_weight.shape))
            layer.base_weight.copy_(uniform(seed + n + 5, *layer.base_weight.shape))
        for name in ("spline_weight", "base_weight"):
            first, second, both = (getattr(layer, name) for layer in layers)
            both.copy_(first + factor * second)
    x = samples_on_grid(layers[0])
    first, second, both = (layer(x) for layer in layers)
    torch.testing.assert_close(both, first + factor * second, rtol=1e-13, atol=1e-13)


@given(orders, grid_sizes, widths, widths, st.integers(2, 4), seeds)
def test_refine_by_a_multiple_keeps_the_function_everywhere_inside(
    order: int, grid_size: int, inputs: int, outputs: int, multiple: int, seed: int
) -> None:
    layer = layer_with(inputs, outputs, grid_size, order, seed)
    refined = layer.refine(multiple * grid_size, samples_on_grid(layer, 8 * multiple))
    kept = refined.grid[:, order::multiple][:, : grid_size + 1]
    assert torch.equal(kept, interior_of(layer.grid, order))
    elsewhere = samples_on_grid(layer, 37)
    torch.testing.assert_close(refined(elsewhere), layer(elsewhere), rtol=0, atol=1e-11)
    assert refined.grid_size == multiple * grid_size
    assert torch.equal(refined.spline_scaler, layer.spline_scaler)  # type: ignore[arg-type]


@pytest.mark.parametrize(("grid_size", "multiple"), [(1, 49), (2, 49), (3, 107), (7, 93)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_refining_by_any_multiple_keeps_every_knot_exactly(dtype: torch.dtype, grid_size: int, multiple: int) -> None:
    """Multiples m where ``m * (1 / m)`` is not one in float64."""
    interior = interior_of(simple_knots(2, grid_size, 3, seed=1), 3).to(dtype)
    assert torch.equal(refined_knots(interior, multiple * grid_size)[:, ::multiple], interior)


@given(orders, st.integers(1, 7), st.integers(0, 9), st.integers(1, 3), seeds)
def test_refine_to_any_size_keeps_a_network_everywhere(order: int, grid_size: int, more: int, hidden: int, seed: int) -> None:
    """Also where inputs lie beyond the grid, where the splines taper off, and far from the samples that it is called with."""
    kan = KAN([2, hidden, 1], grid_size, order, scale_noise=1.0, dtype=torch.float64, generator=source(seed))
    for n, layer in enumerate(kan.kan_layers):
        layer.grid.copy_(simple_knots(layer.in_features, grid_size, order, seed + n))
    refined = kan.refine(grid_size + more, uniform(seed, 5, 2))
    assert refined.grid_size == grid_size + more
    x = 3 * uniform(seed, 400, 2)
    torch.testing.assert_close(refined(x), kan(x), rtol=0, atol=1e-11)


@pytest.mark.parametrize("fit", ["function", "samples"])
@given(orders, grid_sizes, widths, widths, st.booleans(), st.floats(0, 1), seeds)
def test_update_grid_keeps_what_both_spline_spaces_hold(
    fit: Any, order: int, grid_size: int, inputs: int, outputs: int, scaler: bool, grid_eps: float, seed: int
) -> None:
    """Polynomials of degree <= k are splines on all knots, so nothing may be lost, whatever the scales are."""
    layer = layer_with(inputs, outputs, grid_size, order, seed, uniform_grid=True, scaler=scaler)
    layer.grid_eps = grid_eps
    dense = torch.linspace(-1, 1, 40 * (grid_size + order), dtype=torch.float64)
    powers = dense.unsqueeze(1) ** torch.arange(order + 1, dtype=torch.float64)
    bases = bspline_basis(dense.unsqueeze(1), layer.grid[:1], order)[:, 0]
    monomials = torch.linalg.lstsq(bases, powers, driver="gelsd").solution  # shape: (G+k, k+1)
    with torch.no_grad():
        layer.spline_weight.copy_(uniform(seed, outputs, inputs, order + 1) @ monomials.T)
    x = 0.98 * uniform(seed, 60 * (grid_size + order), inputs) ** 7  # crowded around zero, so that knots move
    before, scales = layer(x), copy.deepcopy(layer.spline_scaler)
    layer.update_grid(x, fit=fit)
    torch.testing.assert_close(layer(x), before, rtol=0, atol=1e-10)
    assert scales is None or torch.equal(scales, layer.spline_scaler)  # type: ignore[arg-type]
    inside = x.amin(0) + torch.linspace(0, 1, 50, dtype=x.dtype).unsqueeze(1) * (x.amax(0) - x.amin(0))
    unscaled = layer_with(inputs, outputs, grid_size, order, seed, uniform_grid=True, scaler=scaler)
    with torch.no_grad():
        unscaled.spline_weight.copy_(uniform(seed, outputs, inputs, order + 1) @ monomials.T)
    torch.testing.assert_close(layer(inside), unscaled(inside), rtol=0, atol=1e-9)


@pytest.mark.filterwarnings("ignore:update_grid")
@given(orders, grid_sizes, widths, seeds)
def test_update_grid_finds_the_closest_splines(order: int, grid_size: int, outputs: int, seed: int) -> None:
    """The change of every curve is orthogonal, over the samples, to all splines on the new knots."""
    layer = layer_with(2, outputs, grid_size, order, seed, uniform_grid=True)
    x = uniform(seed, 40 * (grid_size + order), 2)
    old = torch.einsum("big,oig->bio", bspline_basis(x, layer.grid, order), layer.spline_weight)
    layer.update_grid(x, fit="samples")
    bases = bspline_basis(x, layer.grid, order)
    change = torch.einsum("big,oig->bio", bases, layer.spline_weight) - old
    assert torch.einsum("big,bio->igo", bases, change).abs().max() <= 1e-11 * len(x)
    assert change.norm() <= old.norm()


@pytest.mark.filterwarnings("ignore:update_grid")
@given(st.integers(1, 9), st.integers(2, 60), seeds)
def test_knots_are_quantiles_or_uniform_or_between(grid_size: int, samples: int, seed: int) -> None:
    layer = KANLinear(1, 1, grid_size, dtype=torch.float64, generator=source(seed))
    x = uniform(seed, samples, 1)
    grids = {}
    for share in (0.0, 0.3, 1.0):
        layer.grid_eps = share
        layer.update_grid(x, fit="samples")
        grids[share] = interior_of(layer.grid, 3)[0].clone()
    ordered = x.flatten().sort().values
    assert torch.equal(grids[0.0][:-1], ordered[[int(samples / grid_size * i) for i in range(grid_size)]])
    assert grids[0.0][-1] == ordered[-1]
    evenly = torch.linspace(ordered[0].item(), ordered[-1].item(), grid_size + 1, dtype=x.dtype)
    torch.testing.assert_close(grids[1.0], evenly, rtol=0, atol=1e-14)
    torch.testing.assert_close(grids[0.3], 0.3 * evenly + 0.7 * grids[0.0], rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    "samples",
    [[0.5] * 4, [0.0, 1e-43, 1e-42, 3e-42], [-1.5e38, 0.0, 1.0, 1.5e38], [-3e38, 0.0, 1.0, 3e38], [1e8, 1e8, 1e8, 1e8 + 8]],
    ids=["constant", "subnormal", "extension-overflows", "range-overflows", "adjacent-floats"],
)
def test_features_without_a_usable_range_keep_knots_and_splines(samples: list[float]) -> None:
    layer = KANLinear(2, 3, grid_size=2, generator=source(0))
    before, state = copy.deepcopy(layer), layer.state_dict()
    x = torch.stack((torch.tensor(samples), torch.tensor([-0.5, 0.0, 0.2, 0.5])), dim=1)
    with pytest.warns(UserWarning, match=r"^update_grid: 1 of 2 features .* keep their knots: \[0\]"):
        layer.update_grid(x, fit="samples")
    assert torch.equal(state["grid"][0], before.grid[0])
    assert torch.equal(state["spline_weight"][:, 0], before.spline_weight[:, 0])
    assert not torch.equal(state["grid"][1], before.grid[1])
    assert all(value.isfinite().all() for value in state.values())
    torch.testing.assert_close(layer(x), before(x), rtol=1e-5, atol=1e-5)


@given(orders, grid_sizes, st.integers(2, 5), widths, seeds)
def test_permuting_features_permutes_everything(order: int, grid_size: int, inputs: int, outputs: int, seed: int) -> None:
    layer = layer_with(inputs, outputs, grid_size, order, seed)
    x = 1.5 * uniform(seed, 50, inputs)
    columns, rows = torch.randperm(inputs, generator=source(seed)), torch.randperm(outputs, generator=source(seed + 1))
    permuted = copy.deepcopy(layer)
    with torch.no_grad():
        permuted.grid.copy_(layer.grid[columns])
        for name, parameter in permuted.named_parameters():
            parameter.copy_(getattr(layer, name)[rows][:, columns])
    torch.testing.assert_close(permuted(x[:, columns]), layer(x)[:, rows], rtol=1e-13, atol=1e-13)
    for penalty in PENALTIES:
        norms = penalty.edge_norms(layer, x)
        torch.testing.assert_close(penalty.edge_norms(permuted, x[:, columns]), norms[rows][:, columns], rtol=1e-12, atol=1e-12)
        losses = [twin.forward_with_penalty(z, penalty)[1] for twin, z in ((layer, x), (permuted, x[:, columns]))]
        torch.testing.assert_close(*losses, rtol=1e-12, atol=1e-12)


@given(st.permutations(range(6)), seeds)
def test_permuting_samples_permutes_outputs_and_leaves_penalties(order: list[int], seed: int) -> None:
    layer = layer_with(3, 2, 4, 3, seed)
    x = 1.5 * uniform(seed, 6, 3)
    torch.testing.assert_close(layer(x[order]), layer(x)[order], rtol=1e-13, atol=1e-13)
    for penalty in PENALTIES:
        torch.testing.assert_close(penalty.edge_norms(layer, x[order]), penalty.edge_norms(layer, x), rtol=1e-12, atol=1e-13)


@given(orders, grid_sizes, widths, widths, st.integers(2, 40), seeds)
def test_penalties_are_not_negative(order: int, grid_size: int, inputs: int, outputs: int, samples: int, seed: int) -> None:
    layer = layer_with(inputs, outputs, grid_size, order, seed)
    x = 1.5 * uniform(seed, samples, inputs)
    for penalty in PENALTIES:
        assert (penalty.edge_norms(layer, x) >= 0).all()
        # pykan's logarithm of p + 1e-4 may fall below zero by that much per row and column.
        slack = 2 * 2e-4 * max(inputs, outputs) if isinstance(penalty, SampleStd) else 1e-15
        assert layer.forward_with_penalty(x, penalty)[1] >= -slack
    for part in (SampleL1(entropy=0), SampleL1(l1=0), SampleStd(entropy=0, coef=1, coefdiff=1), WeightL1(l1=0)):
        assert layer.forward_with_penalty(x, part)[1] >= -1e-15


@given(orders, grid_sizes, st.floats(1e-3, 1e3), seeds)
def test_l1_terms_scale_with_the_weights_and_the_entropy_does_not(order: int, grid_size: int, factor: float, seed: int) -> None:
    layer = layer_with(3, 2, grid_size, order, seed, scaler=False)
    scaled = copy.deepcopy(layer)
    with torch.no_grad():
        for parameter in scaled.parameters():
            parameter.mul_(factor)
    x = 1.5 * uniform(seed, 30, 3)
    homogeneous = (
        SampleL1(entropy=0),
        SampleL1(entropy=0, divide_by_grid_range=True),
        SampleStd(entropy=0, normalize=False),
        SampleStd(entropy=0, coef=0.5, coefdiff=0.25),
        WeightL1(entropy=0, count_base=True),
    )
    for penalty in homogeneous:
        once, more = (twin.forward_with_penalty(x, penalty)[1] for twin in (layer, scaled))
        torch.testing.assert_close(more, factor * once, rtol=1e-12, atol=0)
    for penalty in (SampleL1(l1=0), WeightL1(l1=0)):
        once, more = (twin.forward_with_penalty(x, penalty)[1] for twin in (layer, scaled))
        torch.testing.assert_close(more, once, rtol=1e-12, atol=1e-13)


@given(st.floats(0.1, 10), st.floats(0.1, 10), seeds)
def test_weights_of_the_terms_add_up(l1: float, entropy: float, seed: int) -> None:
    layer = layer_with(3, 2, 4, 3, seed)
    x = uniform(seed, 20, 3)
    for kind in (SampleL1, WeightL1, SampleStd):
        both, first, second = (
            layer.forward_with_penalty(x, kind(l1=a, entropy=b))[1] for a, b in ((l1, entropy), (1.0, 0.0), (0.0, 1.0))
        )
        torch.testing.assert_close(both, l1 * first + entropy * second, rtol=1e-12, atol=1e-12)


@given(st.floats(0.01, 100), seeds)
def test_moving_a_factor_from_scale_to_coefficients(factor: float, seed: int) -> None:
    layer = layer_with(3, 2, 4, 3, seed)
    moved = copy.deepcopy(layer)
    assert moved.spline_scaler is not None
    with torch.no_grad():
        moved.spline_scaler.div_(factor)
        moved.spline_weight.mul_(factor)
    x = uniform(seed, 20, 3)
    torch.testing.assert_close(moved(x), layer(x), rtol=1e-12, atol=1e-12)
    for penalty in (WeightL1(fold_scale=True), WeightL1(fold_scale=True, count_base=True), SampleL1(), SampleStd()):
        once, again = (twin.forward_with_penalty(x, penalty)[1] for twin in (layer, moved))
        torch.testing.assert_close(again, once, rtol=1e-12, atol=1e-12)
    plain = WeightL1(entropy=0)
    once, again = (twin.forward_with_penalty(x, plain)[1] for twin in (layer, moved))
    torch.testing.assert_close(again, factor * once, rtol=1e-12, atol=0)


@given(st.lists(st.booleans(), min_size=6, max_size=6), seeds)
def test_pruned_edges_have_no_norm_no_gradient_and_no_importance(alive: list[bool], seed: int) -> None:
    first, second = layer_with(3, 2, 4, 3, seed), layer_with(2, 1, 5, 2, seed + 50)
    mask = torch.tensor(alive).view(2, 3)
    first.edge_mask.copy_(mask)
    kan = KAN.from_layers([first, second])
    x = uniform(seed, 30, 3)
    for penalty in PENALTIES:
        assert not penalty.edge_norms(first, x)[~mask].any()
        y, loss = kan.forward_with_penalty(x, penalty)
        grads = torch.autograd.grad(y.sum() + loss, [first.base_weight, first.spline_weight])
        for grad in grads:
            assert grad.isfinite().all()
            assert not grad[~mask].any()
    scores = kan.importance(x)
    assert [tuple(score.shape) for score in scores] == [(2, 3), (1, 2)]
    assert not scores[0][~mask].any()
    assert all((score >= 0).all() for score in scores)


@pytest.mark.parametrize("awkward", ["one-sample", "duplicates", "beyond-the-grid", "one-interval", "two-values", "huge"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("grid_range", [(-1, 1), (0, 1e-6), (1e6, 1e6 + 1)], ids=str)
@pytest.mark.filterwarnings("ignore:update_grid", "ignore:refine")
def test_nothing_is_ever_nan(grid_range: tuple[float, float], dtype: torch.dtype, awkward: str) -> None:
    """Outputs, penalties, refined and updated networks and all gradients, on small widths and all orders."""
    low, high = grid_range
    for order, grid_size, inputs, seed in ((1, 1, 1, 0), (3, 5, 2, 1), (5, 1, 1, 2), (5, 2, 3, 3)):
        kan = KAN([inputs, 2, 1], grid_size, order, grid_range=grid_range, dtype=dtype, generator=source(seed))
        x = (low + (uniform(seed, 12, inputs) + 1) / 2 * (high - low)).to(dtype)
        x = {
            "one-sample": x[:1],
            "duplicates": x[:1].repeat(12, 1),
            "beyond-the-grid": x + 10 * (high - low),
            "one-interval": low + (x - low) / 50,
            "two-values": torch.where(x > x.mean(), high, low).to(dtype),
            "huge": 1e12 * (x - low + 1),
        }[awkward]
        results = {"refined": kan.refine(grid_size + 2, x)(x)}
        updated = copy.deepcopy(kan)
        updated.update_grid(x, fit="samples")
        for name, network in (("given", kan), ("updated", updated)):
            x.requires_grad_()
            for penalty in (None, PENALTIES[0], PENALTIES[1], PENALTIES[-1]):
                if len(x) < 2 and isinstance(penalty, SampleStd):
                    continue
                y, loss = (network(x), torch.zeros(())) if penalty is None else network.forward_with_penalty(x, penalty)
                results |= {f"{name} output": y, f"{name} {penalty}": loss}
                grads = torch.autograd.grad(y.sum() + loss, [x, *network.parameters()], allow_unused=True)
                results |= {f"{name} {penalty} gradient {n}": g for n, g in enumerate(grads) if g is not None}
        bad = [name for name, tensor in results.items() if not tensor.isfinite().all()]
        assert not bad, f"k={order}, G={grid_size}, I={inputs}"
