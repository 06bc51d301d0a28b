"""Stacked networks compute, and train to, what the package's own networks do, one by one."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.study import stacked, training
from benchmarks.study.penalties import PENALTIES, parse
from benchmarks.study.stacked import Moments, Stack
from efficient_kan import KAN, SampleL1, SampleStd, WeightL1

LAYERS, SEEDS, STRENGTHS, GRID = (3, 4, 2), (0, 1), (0.0, 1e-2, 1.0), 4


def package_penalty(name: str) -> SampleL1 | SampleStd | WeightL1:
    norm, entropy = parse(name)
    if norm == "sample_l1":
        return SampleL1(entropy=entropy)
    if norm == "sample_std":
        return SampleStd(entropy=entropy)
    return WeightL1(entropy=entropy, fold_scale=norm == "folded_l1", count_base=norm == "folded_l1")


def samples() -> Tensor:
    """(S, I, B), other samples for each seed."""
    generator = torch.Generator().manual_seed(3)
    return 2 * torch.rand(len(SEEDS), LAYERS[0], 50, generator=generator, dtype=torch.float64) - 1


def targets(x: Tensor, *, classes: bool) -> Tensor:
    if classes:
        return (x[:, 0] * x[:, 1] > 0).long()
    return torch.stack((torch.sin(3 * x[:, 0]), x[:, 1] * x[:, 2]), dim=1)


def networks() -> list[list[KAN]]:
    return [[kan] * len(STRENGTHS) for kan in stacked.initial(LAYERS, GRID, SEEDS, torch.float64)]


def trained_alone(kan: KAN, x: Tensor, y: Tensor, penalty: str, strength: float, steps: int) -> KAN:
    """The plain training loop on one network of the package."""
    kan = copy.deepcopy(kan)
    optimiser = torch.optim.Adam(kan.parameters(), lr=training.LEARNING_RATE)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = training.learning_rate(step, steps)
        optimiser.zero_grad()
        if penalty == "none":
            output, value = kan(x), torch.zeros(())
        else:
            output, value = kan.forward_with_penalty(x, package_penalty(penalty))
        mse = torch.nn.functional.mse_loss(output, y) if y.is_floating_point() else torch.nn.functional.cross_entropy(output, y)
        (mse + strength * value).backward()
        optimiser.step()
    return kan


@pytest.mark.parametrize("classes", [False, True], ids=["regression", "classification"])
@pytest.mark.parametrize("penalty", PENALTIES)
def test_every_member_trains_to_the_weights_of_the_plain_loop(penalty: str, classes: bool) -> None:
    x = samples()
    y = targets(x, classes=classes)
    stack = Stack.of(networks())
    features = stack.features(x)
    strengths = torch.tensor(STRENGTHS, dtype=torch.float64).expand(len(SEEDS), -1)
    training.train(stack, features, Moments(x, features), y, steps=12, penalty=penalty, strengths=strengths)
    for (s, seed_networks), (n, strength) in itertools.product(enumerate(networks()), enumerate(STRENGTHS)):
        target = y[s] if classes else y[s].T
        kan = trained_alone(seed_networks[n], x[s].T, target, penalty, strength, 12)
        for layer, own in zip(stack.layers, kan.kan_layers, strict=True):
            for name in ("base_weight", "spline_weight", "spline_scaler"):
                # Adam divides by the size of a gradient, so rounding of tiny ones shows at 1e-9 at most.
                torch.testing.assert_close(getattr(layer, name)[s, n], getattr(own, name).detach(), rtol=1e-8, atol=1e-8)


def test_norms_importance_and_outputs_are_the_packages() -> None:
    x = samples()
    # The third dimension of the weights is drawn anew so that the networks are not alike.
    nets = [list(stacked.initial(LAYERS, GRID, range(10 * s, 10 * s + 3), torch.float64)) for s in SEEDS]
    for kan in itertools.chain(*nets):
        kan.layers[0].edge_mask[1, 2] = 0.0
    stack = Stack.of(nets)
    features = stack.features(x)
    moments = Moments(x, features)
    found = stack.all_norms(features, moments)
    outputs = stack.forward(features)
    for (s, row), n in itertools.product(enumerate(nets), range(3)):
        kan, here = row[n], x[s].T
        torch.testing.assert_close(outputs[s, n].T, kan(here), rtol=1e-12, atol=1e-13)
        at = here
        for number, layer in enumerate(kan.kan_layers):
            for name in ("weight_l1", "folded_l1", "sample_l1", "sample_std"):
                expected = package_penalty(name).edge_norms(layer, at)
                torch.testing.assert_close(found[name][number][s, n], expected, rtol=1e-10, atol=1e-12, msg=name)
            at = layer(at)
        for own, expected in zip(found["importance"], kan.importance(here), strict=True):
            torch.testing.assert_close(own[s, n], expected, rtol=1e-10, atol=1e-12)


def test_a_network_that_diverges_disturbs_no_other() -> None:
    x = samples()
    y = targets(x, classes=False)
    weights = []
    for bad in (False, True):
        stack = Stack.of(networks())
        if bad:
            stack.layers[0].base_weight[0, 1] = float("nan")
        features = stack.features(x)
        training.train(
            stack, features, Moments(x, features), y, steps=10, penalty="sample_l1+entropy",
            strengths=torch.full((2, 3), 1e-2, dtype=torch.float64),
        )  # fmt: skip
        weights.append([p.clone() for p in stack.parameters()])
    for healthy, other in zip(*weights, strict=True):
        keep = torch.ones(2, 3, dtype=torch.bool)
        keep[0, 1] = False
        torch.testing.assert_close(healthy[keep], other[keep], rtol=1e-12, atol=1e-14)
        assert other[0, 1].isnan().all()


def test_features_are_the_packages_beyond_the_grid_too() -> None:
    kan = next(stacked.initial((1, 1), 5, (0,), torch.float64))
    x = torch.tensor(np.concatenate([np.linspace(-3, 3, 301), [-1.0, 1.0, 1e6, -1e6]]))
    stack = Stack.of([[kan]])
    found = stack.forward(stack.features(x[None, None]))
    torch.testing.assert_close(found[0, 0, 0], kan(x[:, None])[:, 0].detach(), rtol=1e-12, atol=1e-13)
    weight = torch.linspace(1, 2, 5 + stacked.PADDED, dtype=torch.float64).unsqueeze(-1)
    weight[[0, -2]] = 0.0  # the rows of bases that do not exist
    beyond = x[None, ::7].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: (weight * stacked._expand(v, stack.grid)).sum(-2), beyond)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="networks: expected cubic splines"):
        Stack.of([[KAN([2, 1], spline_order=2)]])
