"""Whether the edges of a network that was pruned to the true structure are fitted best by the true functions.

Two fitters, on the same values of the same edges: pykan 0.2.8's `fit_params` with the weights of its `suggest_symbolic`, and
this package's `KAN.symbolic` where it has one. Both choose among `LIBRARY`.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.study.stacked import Stack, edge_values
from benchmarks.tasks import Expression, Task
from efficient_kan import KAN

LIBRARY = ("x", "x^2", "x^3", "x^4", "1/x", "sqrt", "log", "exp", "sin", "tanh", "abs", "gaussian")
_POINTS = 60  # of an edge that are fitted, evenly among its sorted samples
_SIMPLE = 0.8  # pykan's weight of the complexity, the rest is that of log2(1 - r^2)

Names = list[list[list[str]]]  # of each layer, output and input; "" where there is no edge


def fitters() -> tuple[str, ...]:
    """Which fitters there are."""
    return (*("pykan",) * (importlib.util.find_spec("kan") is not None), *("efficient_kan",) * hasattr(KAN, "symbolic"))


def found(task: Task, stack: Stack, features: Tensor, x: Tensor, s: int) -> dict[str, bool]:
    """Whether each fitter finds the task's formula in the only network of seed `s` of `stack`.

    `features` `(S, I, M, B)` are the first layer's at the samples `x` `(S, I, B)`.
    """
    masks = [layer.edge_mask[s, 0].bool().cpu() for layer in stack.layers]
    right = {ordered(one) for one in task.expressions}
    answers = {}
    for name in fitters():
        names = (
            _by_us(stack.network(s, 0), x[s].T) if name == "efficient_kan" else _by_pykan(masks, _edges(stack, features, x, s))
        )
        expression = spelled(masks, names)
        answers[name] = expression is not None and ordered(expression) in right
    return answers


def spelled(masks: Sequence[Tensor], names: Names) -> Expression | None:
    """The expression of a network with one output from its edge masks `(O, I)` and names; None without an edge into it."""
    nodes: list[int | Expression] = list(range(masks[0].shape[1]))
    for mask, named in zip(masks, names, strict=True):
        nodes = [tuple((named[o][i], nodes[i]) for i in range(mask.shape[1]) if mask[o, i]) for o in range(mask.shape[0])]
    (output,) = nodes
    return output if isinstance(output, tuple) and output else None


def ordered(expression: Expression) -> Expression:
    """The same expression with the feeds of every node in one order, so that equal ones compare equal."""
    feeds = [(name, feed if isinstance(feed, int) else ordered(feed)) for name, feed in expression]
    return tuple(sorted(feeds, key=repr))


def best(x: Tensor, y: Tensor) -> str:
    """The function of `LIBRARY` that pykan suggests for the samples `(B,)` of an edge."""
    utils: Any = importlib.import_module("kan.utils")
    scores = {}
    for name in LIBRARY:
        function, _, complexity, _ = utils.SYMBOLIC_LIB[name]
        r2 = float(utils.fit_params(x, y, function, verbose=False)[1])
        scores[name] = _SIMPLE * complexity + (1 - _SIMPLE) * math.log2(max(1 + 1e-5 - r2, 1e-6))
    return min(scores, key=lambda name: scores[name])


def _edges(stack: Stack, features: Tensor, x: Tensor, s: int) -> list[tuple[Tensor, Tensor]]:
    """Of each layer the inputs `(I, B)` of the network of seed `s`, and what its edges make of them `(I, O, B)`."""
    inputs = x.unsqueeze(1)
    made = []
    with torch.no_grad():
        for n, layer in enumerate(stack.layers):
            edges = edge_values(layer, features, first=n == 0)
            made.append((inputs[s, 0], edges[s, 0]))
            inputs = edges.sum(-3)
            if n + 1 < len(stack.layers):
                features = stack.grids[n + 1].expand(inputs)
    return made


def _by_pykan(masks: Sequence[Tensor], values: Sequence[tuple[Tensor, Tensor]]) -> Names:
    names: Names = []
    for mask, (x, y) in zip(masks, values, strict=True):
        names.append([["" for _ in range(mask.shape[1])] for _ in range(mask.shape[0])])
        for o, i in mask.nonzero().tolist():
            places = x[i].argsort()[torch.linspace(0, x.shape[-1] - 1, _POINTS, device=x.device).long()]
            names[-1][o][i] = best(x[i][places].cpu(), y[i, o][places].cpu())
    return names


def _by_us(kan: Any, x: Tensor) -> Names:
    symbolic = kan.symbolic(x, library=LIBRARY)
    return [[list(row) for row in layer.names] for layer in symbolic.layers]
