"""From data to the formula ``exp(sin(pi x) + y^2)``, over seeds, next to pykan's ``auto_symbolic`` on the same networks.

    python -m benchmarks.dev.hellokan --seeds 20 --pykan

Each seed draws data and initial weights, trains a [2, 5, 1] network with a penalty, prunes it and trains it again. A formula
counts as found if its largest error at the samples is below 1e-3, after a refit of its numbers in both packages. pykan chooses
among the ten functions of its first tutorial, which is several times as fast as among all of its own; this package among all.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import statistics
import sys
import time
import warnings

import torch
from torch import Tensor

from efficient_kan import KAN, SampleStd
from reference import tutorial


def data(seed: int, samples: int) -> tuple[Tensor, Tensor]:
    """Samples and targets."""
    x = 2 * torch.rand(samples, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1
    return x, torch.exp(torch.sin(math.pi * x[:, :1]) + x[:, 1:] ** 2)


def train(kan: KAN, x: Tensor, y: Tensor, steps: int, weight: float = 0.0) -> None:
    """LBFGS with pykan's penalty."""
    optimizer = torch.optim.LBFGS(kan.parameters(), max_iter=20, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        prediction, penalty = kan.forward_with_penalty(x, SampleStd())
        loss: Tensor = (prediction - y).square().mean() + weight * penalty
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)


def trained(seed: int, samples: int) -> tuple[KAN, Tensor, Tensor]:
    """A pruned network and its data."""
    x, y = data(seed, samples)
    kan = KAN([2, 5, 1], dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    train(kan, x, y, 20, weight=2e-3)
    kan = kan.prune(x)
    train(kan, x, y, 20)
    return kan, x, y


def by_pykan(kan: KAN, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Seconds of ``auto_symbolic`` and the largest error of its formula after pykan's refit."""
    model = kan.to_pykan()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        model(x)
        start = time.perf_counter()
        model.auto_symbolic(lib=list(tutorial.FUNCTIONS), verbose=0)
        seconds = time.perf_counter() - start
        dataset = {"train_input": x, "train_label": y, "test_input": x, "test_label": y}
        model.fit(dataset, opt="LBFGS", steps=20, update_grid=False)
    return seconds, float((model(x) - y).detach().abs().max())


def by_this_package(kan: KAN, x: Tensor, y: Tensor) -> tuple[float, float, str]:
    """Seconds of ``symbolic`` with its refit, the largest error and the formula."""
    start = time.perf_counter()
    symbolic = kan.symbolic(x, y)
    seconds = time.perf_counter() - start
    error = float((symbolic(x) - y).detach().abs().max())
    return seconds, error, str(symbolic.formula(["x", "y"], digits=4)[0])


def main() -> None:
    """Print a line for each seed and the rates."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--pykan", action="store_true", help="compare with pykan, which takes minutes for each seed")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of pruning, and of formulas that are worse than their networks: errors are printed
    found, times, theirs, ratios = [], [], [], []
    for seed in range(options.first, options.first + options.seeds):
        kan, x, y = trained(seed, options.samples)
        seconds, error, formula = by_this_package(kan, x, y)
        found.append(error < 1e-3)
        times.append(seconds)
        line = f"seed {seed}: {seconds:.2f} s, error {error:.1e}, {formula if len(formula) < 100 else formula[:100] + ' ...'}"
        if options.pykan:
            other, error = by_pykan(kan, x, y)
            theirs.append(error < 1e-3)
            ratios.append(other / seconds)
            line += f" | pykan {other:.1f} s, error {error:.1e}"
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    sys.stdout.write(f"found {sum(found)} of {len(found)}, median {statistics.median(times):.2f} s\n")
    if theirs:
        sys.stdout.write(f"pykan found {sum(theirs)} of {len(theirs)}, median time ratio {statistics.median(ratios):.0f}\n")


if __name__ == "__main__":
    main()
