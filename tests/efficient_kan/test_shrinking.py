"""A smaller network computes what the larger one computed, whatever the masks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from efficient_kan import KAN, KANLinear, ResNetKAN
from efficient_kan.pruning import dangling_nodes

pytestmark = pytest.mark.filterwarnings("ignore:prune", "ignore:update_grid")
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "bias": {"bias": True},
    "no-scale": {"enable_standalone_scale_spline": False},
    "k1": {"spline_order": 1, "grid_size": 7},
    "identity": {"base_activation": nn.Identity},
    "prelu": {"base_activation": nn.PReLU},
}


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def samples(features: int, count: int = 40, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, features, generator=source(1), dtype=torch.float64).to(dtype)


def network(widths: list[int], dtype: torch.dtype = torch.float64, **options: Any) -> KAN:
    kan = KAN(widths, dtype=dtype, kernel="native", generator=source(), scale_noise=3.0, **options)
    for layer in kan.kan_layers:
        if layer.bias is not None:
            nn.init.normal_(layer.bias, generator=source(2))
    kan.update_grid(samples(widths[0], 100, dtype), fit="samples")
    return kan


def assert_same(kan: KAN, x: Tensor, tolerance: float = 1e-12) -> list[list[int]]:
    before = kan(x)
    small, nodes = kan.shrink()
    after = small(x[..., nodes[0]])
    assert after.shape == before.shape
    assert (after - before).abs().max() <= tolerance * before.abs().max().clamp(min=1.0)
    assert small.layers_hidden == [len(row) for row in nodes]
    if any(bool(layer.edge_mask.any()) for layer in small.kan_layers):
        assert [d for d in dangling_nodes(small) if 0 < d.depth < len(nodes) - 1 or d.missing == "outgoing"] == []
    return nodes


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("density", [0.1, 0.2, 0.4, 1.0], ids=str)
@pytest.mark.parametrize("widths", [[4, 1], [5, 4, 3], [3, 6, 5, 4, 2]], ids=str)
def test_outputs_are_the_same_for_random_masks(widths: list[int], density: float, variant: str) -> None:
    kan = network(widths, **VARIANTS[variant])
    for seed in range(4):
        for n, layer in enumerate(kan.kan_layers):
            draws = torch.rand(layer.edge_mask.shape, generator=source(10 * seed + n))
            layer.edge_mask.copy_(draws < density)
        assert_same(kan, samples(widths[0]))


def test_a_chain_of_dead_nodes_is_removed_from_both_sides() -> None:
    kan = network([3, 4, 4, 4, 2])
    first, second, third, last = kan.kan_layers
    first.edge_mask[0] = 0  # constant, and with it those that listen to it alone
    second.edge_mask[1] = torch.tensor([1.0, 0, 0, 0])
    third.edge_mask[2] = torch.tensor([0, 1.0, 0, 0])
    last.edge_mask[:, 3] = 0  # unheard, and with it those that only it listens to
    third.edge_mask[:3, 3] = 0
    second.edge_mask[:3, 2] = 0
    first.edge_mask[[0, 1, 3], 2] = 0
    second.edge_mask[3, [0, 1, 3]] = 0
    assert assert_same(kan, samples(3)) == [[0, 1], [1, 3], [0, 2], [0, 1], [0, 1]]


def test_what_a_constant_node_passes_on_becomes_bias() -> None:
    kan, x = network([2, 3, 1]), samples(2)
    kan.kan_layers[0].edge_mask[1] = 0
    small = kan.shrink().network
    assert small.kan_layers[0].bias is None
    layer = kan.kan_layers[1]
    hidden = torch.zeros(1, 3, dtype=torch.float64)
    alone = layer(hidden)
    layer.edge_mask[0, 1] = 0
    assert torch.allclose(small.kan_layers[1].bias, (alone - layer(hidden)).flatten(), rtol=1e-12, atol=0)
    assert small.kan_layers[1].bias.requires_grad
    assert torch.equal(kan(x), kan(x))
    assert kan.layers_hidden == [2, 3, 1]


def test_an_output_without_edges_stays_as_a_constant() -> None:
    kan = network([2, 3, 2], bias=True)
    kan.kan_layers[1].edge_mask[0] = 0
    assert assert_same(kan, samples(2)) == [[0, 1], [0, 1, 2], [0, 1]]
    small = kan.shrink().network
    y = small(samples(2))
    assert torch.equal(y[:, 0], kan.kan_layers[1].bias[0].expand(40))


@pytest.mark.parametrize("cut", [0, 1, 2])
@pytest.mark.parametrize("bias", [False, True])
def test_a_network_without_a_path_is_its_constants(cut: int, bias: bool) -> None:
    kan = network([3, 4, 4, 2], bias=bias)
    kan.kan_layers[cut].edge_mask.zero_()
    assert assert_same(kan, samples(3)) == [[0], [0], [0], [0, 1]]
    small = kan.shrink().network
    assert not any(bool(layer.edge_mask.any()) for layer in small.kan_layers)
    assert torch.isfinite(small(torch.full((1, 1), 1e30, dtype=torch.float64))).all()


def test_inputs_stay_on_request() -> None:
    kan, x = network([3, 4, 1]), samples(3)
    kan.kan_layers[0].edge_mask[:, 1] = 0
    kan.kan_layers[0].edge_mask[2] = 0
    assert kan.shrink().inputs == [0, 2]
    small, nodes = kan.shrink(inputs=False)
    assert nodes == [[0, 1, 2], [0, 1, 3], [0]]
    assert torch.allclose(small(x), kan(x), rtol=1e-12, atol=1e-12)


def test_nothing_to_remove_gives_a_copy() -> None:
    kan, x = network([3, 4, 2]), samples(3)
    kan.kan_layers[0].edge_mask[0, 0] = 0
    small, nodes = kan.shrink()
    assert nodes == [[0, 1, 2], [0, 1, 2, 3], [0, 1]]
    assert torch.equal(small(x), kan(x))
    assert all(a is not b for a, b in zip(small.parameters(), kan.parameters(), strict=True))


def test_the_original_is_not_changed_and_no_random_number_is_drawn() -> None:
    kan = network([3, 4, 2]).eval()
    kan.kan_layers[0].edge_mask[0] = 0
    before, state = {k: v.clone() for k, v in kan.state_dict().items()}, torch.get_rng_state()
    small = kan.shrink().network
    assert all(torch.equal(v, before[k]) for k, v in kan.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for network in (kan, small) for module in network.modules())


def test_pruned_networks_shrink_train_and_save() -> None:
    kan, x = network([4, 8, 8, 2], torch.float32), samples(4, 200, torch.float32)
    pruned = kan.prune(x, 0.08)
    small, nodes = pruned.shrink()
    assert sum(len(row) for row in nodes) < 22
    assert torch.allclose(small(x[:, nodes[0]]), pruned(x), atol=1e-5)
    small.update_grid(x[:, nodes[0]])
    small = small.refine(8, x[:, nodes[0]])
    small(x[:, nodes[0]]).square().mean().backward()
    assert all(p.grad is not None for p in small.parameters())
    again = KAN(small.layers_hidden, grid_size=8, kernel="native")
    again.load_state_dict(small.state_dict())
    assert torch.allclose(again(x[:, nodes[0]]), small(x[:, nodes[0]]), atol=1e-6)


@pytest.mark.filterwarnings("ignore:refine")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_other_precisions_and_autocast(dtype: torch.dtype) -> None:
    kan = network([3, 4, 2], dtype)
    kan.kan_layers[0].edge_mask[1] = 0
    x = samples(3, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        small, nodes = kan.shrink()
        kan.prune(x, 0.05)
        kan.refine(7, x)
    assert {tensor.dtype for tensor in small.parameters()} == {dtype}
    before = kan(x).detach()
    assert torch.allclose(small(x[:, nodes[0]]), before, rtol=0, atol=30 * torch.finfo(dtype).eps * float(before.abs().max()))


def test_frozen_parameters_stay_frozen_and_subclasses_keep_what_they_have() -> None:
    class Named(KAN):
        pass

    kan = Named([2, 3, 1], dtype=torch.float64, kernel="native")
    kan.label = "mine"
    kan.kan_layers[0].edge_mask[1] = 0
    kan.requires_grad_(False)
    small = kan.shrink().network
    assert type(small) is Named
    assert small.label == "mine"
    assert not any(p.requires_grad for p in small.parameters())


def test_a_layer_that_stands_twice_becomes_two() -> None:
    layer = KANLinear(3, 3, dtype=torch.float64, kernel="native", generator=source())
    layer.edge_mask[0] = 0
    assert assert_same(KAN.from_layers([layer, layer]), samples(3)) == [[0, 1, 2], [1, 2], [0, 1, 2]]


def test_layers_of_other_grids_and_orders() -> None:
    options: dict[str, Any] = {"dtype": torch.float64, "kernel": "native"}
    layers = [KANLinear(3, 4, 5, 2, **options), KANLinear(4, 2, 9, 4, bias=True, **options)]
    layers[0].edge_mask[2] = 0
    assert assert_same(KAN.from_layers(layers), samples(3))[1] == [0, 1, 3]


def test_computed_parameters_that_cannot_be_cut_are_refused() -> None:
    kan = network([3, 4, 2])
    kan.kan_layers[0].edge_mask[1] = 0
    parametrizations.orthogonal(kan.kan_layers[1], "base_weight")
    with pytest.raises(ValueError, match=r"layers\[1\]\.base_weight: expected a parameter"):
        kan.shrink()


def test_a_forward_that_depends_on_what_is_removed_is_told() -> None:
    kan = network([2, 3, 1])
    kan.kan_layers[0].edge_mask[1] = 0
    kan.kan_layers[0].register_forward_hook(lambda module, args, y: y + torch.arange(y.shape[1]))
    with pytest.warns(UserWarning, match="shrink: the function changed: output 0 changes by"):
        kan.shrink()


def test_bad_networks_are_refused() -> None:
    kan = network([2, 3, 1])
    with torch.no_grad():
        kan.kan_layers[1].spline_weight[0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"layers\[1\]\.spline_weight: expected finite"):
        kan.shrink()
    with pytest.raises(ValueError, match=r"layers\[0\]: expected a mask with values"):
        network([2, 3, 1]).to("meta").shrink()
    with pytest.raises(ValueError, match="inputs: expected a bool"):
        network([2, 1]).shrink(inputs=1)  # type: ignore[arg-type]
    kan = KAN.from_layers([KANLinear(3, 1, base_activation=lambda: nn.PReLU(3), kernel="native")])
    kan.kan_layers[0].edge_mask[0, 1] = 0
    with pytest.raises(ValueError, match=r"layers\[0\]\.base_activation: expected one without parameters for each of the 3"):
        kan.shrink()


def test_the_head_of_a_residual_network_takes_all_features() -> None:
    net = ResNetKAN(18, 3, hidden=(4,), width=0.05, generator=source(), stem="small", kernel="native").eval()
    kan = net.head.kan
    kan.kan_layers[0].edge_mask[:, 5] = 0
    kan.kan_layers[0].edge_mask[2] = 0
    small, nodes = net.shrink()
    x = torch.randn(2, 3, 8, 8, generator=source(1))
    assert nodes == [list(range(net.head.in_features)), [0, 1, 3], [0, 1, 2]]
    assert torch.allclose(small(x), net(x), atol=1e-6)
    with pytest.raises(ValueError, match="head: expected 'kan'"):
        ResNetKAN(18, 3, "linear", width=0.05).shrink()
