"""A function fitted by a KAN with a grid that is refined stage by stage, or by an MLP with as many steps."""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np
import torch

from benchmarks.papers import functions
from benchmarks.papers.experiment import Run
from benchmarks.papers.runs import training
from benchmarks.papers.runs.training import Clock, Samples
from efficient_kan import KAN


def samples(run: Run) -> tuple[Samples, Samples, Samples, float]:
    """Training, validation and test samples, equal for all models of a row and seed; targets over the deviation returned.

    Targets have mean 0 and deviation 1 over the training samples.
    """
    function = functions.get_function(run.text("function") if "function" in run.told else run.row)
    generator = np.random.default_rng([zlib.crc32(function.name.encode()), run.seed])
    parts = [function.draw(count, generator) for count in (run.samples, 1000, 2000)]
    mean, deviation = float(parts[0][1].mean()), float(parts[0][1].std())
    made = (Samples(torch.from_numpy(x), torch.from_numpy((y - mean) / deviation)) for x, y in parts)
    fit, choice, test = made
    return fit, choice, test, deviation


def train(run: Run) -> dict[str, Any]:
    """Fit and return the test error at the stage with the smallest validation error.

    Told: `grids` and `steps` a grid (a KAN), or as many stages of `steps` (an MLP); `starts` and `start_steps`, see
    `training.best_start`; `update`, see `training.followed`. `error` is the RMSE and `mean_error` the mean absolute error, both
    in the units of the function.
    """
    fit, choice, test, deviation = samples(run)
    grids, steps, clock = run.numbers("grids"), run.whole("steps"), Clock()

    def build(seed: int) -> torch.nn.Module:
        return training.network(run.arm, run.layers, grids[0], seed, scale_base=run.number("scale_base"))

    module = training.best_start(build, fit, run.whole("starts"), run.whole("start_steps"), run.seed)
    stages: list[dict[str, Any]] = []
    for grid in grids:
        if isinstance(module, KAN):
            module = training.followed(training.refined(module, grid, fit.x), fit.x, run.text("update"))
        module, diverged = training.fitted(module, fit, steps)
        found = {
            "grid": grid,
            "parameters": training.parameters(module),
            "train": fit.error(module) * deviation,
            "validation": choice.error(module) * deviation,
            "test": test.error(module) * deviation,
            "mean_error": _mean_error(module, test) * deviation,
            "diverged": diverged,
        }
        stages.append(found | {"seconds": clock.seconds})
        if diverged:
            break
    best = min(stages, key=lambda stage: stage["validation"])
    plain = [{name: _plain(value) for name, value in stage.items()} for stage in stages]
    chosen = {"error": _plain(best["test"]), "mean_error": _plain(best["mean_error"]), "grid": best["grid"]}
    return chosen | {"parameters": best["parameters"], "seconds": clock.seconds, "stages": plain}


@torch.no_grad()
def _mean_error(module: torch.nn.Module, test: Samples) -> float:
    return float((module(test.x) - test.y).abs().mean())


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
