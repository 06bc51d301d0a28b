"""Training stacked networks with Adam, each with its own strength of the penalty, and refitting them to convergence."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.study.moments import Moments
from benchmarks.study.penalties import parse
from benchmarks.study.stacked import Stack, error

LEARNING_RATE = 2e-2


def learning_rate(step: int, steps: int, start: float = LEARNING_RATE) -> float:
    """The learning rate of step `step` of `steps`: from `start` to zero along half a cosine.

    It ends at zero because the sign of an L1 term keeps weights moving by a learning rate around zero for ever.
    """
    return start * (1 + math.cos(math.pi * step / steps)) / 2


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


@dataclass(frozen=True)
class Samples:
    """What networks are trained on: `x` `(S, I, B)`, its first-layer `features` with their `moments`, and `targets`."""

    x: Tensor
    features: Tensor
    moments: Moments
    targets: Tensor

    @classmethod
    def of(cls, stack: Stack, x: Tensor, targets: Tensor) -> Samples:
        """The samples as the networks of `stack` see them."""
        features = stack.features(x)
        return cls(x, features, Moments(x, features), targets)

    def drawn(self, size: int, generator: torch.Generator) -> Samples:
        """`size` of them, the same places for every seed."""
        places = torch.randperm(self.x.shape[-1], generator=generator)[:size].to(self.x.device)
        x, features = self.x[..., places], self.features[..., places]
        return Samples(x, features, Moments(x, features), self.targets[..., places])


def train(
    stack: Stack,
    samples: Samples,
    *,
    steps: int,
    penalty: str = "none",
    strengths: Tensor | None = None,
    start: float = LEARNING_RATE,
    minibatch: int = 0,
    checkpoints: Mapping[int, Callable[[], None]] | None = None,
) -> None:
    """Train all networks of `stack` in place for `steps` steps, on all samples or on `minibatch` others each time.

    The loss of a network is its `error` plus its entry of `strengths` `(S, N)` times the penalty. A network that diverges
    takes NaN and leaves the others alone. Functions in `checkpoints` are called before the step of their number, or after
    the last one. Minibatches are those of a fixed seed, so that all penalties see the same.
    """
    norm, entropy = parse(penalty)
    parameters = stack.parameters()
    for parameter in parameters:
        parameter.requires_grad_()
    optimiser = torch.optim.Adam(parameters, lr=start, fused=parameters[0].device.type in ("cpu", "cuda"))
    watch = checkpoints or {}
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        if step in watch:
            watch[step]()
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps, start)
        now = samples.drawn(minibatch, generator) if minibatch else samples
        optimiser.zero_grad(set_to_none=True)
        if norm is None:
            loss = error(stack.forward(now.features), now.targets)
        else:
            assert strengths is not None
            outputs, norms = stack.forward_with_norms(now.features, norm, now.moments)
            loss = error(outputs, now.targets) + strengths * penalty_of(norms, entropy, by_rows=norm == "sample_std")
        loss.sum().backward()
        optimiser.step()
    for parameter in parameters:
        parameter.requires_grad_(False)
    if steps in watch:
        watch[steps]()


@dataclass(frozen=True)
class Refit:
    """Refitted networks: after the first round alone, and after all; the `rounds` each took and whether it `converged`."""

    short: Stack
    full: Stack
    rounds: Tensor  # shape: (S, N), int
    converged: Tensor  # shape: (S, N), bool


def refit(
    stack: Stack, samples: Samples, *, steps: int, rounds: int, tolerance: float, judge: Callable[[Stack], Tensor]
) -> Refit:
    """Train without a penalty until a round, each twice as long as the last, gains less than `tolerance` of the training error.

    At most `rounds` rounds, the first of `steps` steps; of every network the weights of the round with the lowest error by
    `judge`, `(S, N)` of a stack, are kept: small sets are overfitted long before the training error stays. A network's result
    depends on no other network of the stack. `stack` is changed.
    """
    every = torch.arange(stack.counts[1], device=stack.layers[0].edge_mask.device)
    train(stack, samples, steps=steps)
    short, best = stack.select(every), stack.select(every)
    last, lowest = _error(stack, samples), judge(stack)
    used = torch.ones_like(last, dtype=torch.int64)
    converged = torch.zeros_like(last, dtype=torch.bool)
    ended = ~last.isfinite() if steps else torch.ones_like(converged)
    for number in range(1, rounds):
        places = every[~ended.all(0)]
        if not len(places):
            break
        some = stack.select(places)
        train(some, samples, steps=steps * 2**number)
        found, going = _error(some, samples), ~ended[:, places]
        stack.put(places, some, going)
        judged = judge(some)
        better = going & (judged < lowest[:, places])
        best.put(places, some, better)
        still = going & (found >= (1 - tolerance) * last[:, places])
        used[:, places] += going
        last[:, places] = torch.where(going, found, last[:, places])
        lowest[:, places] = torch.where(better, judged, lowest[:, places])
        converged[:, places] |= still
        ended[:, places] |= still | ~found.isfinite()
    return Refit(short, best, used, converged)


def _error(stack: Stack, samples: Samples) -> Tensor:
    """What `tolerance` is about: the root of a mean squared error, or a mean log-loss."""
    with torch.no_grad():
        found = error(stack.forward(samples.features), samples.targets).double()
    return found.sqrt() if samples.targets.is_floating_point() else found
