"""Continual learning of five Gaussians, section 3.5 of the KAN paper: what is kept when one peak is shown after the other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from benchmarks.papers import judging
from benchmarks.papers.experiment import Effort, Experiment, Line, Result, Run, Status, Value
from benchmarks.papers.judging import short

_KEPT, _FORGOTTEN = 0.1, 0.5  # of the deviation of the first four peaks
# Arm, shape, and which of a KAN's parameters are trained; with what the paper says of it.
_MODELS: Mapping[str, tuple[str, tuple[int, ...], str, str]] = {
    "KAN [1,1], coefficients trained": ("efficient_kan", (1, 1), "coefficients", "keeps"),
    "KAN [1,1], coefficients and scale trained": ("efficient_kan", (1, 1), "coefficients, scale", "keeps"),
    "KAN [1,1], all trained": ("efficient_kan", (1, 1), "all", "keeps"),
    "KAN [1,5,1], coefficients trained": ("efficient_kan", (1, 5, 1), "coefficients", "keeps"),
    "MLP [1,32,32,1]": ("mlp[width]", (1, 32, 32, 1), "all", "forgets"),
}
_FIT: Mapping[Effort, Mapping[str, Value]] = {
    "tiny": {"steps": 2, "grid": 20},
    "reduced": {"steps": 15, "grid": 200},
    "full": {"steps": 100, "grid": 200},
}


def runs(effort: Effort) -> Iterator[Run]:
    """Every network on the same peaks."""
    for model, (arm, layers, trained, _) in _MODELS.items():
        told = {**_FIT[effort], "trained": trained}
        yield Run("five Gaussians", model, arm, layers, 500, int(_FIT[effort]["grid"]), told)


def judge(results: Sequence[Result]) -> Iterator[Line]:
    """One line a network."""
    for model in judging.models(results):
        own = judging.of(results, model=model)
        claim = _MODELS[model][3]
        lost, learnt = judging.median(own, "forgotten"), judging.median(own, "learnt")
        if not math.isfinite(lost):
            yield judging.unmeasured(model, "error on earlier peaks", claim, own)
            continue
        found = "keeps" if lost <= _KEPT else "forgets" if lost >= _FORGOTTEN else "keeps in part"
        status: Status = "reproduced" if found == claim else "ordering only" if found == "keeps in part" else "not"
        if learnt > _FORGOTTEN:
            status = "not"
        because = f"RMSE over their deviation; just after it is shown, a peak has {short(learnt)}; {found} ({len(own)} seeds)"
        yield Line(
            model, "error on the first four peaks", claim, short(lost), status, because, {"ours": lost, "learnt": learnt}
        )


EXPERIMENT = Experiment(
    name="continual",
    paper="KAN paper (arXiv 2404.19756)",
    place="section 3.5",
    about="A KAN that is shown five Gaussian peaks one after the other keeps the earlier ones, an MLP forgets them.",
    method="Peaks exp(-300 (x - c)^2) with 100 samples each, L-BFGS on each alone. The claim rests on local splines: it is "
    "measured with the coefficients alone trained, as in pykan's example, with the scale and the base activation trained too, "
    "and with a hidden layer.",
    rule="keeps: the RMSE on the first four peaks after the last is at most a tenth of their deviation; forgets: at least "
    "half; "
    "reproduced: as the paper says; ordering only: between the two; not: otherwise, or if a peak is not learnt at all.",
    seeds={"tiny": 1, "reduced": 3, "full": 5},
    runs=runs,
    train="benchmarks.papers.runs.continual:train",
    judge=judge,
    seconds=lambda run: 5 * 0.03 * run.whole("steps"),
)
