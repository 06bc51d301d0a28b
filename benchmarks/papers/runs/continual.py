"""Five peaks, shown one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.papers.experiment import Run
from benchmarks.papers.runs import training
from benchmarks.papers.runs.training import Clock, Samples
from efficient_kan import KAN

_CENTRES = (-0.8, -0.4, 0.0, 0.4, 0.8)
_REACH = 0.2  # of the samples of a peak, on either side


def peaks(samples: int, seed: int) -> list[Samples]:
    """The samples of each peak."""
    generator = np.random.default_rng([300, seed])
    found = []
    for centre in _CENTRES:
        x = generator.uniform(centre - _REACH, centre + _REACH, (samples // len(_CENTRES), 1))
        found.append(Samples(torch.from_numpy(x), torch.from_numpy(np.exp(-300 * (x - centre) ** 2))))
    return found


def train(run: Run) -> dict[str, Any]:
    """Train on one peak after the other.

    Told: `steps` of L-BFGS a peak, and which parameters of a KAN are `trained`, see `freeze`. Errors are RMSE over the peaks'
    deviation: `learnt` the largest on a peak just after it was shown, `forgotten` that on the first four after the last,
    and `error` on all.
    """
    shown, clock = peaks(run.samples, run.seed), Clock()
    module = training.network(run.arm, run.layers, run.grid_size, run.seed)
    if isinstance(module, KAN):
        freeze(module, run.text("trained"))
    learnt = []
    for peak in shown:
        module, _ = training.fitted(module, peak, run.whole("steps"))
        learnt.append(peak.error(module) / float(peak.y.std()))
    return {
        "error": _over(module, shown),
        "learnt": max(learnt),
        "forgotten": _over(module, shown[:-1]),
        "seconds": clock.seconds,
        "parameters": training.parameters(module),
    }


def freeze(kan: KAN, trained: str) -> None:
    """Leave "coefficients", "coefficients, scale" or "all" parameters to be trained, in place. Raises ValueError for others.

    The base activation is 0 where it is not trained.
    """
    if trained not in ("coefficients", "coefficients, scale", "all"):
        raise ValueError(f"trained: expected coefficients, 'coefficients, scale' or all, got {trained!r}")
    for layer in kan.kan_layers if trained != "all" else ():
        with torch.no_grad():
            layer.base_weight.zero_()
        layer.base_weight.requires_grad_(False)
        if trained == "coefficients" and layer.spline_scaler is not None:
            layer.spline_scaler.requires_grad_(False)


def _over(module: nn.Module, shown: list[Samples]) -> float:
    together = Samples(torch.cat([one.x for one in shown]), torch.cat([one.y for one in shown]))
    return together.error(module) / float(together.y.std())
