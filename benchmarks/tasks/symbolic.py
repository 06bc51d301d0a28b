"""Formulas with known structure: some inputs matter, the rest do not, so that sparsity can be judged.

Inputs are uniform on [-1, 1]; targets are standardised to mean 0 and deviation 1 over the training set, so an RMSE of 1 is
what predicting the mean gives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Symbolic:
    """A formula of the first `relevant` of `inputs` variables: (B, inputs) -> (B, 1)."""

    formula: Callable[[Tensor], Tensor]
    text: str
    relevant: int
    inputs: int


def _exp_sin(x: Tensor) -> Tensor:
    return torch.exp(torch.sin(torch.pi * x[:, :1]) + x[:, 1:2] ** 2)


def _product(x: Tensor) -> Tensor:
    return x[:, :1] * x[:, 1:2]


def _sum_of_sines(x: Tensor) -> Tensor:
    return torch.sin(torch.pi * x[:, :3]).sum(1, keepdim=True)


TASKS: dict[str, Symbolic] = {
    "exp_sin": Symbolic(_exp_sin, "exp(sin(pi x0) + x1^2)", relevant=2, inputs=5),
    "product": Symbolic(_product, "x0 x1", relevant=2, inputs=4),
    "sum_of_sines": Symbolic(_sum_of_sines, "sin(pi x0) + sin(pi x1) + sin(pi x2)", relevant=3, inputs=6),
}


@dataclass(frozen=True)
class Split:
    """Training and test sets: x (B, I), y (B, 1)."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


def get_task(name: str) -> Symbolic:
    """Return the task called `name`. Raises ValueError, listing the choices, if there is none."""
    if name not in TASKS:
        raise ValueError(f"task: expected one of {', '.join(TASKS)}, got {name!r}")
    return TASKS[name]


def sample(task: Symbolic, train: int, test: int, generator: torch.Generator, dtype: torch.dtype) -> Split:
    """Draw `train` and `test` samples of `task`."""
    x = 2 * torch.rand(train + test, task.inputs, generator=generator, dtype=torch.float64) - 1
    y = task.formula(x)
    y = ((y - y[:train].mean()) / y[:train].std()).to(dtype)
    x = x.to(dtype)
    return Split(x[:train], y[:train], x[train:], y[train:])
