"""Tutorials: pykan's first one from the first fit to the formula, and each package by its own.

The second is the open division: nothing but the samples and the first widths is shared. pykan follows its first tutorial up to
the formula (KindXiaoming/pykan, `hellokan.ipynb`), this package `docs/examples/tutorial.py`.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch

from benchmarks.papers.experiment import Run
from benchmarks.papers.runs.regression import samples
from benchmarks.papers.runs.scaling import in_pykan
from benchmarks.papers.runs.training import Samples
from benchmarks.workflows.runs import run_of
from benchmarks.workflows.workflow import Progress, Reached, Task
from efficient_kan import KAN, SampleL1, SampleStd
from efficient_kan import train as train_kan
from reference.arm import Unsupported

_UPDATES, _EVERY = 50, 5  # pykan's grid updates: before every fifth step below the fiftieth


def train(task: Task) -> Progress:
    """One item, once the formula is there; before it nothing has an error to compare.

    Told: `function`, `steps`, `strength` of pykan's penalty, intervals of the `finer` grid, names of the `library`.
    """
    run = run_of(task)
    fit, _, test, _ = samples(run)
    if task.arm == "efficient_kan":
        return _ours(run, fit, test)
    if task.arm.startswith("pykan"):
        return _pykan(run, fit, test)
    raise Unsupported(f"{task.arm} has no edges to name")


def train_open(task: Task) -> Progress:
    """One item, the network at the end of the package's own tutorial. Told: `function`, and of pykan's as :func:`train`."""
    run = run_of(task)
    fit, _, test, _ = samples(run)
    if task.arm == "efficient_kan":
        return _our_open(run, fit, test)
    if task.arm.startswith("pykan"):
        return _open_pykan(run, fit, test)
    raise Unsupported(f"{task.arm} has no tutorial that prunes")


def _ours(run: Run, fit: Samples, test: Samples) -> Progress:
    data, steps = (fit.x, fit.y), run.whole("steps")
    updates: dict[str, Any] = {"update_grid_every": _EVERY, "update_grid_until": _UPDATES}
    updates |= {"grid_options": {"fit": "samples"}, "grid_samples": len(fit.x)}
    generator = torch.Generator().manual_seed(run.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what grid updates and pruning changed, and that a formula is worse
        kan = KAN(list(run.layers), run.grid_size, scale_noise=0.3, generator=generator, dtype=torch.float64)
        penalty = {"penalty": SampleStd(), "penalty_weight": run.number("strength")}
        kan = train_kan(kan, data, steps=steps, optimizer="lbfgs", **penalty, **updates).network  # type: ignore[arg-type]
        kan = kan.prune(fit.x).shrink(inputs=False).network
        kan = train_kan(kan, data, steps=steps, optimizer="lbfgs", **updates).network
        kan = kan.refine(run.whole("finer"), fit.x)
        kan = train_kan(kan, data, steps=steps, optimizer="lbfgs", **updates).network
        symbolic = kan.symbolic(fit.x, fit.y, library=run.text("library").split(","))
    yield lambda: Reached(test.error(symbolic))


def _our_open(run: Run, fit: Samples, test: Samples) -> Progress:
    network = _own_tutorial(run, fit)
    yield lambda: Reached(test.error(network), sum(int(layer.edge_mask.sum()) for layer in network.kan_layers))


def _open_pykan(run: Run, fit: Samples, test: Samples) -> Progress:
    with in_pykan():
        model = _fitted_by_pykan(run, fit, test)
    yield lambda: Reached(test.error(model), sum(int(layer.mask.sum()) for layer in model.act_fun))


def _own_tutorial(run: Run, fit: Samples) -> KAN:
    generator = torch.Generator().manual_seed(run.seed)
    kan = KAN(list(run.layers), 5, generator=generator, dtype=torch.float64)
    data = (fit.x, fit.y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # by how much pruning and grid updates changed the outputs
        train_kan(kan, data, steps=40, optimizer="lbfgs", penalty=SampleL1(), penalty_weight=0.01)
        kan = kan.prune(fit.x, threshold=0.03).shrink(inputs=False).network
        return train_kan(
            kan, data, steps=60, optimizer="lbfgs", update_grid_every=5, update_grid_until=20, refine={40: 10}
        ).network


def _pykan(run: Run, fit: Samples, test: Samples) -> Progress:
    with in_pykan():
        model = _fitted_by_pykan(run, fit, test)
        model.auto_symbolic(lib=run.text("library").split(","), verbose=0)
        model.fit(_data(fit, test), update_grid=False, **_options(run))
    yield lambda: Reached(test.error(model))


def _fitted_by_pykan(run: Run, fit: Samples, test: Samples) -> Any:
    from kan import MultKAN

    data, options = _data(fit, test), _options(run)
    model: Any = MultKAN(list(run.layers), grid=run.grid_size, k=3, seed=run.seed).double()
    model(fit.x)
    model.fit(data, lamb=run.number("strength"), **options)
    model = model.prune()
    model.fit(data, **options)
    model = model.refine(run.whole("finer"))
    model.fit(data, **options)
    return model


def _data(fit: Samples, test: Samples) -> dict[str, Any]:
    return {"train_input": fit.x, "train_label": fit.y, "test_input": test.x, "test_label": test.y}


def _options(run: Run) -> dict[str, Any]:
    return {"opt": "LBFGS", "steps": run.whole("steps"), "log": 10**9}
