"""Training stacked networks: Adam on full batches, every network with its own strength of the penalty."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from benchmarks.study.penalties import parse
from benchmarks.study.stacked import Moments, Stack, error

LEARNING_RATE = 2e-2


def learning_rate(step: int, steps: int) -> float:
    """The learning rate of step `step` of `steps`: from `LEARNING_RATE` to zero along half a cosine.

    It ends at zero because the sign of an L1 term keeps weights moving by a learning rate around zero for ever.
    """
    return LEARNING_RATE * (1 + math.cos(math.pi * step / steps)) / 2


def penalty_of(norms: list[Tensor], entropy: float, *, by_rows: bool) -> Tensor:
    """L1 plus `entropy` times the entropy of the edge norms `(S, N, O, I)` of all layers: `(S, N)`.

    `by_rows` takes pykan 0.2.8's entropies of rows and columns instead of that of the KAN paper.
    """
    total = norms[0].new_zeros(norms[0].shape[:2])
    for n in norms:
        sums = n.sum((-2, -1))
        total = total + sums
        if entropy and by_rows:
            rows, columns = n / (n.sum(-1, keepdim=True) + 1), n / (n.sum(-2, keepdim=True) + 1)
            by_row = -(rows * torch.log2(rows + 1e-4)).sum(-1).mean(-1)
            by_column = -(columns * torch.log2(columns + 1e-4)).sum(-2).mean(-1)
            total = total + entropy * (by_row + by_column)
        elif entropy:
            shares = n / torch.where(sums > 0, sums, 1.0)[..., None, None]
            logs = torch.where(shares > 0, shares, 1.0).log()
            total = total - entropy * (shares * logs).sum((-2, -1))
    return total


def train(
    stack: Stack,
    features: Tensor,
    moments: Moments,
    targets: Tensor,
    *,
    steps: int,
    penalty: str = "none",
    strengths: Tensor | None = None,
    checkpoints: Mapping[int, Callable[[], None]] | None = None,
) -> None:
    """Train all networks of `stack` in place for `steps` steps.

    The loss of a network is its `error` plus its entry of `strengths` `(S, N)` times the penalty. A network that diverges
    takes NaN and leaves the others alone. Functions in `checkpoints` are called before the step of their number, or after
    the last one.
    """
    norm, entropy = parse(penalty)
    parameters = stack.parameters()
    for parameter in parameters:
        parameter.requires_grad_()
    optimiser = torch.optim.Adam(parameters, lr=LEARNING_RATE, fused=True)
    watch = checkpoints or {}
    for step in range(steps):
        if step in watch:
            watch[step]()
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps)
        optimiser.zero_grad(set_to_none=True)
        if norm is None:
            loss = error(stack.forward(features), targets)
        else:
            assert strengths is not None
            outputs, norms = stack.forward_with_norms(features, norm, moments)
            loss = error(outputs, targets) + strengths * penalty_of(norms, entropy, by_rows=norm == "sample_std")
        loss.sum().backward()
        optimiser.step()
    for parameter in parameters:
        parameter.requires_grad_(False)
    if steps in watch:
        watch[steps]()
