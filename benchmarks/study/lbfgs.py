"""Training as pykan 0.2.8's `fit` does: its L-BFGS, and its ten grid updates in the first fifty steps; network by network.

The networks are the package's. A step is one call of the optimiser, of up to 20 iterations with a strong Wolfe line search.
"""

from __future__ import annotations

import copy
import importlib
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.study import penalties
from benchmarks.study.stacked import Stack
from efficient_kan import KAN, SampleL1, SampleStd, WeightL1
from reference.arm import Unsupported

_EVERY, _STOP = 5, 50  # steps between two grid updates, and from which there is none: pykan's defaults


def trained(kans: Sequence[KAN], x: Tensor, targets: Tensor, penalty: str, strengths: Sequence[float], steps: int) -> Stack:
    """Train from the network of each seed with every strength; the stack has one row for each, seeds first.

    `x` `(S, I, B)` and `targets` `(S, O, B)`, or `(S, B)` whole numbers. Raises `Unsupported` without pykan, or for a
    penalty that the package does not have.
    """
    try:
        optimiser_class: Any = importlib.import_module("kan.LBFGS").LBFGS
    except ImportError:
        raise Unsupported("L-BFGS is pykan's, which is not installed") from None
    chosen = package_penalty(penalty)
    rows = []
    for s, kan in enumerate(kans):
        inputs = x[s].T.contiguous()
        expected = targets[s].T.contiguous() if targets.is_floating_point() else targets[s]
        rows += [[_trained(kan, inputs, expected, chosen, strength, steps, optimiser_class)] for strength in strengths]
    return Stack.of(rows)


def package_penalty(penalty: str) -> SampleL1 | SampleStd | WeightL1 | None:
    """The package's penalty of that name, None for "none". Raises `Unsupported` for one from outside."""
    norm, entropy = penalties.parse(penalty)
    if norm is None:
        return None
    if norm == "sample_l1":
        return SampleL1(entropy=entropy)
    if norm == "sample_std":
        return SampleStd(entropy=entropy)
    if norm in penalties.NORMS:
        return WeightL1(entropy=entropy, fold_scale=norm == "folded_l1", count_base=norm == "folded_l1")
    raise Unsupported(f"L-BFGS trains with the package's penalties, not with {penalty}")


def _trained(kan: KAN, x: Tensor, y: Tensor, penalty: Any, strength: float, steps: int, optimiser_class: Any) -> KAN:
    kan = copy.deepcopy(kan)
    optimiser = optimiser_class(
        kan.parameters(), lr=1, history_size=10, line_search_fn="strong_wolfe",
        tolerance_grad=1e-32, tolerance_change=1e-32, tolerance_ys=1e-32,
    )  # fmt: skip
    loss_of = nn.functional.mse_loss if y.is_floating_point() else nn.functional.cross_entropy

    def closure() -> Tensor:
        optimiser.zero_grad()
        if penalty is None:
            loss = loss_of(kan(x), y)
        else:
            outputs, value = kan.forward_with_penalty(x, penalty)
            loss = loss_of(outputs, y) + strength * value
        loss.backward()
        return loss

    with torch.random.fork_rng(devices=[]):  # pykan's optimiser seeds torch at every step
        for step in range(steps):
            if step % _EVERY == 0 and step < _STOP:
                _follow(kan, x)
            optimiser.step(closure)
    return kan


def _follow(kan: KAN, x: Tensor) -> None:
    """Update the grids as pykan does; one of a network that has diverged stays."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # how much the function changed: it is still being trained
        if kan(x).isfinite().all():
            kan.update_grid(x, fit="samples")
