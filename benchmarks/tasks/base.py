"""What a task is: a small declared object that draws the same samples for the same seed.

Tasks are numpy alone, so that planning and reporting can read them without torch. A network sees inputs in [-1, 1]; a
regression target has mean 0 and deviation 1 over the training set, a classification target is a class number.
"""

from __future__ import annotations

import importlib.util
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Family = Literal["symbolic", "special", "real"]
Array = NDArray[np.float64]
# A network without its weights: an input is its number, a node is the tuple of what feeds it. `((0, 1),)` is an output fed by
# one hidden node that sees inputs 0 and 1. Nodes of a layer have no order.
Structure = tuple["int | Structure", ...]
# A structure whose every edge names the function on it: a node is the tuple of (function, what feeds it). Names are those of
# `benchmarks.study.formulas`; a function stands for all of its affine changes, inside and outside.
Expression = tuple[tuple[str, "int | Expression"], ...]


class Missing(Exception):
    """A task needs a package that is not installed; the message names it."""


@dataclass(frozen=True)
class Sizes:
    """Numbers of samples for training, for choosing a strength, and for the errors shown."""

    train: int
    validation: int
    test: int

    @property
    def total(self) -> int:
        """All samples."""
        return self.train + self.validation + self.test


@dataclass(frozen=True)
class Part:
    """Samples: `x` (B, I) in [-1, 1]; `y` (B, 1), or (B,) whole numbers where the task is a classification."""

    x: Array
    y: Array | NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """The three parts of a task's samples; no sample is in two of them."""

    train: Part
    validation: Part
    test: Part


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """Common to all tasks. `hidden` are the widths between inputs and outputs of the network that is trained on it."""

    name: str
    family: Family
    text: str
    hidden: tuple[int, ...]
    sizes: Sizes
    seed: int = 0
    classes: int = field(default=0)  # of a classification, else 0

    @property
    @abstractmethod
    def inputs(self) -> int:
        """Number of inputs, irrelevant ones included."""

    @abstractmethod
    def draw(self, seed: int) -> Split:
        """Return the samples of run `seed`: equal for equal seeds, others for others. Raises `Missing`."""

    @property
    def outputs(self) -> int:
        """Number of outputs: one logit a class, or one."""
        return self.classes or 1

    @property
    def layers(self) -> tuple[int, ...]:
        """Widths of the network."""
        return (self.inputs, *self.hidden, self.outputs)

    @property
    def irrelevant_inputs(self) -> tuple[int, ...]:
        """Inputs that the target is known not to depend on."""
        return ()

    @property
    def truth(self) -> Structure | None:
        """The smallest network that computes the target, if it is known."""
        return None

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """The same with the functions on its edges: all that are right, none if they are not known."""
        return ()

    @property
    def most_training(self) -> float:
        """As many training samples as there are beside those of the other parts."""
        return math.inf

    def with_training(self, samples: int) -> Task:
        """The task with another number of training samples; those of the other parts stay as many."""
        return replace(self, sizes=replace(self.sizes, train=samples))

    @property
    def packages(self) -> tuple[str, ...]:
        """Distributions whose version decides the samples, beside numpy and scipy."""
        return ()

    def _generator(self, seed: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, seed])


@dataclass(frozen=True, kw_only=True)
class Formula(Task):
    """A function of variables drawn uniformly from `ranges`, then `irrelevant` inputs that it does not depend on.

    `formula` takes the variables one by one, each (B,), and returns (B,). Inputs of the network are the variables moved to
    [-1, 1] by the ends of their ranges. `feeds` are the expressions of its smallest network, all of one structure;
    a `structure` alone leaves the functions open.
    """

    formula: Callable[..., Array]
    ranges: tuple[tuple[float, float], ...]
    irrelevant: int = 0
    structure: Structure | None = None
    feeds: tuple[Expression, ...] = ()

    @property
    def inputs(self) -> int:
        return len(self.ranges) + self.irrelevant

    @property
    def irrelevant_inputs(self) -> tuple[int, ...]:
        return tuple(range(len(self.ranges), self.inputs))

    @property
    def truth(self) -> Structure | None:
        return bare(self.feeds[0]) if self.feeds else self.structure

    @property
    def expressions(self) -> tuple[Expression, ...]:
        return self.feeds

    def draw(self, seed: int) -> Split:
        x = self._generator(seed).uniform(-1, 1, (self.sizes.total, self.inputs))
        ends = np.array(self.ranges)
        variables = ends[:, 0] + (x[:, : len(ends)] + 1) / 2 * (ends[:, 1] - ends[:, 0])
        return _split(x, _standardised(np.asarray(self.formula(*variables.T)), self.sizes.train), self.sizes)


@dataclass(frozen=True, kw_only=True)
class DataSet(Task):
    """Real samples: `load` returns all x (N, I) and y (N,); `requires` maps modules that it imports to distributions. N is
    `rows` if that is given, else at least those of the three parts.

    A seed draws which samples belong to which part. Inputs are moved to [-1, 1] by the extremes of the training part, and
    what lies beyond in the other parts is cut off.
    """

    load: Callable[[], tuple[Array, Array]]
    features: int
    requires: Mapping[str, str]
    rows: int = 0

    @property
    def most_training(self) -> float:
        return max(self.rows - self.sizes.validation - self.sizes.test, self.sizes.train)

    @property
    def inputs(self) -> int:
        return self.features

    @property
    def packages(self) -> tuple[str, ...]:
        return tuple(self.requires.values())

    def draw(self, seed: int) -> Split:
        for module, package in self.requires.items():
            if importlib.util.find_spec(module) is None:
                raise Missing(f"{self.name} needs {package}, which is not installed")
        x, y = self.load()
        if x.shape[1] != self.features or len(x) < self.sizes.total:
            raise ValueError(f"{self.name}: expected at least ({self.sizes.total}, {self.features}) values, got {x.shape}")
        chosen = self._generator(seed).permutation(len(x))[: self.sizes.total]
        x, y = x[chosen].astype(float), y[chosen]
        low, high = x[: self.sizes.train].min(0), x[: self.sizes.train].max(0)
        x = np.clip(2 * (x - low) / np.where(high > low, high - low, 1.0) - 1, -1, 1)
        x[:, high <= low] = 0.0
        if self.classes:
            return _split(x, y.astype(np.int64), self.sizes)
        return _split(x, _standardised(y.astype(float), self.sizes.train), self.sizes)


def _standardised(y: Array, train: int) -> Array:
    moved: Array = ((y - y[:train].mean()) / y[:train].std())[:, None]
    return moved


def _split(x: Array, y: Array | NDArray[np.int64], sizes: Sizes) -> Split:
    ends = np.cumsum([0, sizes.train, sizes.validation, sizes.test])
    train, validation, test = (Part(x[a:b], y[a:b]) for a, b in pairwise(ends))
    return Split(train, validation, test)


def bare(expression: Expression) -> Structure:
    """The structure of an expression."""
    return tuple(feed if isinstance(feed, int) else bare(feed) for _, feed in expression)


def edges_of(structure: Structure) -> int:
    """Number of edges of a structure."""
    return sum(1 if isinstance(node, int) else 1 + edges_of(node) for node in structure)


def canonical(structure: Structure) -> Structure:
    """The same structure with the feeds of every node in one order, so that equal networks compare equal."""
    feeds: list[int | Structure] = [node if isinstance(node, int) else canonical(node) for node in structure]
    return tuple(sorted(feeds, key=repr))


def structure_of(masks: Sequence[NDArray[np.bool_]]) -> Structure | None:
    """The structure of a network with one output from its edge masks, one (O, I) a layer; None if an edge leads nowhere.

    An edge leads nowhere if its node has no way to the output, or no way from an input.
    """
    nodes: list[int | Structure] = list(range(masks[0].shape[1]))
    for mask in masks:
        nodes = [_fed(nodes, row) for row in mask]
    if len(nodes) != 1 or not isinstance(nodes[0], tuple):
        return None
    found = canonical(nodes[0])
    return found if edges_of(found) == sum(int(mask.sum()) for mask in masks) and _grounded(found) else None


def _fed(nodes: list[int | Structure], row: NDArray[np.bool_]) -> Structure:
    return tuple(node for node, fed in zip(nodes, row, strict=True) if fed)


def _grounded(structure: Structure) -> bool:
    return bool(structure) and all(isinstance(node, int) or _grounded(node) for node in structure)


_TASKS: dict[str, Task] = {}
_OWN: set[str] = set()


def register(*tasks: Task) -> None:
    """Add tasks, from this package or from a plugin. Raises ValueError if a name is taken or a family is not the rule's."""
    for task in tasks:
        if task.family not in get_args(Family):
            raise ValueError(
                f"family: expected one of {', '.join(get_args(Family))}, got {task.family!r} of task {task.name!r}"
            )
        if task.name in _TASKS:
            raise ValueError(f"task: expected a new name, got {task.name!r}, which exists")
        _TASKS[task.name] = task


def register_own(*tasks: Task) -> None:
    """Add the tasks of this package."""
    register(*tasks)
    _OWN.update(task.name for task in tasks)


def added() -> tuple[Task, ...]:
    """The tasks that came from elsewhere than this package."""
    return tuple(task for name, task in _TASKS.items() if name not in _OWN)


def get_task(name: str) -> Task:
    """Return the task called `name`. Raises ValueError, listing the choices, if there is none."""
    if name not in _TASKS:
        raise ValueError(f"task: expected one of {', '.join(_TASKS)}, got {name!r}")
    return _TASKS[name]


def all_tasks() -> Iterator[Task]:
    """Return every registered task, in the order of registration."""
    return iter(_TASKS.values())
