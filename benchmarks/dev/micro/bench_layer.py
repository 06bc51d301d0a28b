"""One layer: inference, forward with its graph, and backward alone, in arms with equal weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.dev.micro.setting import SIZES, Size

ARMS = ("efficient_kan", "cox_de_boor", "pykan[speed]", "gemm_bound")

pytestmark = [pytest.mark.parametrize("size", SIZES, ids=str), pytest.mark.parametrize("arm", ARMS)]


def bench_inference(timed: Any, layer: Any, size: Size, arm: str) -> None:
    """Forward without autograd."""
    built = layer(arm, size)

    def inference() -> None:
        with torch.no_grad():
            built.module(built.data.x)

    timed(inference, "inference", size, built.tensors())


def bench_forward(timed: Any, layer: Any, size: Size, arm: str) -> None:
    """Forward that records the graph, with respect to the inputs too, as in a hidden layer."""
    built = layer(arm, size)
    x = built.data.x.requires_grad_()
    timed(lambda: built.module(x), "forward", size, built.tensors())


def bench_backward(timed: Any, layer: Any, size: Size, arm: str) -> None:
    """Gradients of inputs and parameters alone, from a graph that is kept."""
    built = layer(arm, size)
    x = built.data.x.requires_grad_()
    parameters = [parameter for parameter in built.module.parameters() if parameter.requires_grad]
    y = built.module(x)

    def backward() -> None:
        torch.autograd.grad(y, [x, *parameters], built.data.target, retain_graph=True, allow_unused=True)

    timed(backward, "backward", size, built.tensors())
