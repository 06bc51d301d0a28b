"""What a paper's experiment is: networks to train, and a rule from what they gave to a status.

This module imports no torch: planning and reporting read experiments, and only the process that trains a network pays for it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Effort = Literal["tiny", "reduced", "full"]
Status = Literal["reproduced", "ordering only", "not", "not measured"]
EFFORTS: tuple[Effort, ...] = get_args(Effort)
Value = str | int | float


@dataclass(frozen=True)
class Run:
    """One network to train, a case for each seed.

    `row` is that of the paper's table and `model` what is trained on it, as readers know both; `told` is whatever else decides
    the training. `layers` are the widths of a KAN's nodes or an MLP's neurons.
    """

    row: str
    model: str
    arm: str
    layers: tuple[int, ...]
    samples: int
    grid_size: int = 3
    told: Mapping[str, Value] = field(default_factory=dict)
    seed: int = 0

    def text(self, name: str) -> str:
        """What is told under `name`, a text."""
        return str(self.told[name])

    def number(self, name: str) -> float:
        """What is told under `name`, a number."""
        return float(self.told[name])

    def whole(self, name: str) -> int:
        """What is told under `name`, a whole number."""
        return int(self.told[name])

    def numbers(self, name: str) -> tuple[int, ...]:
        """What is told under `name`, whole numbers separated by commas."""
        return tuple(int(one) for one in self.text(name).split(","))


@dataclass(frozen=True)
class Result:
    """What came of a run: `part` is None unless it ended well; a `lost` one never began, since its job was lost."""

    run: Run
    status: str
    part: Mapping[str, Any] | None
    case_key: str = ""
    lost: bool = False


@dataclass(frozen=True)
class Line:
    """One line of the report: the paper's figure, ours, and the status with its reason.

    `values` are the numbers behind the texts, for the CSV.
    """

    row: str
    quantity: str
    paper: str
    ours: str
    status: Status
    because: str
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """A paper's experiment, declared.

    Args:
        name: in presets and tables.
        paper, place: where it stands: the paper, and the equation, table or figure.
        about: what the paper reports.
        method: how it is measured here, and where that differs from the paper.
        rule: the rule of the statuses in words; `judge` computes it.
        seeds: of every run, by effort.
        runs: the networks to train with that effort.
        train: `train(run) -> part`, or "module:function"; raises `reference.arm.Unsupported` for what cannot be trained.
        judge: the lines of the report from the results of one effort.
        seconds: predicted time of a run on one idle core.
        timed: whether its lines compare times, so that one machine is to train all its networks.
        packages: distributions whose version decides it, beside scipy and those of the arms.
    """

    name: str
    paper: str
    place: str
    about: str
    method: str
    rule: str
    seeds: Mapping[Effort, int]
    runs: Callable[[Effort], Iterable[Run]]
    train: str | Callable[[Run], Mapping[str, Any]]
    judge: Callable[[Sequence[Result]], Iterable[Line]]
    seconds: Callable[[Run], float] = lambda run: 10.0
    timed: bool = False
    packages: tuple[str, ...] = ()

    def trained(self, run: Run) -> Mapping[str, Any]:
        """Train `run` in this process."""
        if callable(self.train):
            return self.train(run)
        module, _, name = self.train.partition(":")
        found: Mapping[str, Any] = getattr(importlib.import_module(module), name)(run)
        return found


_EXPERIMENTS: dict[str, Experiment] = {}


def register(*experiments: Experiment) -> None:
    """Add experiments, from this package or from a plugin. Raises ValueError if a name is taken or an effort has no seeds."""
    for experiment in experiments:
        if experiment.name in _EXPERIMENTS:
            raise ValueError(f"experiment: expected a new name, got {experiment.name!r}, which exists")
        if missing := [effort for effort in EFFORTS if experiment.seeds.get(effort, 0) < 1]:
            raise ValueError(f"experiment: expected at least 1 seed for effort {missing[0]!r}, got none in {experiment.name!r}")
        _EXPERIMENTS[experiment.name] = experiment


def get_experiment(name: str) -> Experiment:
    """Return the experiment called `name`. Raises ValueError, listing the choices, if there is none."""
    if name not in _EXPERIMENTS:
        raise ValueError(f"experiment: expected one of {', '.join(_EXPERIMENTS)}, got {name!r}")
    return _EXPERIMENTS[name]


def find_experiment(name: str) -> Experiment | None:
    """Return the experiment called `name`; None for that of a plugin which is not loaded."""
    return _EXPERIMENTS.get(name)


def names() -> tuple[str, ...]:
    """The names of all experiments, in the order of registration."""
    return tuple(_EXPERIMENTS)
