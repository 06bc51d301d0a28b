"""Conversion from and to pykan, and what pykan can do with a converted network."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy
import pytest
import torch
from kan import MultKAN
from torch import nn
from torch.nn.utils import prune

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


def test_layers_whose_weights_are_computed_convert() -> None:
    kan = converted()
    prune.l1_unstructured(kan.kan_layers[0], "spline_weight", 0.5)
    x = pykan_models.samples(50, 3, seed=1)
    kan(x)  # leaves the computed tensor in the layer
    assert pykan_models.relative_error(kan.to_pykan()(x), kan(x)) <= 1e-14


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


@pytest.mark.filterwarnings("ignore:update_grid")
def test_update_grid_equals_pykans() -> None:
    """Knots to rounding; coefficients too, where its solver sees full rank (many samples, few intervals, float64)."""
    model = pykan_models.make([3, 5, 4, 2], 5, 3)
    kan = KAN.from_pykan(model)
    x = pykan_models.samples(1000, 3, seed=2)
    model.update_grid(x)
    kan.update_grid(x, fit="samples")
    for layer, twin in zip(kan.kan_layers, model.act_fun, strict=True):
        assert pykan_models.relative_error(layer.grid, twin.grid) <= 1e-12
        assert pykan_models.relative_error(layer.spline_weight, twin.coef.transpose(0, 1)) <= 1e-11
    assert pykan_models.relative_error(kan(x), model(x)) <= 1e-12


@pytest.mark.filterwarnings("ignore:refine")
def test_refine_equals_pykans() -> None:
    model = pykan_models.make([2, 3, 1], 4, 3, adapted=True)
    x = pykan_models.samples(1000, 2, seed=2)
    model.update_grid(x)
    kan = KAN.from_pykan(model)
    model.get_act(x)
    fine = pykan_models.make([2, 3, 1], 10, 3)
    with default_float64():  # pykan's helper layers have torch's default dtype
        fine.initialize_from_another_model(model, x)
    refined = kan.refine(10, x, fit="samples")
    for layer, twin in zip(refined.kan_layers, fine.act_fun, strict=True):
        assert pykan_models.relative_error(layer.grid, twin.grid) <= 1e-12
        assert pykan_models.relative_error(layer.spline_weight, twin.coef.transpose(0, 1)) <= 1e-10
    assert pykan_models.relative_error(refined(x), fine(x)) <= 1e-12


@pytest.mark.filterwarnings("ignore:update_grid")
@pytest.mark.parametrize("fit", ["function", "samples"])
def test_refine_without_full_rank_keeps_the_function(fit: Any) -> None:
    """Samples in one half of the grid leave bases without support; pykan's solver loses ranks there (facts in fit.py)."""
    kan = KAN.from_pykan(pykan_models.make([4, 5, 3, 1], 3, 3, seed=1))
    x = pykan_models.samples(400, 4, seed=3)
    kan.update_grid(x, fit="samples")
    half = x[(x > 0).all(dim=1)]
    assert 10 < len(half) < 60
    for grid_size in (6, 30, 90):
        assert pykan_models.relative_error(kan.refine(grid_size, half, fit=fit)(half), kan(half)) <= 1e-9


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


def tutorial_data(dtype: torch.dtype, constant: bool = False) -> dict[str, torch.Tensor]:
    """The data set of pykan's first tutorial, smaller; the last input is ones, if ``constant``."""
    x = pykan_models.samples(40, 3, seed=5, dtype=dtype) / 2
    if constant:
        x[:, 2] = 1
    y = torch.exp(torch.sin(torch.pi * x[:, :1]) + x[:, 1:2] ** 2)
    return {"train_input": x, "train_label": y, "test_input": x[:10], "test_label": y[:10]}


def with_dead_nodes(dtype: torch.dtype, order: int = 3, *, bias: bool = True) -> KAN:
    """Node 1 of the hidden layer is a constant, node 2 is not listened to."""
    kan = KAN([3, 5, 1], 4, order, generator=torch.Generator().manual_seed(3), dtype=dtype, bias=bias, kernel="native")
    kan.kan_layers[0].edge_mask[1] = 0
    kan.kan_layers[1].edge_mask[0, 2] = 0
    if bias:
        with torch.no_grad():
            for layer in kan.kan_layers:
                assert layer.bias is not None
                layer.bias.uniform_(-0.3, 0.3)
    return kan


@pytest.mark.parametrize("order", [3, *(pytest.param(order, marks=pytest.mark.slow) for order in (1, 2, 5))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*requires_grad=True to a scalar:UserWarning")
def test_pykans_methods_run_on_a_pruned_network_and_leave_no_files(
    dtype: torch.dtype, order: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder without a history: fit, prune, fit, refine, prune_edge, prune_node, prune_input, copy, and back."""
    monkeypatch.chdir(tmp_path)
    data = tutorial_data(dtype, constant=True)
    x, short = data["train_input"], {"opt": "Adam", "lr": 1e-2, "steps": 1}
    model = with_dead_nodes(dtype, order).to_pykan()
    with torch.random.fork_rng():
        before = model(x).detach()
        model.update_grid(x)  # which crashed on constant nodes, or lost what they pass on
        assert pykan_models.relative_error(model(x), before) <= 5e-2
        model.fit(data, lamb=1e-3, **short)
        small = model.prune(1e-4, 1e-4)
        assert small.width == [[3, 0], [3, 0], [1, 0]] and not small.auto_save
        small.fit(data, **short)
        fine = small.refine(7)
        fine.fit(data, **short)
        fine.prune_edge(1e-4)
        few = fine.prune_node(1e-4).prune_input(active_inputs=[0, 1])
        few.fit(data, **short)
        few.act_fun[0].coef.requires_grad_(False)
        twin = few.copy()
    for each in (model, small, fine, few, twin):
        assert {p.dtype for p in each.parameters()} == {dtype}
        assert each(x).isfinite().all()
    assert torch.equal(twin(x[:, :3]), few(x[:, :3]))
    assert [layer.grid_eps for layer in few.act_fun] == [layer.grid_eps for layer in model.act_fun]
    assert [p.requires_grad for p in small.parameters()] == [p.requires_grad for p in model.parameters()]
    assert [p.requires_grad for p in twin.parameters()] == [p.requires_grad for p in few.parameters()]
    for each in (model, small, fine):
        back = KAN.from_pykan(each)
        assert pykan_models.relative_error(back(x), each(x)) <= (1e-12 if dtype == torch.float64 else 1e-5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning", "ignore::UserWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_pykans_first_tutorial_runs_to_its_formula(dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    data = tutorial_data(dtype)
    model = with_dead_nodes(dtype).to_pykan()
    with torch.random.fork_rng():
        model.fit(data, opt="LBFGS", steps=3, lamb=1e-3)
        model.plot(folder=str(tmp_path / "figures"))
        model = model.prune(1e-3, 1e-3)
        model.plot(folder=str(tmp_path / "figures"))
        model.fit(data, opt="LBFGS", steps=2)
        model = model.refine(8)
        model.fit(data, opt="LBFGS", steps=2)
        model.saveckpt(str(tmp_path / "saved"))
        model.suggest_symbolic(0, 0, 0, verbose=False)
        model.auto_symbolic(lib=["x", "x^2", "exp", "sin"], verbose=0)
        model.fit(data, opt="LBFGS", steps=2)
        assert model.symbolic_formula()[0]
        loaded = model.loadckpt(str(tmp_path / "saved"))
    assert loaded.act_fun[0].coef.dtype == dtype
    assert {path.name for path in tmp_path.iterdir()} == {"figures", "saved_config.yml", "saved_state", "saved_cache_data"}
    matplotlib.pyplot.close("all")


def test_a_history_is_kept_where_one_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = tutorial_data(torch.float64)
    kan = KAN([3, 4, 1], generator=torch.Generator().manual_seed(0), dtype=torch.float64, kernel="native")
    model = kan.to_pykan()
    for call in (lambda: model.rewind("0.0"), lambda: model.checkout("0.0"), model.history):
        with pytest.raises(ValueError, match=r"^ckpt_path: expected a model that saves its history: kan.to_pykan\(ckpt_path="):
            call()
    assert list(tmp_path.iterdir()) == []
    model = kan.to_pykan(ckpt_path="states")
    x = data["train_input"]
    start = model(x).detach()
    with torch.random.fork_rng():
        model.fit(data, opt="Adam", lr=1e-2, steps=1, update_grid=False)
        assert not torch.equal(model(x), start)
        again = model.rewind("0.0")
    assert torch.equal(again(x), start)
    assert [path.name for path in tmp_path.iterdir()] == ["states"]


def test_thresholds_that_leave_a_layer_without_nodes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = with_dead_nodes(torch.float64).to_pykan()
    model(tutorial_data(torch.float64)["train_input"])
    masks = [layer.mask.clone() for layer in model.act_fun]
    with pytest.raises(ValueError, match=r"^threshold: expected one that leaves nodes in each layer, .*, got 1000\.0"):
        model.prune(node_th=1000.0)
    assert all(torch.equal(layer.mask, mask) for layer, mask in zip(model.act_fun, masks, strict=True))


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.filterwarnings("ignore:prune", "ignore:update_grid")
def test_pruned_networks_with_adapted_grids_go_there_and_back(dtype: torch.dtype, order: int) -> None:
    kan = KAN([3, 5, 2], 6, order, generator=torch.Generator().manual_seed(4), dtype=dtype, kernel="native")
    x = pykan_models.samples(200, 3, seed=6, dtype=dtype)
    kan.update_grid(x, fit="samples")
    kan = kan.prune(x, 0.06)
    assert any(layer.bias is not None for layer in kan.kan_layers)
    model = kan.to_pykan()
    assert pykan_models.relative_error(model(x), kan(x)) <= (1e-13 if dtype == torch.float64 else 1e-5)
    back = KAN.from_pykan(model)
    assert [value.dtype for value in back.state_dict().values()] == [dtype] * len(back.state_dict())
    for name, value in kan.state_dict().items():
        assert torch.equal(back.state_dict()[name], value), name


def test_repeated_knots_are_said_to_change_the_function() -> None:
    """There the convention 0 / 0 := 0 keeps our bases; pykan's are all zero."""
    kan = KAN([2, 3], 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64, kernel="native")
    layer = kan.kan_layers[0]
    with torch.no_grad():
        layer.spline_weight.uniform_(1, 2)
    layer.grid = torch.cat((layer.grid[:, 3:4].expand(-1, 3), layer.grid[:, 3:8], layer.grid[:, 7:8].expand(-1, 3)), dim=1)
    with pytest.warns(UserWarning, match=r"^to_pykan: layers\[0\] changes by up to \S+, .*: it has repeated knots"):
        model = kan.to_pykan()
    with pytest.warns(UserWarning, match=r"^from_pykan: layers\[0\] changes by up to \S+, .*: it has repeated knots"):
        KAN.from_pykan(model)


def test_knots_that_lose_digits_are_said_to_change_the_function() -> None:
    model = converted(torch.float32).to_pykan()
    model.act_fun[1].coef.data.uniform_(-9, 9, generator=torch.Generator().manual_seed(0))
    model.act_fun[1].grid.data = model.act_fun[1].grid.double() + 2e-8
    with pytest.warns(UserWarning, match=r"^from_pykan: layers\[1\] changes by up to \S+, .*: its numbers were rounded"):
        KAN.from_pykan(model)


def test_layers_of_several_base_functions_are_refused() -> None:
    model = pykan_models.make([2, 3, 1], 4, 3)
    model.act_fun[1].base_fun = nn.Identity()
    with pytest.raises(ValueError, match=r"^model: expected a base function among .*, the same in all layers"):
        KAN.from_pykan(model)
