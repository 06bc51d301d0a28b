"""State dicts: what they hold, where they load, and which knots they may bring."""

from __future__ import annotations

import io
import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from efficient_kan import KAN, KANLinear, ResNetKAN

WIDTHS = [3, 5, 2]


class ForeignLayer(nn.Module):
    """A layer with the names of the widely used efficient-kan, written from its formulas."""

    def __init__(self, n_in: int, n_out: int, grid_size: int, order: int) -> None:
        super().__init__()
        self.order = order
        steps = torch.arange(-order, grid_size + order + 1) * (2 / grid_size) - 1
        self.register_buffer("grid", steps.expand(n_in, -1).contiguous())
        self.base_weight = nn.Parameter(torch.randn(n_out, n_in))
        self.spline_weight = nn.Parameter(torch.randn(n_out, n_in, grid_size + order))
        self.spline_scaler = nn.Parameter(torch.randn(n_out, n_in))

    def forward(self, x: Tensor) -> Tensor:
        grid, points = self.get_buffer("grid"), x.unsqueeze(-1)
        bases = ((points >= grid[:, :-1]) & (points < grid[:, 1:])).to(x.dtype)
        for p in range(1, self.order + 1):
            left = (points - grid[:, : -p - 1]) / (grid[:, p:-1] - grid[:, : -p - 1]) * bases[..., :-1]
            right = (grid[:, p + 1 :] - points) / (grid[:, p + 1 :] - grid[:, 1:-p]) * bases[..., 1:]
            bases = left + right
        weight = self.spline_weight * self.spline_scaler.unsqueeze(-1)
        return nn.functional.silu(x) @ self.base_weight.T + bases.flatten(1) @ weight.flatten(1).T


class Foreign(nn.Module):
    def __init__(self, widths: list[int], grid_size: int = 5, order: int = 3) -> None:
        super().__init__()
        pairs = itertools.pairwise(widths)
        self.layers = nn.ModuleList(ForeignLayer(n_in, n_out, grid_size, order) for n_in, n_out in pairs)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.fixture(autouse=True)
def _seed() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def network(**options: Any) -> KAN:
    return KAN(WIDTHS, **{"generator": torch.Generator().manual_seed(1), "kernel": "native", **options})


def samples(count: int = 40) -> Tensor:
    x = torch.rand(count, WIDTHS[0], generator=torch.Generator().manual_seed(2)) * 2 - 1
    x[:, -1] = 1
    return x


def pruned() -> KAN:
    with pytest.warns(UserWarning, match="prune: node 2 at depth 0"):
        kan = network().prune(samples(), 1e-6)
    assert kan.kan_layers[0].bias is not None
    return kan


def through_a_file(state: dict[str, Tensor]) -> dict[str, Tensor]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Tensor] = torch.load(file, weights_only=True)
    return loaded


def flat(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names and contiguous tensors alone, as in safetensors: no metadata, so no versions of modules."""
    return {str(name): value.detach().clone().contiguous() for name, value in state.items()}


@pytest.mark.parametrize(("grid_size", "order"), [(5, 3), (3, 1), (8, 5)])
def test_state_dicts_travel_to_efficient_kan_and_back(grid_size: int, order: int) -> None:
    kan = network(grid_size=grid_size, spline_order=order)
    other = Foreign(WIDTHS, grid_size, order)
    assert list(dict(other.state_dict())) != [] and set(kan.state_dict()) == set(other.state_dict())
    other.load_state_dict(kan.state_dict(), strict=True)
    x = samples()
    torch.testing.assert_close(other(x), kan(x), rtol=1e-4, atol=1e-5)
    fresh = Foreign(WIDTHS, grid_size, order)
    kan.load_state_dict(fresh.state_dict(), strict=True)
    torch.testing.assert_close(kan(x), fresh(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", [through_a_file, flat, dict], ids=["file", "flat", "dict"])
@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("meta", [False, True])
def test_a_pruned_network_loads_into_a_plain_one(way: Callable[[Any], Any], assign: bool, meta: bool) -> None:
    if meta and not assign:
        pytest.skip("torch itself copies nothing into meta tensors")
    source, x = pruned(), samples()
    with torch.device("meta" if meta else "cpu"):
        target = KAN(WIDTHS, kernel="native")
    state = way(source.state_dict())
    names = list(state)
    target.load_state_dict(state, strict=True, assign=assign)
    assert list(state) == names  # the caller's own
    assert torch.equal(target(x), source(x))
    assert {name for name, _ in target.named_parameters()} == {name for name, _ in source.named_parameters()}
    assert set(target.state_dict()) == set(names)
    target(x).sum().backward()
    assert all(parameter.grad is not None for name, parameter in target.named_parameters() if "bias" in name)


@pytest.mark.parametrize("assign", [False, True])
def test_an_unpruned_state_takes_mask_and_bias_back(assign: bool) -> None:
    source, target, x = network(), pruned(), samples()
    target.load_state_dict(source.state_dict(), strict=True, assign=assign)
    assert torch.equal(target(x), source(x))
    assert list(target.state_dict()) == list(source.state_dict())


def test_a_bias_of_the_constructor_must_be_in_a_state_dict() -> None:
    state = network().state_dict()
    with pytest.raises(RuntimeError, match=r'Missing key.*"layers.0.bias", "layers.1.bias"'):
        network(bias=True).load_state_dict(state)


def test_a_bias_of_another_shape_is_torchs_error() -> None:
    state = {**network().state_dict(), "layers.1.bias": torch.zeros(7)}
    with pytest.raises(RuntimeError, match=r"size mismatch for layers\.1\.bias"):
        network().load_state_dict(state)


@pytest.mark.parametrize(
    "change",
    [
        {"bias": torch.zeros(5)},
        {"spline_weight": torch.zeros(4, 3, 20)},
        {"spline_weight": None},
        {"grid": -KANLinear(3, 4).grid},
        {"foo": torch.zeros(1)},
    ],
)
def test_a_state_that_does_not_fit_leaves_no_bias_behind(change: dict[str, Tensor | None]) -> None:
    layer, state = KANLinear(3, 4), {**KANLinear(3, 4, bias=True).state_dict(), **change}
    with pytest.raises((RuntimeError, ValueError)):
        layer.load_state_dict({name: value for name, value in state.items() if value is not None})
    assert layer.bias is None and "bias" not in layer.state_dict()
    layer.load_state_dict(KANLinear(3, 4, bias=True).state_dict())
    assert layer.bias is not None


@pytest.mark.parametrize("assign", [False, True])
def test_masks_of_bools_load_as_numbers(assign: bool) -> None:
    mask = torch.tensor([[True, False, True]] * 4)
    layer, state = KANLinear(3, 4), {**KANLinear(3, 4).state_dict(), "edge_mask": mask}
    layer.load_state_dict(state, assign=assign)
    assert torch.equal(layer.edge_mask, mask.float())


def test_parts_of_a_state_leave_the_rest_alone() -> None:
    kan = pruned()
    before = kan.state_dict()
    found = kan.load_state_dict({"layers.0.grid": before["layers.0.grid"] * 1.5}, strict=False)
    assert not any("edge_mask" in name for name in found.missing_keys)
    after = kan.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items() if name != "layers.0.grid")


def test_nested_networks_and_hooks() -> None:
    class Wrapper(nn.Module):
        def __init__(self, kan: KAN) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Identity(), kan)

    source, target = Wrapper(pruned()), Wrapper(network())
    seen: list[set[str]] = []
    source.body[1].register_state_dict_post_hook(lambda module, state, prefix, metadata: seen.append(set(state)))
    state = source.state_dict()
    assert seen == [set(state)]
    assert "body.1.layers.0.edge_mask" in state and "body.1.layers.1.edge_mask" not in state
    target.load_state_dict(state)
    assert torch.equal(target.body(samples()), source.body(samples()))
    data_parallel = nn.Module()
    data_parallel.module = network()
    assert not any("edge_mask" in name for name in data_parallel.state_dict())


def test_a_pruned_head_loads_into_a_resnet() -> None:
    options: dict[str, Any] = {"stem": "small", "width": 1 / 16, "hidden": (5,), "kernel": "native"}
    source, target = (ResNetKAN(18, 3, **options).eval() for _ in range(2))
    assert not any("edge_mask" in name for name in source.state_dict())
    images = torch.rand(30, 3, 8, 8)
    features = source.backbone(images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source.head.net = source.head.kan.prune(features, 0.03)
    assert "head.net.layers.0.bias" in source.state_dict()
    target.load_state_dict(source.state_dict(), strict=True)
    assert torch.equal(target(images), source(images))


def test_parametrized_weights_have_a_mask_too() -> None:
    kan = network()
    nn.utils.parametrizations.weight_norm(kan.kan_layers[0], "base_weight")
    nn.utils.parametrizations.weight_norm(kan.kan_layers[0], "spline_weight")
    state = kan.state_dict()
    assert "layers.0.edge_mask" not in state
    kan.kan_layers[0].edge_mask.zero_()
    kan.load_state_dict(state, strict=True)
    assert (kan.kan_layers[0].edge_mask == 1).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("assign", [False, True])
def test_uniform_knots_that_were_rounded_to_16_bits_are_restored(dtype: torch.dtype, assign: bool) -> None:
    """Also those of an implementation that computes them another way."""
    for source in (network(grid_size=30), Foreign(WIDTHS, 30)):
        state = {name: value.to(dtype) for name, value in source.state_dict().items()}
        kan = KAN(WIDTHS, 30, kernel="native")
        kan.load_state_dict(state, assign=assign)
        for layer, old in zip(kan.kan_layers, source.layers, strict=True):
            assert layer.grid.dtype == torch.float32
            torch.testing.assert_close(layer.grid, old.get_buffer("grid"), rtol=0, atol=5e-7)
            assert layer.base_weight.dtype == (dtype if assign else torch.float32)
        x = samples()
        truth = source(x).detach()
        y = kan(x.to(kan.kan_layers[0].base_weight.dtype)).float()
        assert (y - truth).abs().max() <= 16 * torch.finfo(dtype).eps * truth.abs().max()


@pytest.mark.parametrize("assign", [False, True])
def test_other_knots_of_16_bits_come_with_a_warning(assign: bool) -> None:
    source = network(grid_range=(-1.1, 1.3))
    state = {name: value.bfloat16() if name == "layers.1.grid" else value for name, value in source.state_dict().items()}
    size = r"may be off by 0\.02\d of an interval.*grid_range \(now \(-1\.0, 1\.0\)\)"
    kan = network()
    with pytest.warns(UserWarning, match=rf"^layers\.1\.grid: the knots of 5 inputs were rounded to torch.bfloat16.*{size}"):
        kan.load_state_dict(state, assign=assign)
    assert {layer.grid.dtype for layer in kan.kan_layers} == {torch.float32}
    assert torch.equal(kan.kan_layers[1].grid, state["layers.1.grid"].float())
    fine = network(grid_size=400, grid_range=(0, 1))
    state = {name: value.bfloat16() for name, value in fine.state_dict().items()}
    with pytest.warns(UserWarning, match=r"grid: .*, and \d+ intervals are empty"):
        network(grid_size=400).load_state_dict(state, assign=assign)


def test_a_network_moved_to_16_bits_keeps_its_knots_in_its_state() -> None:
    kan = network(grid_range=(-1.1, 1.3)).half()
    assert kan.state_dict()["layers.0.grid"].dtype == torch.float32
    other = network(grid_range=(-1.1, 1.3)).half()
    other.load_state_dict(kan.state_dict(), assign=True)
    assert all(torch.equal(a.grid, b.grid) for a, b in zip(kan.kan_layers, other.kan_layers, strict=True))


@pytest.mark.parametrize(("weights", "knots"), [(torch.float32, torch.float64), (torch.float64, torch.float32)])
def test_assigned_knots_get_the_precision_of_the_weights(weights: torch.dtype, knots: torch.dtype) -> None:
    state = {name: value.to(knots if "grid" in name else weights) for name, value in network().state_dict().items()}
    kan = network()
    kan.load_state_dict(state, assign=True)
    assert {layer.grid.dtype for layer in kan.kan_layers} == {weights}
    assert kan(samples().to(weights)).dtype == weights


BAD_GRIDS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "nan": (lambda grid: grid * math.nan, "expected finite values, got 36 NaN or infinite of 36"),
    "infinite": (lambda grid: grid / 0.0, "expected finite values"),
    "falling": (lambda grid: grid.flip(1), "expected non-decreasing rows"),
    "integers": (lambda grid: grid.long(), "expected a floating-point tensor, got torch.int64"),
    "too large for float32": (lambda grid: grid.double() * 1e200, "expected finite values"),
}


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("name", BAD_GRIDS)
def test_knots_of_no_use_are_refused_when_loaded(name: str, assign: bool) -> None:
    spoil, message = BAD_GRIDS[name]
    state = network().state_dict()
    state["layers.0.grid"] = spoil(state["layers.0.grid"])
    with pytest.raises(ValueError, match=rf"^layers\.0\.grid( in torch\.float32)?: {message}"):
        network().load_state_dict(state, assign=assign)


def test_knots_of_another_number_are_torchs_error() -> None:
    state = network().state_dict()
    with pytest.raises(RuntimeError, match=r"size mismatch for layers\.0\.grid"):
        network(grid_size=6).load_state_dict(state)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        *(BAD_GRIDS[name] for name in ("nan", "falling", "integers")),
        (lambda grid: grid.half(), "expected dtype torch.float32 .*, got torch.float16"),
        (lambda grid: grid.double(), "expected dtype torch.float32 .*, got torch.float64"),
        (lambda grid: grid[:, :-1], r"expected shape \(3, 12\), got \(3, 11\)"),
        (lambda grid: grid[:2], r"expected shape \(3, 12\), got \(2, 12\)"),
        (lambda grid: grid.to("meta"), "expected device cpu, got meta"),
        (lambda grid: grid.tolist(), "expected a floating-point tensor, got <class 'list'>"),
    ],
)
def test_knots_of_no_use_are_refused_when_set(spoil: Callable[[Tensor], Any], message: str) -> None:
    layer = KANLinear(3, 4)
    before = layer.grid.clone()
    with pytest.raises(ValueError, match=f"^grid: {message}"):
        layer.grid = spoil(layer.grid)
    assert torch.equal(layer.grid, before)
    layer.grid = before * 2
    assert torch.equal(layer.grid, before * 2) and "grid" in dict(layer.named_buffers())


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(4, 3, dtype=torch.bool), "expected a floating-point tensor, got torch.bool"),
        (torch.ones(4, 3, dtype=torch.float64), "expected dtype torch.float32, that of the weights, got torch.float64"),
        (torch.ones(3, 4), r"expected shape \(4, 3\), got \(3, 4\)"),
        (None, "expected a floating-point tensor, got <class 'NoneType'>"),
    ],
)
def test_masks_of_no_use_are_refused_when_set(mask: Any, message: str) -> None:
    layer = KANLinear(3, 4)
    with pytest.raises(ValueError, match=f"^edge_mask: {message}"):
        layer.edge_mask = mask
    layer.edge_mask = torch.zeros(4, 3)
    assert not layer(torch.rand(2, 3)).any()


def test_an_unknown_kernel_is_refused_when_set() -> None:
    layer = KANLinear(3, 4)
    with pytest.raises(ValueError, match=r"kernel: expected one of .*, got 'gpu'"):
        layer.kernel = "gpu"
    assert layer.kernel == "auto"
