"""KANbeFair: KANs beside MLPs on images and on special functions, as far as data here allow."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from benchmarks.papers import fits, judging, published
from benchmarks.papers.experiment import Effort, Experiment, Line, Result, Run, Status, Value
from benchmarks.papers.judging import short

_WITHIN = 3.0  # times the paper's error
_POINTS = 1.0  # of accuracy
IMAGES = "mnist"
_EPOCHS = {"tiny": 1, "reduced": 6, "full": 40}
_TRAINED = {"tiny": 500, "reduced": 4000, "full": 4000}


def images(effort: Effort, row: str) -> Iterator[Run]:
    """A KAN and an MLP of as many parameters on 5,000 images of MNIST, of which 1,000 are held out."""
    told: dict[str, Value] = {"epochs": _EPOCHS[effort], "batch": 64, "learning_rate": 1e-3}
    yield Run(row, "KAN [784,64,10]", "efficient_kan", (784, 64, 10), _TRAINED[effort], 5, told)
    yield Run(row, "MLP of as many parameters", "mlp[params]", (784, 64, 10), _TRAINED[effort], 5, told)


def runs(effort: Effort) -> Iterator[Run]:
    """Images, and the special functions of both papers."""
    yield from images(effort, IMAGES)
    rows = [row for row in published.rows("kanbefair") if row != IMAGES]
    for row in rows[:1] if effort == "tiny" else rows:
        yield Run(row, "KAN [2,5,1]", "efficient_kan", (2, 5, 1), fits.SAMPLES[effort], 3, fits.told(effort))
        yield from fits.mlps(row, 2, effort)


def judge(results: Sequence[Result]) -> Iterator[Line]:
    """One line a row."""
    for row in judging.rows(results):
        own = judging.of(results, row=row)
        kan = [one for one in own if one.run.model.startswith("KAN")]
        mlp = [one for one in own if one.run.model.startswith("MLP")]
        yield _accuracy(row, kan, mlp) if row == IMAGES else _error(row, kan, mlp)


def _accuracy(row: str, kan: Sequence[Result], mlp: Sequence[Result]) -> Line:
    paper = {name: published.value("kanbefair", row, name) or math.nan for name in ("KAN", "MLP")}
    text = f"KAN {paper['KAN']:.2f}, MLP {paper['MLP']:.2f}"
    ours = {name: judging.mean_interval(judging.values(one, "accuracy")) for name, one in (("KAN", kan), ("MLP", mlp))}
    if math.isnan(ours["KAN"][0]) or math.isnan(ours["MLP"][0]):
        return judging.unmeasured(row, "accuracy (%)", text, [*kan, *mlp])
    shown = ", ".join(f"{name} {mean:.2f} ({low:.2f} to {high:.2f})" for name, (mean, low, high) in ours.items())
    same = (ours["KAN"][0] < ours["MLP"][0]) == (paper["KAN"] < paper["MLP"])
    near = all(abs(ours[name][0] - paper[name]) <= _POINTS for name in paper)
    status: Status = "reproduced" if same and near else "ordering only" if same else "not"
    because = (
        f"{kan[0].run.samples} of 60,000 images; the MLP has as many parameters, the paper's figure is its best of all sizes"
    )
    values = {f"ours_{name}": mean for name, (mean, _, _) in ours.items()} | {f"paper_{name}": paper[name] for name in paper}
    return Line(row, "accuracy (%)", text, shown, status, because, values)


def _error(row: str, kan: Sequence[Result], mlp: Sequence[Result]) -> Line:
    paper = {name: published.value("kanbefair", row, name) or math.nan for name in ("KAN", "MLP")}
    text = f"KAN {short(paper['KAN'])}, MLP {short(paper['MLP'])}"
    ours = {"KAN": judging.lowest(kan, "mean_error"), "MLP": judging.lowest(mlp, "mean_error")}
    if not all(map(math.isfinite, ours.values())):
        return judging.unmeasured(row, "mean absolute error", text, [*kan, *mlp])
    shown = ", ".join(f"{name} {short(value)}" for name, value in ours.items())
    same, times = ours["KAN"] < ours["MLP"], ours["KAN"] / paper["KAN"]
    status: Status = "reproduced" if same and times <= _WITHIN else "ordering only" if same else "not"
    because = f"the KAN is {'below' if same else 'above'} the MLPs and {short(times)} times the paper's; lowest over seeds"
    values = {f"ours_{name}": value for name, value in ours.items()} | {f"paper_{name}": paper[name] for name in paper}
    return Line(row, "mean absolute error", text, shown, status, because, values)


def seconds(run: Run) -> float:
    """Predicted time on one idle core."""
    if "epochs" in run.told:
        return 2.0 + run.whole("epochs") * run.samples * 1.5e-4
    return fits.seconds(run)


EXPERIMENT = Experiment(
    name="kanbefair",
    paper="KANbeFair (arXiv 2407.16674)",
    place="results.csv, best on test",
    about="With parameters and operations counted fairly, MLPs are ahead on images and KANs on symbolic functions alone.",
    method="MNIST: 4,000 of its images, which an installed package holds, Adam, one KAN and one MLP of equal size. Functions: "
    "the paper calls a mean absolute error RMSE, so that is what is compared; its Bessel functions are derivatives and its "
    "ellipj raises, so they are left out; fashion, colour images, spam and telescope are not to be had offline.",
    rule="reproduced: in the paper's order and within 1 point of its accuracies, or 3 times its error; ordering only: in its "
    "order; not: otherwise.",
    seeds={"tiny": 1, "reduced": 3, "full": 5},
    runs=runs,
    train="benchmarks.papers.runs.images:train",
    judge=judge,
    seconds=seconds,
    packages=("mlxtend",),
)
