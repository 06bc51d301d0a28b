"""A workflow from outside, in one file: halving a number until it is small."""

from __future__ import annotations

import time

from benchmarks.workflows import Progress, Reached, Task, Workflow, register
from reference.arm import Unsupported


def train(task: Task) -> Progress:
    if task.arm == "mlp[params]":
        raise Unsupported("an MLP halves nothing")
    value = [1.0]
    while True:
        value[0] /= 2 if task.arm == "mlp[width]" else 1
        time.sleep(0.02)
        yield lambda: Reached(value[0])


def to_its_end(task: Task) -> Progress:
    yield from (lambda error=error, edges=edges: Reached(error, edges) for error, edges in ((0.5, 9), (0.25, 3)))


register(
    Workflow(
        name="halving",
        about="halve a number until it is small",
        quantity="the number",
        target=0.1,
        limit_s=1.0,
        arms=("mlp[width]", "gemm_bound", "mlp[params]"),
        layers=(1, 1),
        grid_size=1,
        samples=1,
        dtype="float32",
        train=train,
    ),
    Workflow(
        name="pruning",
        about="prune to the end",
        quantity="what is left",
        target=None,
        limit_s=60,
        arms=("mlp[width]",),
        layers=(1, 1),
        grid_size=1,
        samples=1,
        dtype="float32",
        train=to_its_end,
    ),
)
