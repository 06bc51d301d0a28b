"""Sparsify, prune, refit, and name the edges, by this package or by pykan."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch

from benchmarks.papers.experiment import Run
from benchmarks.papers.runs import training
from benchmarks.papers.runs.regression import samples
from benchmarks.papers.runs.scaling import in_pykan
from benchmarks.papers.runs.training import Clock, Samples
from efficient_kan import KAN, SampleL1
from efficient_kan import train as fit_network

_UPDATES = 20  # steps with a grid update before them, at most
_PYKAN_STEPS = 20  # of the refit of pykan's formula


def train(run: Run) -> dict[str, Any]:
    """Return the pruned network's shape and error, and the formula's; errors are over the targets' deviation.

    Told: `steps` with the penalty `strength` * (L1 + `entropy` * entropy), `threshold` of importance, `refit_steps`, and
    for pykan the `library` that it names edges by.
    """
    fit, _, test, _ = samples(run)
    clock = Clock()
    kan = pruned(run, fit)
    kan, _ = training.fitted(kan, fit, run.whole("refit_steps"))  # type: ignore[assignment]
    used = kan.kan_layers[0].in_features
    found = {"shape": "-".join(map(str, kan.layers_hidden)), "error": test.error(kan), "inputs": used}
    found["edges"] = int(sum(float(layer.edge_mask.sum()) for layer in kan.kan_layers))
    if run.arm.startswith("pykan"):
        error, formula = _by_pykan(kan, fit, test, run.text("library").split(","))
    else:
        error, formula = _by_symbolic(kan, fit, test)
    return found | {"formula_error": error, "formula": formula, "seconds": clock.seconds}


def pruned(run: Run, fit: Samples) -> KAN:
    """A sparse network without the nodes that pruning has cut off; all inputs stay."""
    kan = training.network("efficient_kan", run.layers, run.grid_size, run.seed)
    assert isinstance(kan, KAN)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what grid updates and pruning changed: the network is fitted again
        trained = fit_network(
            kan,
            (fit.x, fit.y),
            steps=run.whole("steps"),
            optimizer="lbfgs",
            penalty=SampleL1(entropy=run.number("entropy")),
            penalty_weight=run.number("strength"),
            update_grid_every=5,
            update_grid_until=_UPDATES,
            grid_options={"fit": "samples"},
            grid_samples=len(fit.x),
        )
        return trained.network.prune(fit.x, run.number("threshold")).shrink(inputs=False).network


def _by_symbolic(kan: KAN, fit: Samples, test: Samples) -> tuple[float, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the formula is worse than the network: its error says it
        symbolic = kan.symbolic(fit.x, fit.y)
    return test.error(symbolic), str(symbolic.formula())


def _by_pykan(kan: KAN, fit: Samples, test: Samples, library: list[str]) -> tuple[float, str]:
    with in_pykan():
        model: Any = kan.to_pykan()
        model.save_act = True
        model(fit.x)
        model.auto_symbolic(lib=library, verbose=0)
        data = {"train_input": fit.x, "train_label": fit.y, "test_input": test.x, "test_label": test.y}
        model.fit(data, opt="LBFGS", steps=_PYKAN_STEPS, update_grid=False, log=10**9)
        with torch.no_grad():
            error = float((model(test.x) - test.y).square().mean().sqrt())
        names = [str(name) for layer in model.symbolic_fun for row in layer.funs_name for name in row]
    return (error if math.isfinite(error) else math.inf), " ".join(names)
