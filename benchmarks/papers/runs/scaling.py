"""Error against grid size: one network refined stage by stage, by this package, by pykan, or MLPs of growing width."""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.papers.experiment import Run
from benchmarks.papers.runs import training
from benchmarks.papers.runs.regression import samples
from benchmarks.papers.runs.training import Clock, Samples
from efficient_kan import KAN

_RELATIVE_STUCK = 0.1  # of the targets' deviation: a start that no stage brings below found no fit


def train(run: Run) -> dict[str, Any]:
    """Train stage by stage and return the errors of each stage, in the units of the function.

    Told: `grids` (a KAN) or `widths` (MLPs), `steps` of L-BFGS a stage, `starts` and `start_steps`, and `update`: before each
    stage grids stay ("none"), follow the samples with the function kept ("function") or as in pykan ("samples").
    `stuck` says whether all stages ended above a tenth of the targets' deviation at the training samples.
    """
    fit, _, test, deviation = samples(run)
    if run.arm.startswith("mlp"):
        stages = list(_mlps(run, fit, test))
    elif run.arm.startswith("pykan"):
        stages = list(_pykan(run, fit, test))
    else:
        stages = list(_kan(run, fit, test))
    for stage in stages:
        stage |= {name: stage[name] * deviation for name in ("train", "test", "median")}
    best = min(stages, key=lambda stage: float(stage["test"]))
    stuck = min(stage["train"] for stage in stages) > _RELATIVE_STUCK * deviation
    return {"error": best["test"], "stuck": stuck, "seconds": sum(stage["seconds"] for stage in stages), "stages": stages}


def start(run: Run, fit: Samples) -> nn.Module:
    """The network that all arms of a row and seed begin with."""

    def build(seed: int) -> nn.Module:
        return training.network("efficient_kan", run.layers, run.numbers("grids")[0], seed, scale_base=run.number("scale_base"))

    return training.best_start(build, fit, run.whole("starts"), run.whole("start_steps"), run.seed)


def _stage(size: dict[str, int], module: nn.Module, parts: tuple[Samples, Samples], seconds: float) -> dict[str, Any]:
    fit, test = parts
    errors = {"train": fit.error(module), "test": test.error(module), "median": test.median(module)}
    return {**size, "parameters": training.parameters(module), **errors, "seconds": seconds}


def _kan(run: Run, fit: Samples, test: Samples) -> Iterator[dict[str, Any]]:
    clock = Clock()
    module = start(run, fit)
    for grid in run.numbers("grids"):
        assert isinstance(module, KAN)
        module = training.followed(training.refined(module, grid, fit.x), fit.x, run.text("update"))
        module, _ = training.fitted(module, fit, run.whole("steps"))
        yield _stage({"grid": grid}, module, (fit, test), clock.seconds)
        clock = Clock()


def _mlps(run: Run, fit: Samples, test: Samples) -> Iterator[dict[str, Any]]:
    steps = run.whole("steps") * len(run.numbers("grids"))
    for width in run.numbers("widths"):
        clock = Clock()
        layers = (run.layers[0], *(width,) * (len(run.layers) - 2), run.layers[-1])
        module = training.network("mlp[width]", layers, 1, run.seed)
        module, _ = training.fitted(module, fit, steps)
        yield _stage({"grid": 0, "width": width}, module, (fit, test), clock.seconds)


def _pykan(run: Run, fit: Samples, test: Samples) -> Iterator[dict[str, Any]]:
    """pykan's own `fit` and `refine`, from the weights that this package starts with."""
    data = {"train_input": fit.x, "train_label": fit.y, "test_input": test.x[:10], "test_label": test.y[:10]}
    with in_pykan():
        clock = Clock()
        kan = start(run, fit)
        assert isinstance(kan, KAN)
        model: Any = kan.to_pykan()
        for grid in run.numbers("grids"):
            if grid != model.grid:
                model = model.refine(grid)
            model.symbolic_enabled = False
            updates = run.text("update") != "none"
            model.fit(data, opt="LBFGS", steps=run.whole("steps"), update_grid=updates, grid_update_num=1, log=10**9)
            yield _stage({"grid": grid}, model, (fit, test), clock.seconds)
            clock = Clock()


@contextlib.contextmanager
def in_pykan() -> Iterator[None]:
    """A place where pykan may write its checkpoints and print, computing in float64; torch's state is as before afterwards."""
    dtype, here = torch.get_default_dtype(), Path.cwd()
    with (
        tempfile.TemporaryDirectory() as folder,
        torch.random.fork_rng(devices=[]),
        Path(os.devnull).open("w") as sink,
        contextlib.redirect_stdout(sink),
        contextlib.redirect_stderr(sink),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        (Path(folder) / "model").mkdir()
        (Path(folder) / "model" / "history.txt").write_text("### Round 0 ###\ninit => 0.0\n", encoding="utf-8")
        os.chdir(folder)
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            os.chdir(here)
