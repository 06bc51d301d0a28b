"""What pruning keeps of the function, what it says of the rest, what it refuses. Masks and scores: test_pykan_conversion."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from efficient_kan import KAN
from efficient_kan.basis import bspline_basis


def network(widths: list[int], seed: int = 0, **options: Any) -> KAN:
    generator = torch.Generator().manual_seed(seed)
    return KAN(widths, generator=generator, **{"scale_noise": 3.0, "dtype": torch.float64, "kernel": "native", **options})


def samples(count: int, features: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    """Uniform in [-1, 1]; the last column is ones."""
    x = 2 * torch.rand(count, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1
    x[:, -1] = 1
    return x.to(dtype)


def pruned(kan: KAN, x: Tensor, threshold: float) -> tuple[KAN, str]:
    """The pruned network and the message of its only warning, empty if there is none."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = kan.prune(x, threshold)
    assert len(caught) <= 1
    assert all(warning.category is UserWarning and warning.filename == __file__ for warning in caught)
    return result, str(caught[0].message) if caught else ""


def edges(kan: KAN, n: int, x: Tensor) -> Tensor:
    """All activations of a layer, ``(B, O, I)``, from its definition."""
    layer = kan.kan_layers[n]
    spline = torch.einsum("big,oig->boi", bspline_basis(x, layer.grid, layer.spline_order), layer.spline_weight)
    scale = 1.0 if layer.spline_scaler is None else layer.spline_scaler
    return layer.edge_mask * (layer.base_weight * nn.functional.silu(x).unsqueeze(1) + scale * spline)


def rmse(one: Tensor, other: Tensor) -> float:
    return (one - other).detach().square().mean().sqrt().item()


def test_a_column_of_ones_may_be_pruned() -> None:
    """Trained on a target that needs the constant: 0.022 before, and 1.95 when what it adds is lost."""
    x = samples(400, 3, dtype=torch.float32)
    target = torch.sin(torch.pi * x[:, :1]) + x[:, 1:2] ** 2 + 2
    kan = network([3, 5, 1], dtype=torch.float32, scale_noise=0.1)
    optimiser = torch.optim.Adam(kan.parameters(), lr=2e-2)
    for _ in range(250):
        optimiser.zero_grad()
        (kan(x) - target).square().mean().backward()
        optimiser.step()
    before = rmse(kan(x), target)
    assert before < 0.05
    small, message = pruned(kan, x, 1e-6)
    assert not small.kan_layers[0].edge_mask[:, 2].any() and small.kan_layers[0].edge_mask[:, :2].all()
    assert message == "prune: node 2 at depth 0 has no outgoing edges"  # and no word of a changed function
    assert rmse(small(x), target) == pytest.approx(before, rel=1e-4)
    assert rmse(small(x), kan(x)) <= 1e-5


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scaler", [False, True])
def test_the_bias_of_one_layer_takes_over_the_means_of_its_removed_edges(bias: bool, scaler: bool) -> None:
    kan, x = network([4, 3], bias=bias, enable_standalone_scale_spline=scaler), samples(200, 4)
    kan.kan_layers[0].edge_mask[0, 0] = 0  # passes on nothing
    small, message = pruned(kan, x, kan.importance(x)[0][:, :3].quantile(0.4).item())
    old, new = kan.kan_layers[0], small.kan_layers[0]
    removed = (old.edge_mask == 1) & (new.edge_mask == 0)
    assert removed[:, :3].any() and removed[:, 3].all() and new.edge_mask.any()
    means = (edges(kan, 0, x) * removed).mean(0).sum(1)
    assert new.bias is not None and new.bias.requires_grad
    torch.testing.assert_close(new.bias - (0 if old.bias is None else old.bias), means, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(small(x).mean(0), kan(x).mean(0), rtol=1e-12, atol=1e-14)
    # The size is that of the output that changes most for its deviation.
    differences, deviations = (small(x) - kan(x)).detach(), kan(x).detach().std(0)
    rms = differences.square().mean(0).sqrt()
    o = int((rms / deviations).argmax())
    sizes = f"output {o} changes by {rms[o]:.2g} (RMS over the samples), {differences[:, o].abs().max():.2g} at most"
    assert message.endswith(f"{sizes}; its standard deviation is {deviations[o]:.2g}")


@pytest.mark.parametrize("widths", [[4, 8, 2], [4, 6, 6, 3], [5, 8, 8, 8, 1]], ids=str)
def test_deep_networks_keep_the_means_of_all_outputs_and_change_least(widths: list[int]) -> None:
    """Compared, over four networks, with no biases at all and with the means of removed edges in the network as it was."""
    totals = [0.0, 0.0, 0.0]
    for seed in range(4):
        kan, x = network(widths, seed), samples(300, widths[0])
        small, message = pruned(kan, x, 0.05)
        torch.testing.assert_close(small(x).mean(0), kan(x).mean(0), rtol=1e-10, atol=1e-12)
        size = re.search(r"output (\d+) changes by (\S+) \(RMS", message)
        assert size is not None
        o = int(size[1])
        assert float(size[2]) == pytest.approx(rmse(small(x)[:, o], kan(x)[:, o]), rel=0.06)
        bare, original, flow = copy.deepcopy(small), copy.deepcopy(small), x
        for n, layer in enumerate(kan.kan_layers):
            removed = layer.edge_mask - small.kan_layers[n].edge_mask
            means = (edges(kan, n, flow) * removed).mean(0).sum(1)
            bare.kan_layers[n].bias = None
            original.kan_layers[n].bias = nn.Parameter(means)
            flow = layer(flow)
        totals = [total + rmse(twin(x), kan(x)) for total, twin in zip(totals, (small, original, bare), strict=True)]
    assert totals[0] <= totals[1] and totals[0] < 0.5 * totals[2]


def test_a_network_that_loses_all_edges_becomes_its_mean() -> None:
    kan, x = network([3, 4, 2]), samples(50, 3)
    small, message = pruned(kan, x, 1e6)
    assert not any(layer.edge_mask.any() for layer in small.kan_layers)
    torch.testing.assert_close(small(x), kan(x).mean(0).expand(50, 2), rtol=1e-12, atol=1e-12)
    assert "nodes 0, 1, 2, 3 at depth 1 have neither incoming nor outgoing edges; " in message and "changes by" in message
    assert "nodes 0, 1 at depth 2 have no incoming edges. " in message


def test_nodes_without_incoming_edges_pass_on_their_mean() -> None:
    """Only one hidden node loses its inputs; what it passes on is a constant, to which the next layer's bias is fitted."""
    kan, x = network([2, 3, 1]), samples(100, 2)
    with torch.no_grad():
        kan.kan_layers[0].base_weight[1] = 0
        kan.kan_layers[0].spline_weight[1] *= 1e-3
    small, message = pruned(kan, x, 0.02)
    assert not small.kan_layers[0].edge_mask[1].any()
    hidden = small.kan_layers[0](x)[:, 1]
    torch.testing.assert_close(hidden, kan.kan_layers[0](x)[:, 1].mean().expand(100), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(small(x).mean(), kan(x).mean(), rtol=1e-12, atol=1e-14)
    assert "; node 1 at depth 1 has neither incoming nor outgoing edges. " in message


def test_nothing_removed_changes_nothing_and_says_nothing() -> None:
    kan, x = network([3, 4, 2]), samples(50, 3)[:, [0, 1, 0]]
    small, message = pruned(kan, x, 0.0)
    assert message == ""
    assert all(layer.bias is None and layer.edge_mask.all() for layer in small.kan_layers)
    assert torch.equal(small(x), kan(x))


def test_pruning_again_at_the_same_threshold_keeps_what_the_first_time_kept() -> None:
    kan, x = network([3, 6, 2]), samples(200, 3)
    once, _ = pruned(kan, x, 0.05)
    again, message = pruned(once, x, 0.0)
    assert "changes by" not in message
    assert rmse(again(x), once(x)) <= 1e-12


@pytest.mark.parametrize("frozen", [False, True])
def test_biases_stay_frozen_and_new_ones_follow_the_layer(frozen: bool) -> None:
    x = samples(100, 3)
    for bias in (False, True):
        kan = network([3, 4, 1], bias=bias).requires_grad_(not frozen)
        scores = [layer.min() for layer in kan.importance(x)]
        small, _ = pruned(kan, x, float(max(scores)))
        for layer in small.kan_layers:
            assert 0 < int(layer.edge_mask.sum()) < layer.edge_mask.numel()
            assert layer.bias is not None and layer.bias.requires_grad is not frozen
            assert layer.bias.grad_fn is None
        assert [layer.bias is not None for layer in kan.kan_layers] == [bias, bias]


class Doubled(nn.Module):
    def forward(self, bias: Tensor) -> Tensor:
        return 2 * bias

    def right_inverse(self, value: Tensor) -> Tensor:
        return value / 2


class Squared(nn.Module):
    def forward(self, bias: Tensor) -> Tensor:
        return bias.square()


def test_a_parametrized_bias_is_set_through_its_parametrization() -> None:
    kan, x = network([3, 2], bias=True), samples(100, 3)
    nn.utils.parametrize.register_parametrization(kan.kan_layers[0], "bias", Doubled())
    small, _ = pruned(kan, x, 0.1)
    assert nn.utils.parametrize.is_parametrized(small.kan_layers[0], "bias")
    torch.testing.assert_close(small(x).mean(0), kan(x).mean(0), rtol=1e-12, atol=1e-14)


def hooked(kan: KAN) -> None:
    prune.random_unstructured(kan.kan_layers[0], "bias", amount=1)


def squared(kan: KAN) -> None:
    nn.utils.parametrize.register_parametrization(kan.kan_layers[0], "bias", Squared())


@pytest.mark.parametrize("compute", [hooked, squared])
def test_a_bias_that_cannot_be_set_is_refused(compute: Callable[[KAN], None]) -> None:
    kan, x = network([3, 2], bias=True), samples(100, 3)
    compute(kan)
    before = kan(x)
    with pytest.raises(ValueError, match=r"^layers\[0\]\.bias: expected a parameter that can be written"):
        kan.prune(x, 0.1)
    assert torch.equal(kan(x), before)


def test_weights_that_hooks_and_parametrizations_compute_are_pruned_as_they_are() -> None:
    kan, x = network([3, 4, 1]), samples(100, 3)
    nn.utils.parametrizations.weight_norm(kan.kan_layers[1], "base_weight")
    prune.l1_unstructured(kan.kan_layers[0], "spline_weight", amount=0.3)
    with torch.no_grad():  # after which the computed tensor is stale until the next forward
        kan.kan_layers[0].get_parameter("spline_weight_orig").mul_(1.5)
    small, _ = pruned(kan, x, 1e-9)
    assert rmse(small(x), kan(x)) <= 1e-12


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_lower_precisions_keep_the_mean_to_their_rounding(dtype: torch.dtype) -> None:
    kan, x = network([3, 4, 2], dtype=torch.float32, scale_noise=1.0).to(dtype), samples(200, 3, dtype=dtype)
    scores = kan.importance(x)
    assert {score.dtype for score in scores} == {torch.float32}
    small, message = pruned(kan, x, 1e-6)
    assert message == "prune: node 2 at depth 0 has no outgoing edges"
    assert {layer.bias.dtype for layer in small.kan_layers[:1] if layer.bias is not None} == {dtype}
    assert rmse(small(x).float(), kan(x).float()) <= 4 * torch.finfo(dtype).eps


def test_autocast_does_not_round_scores_and_biases() -> None:
    kan, x = network([3, 4, 2], dtype=torch.float32), samples(200, 3, dtype=torch.float32)
    plain, message = pruned(kan, x, 0.05)
    with torch.autocast("cpu", torch.bfloat16):
        scores = kan.importance(x)
        cast, same = pruned(kan, x.double(), 0.05)
    assert same == message
    assert all(torch.equal(a, b) for a, b in zip(scores, kan.importance(x), strict=True))
    for name, value in plain.state_dict().items():
        assert torch.equal(cast.state_dict()[name], value), name


def test_leading_dimensions_are_samples() -> None:
    kan, x = network([3, 4, 2]), samples(60, 3)
    flat, message = pruned(kan, x, 0.05)
    shaped, same = pruned(kan, x.view(3, 1, 20, 3), 0.05)
    assert same == message
    assert all(torch.equal(value, shaped.state_dict()[name]) for name, value in flat.state_dict().items())


def test_a_subclass_stays_one() -> None:
    class Named(KAN):
        title = "none"

    kan = Named([3, 2], generator=torch.Generator().manual_seed(0), kernel="native")
    kan.title = "mine"
    small, _ = pruned(kan, samples(20, 3, dtype=torch.float32), 0.05)
    assert type(small) is Named and small.title == "mine"


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf], ids=str)
@pytest.mark.parametrize("name", ["base_weight", "spline_weight", "spline_scaler", "bias", "edge_mask", "grid"])
@pytest.mark.parametrize("n", [0, 1])
def test_parameters_that_are_not_finite_are_refused_by_name(n: int, name: str, value: float) -> None:
    """Comparing NaN scores with a threshold would remove every edge without a word."""
    kan, x = network([2, 8, 3], bias=True), samples(50, 2)
    with torch.no_grad():
        getattr(kan.kan_layers[n], name).view(-1)[0] = value
    for call in (kan.importance, kan.prune):
        with pytest.raises(ValueError, match=rf"^layers\[{n}\]\.{name}: expected finite values, got 1 NaN or infinite of"):
            call(x)


@pytest.mark.parametrize("factor", [3e38, 1e25], ids=["outputs", "deviations"])
def test_activations_that_overflow_are_refused_by_layer(factor: float) -> None:
    kan, x = network([2, 4, 3], dtype=torch.float32), samples(50, 2, dtype=torch.float32)
    with torch.no_grad():
        kan.kan_layers[0].base_weight.fill_(factor)
        kan.kan_layers[1].base_weight.fill_(factor)
    with pytest.raises(ValueError, match=r"^layers\[[01]\], .* at these samples: expected finite values, got"):
        kan.prune(x)


def test_rounding_alone_creates_no_bias() -> None:
    """Else a network that lost no edge in a layer would no longer load where biases are unknown."""
    kan, x = network([3, 4, 1]), samples(100, 3)
    small, _ = pruned(kan, x, 0.05)
    for layer, twin in zip(kan.kan_layers, small.kan_layers, strict=True):
        if torch.equal(layer.edge_mask, twin.edge_mask):
            assert twin.bias is None
    assert small.kan_layers[1].bias is None and small.kan_layers[0].bias is not None
