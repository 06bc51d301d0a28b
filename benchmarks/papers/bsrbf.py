"""BSRBF-KAN's table of MNIST: a network of widths 784, 64, 10."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from benchmarks.papers import judging, kanbefair, published
from benchmarks.papers.experiment import Effort, Experiment, Line, Result, Run, Status

_POINTS, _ROOM = 1.0, 6.0  # of accuracy: as the paper; as far below as a fifteenth of the images explains


def runs(effort: Effort) -> Iterator[Run]:
    """The network of this package."""
    yield next(kanbefair.images(effort, "mnist"))


def judge(results: Sequence[Result]) -> Iterator[Line]:
    """One line."""
    paper = published.value("bsrbf", "mnist", "BSRBF-KAN") or math.nan
    mean, low, high = judging.mean_interval(judging.values(results, "accuracy"))
    if math.isnan(mean):
        yield judging.unmeasured("mnist", "accuracy (%)", f"{paper:.2f}", results)
        return
    status: Status = "reproduced" if mean >= paper - _POINTS else "ordering only" if mean >= paper - _ROOM else "not"
    because = f"a B-spline KAN of the same widths, trained on {results[0].run.samples} of 60,000 images"
    values = {"paper": paper, "ours": mean, "low": low, "high": high}
    yield Line("mnist", "accuracy (%)", f"{paper:.2f}", f"{mean:.2f} ({low:.2f} to {high:.2f})", status, because, values)


EXPERIMENT = Experiment(
    name="bsrbf",
    paper="BSRBF-KAN (arXiv 2406.11173)",
    place="table of MNIST",
    about="A KAN of widths 784, 64, 10 reaches 97.55 % on MNIST.",
    method="This package's network, whose bases are B-splines alone, on the images that an installed package holds.",
    rule="reproduced: at most 1 point below; ordering only: at most 6 points below, with a fifteenth of the images; not: "
    "otherwise.",
    seeds={"tiny": 1, "reduced": 3, "full": 5},
    runs=runs,
    train="benchmarks.papers.runs.images:train",
    judge=judge,
    seconds=kanbefair.seconds,
    packages=("mlxtend",),
)
