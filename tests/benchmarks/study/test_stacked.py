"""Stacked networks compute, and train to, what the package's own networks do, one by one."""

from __future__ import annotations

import copy
import itertools
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.study import lbfgs, penalties, stacked, training
from benchmarks.study.penalties import PENALTIES, OwnNorm
from benchmarks.study.stacked import Stack
from benchmarks.study.training import Samples
from efficient_kan import KAN

LAYERS, SEEDS, STRENGTHS, GRID = (3, 4, 2), (0, 1), (0.0, 1e-2, 1.0), 4


def samples() -> Tensor:
    """(S, I, B), other samples for each seed."""
    generator = torch.Generator().manual_seed(3)
    return 2 * torch.rand(len(SEEDS), LAYERS[0], 50, generator=generator, dtype=torch.float64) - 1


def targets(x: Tensor, *, classes: bool) -> Tensor:
    if classes:
        return (x[:, 0] * x[:, 1] > 0).long()
    return torch.stack((torch.sin(3 * x[:, 0]), x[:, 1] * x[:, 2]), dim=1)


def networks(order: int = 3) -> list[list[KAN]]:
    return [[kan] * len(STRENGTHS) for kan in stacked.initial(LAYERS, GRID, SEEDS, torch.float64, order=order)]


def trained_alone(kan: KAN, x: Tensor, y: Tensor, penalty: str, strength: float, steps: int) -> KAN:
    """The plain training loop on one network of the package."""
    kan = copy.deepcopy(kan)
    optimiser = torch.optim.Adam(kan.parameters(), lr=training.LEARNING_RATE)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = training.learning_rate(step, steps)
        optimiser.zero_grad()
        chosen = lbfgs.package_penalty(penalty)
        output, value = (kan(x), torch.zeros(())) if chosen is None else kan.forward_with_penalty(x, chosen)
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
    strengths = torch.tensor(STRENGTHS, dtype=torch.float64).expand(len(SEEDS), -1)
    training.train(stack, Samples.of(stack, x, y), steps=12, penalty=penalty, strengths=strengths)
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
    seen = Samples.of(stack, x, targets(x, classes=False))
    found = stack.all_norms(seen.features, seen.moments)
    outputs = stack.forward(seen.features)
    for (s, row), n in itertools.product(enumerate(nets), range(3)):
        kan, here = row[n], x[s].T
        torch.testing.assert_close(outputs[s, n].T, kan(here), rtol=1e-12, atol=1e-13)
        at = here
        for number, layer in enumerate(kan.kan_layers):
            for name in ("weight_l1", "folded_l1", "sample_l1", "sample_std"):
                penalty = lbfgs.package_penalty(name)
                assert penalty is not None
                expected = penalty.edge_norms(layer, at)
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
        strengths = torch.full((2, 3), 1e-2, dtype=torch.float64)
        training.train(stack, Samples.of(stack, x, y), steps=10, penalty="sample_l1+entropy", strengths=strengths)
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
    weight = torch.linspace(1, 2, stack.grids[0].features, dtype=torch.float64).unsqueeze(-1)
    weight[[0, -2]] = 0.0  # the rows of bases that do not exist
    beyond = x[None, ::7].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: (weight * stack.grids[0].expand(v)).sum(-2), beyond)


@pytest.mark.parametrize(
    "order", [2, *(pytest.param(order, marks=pytest.mark.slow) for order in (1, 5))]
)  # each compiles a kernel
def test_other_orders_train_to_the_weights_of_the_plain_loop(order: int) -> None:
    x = samples()
    y = targets(x, classes=False)
    stack = Stack.of(networks(order))
    strengths = torch.tensor(STRENGTHS, dtype=torch.float64).expand(len(SEEDS), -1)
    training.train(stack, Samples.of(stack, x, y), steps=6, penalty="sample_std+entropy", strengths=strengths)
    for (s, row), (n, strength) in itertools.product(enumerate(networks(order)), enumerate(STRENGTHS)):
        kan = trained_alone(row[n], x[s].T, y[s].T, "sample_std+entropy", strength, 6)
        for layer, own in zip(stack.layers, kan.kan_layers, strict=True):
            torch.testing.assert_close(layer.spline_weight[s, n], own.spline_weight.detach(), rtol=1e-8, atol=1e-8)


def test_networks_on_adapted_knots_are_the_packages_and_come_back() -> None:
    x = samples()
    rows = [[kan] for kan in stacked.initial(LAYERS, GRID, SEEDS, torch.float64)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for (kan,), here in zip(rows, x, strict=True):
            kan.update_grid(here.T.contiguous(), fit="samples")
    stack = Stack.of(rows)
    assert all(grid.knots is not None for grid in stack.grids)
    seen = Samples.of(stack, x, targets(x, classes=False))
    outputs, importance = stack.forward(seen.features), stack.importance(seen.features, seen.moments)
    for s, (kan,) in enumerate(rows):
        torch.testing.assert_close(outputs[s, 0].T, kan(x[s].T).detach(), rtol=1e-10, atol=1e-12)
        for own, expected in zip(importance, kan.importance(x[s].T), strict=True):
            torch.testing.assert_close(own[s, 0], expected, rtol=1e-8, atol=1e-10)
        again = stack.network(s, 0)
        torch.testing.assert_close(again(x[s].T), kan(x[s].T), rtol=1e-12, atol=1e-13)
    with pytest.raises(ValueError, match="networks: expected those of a seed on the same knots"):
        Stack.of([[rows[0][0], rows[1][0]]])


def test_minibatches_are_the_same_for_all_networks_and_give_a_step_on_those_samples_alone() -> None:
    x = samples()
    y = targets(x, classes=False)
    stack, seen = Stack.of(networks()), None
    seen = Samples.of(stack, x, y)
    part = seen.drawn(8, torch.Generator().manual_seed(0))
    places = [int((x[0] == part.x[0, :, n : n + 1]).all(0).nonzero()) for n in range(8)]
    assert len(set(places)) == 8
    torch.testing.assert_close(part.targets, y[..., places])
    strengths = torch.tensor(STRENGTHS, dtype=torch.float64).expand(len(SEEDS), -1)
    training.train(stack, seen, steps=1, penalty="sample_std+entropy", strengths=strengths, minibatch=8)
    kan = trained_alone(networks()[1][2], x[1][:, places].T, y[1][:, places].T, "sample_std+entropy", STRENGTHS[2], 1)
    for layer, own in zip(stack.layers, kan.kan_layers, strict=True):
        torch.testing.assert_close(layer.base_weight[1, 2], own.base_weight.detach(), rtol=1e-7, atol=1e-9)


def test_a_refit_ends_when_it_gains_no_more_and_each_network_alone() -> None:
    x = samples()
    y = targets(x, classes=False)
    together = Stack.of([[kan] * 2 for kan in stacked.initial(LAYERS, GRID, SEEDS, torch.float64)])
    for layer in together.layers:  # the second networks are pruned to nothing: constants, which no refit improves
        layer.edge_mask[:, 1] = 0.0
    alone = together.select(torch.tensor([0]))

    def on_training(stack: Stack) -> Tensor:
        return stacked.error(stack.forward(stack.features(x)), y)

    found = training.refit(together, Samples.of(together, x, y), steps=5, rounds=4, tolerance=0.02, judge=on_training)
    assert (found.rounds[:, 1] == 2).all() and found.converged[:, 1].all()
    assert (found.rounds[:, 0] == 4).all() and not found.converged[:, 0].any()
    single = training.refit(alone, Samples.of(alone, x, y), steps=5, rounds=4, tolerance=0.02, judge=on_training)
    for one, other in zip(found.full.layers, single.full.layers, strict=True):
        torch.testing.assert_close(one.spline_weight[:, 0], other.spline_weight[:, 0], rtol=1e-10, atol=1e-12)
    errors = [on_training(stack)[:, 0] for stack in (found.short, found.full)]
    assert (errors[1] < errors[0]).all()
    worst_first = iter([torch.zeros(2, 3), *[torch.ones(2, 3)] * 3])
    kept = training.refit(
        Stack.of(networks()),
        Samples.of(together, x, y),
        steps=5,
        rounds=3,
        tolerance=0.0,
        judge=lambda stack: next(worst_first),
    )
    torch.testing.assert_close(kept.full.layers[0].base_weight, kept.short.layers[0].base_weight, rtol=0, atol=0)
    once = training.refit(
        Stack.of(networks()), Samples.of(together, x, y), steps=5, rounds=1, tolerance=0.02, judge=on_training
    )
    assert (once.rounds == 1).all() and not once.converged.any()
    for short, full in zip(once.short.layers, once.full.layers, strict=True):
        torch.testing.assert_close(short.spline_weight, full.spline_weight, rtol=0, atol=0)


def test_a_penalty_from_outside_trains_like_the_studys_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(penalties, "_OWN", {})
    penalties.register(
        OwnNorm("mine", "the paper's again", lambda layer, edges: edges.abs().mean(-1).movedim(-2, -1), samples=True)
    )
    penalties.register(OwnNorm("roots", "roots of weights", lambda layer, edges: layer.spline_weight.abs().mean(-1)))
    x = samples()
    strengths = torch.tensor(STRENGTHS, dtype=torch.float64).expand(len(SEEDS), -1)
    for mine, theirs in (("mine+entropy", "sample_l1+entropy"), ("roots", "weight_l1")):
        stacks = [Stack.of(networks()) for _ in range(2)]
        for stack, name in zip(stacks, (mine, theirs), strict=True):
            training.train(stack, Samples.of(stack, x, targets(x, classes=False)), steps=5, penalty=name, strengths=strengths)
        torch.testing.assert_close(stacks[0].layers[0].spline_weight, stacks[1].layers[0].spline_weight, rtol=1e-9, atol=1e-10)
    for name in ("sample_l1", "mine", "Bad name"):
        with pytest.raises(ValueError, match="norm: expected a"):
            penalties.register(OwnNorm(name, "", lambda layer, edges: layer.base_weight))


@pytest.mark.parametrize("penalty", ["none", "sample_std+entropy", "weight_l1+entropy"])
def test_a_step_needs_nothing_of_the_cpu(penalty: str) -> None:
    """On meta tensors, which refuse to be mixed with others: what a GPU would refuse too."""
    stack = Stack.of(networks())
    for layer in stack.layers:
        for name, tensor in vars(layer).items():
            setattr(layer, name, tensor.to("meta"))
    x = samples()
    seen = Samples.of(stack, x.to("meta"), targets(x, classes=False).to("meta"))
    strengths = torch.ones(len(SEEDS), len(STRENGTHS), dtype=torch.float64, device="meta")
    training.train(stack, seen, steps=2, penalty=penalty, strengths=strengths, minibatch=8)
    assert all(parameter.device.type == "meta" for parameter in stack.parameters())


def test_other_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="networks: expected splines of one order"):
        Stack.of([[KAN([2, 1], bias=True)]])
