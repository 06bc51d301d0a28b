"""Conversion from and to pykan, and what pykan can do with a converted network."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy
import pytest
import torch
from kan import MultKAN
from torch import nn

from efficient_kan import KAN, KANLinear, SampleL1
from tests.efficient_kan import pykan_models


def converted(dtype: torch.dtype = torch.float64, **options: object) -> KAN:
    generator = torch.Generator().manual_seed(3)
    return KAN([3, 4, 2], grid_size=6, generator=generator, dtype=dtype, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_round_trip_is_bitwise(dtype: torch.dtype) -> None:
    kan = converted(dtype, bias=True)
    with torch.no_grad():
        for layer in kan.kan_layers:
            layer.edge_mask[0, 0] = 0.0
            assert layer.bias is not None
            layer.bias.uniform_()
    kan.kan_layers[0].base_weight.requires_grad_(False)
    back = KAN.from_pykan(kan.to_pykan())
    for name, value in kan.state_dict().items():
        assert torch.equal(back.state_dict()[name], value), name
    for (name, ours), twin in zip(kan.named_parameters(), back.parameters(), strict=True):
        assert ours.requires_grad == twin.requires_grad, name


def test_weights_are_copies() -> None:
    model = pykan_models.make([2, 3, 1], 4, 3)
    kan = KAN.from_pykan(model)
    before = {name: value.clone() for name, value in kan.state_dict().items()}
    for parameter in model.parameters():
        parameter.data.add_(1.0)
    assert all(torch.equal(value, before[name]) for name, value in kan.state_dict().items())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scaler", [False, True])
def test_to_pykan_computes_the_same(bias: bool, scaler: bool) -> None:
    kan = converted(bias=bias, enable_standalone_scale_spline=scaler, base_activation=nn.Identity)
    x = pykan_models.samples(50, 3, seed=1)
    assert pykan_models.relative_error(kan.to_pykan()(x), kan(x)) <= 1e-14


def test_layers_may_differ_in_grid_and_order() -> None:
    generator = torch.Generator().manual_seed(0)
    layers = [KANLinear(2, 3, 4, 2, generator=generator, dtype=torch.float64)]
    layers += [KANLinear(3, 1, 7, 3, generator=generator, dtype=torch.float64)]
    kan = KAN.from_layers(layers)
    model = kan.to_pykan()
    x = pykan_models.samples(50, 2, seed=1)
    assert pykan_models.relative_error(model(x), kan(x)) <= 1e-14
    assert [layer.grid_size for layer in KAN.from_pykan(model).kan_layers] == [4, 7]


def test_converting_leaves_random_generators_and_the_folder_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    states = torch.get_rng_state(), pickle.dumps(numpy.random.get_state()), random.getstate()
    converted().to_pykan()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (pickle.dumps(numpy.random.get_state()), random.getstate()) == states[1:]
    assert list(tmp_path.iterdir()) == []


def test_pykan_plots_and_finds_symbols_in_a_converted_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One edge is fitted to sin(2x): pykan's symbolic search must find it, and its plot must draw."""
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    kan = KAN([1, 1], grid_size=20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.linspace(-1, 1, 400, dtype=torch.float64).unsqueeze(1)
    optimiser = torch.optim.LBFGS(kan.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = ((kan(x) - torch.sin(2 * x)) ** 2).mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    model = kan.to_pykan()
    model(x)
    model.plot(folder=str(tmp_path / "figures"))
    assert list((tmp_path / "figures").glob("*.png"))
    name, _, r2, _ = model.suggest_symbolic(0, 0, 0, lib=["x", "x^2", "sin", "exp"], verbose=False)
    assert name == "sin" and r2 > 0.999
    model.fix_symbolic(0, 0, 0, "sin", verbose=False)
    assert pykan_models.relative_error(model(x), torch.sin(2 * x)) < 1e-3
    matplotlib.pyplot.close("all")


def test_update_grid_equals_pykans() -> None:
    """Knots to rounding; coefficients too, where its solver sees full rank (many samples, few intervals, float64)."""
    model = pykan_models.make([3, 5, 4, 2], 5, 3)
    kan = KAN.from_pykan(model)
    x = pykan_models.samples(1000, 3, seed=2)
    model.update_grid(x)
    kan.update_grid(x)
    for layer, twin in zip(kan.kan_layers, model.act_fun, strict=True):
        assert pykan_models.relative_error(layer.grid, twin.grid) <= 1e-12
        assert pykan_models.relative_error(layer.spline_weight, twin.coef.transpose(0, 1)) <= 1e-11
    assert pykan_models.relative_error(kan(x), model(x)) <= 1e-12


def test_refine_equals_pykans() -> None:
    model = pykan_models.make([2, 3, 1], 4, 3, adapted=True)
    x = pykan_models.samples(1000, 2, seed=2)
    model.update_grid(x)
    kan = KAN.from_pykan(model)
    model.get_act(x)
    fine = pykan_models.make([2, 3, 1], 10, 3)
    with default_float64():  # pykan's helper layers have torch's default dtype
        fine.initialize_from_another_model(model, x)
    refined = kan.refine(10, x)
    for layer, twin in zip(refined.kan_layers, fine.act_fun, strict=True):
        assert pykan_models.relative_error(layer.grid, twin.grid) <= 1e-12
        assert pykan_models.relative_error(layer.spline_weight, twin.coef.transpose(0, 1)) <= 1e-10
    assert pykan_models.relative_error(refined(x), fine(x)) <= 1e-12


def test_refine_without_full_rank_keeps_the_function() -> None:
    """Samples in one half of the grid leave bases without support; pykan's solver loses ranks there (facts in fit.py)."""
    kan = KAN.from_pykan(pykan_models.make([4, 5, 3, 1], 3, 3, seed=1))
    x = pykan_models.samples(400, 4, seed=3)
    kan.update_grid(x)
    half = x[(x > 0).all(dim=1)]
    assert 10 < len(half) < 60
    for grid_size in (6, 30, 90):
        assert pykan_models.relative_error(kan.refine(grid_size, half)(half), kan(half)) <= 1e-9


def test_importance_and_pruning_equal_pykans() -> None:
    model = pykan_models.make([3, 5, 4, 2], 5, 3)
    kan = KAN.from_pykan(model)
    x = pykan_models.samples(300, 3, seed=2)
    model.get_act(x)
    model.attribute(plot=False)
    for ours, theirs in zip(kan.importance(x), model.edge_scores, strict=True):
        assert pykan_models.relative_error(ours, theirs) <= 1e-12
    threshold = torch.cat([score.flatten() for score in model.edge_scores]).detach().quantile(0.4).item()
    model.prune_edge(threshold, log_history=False)
    with pytest.warns(UserWarning, match="prune: node"):
        pruned = kan.prune(x, threshold)
    for layer, twin in zip(pruned.kan_layers, model.act_fun, strict=True):
        assert torch.equal(layer.edge_mask, twin.mask.T.double())


@pytest.mark.parametrize("divide_by_grid_range", [False, True], ids=["paper", "pykan-0.0.x"])
def test_sample_l1_from_pykans_activations(divide_by_grid_range: bool) -> None:
    """Equations 2.17-2.20 evaluated on the (B, O, I) activations that pykan stores."""
    model = pykan_models.make([3, 5, 2], 5, 3, adapted=True)
    kan = KAN.from_pykan(model)
    x = pykan_models.samples(300, 3, seed=2)
    model.get_act(x)
    expected = 0.0
    for activations, layer in zip(model.spline_postacts, model.act_fun, strict=True):
        norms = activations.abs().mean(dim=0)
        if divide_by_grid_range:
            norms = norms / (layer.grid[:, -layer.k - 1] - layer.grid[:, layer.k] + 1e-4)
        share = norms / norms.sum()
        entropy = -(share[share > 0] * share[share > 0].log()).sum()
        expected += float(0.7 * norms.sum() + 1.3 * entropy)
    _, penalty = kan.forward_with_penalty(x, SampleL1(0.7, 1.3, divide_by_grid_range=divide_by_grid_range))
    assert float(penalty.detach()) == pytest.approx(expected, rel=1e-12)


@contextmanager
def default_float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.set_default_dtype(before)


def test_model_of_pykans_constructor_converts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All defaults: symbolic branch enabled but empty, checkpoints in ./model."""
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        model = MultKAN(width=[2, 5, 1])
    kan = KAN.from_pykan(model)
    x = pykan_models.samples(100, 2, seed=0, dtype=torch.float32)
    assert pykan_models.relative_error(kan(x), model(x)) <= 1e-6
