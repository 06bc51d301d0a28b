"""A workflow from outside, in one file: halving a number until it is small."""

from __future__ import annotations

import time

from benchmarks.workflows import Progress, Task, Workflow, register
from reference.arm import Unsupported


def train(task: Task) -> Progress:
    if task.arm == "mlp[params]":
        raise Unsupported("an MLP halves nothing")
    value = [1.0]
    while True:
        value[0] /= 2 if task.arm == "mlp[width]" else 1
        time.sleep(0.02)
        yield lambda: value[0]


register(
    Workflow(
        name="halving",
        about="halve a number until it is small",
        quantity="the number",
        target=0.1,
        limit_s=0.2,
        arms=("mlp[width]", "gemm_bound", "mlp[params]"),
        layers=(1, 1),
        grid_size=1,
        samples=1,
        dtype="float32",
        train=train,
    )
)
