"""Networks against the dense recursion of `reference.cox_de_boor` with plain autograd.

`B` samples, `I` inputs, `O` outputs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

from efficient_kan import KAN, KANLinear, SampleL1, SampleStd, WeightL1, kernels
from efficient_kan.basis import bspline_basis
from efficient_kan.kernels.native import blocks, expansion, recursion
from reference import cox_de_boor

PENALTIES = {"sample_l1": SampleL1(), "sample_std": SampleStd(), "weight_l1": WeightL1()}
WIDTHS = [4, 6, 3]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def samples(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normal, so that some lie beyond the grid."""
    return torch.empty(shape, dtype=torch.float64).normal_(generator=seeded(1)).mul_(0.7).to(dtype)


def network(widths: list[int], *, masked: bool = True, **options: Any) -> KAN:
    """Parameters of size one, uneven grids and, if ``masked``, a fifth of the edges masked."""
    generator = seeded()
    kan = KAN(widths, generator=generator, **{"bias": True, "dtype": torch.float64, **options})
    with torch.no_grad():
        for parameter in kan.parameters():
            parameter.normal_(generator=generator)
        for layer in kan.kan_layers:
            layer.grid.add_(torch.empty_like(layer.grid).uniform_(-0.05, 0.05, generator=generator))
            if masked:
                layer.edge_mask.copy_(torch.rand(layer.edge_mask.shape, generator=generator) > 0.2)
    return kan


def error(ours: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest expected value."""
    assert ours.shape == expected.shape
    return ((ours.double() - expected.double()).abs().max() / expected.double().abs().max()).item()


def assert_equal(ours: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-12) -> None:
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        assert value.any(), f"{name}: nothing to compare"
        assert (size := error(ours[name], value)) <= tolerance, f"{name}: {size:.1e}"


def gradients(loss: Tensor, module: nn.Module, **others: Tensor) -> dict[str, Tensor]:
    leaves = {**others, **dict(module.named_parameters())}
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


@pytest.mark.filterwarnings("ignore:update_grid")
def test_layers_of_different_grids_make_a_network() -> None:
    options: dict[str, Any] = {"dtype": torch.float64, "generator": seeded()}
    layers = [
        KANLinear(4, 6, grid_size=3, spline_order=2, **options),
        KANLinear(6, 5, grid_size=9, spline_order=4, grid_range=(-3, 2), bias=True, base_activation=nn.Tanh, **options),
        KANLinear(5, 3, grid_size=1, spline_order=1, enable_standalone_scale_spline=False, **options),
    ]
    for layer in layers:
        layer.edge_mask[0, 1] = 0
    kan = KAN.from_layers(layers)
    x = samples(40, 4)
    assert kan.layers_hidden == [4, 6, 5, 3]
    assert error(kan(x), cox_de_boor.build(kan)(x)) <= 1e-12
    for penalty in PENALTIES.values():
        hidden, losses = x, []
        for layer in layers:
            hidden, loss = layer.forward_with_penalty(hidden, penalty)
            losses.append(loss)
        y, total = kan.forward_with_penalty(x, penalty)
        assert torch.equal(y, hidden)
        torch.testing.assert_close(total, torch.stack(losses).sum(), rtol=1e-14, atol=0)
    kan.update_grid(x, fit="samples")
    assert [layer.grid.shape[1] for layer in kan.kan_layers] == [8, 18, 4]
    assert [layer.grid_size for layer in kan.refine(10, x).kan_layers] == [10, 10, 10]
    assert error(kan.refine(10, x)(x), kan(x)) <= 1e-12


@pytest.mark.filterwarnings("ignore:update_grid")
def test_forward_with_update_grid_is_update_grid_and_forward() -> None:
    x = 3 * samples(200, WIDTHS[0])
    kan, twin, untouched = (network(WIDTHS) for _ in range(3))
    y = kan(x, update_grid=True)
    twin.update_grid(x)
    assert torch.equal(y, twin(x))
    first, before = kan.kan_layers[0], untouched.kan_layers[0]
    assert not torch.equal(first.grid, before.grid) and not torch.equal(first.spline_weight, before.spline_weight)
    first = kan.kan_layers[0]
    ends = first.grid[:, first.spline_order], first.grid[:, -first.spline_order - 1]
    torch.testing.assert_close(torch.stack(ends), torch.stack((x.amin(0), x.amax(0))), rtol=0, atol=1e-12)
    y.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in kan.parameters())


def test_masked_edges_stay_as_they_are_in_training() -> None:
    kan = network(WIDTHS)
    before = copy.deepcopy(kan)
    optimiser = torch.optim.SGD(kan.parameters(), lr=0.01)
    for _ in range(3):
        optimiser.zero_grad()
        y, loss = kan.forward_with_penalty(samples(50, WIDTHS[0]), SampleL1())
        (y.square().mean() + loss).backward()
        optimiser.step()
    for layer, old in zip(kan.kan_layers, before.kan_layers, strict=True):
        masked = layer.edge_mask == 0
        assert masked.any() and torch.equal(layer.edge_mask, old.edge_mask)
        for name in ("base_weight", "spline_weight", "spline_scaler"):
            ours, start = getattr(layer, name), getattr(old, name)
            assert torch.equal(ours[masked], start[masked]) and not torch.equal(ours[~masked], start[~masked]), name


def test_a_scale_of_zero_gives_zeros() -> None:
    layer = KANLinear(4, 3, scale_base=0, scale_spline=0, scale_noise=0, generator=seeded())
    assert not any(parameter.any() for parameter in layer.parameters())


def by_torchs_products(kan: KAN, x: Tensor) -> Tensor:
    """The network on float32 features whose products torch makes, in the dtype that autocast chooses."""
    for layer in kan.kan_layers:
        x = x.to(layer.grid.dtype)
        bases = bspline_basis(x, layer.grid, layer.spline_order)
        features = torch.cat((bases, F.silu(x).unsqueeze(-1)), dim=-1).flatten(1)
        x = F.linear(features, layer.folded_weight().flatten(1), layer.bias)
    return x


def test_autocast_of_a_deep_network_costs_what_it_costs_torchs_products() -> None:
    kan = network([12, 10, 7], dtype=torch.float32)
    results = []
    for forward, cast in ((kan, False), (kan, True), (lambda x: by_torchs_products(kan, x), True)):
        x = samples(300, 12, dtype=torch.float32).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=cast):
            y = forward(x)
        assert y.dtype == (torch.bfloat16 if cast else torch.float32)
        results.append({"y": y, **gradients(y.float().sin().sum(), kan, x=x)})
    exact, ours, baseline = results
    for name, value in exact.items():
        mine, allowed = ((result[name] - value).norm().item() for result in (ours, baseline))
        # Roundings of the first layer spread through the second and fall in other places here and there: the two errors
        # are draws of one size, and those of seven or ten biases are few draws.
        slack = 2.0 if name.endswith("bias") else 1.5
        assert 0 < mine <= slack * allowed, f"{name}: {mine:.2e} against {allowed:.2e}"


def test_autocast_leaves_float64_alone_as_torchs_own_layers_do() -> None:
    kan, x = network(WIDTHS), samples(9, WIDTHS[0])
    with torch.autocast("cpu", torch.bfloat16):
        y = kan(x)
        assert nn.Linear(4, 3, dtype=torch.float64)(x).dtype == torch.float64
    assert torch.equal(y, kan(x))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """Switches to blocks of a few samples; the returned function tells how many were expanded."""
    expanded = []

    def counting(expand: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            expanded.append(args)
            return expand(*args, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(blocks, "_BLOCK", {"cpu": 16})
        patch.setattr(blocks, "MIN_ROWS", 4)
        patch.setattr(expansion, "expand", counting(expansion.expand))
        patch.setattr(recursion.Table, "bases", counting(recursion.Table.bases))
        yield lambda: len(expanded)


def twice_differentiated(kan: KAN, penalty: Any) -> dict[str, Tensor]:
    """Outputs, penalty, their gradients, and the gradients of the squared norm of those."""
    x = samples(50, WIDTHS[0]).requires_grad_()
    y, loss = (kan(x), x.new_zeros(())) if penalty is None else kan.forward_with_penalty(x, penalty)
    leaves = {"x": x, **dict(kan.named_parameters())}
    first = torch.autograd.grad(y.sin().sum() + loss, list(leaves.values()), create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), list(leaves.values()))
    results = {"y": y, **{f"first {n}": g for n, g in zip(leaves, first, strict=True)}}
    results |= {f"second {n}": g for n, g in zip(leaves, second, strict=True)}
    return results if penalty is None else {**results, "loss": loss}


@pytest.mark.parametrize("keeps", [True, False], ids=["kept", "streamed"])
@pytest.mark.parametrize("name", [None, *PENALTIES])
def test_many_blocks_give_what_one_gives(name: str | None, keeps: bool, request: pytest.FixtureRequest) -> None:
    penalty = None if name is None else PENALTIES[name]
    whole = twice_differentiated(network(WIDTHS, kernel="native"), penalty)
    blocks = request.getfixturevalue("small_blocks")
    with kernels.set_feature_budget(2**21 if keeps else 0):
        assert_equal(twice_differentiated(network(WIDTHS, kernel="native"), penalty), whole)
    # In each of two layers, 50 samples in blocks of 1 forward and of at most 4 in the differentiable backward; that of bases
    # that were kept has no blocks.
    assert blocks() >= 2 * (50 + (0 if keeps and name in (None, "weight_l1") else 13))


def residual(u: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Mean square of ``u_xx + u_yy + sin(u)``."""
    value = u(x)
    (first,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    second = [torch.autograd.grad(first[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(x.shape[1])]
    return (torch.stack(second).sum(0) + value.squeeze(1).sin()).square().mean()


@pytest.mark.parametrize("order", [3, 4])
def test_a_residual_of_second_derivatives_trains_as_the_reference_does(order: int) -> None:
    kan = network([2, 5, 1], spline_order=order)
    results = []
    for module in (kan, cox_de_boor.build(kan)):
        x = samples(60, 2).requires_grad_()
        loss = residual(module, x)
        leaves = {"x": x, **{n: p for n, p in module.named_parameters() if n != "layers.1.bias"}}
        bias = torch.autograd.grad(loss, module.get_parameter("layers.1.bias"), retain_graph=True)
        grads = torch.autograd.grad(loss, list(leaves.values()))
        results.append({"loss": loss, "bias": bias[0], **dict(zip(leaves, grads, strict=True))})
    # Third derivatives of splines whose knots lie 0.3 apart carry a factor of about 1 / 0.3**3.
    assert_equal(*results, tolerance=1e-11)


@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_and_their_second_derivatives_equal_the_references(name: str) -> None:
    """Without masks: plain autograd of the deviation of a masked edge is NaN."""
    kan = network([3, 4, 2], masked=False)
    results = []
    for call, module in (
        (lambda x: kan.forward_with_penalty(x, PENALTIES[name]), kan),
        (lambda x: cox_de_boor.penalised(plain, x, name), plain := cox_de_boor.build(kan)),
    ):
        x = samples(40, 3).requires_grad_()
        y, loss = call(x)
        first = gradients_with_graph(y.sin().sum() + loss, module, x)
        second = gradients(sum((g.square().sum() for g in first.values()), x.new_zeros(())), module, x=x)
        results.append({"y": y, "loss": loss, **first, **{f"second {n}": g for n, g in second.items()}})
    assert_equal(*results, tolerance=1e-11)


def gradients_with_graph(loss: Tensor, module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    leaves = {"first x": x, **{f"first {n}": p for n, p in module.named_parameters()}}
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()), create_graph=True), strict=True))


@pytest.mark.parametrize("name", PENALTIES)
def test_a_penalised_pass_runs_what_a_call_runs(name: str) -> None:
    x, penalty = samples(9, 4), PENALTIES[name]

    class Bounded(KANLinear):
        def forward(self, x: Tensor, update_grid: bool = False) -> Tensor:
            return super().forward(x, update_grid).tanh()

    kan = KAN.from_layers([Bounded(4, 6, dtype=torch.float64), KANLinear(6, 3, dtype=torch.float64)])
    first, second = kan.kan_layers
    y, value = kan.forward_with_penalty(x, penalty)
    torch.testing.assert_close(y, kan(x))
    expected = first.forward_with_penalty(x, penalty)[1] + second.forward_with_penalty(first(x), penalty)[1]
    torch.testing.assert_close(value, expected)

    second.register_forward_pre_hook(lambda _, arguments: (2 * arguments[0],))
    second.register_forward_hook(lambda _, __, y: y + 1)
    y, value = kan.forward_with_penalty(x, penalty)
    torch.testing.assert_close(y, kan(x))
    expected = first.forward_with_penalty(x, penalty)[1] + second.forward_with_penalty(2 * first(x), penalty)[1]
    torch.testing.assert_close(value, expected)
    assert len(second._forward_pre_hooks) == 1


class Doubled(KANLinear):
    def forward(self, x: Tensor, update_grid: bool = False) -> Tensor:
        return 2 * super().forward(x, update_grid)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.parametrize("kind", ["hooked", "replaced"])
def test_a_penalised_pass_of_layers_that_are_called_is_one_graph(kind: str) -> None:
    first = (Doubled if kind == "replaced" else KANLinear)(4, 6, dtype=torch.float64)
    if kind == "hooked":
        first.register_forward_hook(lambda _, __, y: y + 1)
    kan, x = KAN.from_layers([first, KANLinear(6, 3, dtype=torch.float64)]), samples(9, 4)
    compiled = torch.compile(kan.forward_with_penalty, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, SampleL1()), kan.forward_with_penalty(x, SampleL1()))


def test_weights_that_hooks_compute_are_trained_under_a_penalty() -> None:
    kan, x = network(WIDTHS, masked=False), samples(9, 4)
    prune.l1_unstructured(kan.kan_layers[0], "spline_weight", amount=0.5)
    for _ in range(2):  # a graph of the former step would be gone
        y, value = kan.forward_with_penalty(x, SampleL1())
        (y.sum() + value).backward()
    with torch.no_grad():
        kan.kan_layers[0].spline_weight_orig.mul_(2)
    torch.testing.assert_close(kan.forward_with_penalty(x, SampleL1())[0], kan(x))


# Dynamo warns about classes of torch itself; inductor lays out what searchsorted reads as it likes.
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.filterwarnings(r"ignore:torch\.searchsorted\(\).*non-contiguous:UserWarning")
@pytest.mark.slow
def test_the_default_compiler_makes_one_graph_of_forward_and_one_of_backward() -> None:
    torch._dynamo.reset()
    layer = network([3, 2]).kan_layers[0]
    results = []
    for call in (torch.compile(layer, fullgraph=True), layer):
        x = samples(20, 3).requires_grad_()
        y = call(x)
        results.append({"y": y, **gradients(y.sin().sum(), layer, x=x)})
    torch._dynamo.reset()
    assert_equal(*results)
