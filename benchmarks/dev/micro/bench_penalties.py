"""Forward with a penalty and the gradients of both together; `none` is the plain layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.dev.micro.setting import SIZES, Size
from benchmarks.schema.cases import Penalty

ARMS = ("efficient_kan", "cox_de_boor", "pykan[speed]")
PENALTIES = ("none", "weight_l1", "sample_l1", "sample_std")


@pytest.mark.parametrize("size", SIZES[:2], ids=str)
@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("penalty", PENALTIES)
def bench_penalty(timed: Any, layer: Any, size: Size, arm: str, penalty: Penalty) -> None:
    """Outputs, penalty, and the gradients of the parameters."""
    built = layer(arm, size, penalty)
    x, target = built.data.x, built.data.target
    parameters = [parameter for parameter in built.module.parameters() if parameter.requires_grad]

    def forward_backward() -> None:
        if penalty == "none":
            loss = (built.module(x) * target).sum()
        else:
            y, value = built.arm.penalised_forward(built.module, x, penalty)
            loss = (y * target).sum() + value
        torch.autograd.grad(loss, parameters, allow_unused=True)

    timed(forward_backward, "penalty", size, built.tensors())
