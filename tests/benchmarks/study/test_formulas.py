"""Whether the edges of a network are the functions of the formula: planted networks whose edges are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import tasks
from benchmarks.study import formulas
from benchmarks.study.stacked import Stack
from benchmarks.tasks.base import Formula
from efficient_kan import KAN

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "x": lambda x: 0.7 * x + 0.1,
    "x^2": lambda x: (x - 0.2) ** 2,
    "exp": lambda x: torch.exp(1.5 * x),
    "sin": lambda x: torch.sin(3 * x + 0.4),
    "log": lambda x: torch.log(1.6 + x),
    "sqrt": lambda x: torch.sqrt(1.5 + x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_pykan_suggests_the_function_that_made_the_samples(name: str) -> None:
    x = torch.linspace(-1, 1, 60)
    assert formulas.best(x, FUNCTIONS[name](x)) == name


def test_spelling_follows_the_masks_and_order_does_not_count() -> None:
    masks = [torch.tensor([[1, 1, 0], [0, 0, 1]]), torch.tensor([[1, 1]])]
    names = [[["sin", "x^2", ""], ["", "", "log"]], [["exp", "x"]]]
    found = formulas.spelled(masks, names)
    assert found == (("exp", (("sin", 0), ("x^2", 1))), ("x", (("log", 2),)))
    turned = (("x", (("log", 2),)), ("exp", (("x^2", 1), ("sin", 0))))
    assert formulas.ordered(found) == formulas.ordered(turned)
    assert formulas.ordered(found) != formulas.ordered((("exp", (("sin", 0),)), ("x", (("log", 2),))))
    assert formulas.spelled([torch.zeros(1, 2)], [[["", ""]]]) is None


def planted(outer: str) -> tuple[Formula, Stack, Tensor]:
    """A network [2, 1, 1] whose edges are sin and x^2 of the inputs and `outer` of their sum, fitted by least squares."""
    x = torch.rand(2, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    kan = KAN([2, 1, 1], 12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    first = torch.stack((0.4 * torch.sin(3 * x[0]), 0.4 * x[1] ** 2))
    hidden = first.sum(0)
    with torch.no_grad():
        for layer in kan.kan_layers:
            layer.base_weight.zero_()
            layer.spline_scaler.fill_(1.0)
        curves = first.T.unsqueeze(-1)
        kan.kan_layers[0].spline_weight.copy_(kan.kan_layers[0].curve2coeff(x.T, curves))
        values = FUNCTIONS[outer](hidden).view(-1, 1, 1)
        kan.kan_layers[1].spline_weight.copy_(kan.kan_layers[1].curve2coeff(hidden.unsqueeze(-1), values))
    task = tasks.get_task("exp_sin")
    assert isinstance(task, Formula)
    return replace(task, irrelevant=0), Stack.of([[kan]]), x.unsqueeze(0)


@pytest.mark.parametrize(("outer", "expected"), [("exp", True), ("sin", False)])
def test_a_formula_is_found_if_every_edge_is_the_true_function(outer: str, expected: bool) -> None:
    task, stack, x = planted(outer)
    found = formulas.found(task, stack, stack.features(x), x, 0)
    assert set(found) == set(formulas.fitters()) and "pykan" in found
    assert set(found.values()) == {expected}


def test_a_network_taken_out_of_a_stack_computes_the_same() -> None:
    _, stack, x = planted("exp")
    expected = stack.forward(stack.features(x))[0, 0].T
    np.testing.assert_allclose(stack.network(0, 0)(x[0].T).detach(), expected, rtol=1e-12, atol=1e-12)
