"""A physics-informed network for the Poisson equation with the solution u = sin(pi x) sin(pi y^2) on [-1, 1]^2."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.papers.experiment import Run
from benchmarks.papers.runs import training
from benchmarks.papers.runs.training import DTYPE, Clock, Samples
from efficient_kan.training.optimizers import builder, trainable

_MESH = 51


def solution(x: Tensor) -> Tensor:
    """`(B, 2) -> (B, 1)`."""
    return torch.sin(math.pi * x[:, :1]) * torch.sin(math.pi * x[:, 1:] ** 2)


def source(x: Tensor) -> Tensor:
    """The Laplacian of the solution, `(B, 2) -> (B, 1)`."""
    y = x[:, 1:]
    sine, angle = torch.sin(math.pi * x[:, :1]), math.pi * y**2
    along_y = 2 * math.pi * torch.cos(angle) - 4 * math.pi**2 * y**2 * torch.sin(angle)
    return sine * along_y - math.pi**2 * sine * torch.sin(angle)


def laplacian(module: nn.Module, x: Tensor) -> Tensor:
    """That of a network's outputs at `x` `(B, 2)`, `(B, 1)`, differentiable."""
    x = x.detach().requires_grad_(True)
    (slopes,) = torch.autograd.grad(module(x).sum(), x, create_graph=True)
    second = [torch.autograd.grad(slopes[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(x.shape[1])]
    return torch.stack(second).sum(0).unsqueeze(1)


def points(inside: int, boundary: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random points of the square, and points evenly along its boundary."""
    generator = torch.Generator().manual_seed(seed)
    interior = 2 * torch.rand(inside, 2, generator=generator, dtype=DTYPE) - 1
    along = torch.linspace(-1, 1, boundary // 4, dtype=DTYPE)
    sides = [torch.stack(pair, 1) for end in (-1.0, 1.0) for pair in _sides(along, end)]
    return interior, torch.cat(sides)


def _sides(along: Tensor, end: float) -> list[tuple[Tensor, Tensor]]:
    fixed = torch.full_like(along, end)
    return [(along, fixed), (fixed, along)]


def mesh() -> Samples:
    """The points at which errors are taken."""
    along = torch.linspace(-1, 1, _MESH, dtype=DTYPE)
    x = torch.cartesian_prod(along, along)
    return Samples(x, solution(x))


def loss_of(module: nn.Module, run: Run) -> Callable[[], Tensor]:
    """The loss of a network as a function without arguments: `alpha` times the residual's mean square, and the boundary's."""
    interior, boundary = points(run.samples, run.whole("boundary"), run.seed)
    wanted, there, alpha = source(interior), solution(boundary), run.number("alpha")

    def loss() -> Tensor:
        residual = laplacian(module, interior) - wanted
        total: Tensor = alpha * residual.square().mean() + (module(boundary) - there).square().mean()
        return total

    return loss


def train(run: Run) -> dict[str, Any]:
    """Solve the equation with L-BFGS.

    Told: `boundary` points beside `run.samples` inside, `steps`, `alpha` (weight of the residual) and `limit_s`, after which no
    further step begins. `error` is the mean squared error on the mesh, `curve` that after each step with the seconds so far.
    """
    test, module = mesh(), training.network(run.arm, run.layers, run.grid_size, run.seed)
    loss_of_run, build = loss_of(module, run), builder("lbfgs")[0]
    parameters, clock = trainable(module), Clock()
    optimizer = build(parameters)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of_run()
        loss.backward()
        for parameter in parameters:  # LBFGS refuses others
            if parameter.grad is not None and not parameter.grad.is_contiguous():
                parameter.grad = parameter.grad.contiguous()
        return loss

    curve: list[tuple[float, float]] = []
    for _ in range(run.whole("steps")):
        with torch.random.fork_rng(devices=[]):
            optimizer.step(closure)  # type: ignore[arg-type]
        seconds = clock.seconds
        error = clock.aside(lambda: test.error(module) ** 2)
        curve.append((seconds, error))
        if seconds > run.number("limit_s") or not math.isfinite(error):
            break
    return {
        "error": curve[-1][1],
        "seconds": curve[-1][0],
        "steps": len(curve),
        "curve": curve,
        "parameters": training.parameters(module),
    }
