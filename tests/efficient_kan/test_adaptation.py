"""Grid updates and refinement of whole networks: what becomes of the function, and what is said of it."""

from __future__ import annotations

import copy
import math
import re
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from efficient_kan import KAN, KANLinear
from efficient_kan.grid_update import _counts, samples_needed
from efficient_kan.knots import interior_of

BATCHES = [8, 16, 24, 32, 64, 128, 256, 1024]


def target(x: Tensor) -> Tensor:
    return torch.exp(torch.sin(torch.pi * x[:, :1]) + x[:, 1:] ** 2) / 4


def uniform(count: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return 2 * torch.rand(count, 2, generator=torch.Generator().manual_seed(seed), dtype=dtype) - 1


@cache
def trained(grid_size: int, layers: int, adapted: bool) -> KAN:
    """A network trained on the target; if ``adapted``, its knots followed the samples in the first steps, by pykan's rule."""
    kan = KAN([2, *[8] * (layers - 1), 1], grid_size, kernel="native", generator=torch.Generator().manual_seed(0))
    x, steps = uniform(1000, 1), 250
    y = target(x)
    optimiser = torch.optim.Adam(kan.parameters(), lr=2e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        if adapted and step in (0, 20):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                kan.update_grid(x, fit="samples")
        loss = (kan(x) - y).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return kan


@torch.no_grad()
def held_out(kan: KAN) -> float:
    x = uniform(2000, 2)
    return float((kan(x) - target(x)).square().mean().sqrt())


def messages(call: Callable[[], object]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(warning.message) for warning in caught]


def repeat_calls(grid_size: int, layers: int, adapted: bool, batch: int) -> None:
    kan = copy.deepcopy(trained(grid_size, layers, adapted))
    before = held_out(kan)
    for call in range(30):
        x = uniform(batch, 100 + call)
        said = messages(lambda x=x: kan(x, update_grid=True))  # type: ignore[misc]
        assert len(said) <= 1
        if batch < samples_needed(grid_size, 3):
            assert f"({samples_needed(grid_size, 3)} are needed)" in said[0]
    assert held_out(kan) <= 2 * before + 1e-3


@pytest.mark.parametrize(("grid_size", "layers", "adapted"), [(3, 2, True), (5, 3, False), (20, 2, False), (100, 2, True)])
@pytest.mark.parametrize("batch", [8, 24, 128, 1024])
def test_repeated_updates_keep_a_trained_network(grid_size: int, layers: int, adapted: bool, batch: int) -> None:
    """efficient-kan issue 59, pykan issue 396: 30 calls with other batches, where least squares at the samples reaches 1e17."""
    repeat_calls(grid_size, layers, adapted, batch)


@pytest.mark.slow
@pytest.mark.parametrize("adapted", [False, True], ids=["uniform", "adapted"])
@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("grid_size", [3, 5, 10, 20, 50, 100])
def test_repeated_updates_keep_every_trained_network(grid_size: int, batch: int, layers: int, adapted: bool) -> None:
    repeat_calls(grid_size, layers, adapted, batch)


def test_few_samples_destroy_a_network_fitted_at_samples() -> None:
    """What the default is there for: the same calls by pykan's rule."""
    kan = copy.deepcopy(trained(20, 2, False))
    before = held_out(kan)
    said = messages(lambda: kan.update_grid(uniform(24, 5), fit="samples"))
    assert re.match(r"update_grid: the function changed: output 0 changes by ", said[0])
    assert held_out(kan) > 20 * before


@pytest.mark.parametrize("grid_size", [21, 50, 100])
def test_refining_with_few_samples_keeps_the_function(grid_size: int) -> None:
    """Where least squares at 60 samples took the held-out error from 0.003 to 0.08."""
    kan = trained(20, 2, True)
    refined = kan.refine(grid_size, uniform(60, 3))
    assert refined.grid_size == grid_size
    x = 3 * uniform(500, 4)
    torch.testing.assert_close(refined(x), kan(x), rtol=0, atol=2e-5)


def test_coarsening_says_by_how_much_the_function_changed() -> None:
    kan, x = trained(20, 2, True), uniform(500, 3)
    coarse: list[KAN] = []
    said = messages(lambda: coarse.append(kan.refine(10, x)))
    change = (coarse[0](x) - kan(x)).square().mean().sqrt()
    assert said == [s for s in said if s.startswith("refine: the function changed: output 0 changes by ")] and len(said) == 1
    assert float(re.findall(r"changes by (\S+) \(RMS", said[0])[0]) == pytest.approx(float(change.detach()), rel=0.06)
    assert change < 0.1 * kan(x).std()


@pytest.mark.parametrize("scale", [0.05, 0.5, 3.0])
@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_new_knots_cover_the_samples_and_follow_them(scale: float, shift: float) -> None:
    """At the start of training, wherever the samples are; a second call with others like them moves nothing."""
    layer = KANLinear(2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    source = torch.Generator().manual_seed(1)
    x = scale * torch.randn(2000, 2, generator=source, dtype=torch.float64) + shift
    messages(lambda: layer.update_grid(x))
    interior = interior_of(layer.grid, 3)
    assert (((x < interior[:, 0]) | (x > interior[:, -1])).double().mean(0) <= 0.05).all()
    shares = torch.histogram(x[:, 0], interior[0]).hist / len(x)
    if scale != 0.5:  # where [-1, 1] holds them well enough
        assert shares.max() < 0.4
    before = copy.deepcopy(layer)
    again = scale * torch.randn(2000, 2, generator=source, dtype=torch.float64) + shift
    assert messages(lambda: layer.update_grid(again)) == []
    assert torch.equal(layer.grid, before.grid) and torch.equal(layer.spline_weight, before.spline_weight)


@pytest.mark.parametrize("seed", range(6))
def test_no_update_changes_the_function_without_saying_by_how_much(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    kan = KAN([2, 4, 2], 3 + seed, scale_noise=2.0, dtype=torch.float64, generator=generator)
    x = (0.3 + seed) * torch.randn(500, 2, generator=generator, dtype=torch.float64)
    before = kan(x)
    said = messages(lambda: kan.update_grid(x, fit="samples" if seed % 2 else "function"))
    change = (kan(x) - before).square().mean(0).sqrt()
    assert change.max() > 1e-9
    output, size = re.findall(r"the function changed: output (\d) changes by (\S+) \(RMS", said[0])[0]
    assert float(size) == pytest.approx(float(change[int(output)].detach()), rel=0.06)


def test_max_change_decides_what_moves() -> None:
    kan, x = trained(10, 2, False), uniform(400, 3) ** 5
    moved = {}
    for limit in (0.0, 0.01, float("inf")):
        twin = copy.deepcopy(kan)
        said = messages(lambda twin=twin, limit=limit: twin.update_grid(x, max_change=limit))  # type: ignore[misc]
        moved[limit] = torch.cat([(a.grid != b.grid).any(1) for a, b in zip(twin.kan_layers, kan.kan_layers, strict=True)])
        assert ("keep their knots" in said[0]) == (limit < float("inf"))
    assert not moved[0.0][:2].any() and moved[float("inf")][:2].all()
    assert (moved[0.01] <= moved[float("inf")]).all()


def test_the_margin_widens_the_range_by_its_size() -> None:
    x = torch.linspace(2, 3, 400, dtype=torch.float64).unsqueeze(1)
    for fit in ("function", "samples"):
        layer = KANLinear(1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        messages(lambda layer=layer, fit=fit: layer.update_grid(x, 0.25, fit=fit))  # type: ignore[misc]
        ends = interior_of(layer.grid, 3)[0, [0, -1]]
        assert ends[1] == pytest.approx(3.25, abs=1e-12)
        assert ends[0] == pytest.approx(1.75 if fit == "samples" else 2 - 0.25 - 1.5, abs=1e-12)


class Named(KAN):
    """A subclass with state of its own."""

    def __init__(self, widths: list[int], **options: Any) -> None:
        super().__init__(widths, **options)
        self.names = ["a", "b"]
        self.head = nn.Linear(widths[-1], 3)
        self.first = self.layers[0]


def test_refining_a_subclass_keeps_what_it_has() -> None:
    kan = Named([2, 3, 1], generator=torch.Generator().manual_seed(0))
    kan.eval()
    refined = kan.refine(10, uniform(50, 0))
    assert type(refined) is Named and refined.names == ["a", "b"] and refined.names is not kan.names
    assert torch.equal(refined.head.weight, kan.head.weight) and refined.head is not kan.head
    assert refined.first is refined.layers[0] and refined.first.grid_size == 10 and kan.grid_size == 5
    assert not refined.training


@pytest.mark.parametrize("call", [KAN.update_grid, lambda kan, x: kan.refine(9, x)], ids=["update_grid", "refine"])
def test_errors_name_the_layer_whose_inputs_are_not_finite(call: Callable[[KAN, Tensor], object]) -> None:
    kan, x = KAN([2, 3, 3, 1], generator=torch.Generator().manual_seed(0)), uniform(200, 0)
    with torch.no_grad():
        kan.kan_layers[1].base_weight[0, 0] = float("nan")
    state = {name: value.clone() for name, value in kan.state_dict().items()}
    with pytest.raises(ValueError, match=r"^outputs of layers\[1\] for these x: expected finite values, got 200 NaN"):
        call(kan, 3 * x)
    assert all(torch.equal(value, state[name]) for name, value in kan.state_dict().items() if name != "layers.1.base_weight")


class Doubled(nn.Module):
    """A parametrization without inverse."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def test_a_weight_that_a_parametrization_computes_follows_the_knots() -> None:
    plain = trained(10, 2, False)
    kan, x = copy.deepcopy(plain), 3 * uniform(500, 1)
    for layer in kan.kan_layers:
        parametrizations.weight_norm(layer, "spline_weight")
    expected = copy.deepcopy(plain)
    messages(lambda: (kan.update_grid(x), expected.update_grid(x)))
    assert not torch.equal(kan.kan_layers[0].grid, plain.kan_layers[0].grid)
    torch.testing.assert_close(kan(x), expected(x), rtol=1e-5, atol=1e-5)
    refined = kan.refine(20, x)
    assert parametrize.is_parametrized(refined.kan_layers[0], "spline_weight")
    torch.testing.assert_close(refined(x), kan(x), rtol=1e-5, atol=1e-5)


def _masked(layer: KANLinear) -> None:
    prune.random_unstructured(layer, "spline_weight", amount=0.3)


def _normed(layer: KANLinear) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it is deprecated, and still in use
        nn.utils.weight_norm(layer, "spline_weight")


@pytest.mark.parametrize(
    "compute",
    [
        lambda layer: parametrize.register_parametrization(layer, "spline_weight", Doubled()),
        lambda layer: parametrizations.orthogonal(layer, "spline_weight"),
        _masked,
        _normed,
    ],
    ids=["no-inverse", "orthogonal", "pruned", "old-weight-norm"],
)
@pytest.mark.parametrize("call", [KAN.update_grid, lambda kan, x: kan.refine(20, x)], ids=["update_grid", "refine"])
def test_computed_weights_that_cannot_follow_are_refused_and_nothing_changes(
    call: Callable[[KAN, Tensor], object], compute: Callable[[KANLinear], object]
) -> None:
    kan, x = copy.deepcopy(trained(10, 2, False)), 3 * uniform(500, 1)
    compute(kan.kan_layers[1])
    kan(x)
    state = {name: value.clone() for name, value in kan.state_dict().items()}
    y = kan(x)
    with pytest.raises(ValueError, match=r"^spline_weight: expected a parameter that can be written, got a computed one"):
        call(kan, x)
    assert torch.equal(kan(x), y)
    assert all(torch.equal(value, state[name]) for name, value in kan.state_dict().items())


def test_a_pruned_edge_of_torchs_own_pruning_stays_so() -> None:
    """Coefficients that are zero along a whole edge are zero on any knots."""
    kan, x = copy.deepcopy(trained(10, 2, False)), 3 * uniform(500, 1)
    layer = kan.kan_layers[0]
    prune.ln_structured(layer, "spline_weight", amount=3, n=2, dim=0)
    before = kan(x)
    said = messages(lambda: kan.update_grid(x))
    rms = float((kan(x) - before).detach().square().mean().sqrt())
    assert float(re.findall(r"changes by (\S+) \(RMS", said[0])[0]) == pytest.approx(rms, rel=0.06)
    assert (layer.spline_weight.abs().sum((1, 2)) == 0).sum() == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fit": "best"}, r"^fit: expected one of \('function', 'samples'\), got 'best'"),
        ({"margin": -0.1}, r"^margin: expected a finite number in \[0.0, inf\], got -0.1"),
        ({"max_change": float("nan")}, r"^max_change: expected a finite number"),
    ],
    ids=["fit", "margin", "max_change"],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    kan = KAN([2, 3, 1])
    with pytest.raises(ValueError, match=message):
        kan.update_grid(uniform(100, 0), **options)


def test_samples_of_few_values_leave_the_knots() -> None:
    """No knots serve them better, and quantiles of few values coincide."""
    layer = KANLinear(3, 2, generator=torch.Generator().manual_seed(0))
    x = torch.tensor([-0.5, 0.5, 0.7])[torch.randint(3, (500, 3), generator=torch.Generator().manual_seed(1))]
    grid = layer.grid.clone()
    assert messages(lambda: layer.update_grid(x)) == []
    assert torch.equal(layer.grid, grid)


def test_resetting_writes_through_parametrizations_or_not_at_all() -> None:
    layer = KANLinear(3, 2, bias=True, generator=torch.Generator().manual_seed(0))
    fresh = copy.deepcopy(layer)
    fresh.reset_parameters(torch.Generator().manual_seed(1))
    parametrizations.weight_norm(layer, "base_weight")
    parametrizations.weight_norm(layer, "spline_weight")
    layer.reset_parameters(torch.Generator().manual_seed(1))
    x = torch.rand(20, 3)
    torch.testing.assert_close(layer(x), fresh(x), rtol=1e-5, atol=1e-6)
    parametrize.register_parametrization(layer, "spline_scaler", Doubled())
    y = layer(x)
    with pytest.raises(ValueError, match=r"^spline_scaler: expected a parameter that can be written, got a computed one"):
        layer.reset_parameters(torch.Generator().manual_seed(2))
    assert torch.equal(layer(x), y)


def test_samples_far_from_the_others_do_not_hide_a_change() -> None:
    """Their outputs are so large that the change of all others was taken for rounding."""
    kan, x = copy.deepcopy(trained(10, 2, False)), uniform(500, 1)
    before = kan(x)
    x[0, 0] = 1e6
    said = messages(lambda: kan.update_grid(x, fit="samples"))
    assert float((kan(x) - before)[1:].detach().square().mean().sqrt()) > 0.01
    assert re.match(r"update_grid: the function changed: output 0 changes by ", said[0])


@pytest.mark.parametrize("call", [KAN.update_grid, lambda kan, x: kan.refine(20, x)], ids=["update_grid", "refine"])
def test_coefficients_that_are_not_finite_are_refused(call: Callable[[KAN, Tensor], object]) -> None:
    """Also those of the last layer, and of a basis that no sample reaches."""
    kan = copy.deepcopy(trained(10, 2, False))
    kan.kan_layers[1].spline_weight.data[0, 0, 0] = float("nan")
    grids = [layer.grid.clone() for layer in kan.kan_layers]
    with pytest.raises(ValueError, match=r"^layers\[1\].spline_weight: expected finite values, got 1 NaN"):
        call(kan, 3 * uniform(500, 1))
    assert all(torch.equal(layer.grid, grid) for layer, grid in zip(kan.kan_layers, grids, strict=True))


def one_output_large(factor: float, order: int = 3) -> KAN:
    """The first output is a multiple of base activations, the other one has splines of order one."""
    kan = KAN([2, 2], 10, order, kernel="native", scale_noise=5.0, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        kan.kan_layers[0].spline_weight[0] = 0
        kan.kan_layers[0].base_weight[0] = factor
        kan.kan_layers[0].base_weight[1] = 1e-3
        kan.kan_layers[0].spline_scaler[1, 1] = 1e-3  # type: ignore[index]  # so that pruning removes the edge
    return kan


CHANGES: dict[str, Callable[[KAN, Tensor], KAN]] = {
    "update_grid": lambda kan, x: kan.update_grid(x**3, fit="samples") or kan,  # type: ignore[func-returns-value]
    "refine": lambda kan, x: kan.refine(2, x),
    "prune": lambda kan, x: kan.prune(x, 3e-2),
}


@pytest.mark.parametrize("factor", [1.0, 1e5, 1e9])
@pytest.mark.parametrize("name", CHANGES)
def test_a_large_output_does_not_hide_that_a_small_one_changes(name: str, factor: float) -> None:
    kan, x = one_output_large(factor), uniform(500, 1)
    found: list[KAN] = []
    before = kan(x if name != "update_grid" else x**3)
    said = messages(lambda: found.append(CHANGES[name](kan, x)))
    moved = found[0](x if name != "update_grid" else x**3) - before
    assert len(said) == 1
    size = re.search(r"output 1 changes by (\S+) \(RMS over the samples\)", said[0])
    assert size is not None, said[0]
    assert float(size[1]) == pytest.approx(float(moved.detach()[:, 1].square().mean().sqrt()), rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_rounding_is_no_change_of_small_outputs_and_of_those_that_cancel(seed: int, dtype: torch.dtype) -> None:
    """Output 1 is small, output 2 is what is left of large terms, output 3 has no edges."""
    source = torch.Generator().manual_seed(seed)
    kan = KAN([2, 8, 4], 5, kernel="native", scale_noise=5.0, generator=source, dtype=dtype)
    x = uniform(500, seed, dtype)
    layer = kan.kan_layers[1]
    with torch.no_grad():
        for weight in (layer.spline_weight, layer.base_weight):
            weight[1] *= 1e-6
        first = kan.kan_layers[0]
        for weight in (first.spline_weight, first.base_weight, first.spline_scaler):
            weight[4:] = weight[:4]  # type: ignore[index]  # so that hidden nodes are equal in pairs
        layer.spline_weight[2, 4:], layer.base_weight[2, 4:] = -layer.spline_weight[2, :4], -layer.base_weight[2, :4]
        layer.spline_scaler[2, 4:] = (1 + 1e-3) * layer.spline_scaler[2, :4]  # type: ignore[index]
        layer.edge_mask[3] = 0
    assert messages(lambda: kan.refine(17, x)) == []
    assert messages(lambda: kan.prune(x, 0.0)) in ([], ["prune: node 3 at depth 2 has no incoming edges"])


def test_sizes_of_numpy_become_pythons() -> None:
    kan = KAN([2, 1]).refine(np.int64(8), uniform(50, 0))
    assert type(kan.grid_size) is int and all(type(layer.grid_size) is int for layer in kan.kan_layers)


def test_the_change_at_one_sample_is_told_without_its_deviation_being_nan() -> None:
    kan = KAN([2, 2], grid_size=10, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        kan.kan_layers[0].spline_weight[1] *= 1000
    (text,) = messages(lambda: kan.refine(2, torch.full((1, 2), 0.3)))
    assert "the function changed: output 1 changes by" in text and text.endswith("its standard deviation is 0")


@pytest.mark.parametrize("low", [0.0, -1e-3], ids=["at the first knot", "beyond it"])
def test_samples_at_the_end_of_the_grid_count(low: float) -> None:
    """Seven tenths of them in one place: no knots could spread them, wherever the grid begins."""
    x = torch.cat((torch.zeros(700, 1), 0.9 + 0.1 * torch.rand(300, 1, generator=torch.Generator().manual_seed(0))))
    layer = KANLinear(1, 1, grid_range=(low, 1.0))
    before = layer.grid.clone()
    layer.update_grid(x, max_change=math.inf)
    assert torch.equal(layer.grid, before)


def test_every_sample_in_the_grid_is_in_one_interval() -> None:
    x = torch.tensor([[0.0, 0.0, 0.2, 0.5, 0.5, 1.0, 1.0, 1.1]])
    assert _counts(x, torch.tensor([[0.0, 0.5, 1.0]])).tolist() == [[3.0, 4.0]]
    assert _counts(x, torch.tensor([[0.0, 0.0, 0.5, 1.0, 1.0, 1.0]])).tolist() == [[0.0, 3.0, 4.0, 0.0, 0.0]]


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_samples_at_either_end_count_in_a_change(side: float) -> None:
    """A tenth of them in one place, at the last or the first knot, the others crowded at the other end."""
    for seed in range(10):
        source = torch.Generator().manual_seed(seed)
        crowded = -1 + 0.1 * torch.rand(900, 1, generator=source, dtype=torch.float64)
        x = side * torch.cat([torch.ones(100, 1, dtype=torch.float64), crowded])
        layer = KANLinear(1, 1, 8, dtype=torch.float64)
        weight = torch.randn(1, 1, 11, generator=source, dtype=torch.float64)
        with torch.no_grad():
            layer.base_weight.zero_()
            layer.spline_weight.copy_(weight if side > 0 else weight.flip(2))
        y = layer(x)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            layer.update_grid(x)
        assert (layer(x) - y).square().mean().sqrt() <= 0.011 * y.std()
