"""Optimizers by name, and rates by step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from efficient_kan import _checks

Build = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
# As in `MultKAN.fit` of pykan 0.2.8: a step ends after 20 iterations, whatever they gain.
_LBFGS: dict[str, Any] = {
    "history_size": 10,
    "line_search_fn": "strong_wolfe",
    "tolerance_grad": 1e-32,
    "tolerance_change": 1e-32,
}


def builder(optimizer: Any) -> tuple[Build, float | None]:
    """How to make an optimizer, and its learning rate if none is given (None: its own).

    Raises:
        ValueError: if the name is not known.
    """
    if optimizer == "adam":
        return _adam, 1e-2
    if optimizer == "lbfgs":
        return lambda parameters: torch.optim.LBFGS(parameters, **_LBFGS), 1.0
    usable = callable(optimizer) and not isinstance(optimizer, torch.optim.Optimizer)
    expected = "'adam', 'lbfgs' or a function from parameters to an optimizer, such as torch.optim.AdamW"
    _checks.require(usable, "optimizer", expected, optimizer)
    return optimizer, None


def _adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """In one operation where torch has it: a step of a small network is the time of calls.

    That operation walks through memory, so parameters, gradients and moments must lie there in the same order, without gaps.
    """
    parameters = list(parameters)
    fused = all(p.device.type in ("cpu", "cuda") and torch.empty_like(p).stride() == p.stride() for p in parameters)
    return torch.optim.Adam(parameters, fused=fused)


def trainable(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that an optimizer gets. Raises ValueError if there is none."""
    found = [parameter for parameter in network.parameters() if parameter.requires_grad]
    _checks.require(bool(found), "kan", "a network with parameters that require a gradient", type(network))
    return found


def by_step(value: float | Callable[[int], float] | None, name: str) -> Callable[[int], float] | None:
    """A number >= 0, or a function of the step that gives one, as a function of the step; None stays."""
    if value is None:
        return None
    if callable(value):
        return lambda step: _checks.number(_plain(value(step)), f"{name} of step {step}", 0.0)
    number = _checks.number(value, name, 0.0)
    return lambda step: number


def _plain(value: Any) -> Any:
    """The number in a tensor of no dimension; anything else as it is."""
    return value.item() if isinstance(value, Tensor) and value.dim() == 0 else value
