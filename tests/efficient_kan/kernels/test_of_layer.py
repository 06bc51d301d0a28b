"""Penalties in the passes of the product: equality with layers one by one on native, and what goes by layers instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from efficient_kan import KAN, SampleL1, SampleStd, WeightL1, kernels
from tests.efficient_kan.test_whole_networks import NETWORKS, adapted, assert_equal, network, on_native, samples

PENALTIES: dict[str, Any] = {
    "sample-l1": SampleL1(0.7, 1.3),
    "sample-l1-range": SampleL1(0.7, 0.0, divide_by_grid_range=True),
    "sample-std": SampleStd(0.7, 1.3),
    "sample-std-all": SampleStd(0.7, 1.3, 0.3, 0.2),
    "sample-std-plain": SampleStd(0.7, 0.0, normalize=False),
    "weight-l1": WeightL1(0.7, 1.3),
    "weight-l1-all": WeightL1(0.7, 1.3, fold_scale=True, count_base=True),
}


def is_whole(y: Tensor) -> bool:
    return type(y.grad_fn).__name__ == "_NetworkBackward"


def results(kan: KAN, x: Tensor, penalty: Any) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    y, loss = kan.forward_with_penalty(x, penalty)
    leaves = {"x": x, **dict(kan.named_parameters())}
    grads = torch.autograd.grad(y.sin().sum() + 30 * loss, list(leaves.values()))
    return {"y": y, "loss": loss, **dict(zip(leaves, grads, strict=True))}


def masked() -> KAN:
    """Some edges pruned, and no node without any: the deviation of what it passes on would be rounding alone on native."""
    kan = network([3, 17, 2], bias=True)
    for layer in kan.kan_layers:
        layer.edge_mask[::2, 1] = 0.0
    return kan


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("make", [NETWORKS["tutorial"], masked, NETWORKS["mixed"]], ids=["tutorial", "masked", "mixed"])
def test_outputs_penalty_and_gradients_equal_native(make: Callable[[], KAN], name: str) -> None:
    kan, penalty = make(), PENALTIES[name]
    for batch in (7, 300):
        x = samples(batch, kan.kan_layers[0].in_features)
        assert is_whole(kan.forward_with_penalty(x, penalty)[0])
        assert_equal(results(kan, x, penalty), results(on_native(kan), x, penalty))
        with torch.no_grad():
            y, loss = kan.forward_with_penalty(x, penalty)
        assert torch.equal(y, kan.forward_with_penalty(x, penalty)[0])
        assert torch.equal(loss, kan.forward_with_penalty(x, penalty)[1])


@pytest.mark.parametrize("name", PENALTIES)
def test_any_knots(name: str) -> None:
    kan, x = adapted(network([3, 7, 2])), samples(140, 3)
    assert_equal(results(kan, x, PENALTIES[name]), results(on_native(kan), x, PENALTIES[name]))


def test_edges_that_do_not_vary_have_no_deviation_and_get_no_gradient() -> None:
    kan, x = network([3, 4, 2]), samples(300, 3).clamp(-0.99, 0.99)
    first = kan.kan_layers[0]
    with torch.no_grad():
        first.spline_weight[0] = 1e3  # the sum of all bases is one
        first.base_weight[0] = 0.0
        first.base_weight[1], first.spline_weight[1] = 0.0, 0.0
    x[:, 1] = 0.37
    layer = KAN.from_layers([first])
    parameters = [first.base_weight, first.spline_weight, first.spline_scaler]
    x.requires_grad_()
    for penalty in (SampleStd(1.0, 0.0), SampleStd(1.0, 0.0, normalize=False)):
        y, loss = layer.forward_with_penalty(x, penalty)
        assert is_whole(y)
        assert_equal({"loss": loss}, {"loss": penalty.layer_loss(first, first.layer_inputs(x))})
        of_x, *found = torch.autograd.grad(loss, [x, *parameters])
        assert not of_x[:, 1].any() and of_x[:, 0].any()
        for gradient in found:
            assert not gradient[:2].any() and not gradient[:, 1].any() and gradient[2:, 0].any()


@pytest.mark.parametrize("name", ["sample-l1", "sample-std", "weight-l1"])
def test_error_of_float32_is_that_of_native(name: str) -> None:
    kan, penalty = network([4, 9, 8, 1]).float(), PENALTIES[name]
    x = samples(256, 4, torch.float32)
    exact = results(on_native(kan).double(), x.double(), penalty)
    ours, theirs = results(kan, x, penalty), results(on_native(kan), x, penalty)
    for leaf, truth in exact.items():
        mine, allowed = ((found[leaf] - truth).abs().max() for found in (ours, theirs))
        assert mine <= 3 * allowed + 1e-7 * truth.abs().max(), leaf


@pytest.mark.parametrize("name", ["sample-l1", "sample-std-all", "weight-l1"])
def test_second_derivatives_equal_native(name: str) -> None:
    kan = network([2, 4, 1])
    found = []
    for each in (kan, on_native(kan)):
        x = samples(9, 2).requires_grad_()
        leaves = [x, *each.parameters()]
        y, loss = each.forward_with_penalty(x, PENALTIES[name])
        first = torch.autograd.grad(y.sin().sum() + loss, leaves, create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in first), leaves))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_one_of_two_results_and_frozen_layers() -> None:
    kan, x = network([3, 5, 2]), samples(50, 3)
    kan.kan_layers[1].requires_grad_(False)
    twin = on_native(kan)
    for take in (0, 1):
        wanted = [[p for p in each.parameters() if p.requires_grad] for each in (kan, twin)]
        ours, theirs = (
            torch.autograd.grad(each.forward_with_penalty(x, SampleStd(coef=0.1))[take].sum(), leaves)
            for each, leaves in zip((kan, twin), wanted, strict=True)
        )
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@dataclass(frozen=True)
class Halved(SampleL1):
    def layer_loss(self, layer: Any, inputs: Any) -> Tensor:
        return super().layer_loss(layer, inputs) / 2


def test_other_penalties_and_too_few_samples_go_by_layers() -> None:
    kan, x = network([3, 5, 2]), samples(50, 3)
    y, loss = kan.forward_with_penalty(x, Halved())
    assert not is_whole(y)
    torch.testing.assert_close(2 * loss, kan.forward_with_penalty(x, SampleL1())[1], rtol=1e-12, atol=0)
    assert not is_whole(kan.forward_with_penalty(x[:0], WeightL1())[0])
    with pytest.raises(ValueError, match="at least 2 samples"):
        kan.forward_with_penalty(x[:1], SampleStd())


def test_what_is_not_finite() -> None:
    kan, x = network([3, 5, 2]), samples(200, 3)
    x[7, 0], x[150, 2] = torch.nan, torch.inf
    for penalty in (SampleL1(), SampleStd()):
        y, loss = kan.forward_with_penalty(x, penalty)
        expected, other = on_native(kan).forward_with_penalty(x, penalty)
        assert_equal({"y": y}, {"y": expected})
        assert loss.isnan() and other.isnan()


def test_parts_of_parameters_are_left_to_layers() -> None:
    """Of networks whose parameters are shared among ranks, there may be a part, or none for now."""
    x = samples(50, 3)
    for shrink in (lambda weight: weight.untyped_storage().resize_(0), lambda weight: weight.set_(weight.detach()[:2].clone())):
        kan = network([3, 5, 2])
        with torch.no_grad():
            shrink(kan.kan_layers[0].spline_weight)
        assert kernels.network(kan.kan_layers, x) is None
        assert kernels.network(kan.kan_layers, x, SampleL1()) is None
