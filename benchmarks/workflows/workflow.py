"""What a workflow is: something that people run from start to end, until a declared error is reached.

This module imports no torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Value = str | int | float


@dataclass(frozen=True)
class Reached:
    """What training has reached: the error, and how many edges are left where that is a part of the result."""

    error: float
    edges: int | None = None


# What training yields between two steps: how to measure what it has reached. Its time does not count.
Progress = Iterator[Callable[[], Reached]]


@dataclass(frozen=True)
class Task:
    """One arm at one workflow, from one seed."""

    arm: str
    layers: tuple[int, ...]
    grid_size: int
    samples: int
    told: Mapping[str, Value]
    seed: int = 0


@dataclass(frozen=True)
class Workflow:
    """A workflow, declared.

    Args:
        name: in presets and tables.
        about: what is done, from what to what.
        quantity: what the error is.
        target: the error at which the clock stops; None: it runs to its own end.
        limit_s: seconds after which no further step begins.
        arms: who does it.
        layers, grid_size, samples, dtype: of the networks.
        train: `train(task) -> Progress`, or "module:function"; raises `reference.arm.Unsupported` for what an arm cannot do.
            What the call itself does, such as reading data, has no part in time and memory; what the iterator does has.
        told: what else decides the training.
        packages: distributions whose version decides it, beside those of the arm.
    """

    name: str
    about: str
    quantity: str
    target: float | None
    limit_s: float
    arms: tuple[str, ...]
    layers: tuple[int, ...]
    grid_size: int
    samples: int
    dtype: Literal["float32", "float64"]
    train: str | Callable[[Task], Progress]
    told: Mapping[str, Value] = field(default_factory=dict)
    packages: tuple[str, ...] = ()

    def progress(self, task: Task) -> Progress:
        """Prepare to train in this process."""
        if callable(self.train):
            return self.train(task)
        module, _, name = self.train.partition(":")
        found: Any = getattr(importlib.import_module(module), name)(task)
        progress: Progress = found
        return progress


_WORKFLOWS: dict[str, Workflow] = {}


def register(*workflows: Workflow) -> None:
    """Add workflows, from this package or from a plugin. Raises ValueError if a name is taken."""
    for workflow in workflows:
        if workflow.name in _WORKFLOWS:
            raise ValueError(f"workflow: expected a new name, got {workflow.name!r}, which exists")
        _WORKFLOWS[workflow.name] = workflow


def get_workflow(name: str) -> Workflow:
    """Return the workflow called `name`. Raises ValueError, listing the choices, if there is none."""
    if name not in _WORKFLOWS:
        raise ValueError(f"workflow: expected one of {', '.join(_WORKFLOWS)}, got {name!r}")
    return _WORKFLOWS[name]


def find_workflow(name: str) -> Workflow | None:
    """Return the workflow called `name`; None for that of a plugin which is not loaded."""
    return _WORKFLOWS.get(name)


def names() -> tuple[str, ...]:
    """The names of all workflows, in the order of registration."""
    return tuple(_WORKFLOWS)
