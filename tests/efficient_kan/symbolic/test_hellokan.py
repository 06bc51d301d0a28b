"""From data to a formula without pykan, as in the KAN paper's first example: f(x, y) = exp(sin(pi x) + y^2)."""

from __future__ import annotations

import math
import time

import pytest
import torch
from torch import Tensor

from efficient_kan import KAN, SampleStd
from tests.efficient_kan.symbolic.planted import uniform


def train(kan: KAN, x: Tensor, y: Tensor, steps: int, weight: float = 0.0) -> None:
    penalty = SampleStd()
    optimizer = torch.optim.LBFGS(kan.parameters(), max_iter=20, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        prediction, loss = kan.forward_with_penalty(x, penalty)
        total: Tensor = (prediction - y).square().mean() + weight * loss
        total.backward()
        return total

    for _ in range(steps):
        optimizer.step(closure)


@pytest.mark.filterwarnings("ignore:prune")  # of the hidden nodes that go, and of the change that the next training mends
def test_hellokan() -> None:
    start = time.perf_counter()
    x = uniform(500, (-1.0, 1.0), (-1.0, 1.0))
    y = torch.exp(torch.sin(math.pi * x[:, :1]) + x[:, 1:] ** 2)
    kan = KAN([2, 5, 1], kernel="native", dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    train(kan, x, y, 15, weight=2e-3)
    kan = kan.prune(x)
    train(kan, x, y, 10)
    symbolic = kan.symbolic(x, y)
    (formula,) = symbolic.formula(["x", "y"])
    assert str(formula) == "exp(y**2 + sin(pi*x))"
    sine = next(edge for edge in symbolic.edges() if edge.name == "sin")
    assert sine.b == pytest.approx(math.pi, abs=1e-3)
    assert symbolic.comparison is not None
    assert symbolic.comparison.formula_rmse < 1e-9
    assert time.perf_counter() - start < 60
