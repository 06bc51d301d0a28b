"""pykan's first tutorial from the first fit to the formula, by each package's own functions."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from benchmarks.papers.experiment import Run
from benchmarks.papers.runs.regression import samples
from benchmarks.papers.runs.scaling import in_pykan
from benchmarks.papers.runs.training import Samples
from benchmarks.workflows.runs import run_of
from benchmarks.workflows.workflow import Progress, Task
from efficient_kan import KAN, SampleStd
from efficient_kan import train as fit_network
from reference.arm import Unsupported

_UPDATES, _EVERY = 50, 5  # pykan's grid updates: before every fifth step below the fiftieth


def train(task: Task) -> Progress:
    """One item, once the formula is there; before it nothing has an error to compare. Told: `steps`, `strength`, `finer`."""
    run = run_of(task)
    fit, _, test, _ = samples(run)
    if task.arm == "efficient_kan":
        yield from _ours(run, fit, test)
    elif task.arm.startswith("pykan"):
        yield from _pykan(run, fit, test)
    else:
        raise Unsupported(f"{task.arm} has no edges to name")


def _ours(run: Run, fit: Samples, test: Samples) -> Progress:
    data, steps = (fit.x, fit.y), run.whole("steps")
    updates: dict[str, Any] = {"update_grid_every": _EVERY, "update_grid_until": _UPDATES}
    updates |= {"grid_options": {"fit": "samples"}, "grid_samples": len(fit.x)}
    generator = torch.Generator().manual_seed(run.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what grid updates and pruning changed, and that a formula is worse
        kan = KAN(list(run.layers), run.grid_size, scale_noise=0.3, generator=generator, dtype=torch.float64)
        penalty = {"penalty": SampleStd(), "penalty_weight": run.number("strength")}
        kan = fit_network(kan, data, steps=steps, optimizer="lbfgs", **penalty, **updates).network  # type: ignore[arg-type]
        kan = kan.prune(fit.x).shrink(inputs=False).network
        kan = fit_network(kan, data, steps=steps, optimizer="lbfgs", **updates).network
        kan = kan.refine(run.whole("finer"), fit.x)
        kan = fit_network(kan, data, steps=steps, optimizer="lbfgs", **updates).network
        symbolic = kan.symbolic(fit.x, fit.y)
    yield lambda: test.error(symbolic)


def _pykan(run: Run, fit: Samples, test: Samples) -> Progress:
    data = {"train_input": fit.x, "train_label": fit.y, "test_input": test.x, "test_label": test.y}
    options: dict[str, Any] = {"opt": "LBFGS", "steps": run.whole("steps"), "log": 10**9}
    with in_pykan():
        from kan import MultKAN

        model: Any = MultKAN(list(run.layers), grid=run.grid_size, k=3, seed=run.seed).double()
        model(fit.x)
        model.fit(data, lamb=run.number("strength"), **options)
        model = model.prune()
        model.fit(data, **options)
        model = model.refine(run.whole("finer"))
        model.fit(data, **options)
        model.auto_symbolic(verbose=0)
        model.fit(data, update_grid=False, **options)
    yield lambda: test.error(model)
