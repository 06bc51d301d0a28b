"""An arm that a test can hold up, or that asks for more memory than its job has, by the width of its network (a plugin)."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reference import ours
from reference.arm import Arm, register

HELD, GREEDY = (2, 3), 5  # widths; the greedy one is the largest, for a failure rules out what is larger
BYTES = 2**33


def build(source: Any) -> nn.Module:
    network = ours.build(source)
    width = max(parameter.shape[0] for parameter in network.parameters())
    while width in HELD and Path(os.environ["TESTS_HOLD"]).exists():
        time.sleep(0.2)
    if width == GREEDY:
        torch.ones(BYTES // 4)
    return network


register(Arm(name="troubled", division="different_maths", summary="planted", builder=build, gradients=None, sources=()))
