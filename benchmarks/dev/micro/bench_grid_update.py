"""Moving the knots of one layer to its samples and fitting its splines there, as pykan does, in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.dev.micro.setting import SIZES, Layer, Size

_TOLERANCE = 1e-4  # of knots in float32


def _ours(layer: Layer) -> tuple[Callable[[], None], Callable[[], Tensor]]:
    module: Any = layer.module
    (kan_layer,) = module.layers
    return lambda: kan_layer.update_grid(layer.data.x, fit="samples"), lambda: kan_layer.grid


def _pykan(layer: Layer) -> tuple[Callable[[], None], Callable[[], Tensor]]:
    module: Any = layer.module
    (kan_layer,) = module.act_fun
    return lambda: kan_layer.update_grid_from_samples(layer.data.x), lambda: kan_layer.grid


_ARMS = {"efficient_kan": _ours, "pykan[speed]": _pykan}


@pytest.mark.filterwarnings("ignore:update_grid:UserWarning")  # by how much pykan's rule changes the function
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("arm", _ARMS)
def bench_grid_update(timed: Any, layer: Any, size: Size, arm: str) -> None:
    """Every call after the first finds the knots where it would put them, which costs the same."""
    built = layer(arm, size)
    update, knots = _ARMS[arm](built)
    before = knots().clone()
    timed(update, "grid update", size, built.tensors())
    # The rule that both follow ends the grid at the outermost samples.
    ordered = built.data.x.sort(dim=0).values
    inner = knots()[:, size.k : -size.k]
    torch.testing.assert_close(inner[:, [0, -1]], ordered[[0, -1]].T, rtol=0, atol=_TOLERANCE)
    assert not torch.equal(before, knots()), "the knots did not move"
