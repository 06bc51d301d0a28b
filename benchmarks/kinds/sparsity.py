"""The study of sparsity: every penalty, strength and seed on every task, pruned and refitted; see benchmarks/study/RULE.md."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise, product
from typing import Any, Literal

from pydantic import Field

from benchmarks import tasks
from benchmarks.kinds import predict
from benchmarks.kinds.design import Preset, along
from benchmarks.kinds.kind import Kind, Section, Shown
from benchmarks.schema.cases import Case, Point, Record, Sweep
from benchmarks.study import rule
from benchmarks.study.curves import start_of
from benchmarks.study.penalties import CHECKED, MATTER

_STACKED_VALUE = 4.5e-8  # seconds per sample and hidden node of a step of one of many stacked networks
_LBFGS_STEP = 0.15  # seconds of a step of L-BFGS of one network, of up to 20 iterations
_REFITTED = 0.7  # share of the most steps that refits take until they converge
_OF_A_TASK = {"point.batch", "point.layers", "sweep.edge_counts"}


class CrossCheck(Record):
    """pykan itself, trained on a few of the study's tasks with every `every`-th strength: slow, so small.

    `strongest` bounds the strengths: what orders the edges of a network that has collapsed is rounding, which no two
    implementations share.
    """

    arm: str = "pykan[speed]"
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    every: int = Field(default=1, ge=1)
    strongest: float = Field(default=math.inf, gt=0)
    timeout_s: float = Field(gt=0)


class Axes(Record):
    """Lines through the study's centre, each with one thing changed. Samples are multiples of a task's own training samples.

    A line of samples leaves out tasks that have not as many, as data sets may; width and depth are those of the hidden layers,
    all alike; L-BFGS takes `lbfgs_steps` steps of up to 20 iterations, with pykan's grid updates.
    """

    tasks: tuple[str, ...] = Field(min_length=1)
    penalties: tuple[str, ...] = MATTER
    seeds: int = Field(ge=1)
    samples: tuple[float, ...] = ()
    minibatch: tuple[int, ...] = ()
    width: tuple[int, ...] = ()
    depth: tuple[int, ...] = ()
    grid: tuple[int, ...] = ()
    order: tuple[int, ...] = ()
    optimiser: tuple[Literal["lbfgs"], ...] = ()
    lbfgs_steps: int = Field(default=50, ge=1)
    lbfgs_penalties: tuple[str, ...] = Field(default=(), description="of L-BFGS, network by network and slow; none: all")
    steps: tuple[int, ...] = ()
    learning_rate: tuple[float, ...] = ()
    timeout_s: float = Field(gt=0)


class Sparsity(Section):
    """The sparsity study, see benchmarks/study/RULE.md: every penalty, strength and seed on every task."""

    tasks: tuple[str, ...] = Field(default=(), description="names of tasks; none: all. Those of a plugin are always added")
    penalties: tuple[str, ...] = MATTER
    step: float = Field(default=2.5, gt=1, description="at most this ratio of two strengths, evenly on a log axis")
    ends: dict[str, tuple[float, float]] = Field(description="weakest and strongest, by penalty")
    first_seed: int = Field(default=0, ge=0)
    seeds: int = Field(ge=1)
    seeds_per_case: int = Field(default=5, ge=1)
    grid: int = Field(default=5, ge=1)
    order: int = Field(default=3, ge=1)
    steps: int = Field(ge=1)
    learning_rate: float = Field(default=2e-2, gt=0)
    refit_steps: int = Field(ge=0, description="of the first round")
    refit_rounds: int = Field(default=1, ge=1, description="at most, each twice as long as the last")
    refit_tolerance: float = Field(default=0.0, ge=0, lt=1)
    counts: int = Field(ge=2, description="edge counts from the true size on, evenly on a log axis, at most this many")
    formulas: bool = False
    device: Literal["cpu", "centre"] = Field(
        default="cpu", description="centre: that of the preset's centre; a device named by the user is that"
    )
    cross_check: CrossCheck | None = None
    axes: Axes | None = None
    timeout_s: float = Field(gt=0)


def cases(preset: Preset, sparsity: Sparsity) -> Iterator[Case]:
    """Return the cases of the study, at every grid size and order that the user names, then those of its axes."""
    lines = {"grid": preset.asked.get("grid", ()), "order": preset.asked.get("order", ())}
    for study in along(sparsity, lines):
        yield from _study(preset, study)
    if sparsity.axes is not None and not any(lines.values()):
        yield from _axes(preset, sparsity, sparsity.axes)


def _study(preset: Preset, study: Sparsity) -> Iterator[Case]:
    named = [tasks.get_task(name) for name in study.tasks]
    chosen = [*named, *(task for task in tasks.added() if task not in named)] if named else list(tasks.all_tasks())
    check = study.cross_check
    for task in [tasks.get_task(name) for name in check.tasks] if check else ():
        assert check is not None
        strengths = tuple(one for one in _strengths(study, CHECKED)[:: check.every] if one <= check.strongest)
        yield _sweep(preset, study, task, check.arm, CHECKED, strengths, check.seeds, check.timeout_s)
    for group, penalty, task in product(_groups(study, study.seeds), study.penalties, chosen):
        yield _sweep(preset, study, task, "efficient_kan", penalty, _strengths(study, penalty), group, study.timeout_s)


def _axes(preset: Preset, study: Sparsity, axes: Axes) -> Iterator[Case]:
    chosen = [tasks.get_task(name) for name in axes.tasks]
    for group, penalty, task in product(_groups(study, axes.seeds), axes.penalties, chosen):
        centre = _sweep(preset, study, task, "efficient_kan", penalty, _strengths(study, penalty), group, axes.timeout_s)
        yield centre
        assert centre.sweep is not None
        for point, sweep in _lines(task, axes, penalty):
            layers = point.get("layers", centre.point.layers)
            changed = {**sweep, "edge_counts": _edge_counts(study, task, layers)}
            update = {"point": centre.point.model_copy(update=point), "sweep": centre.sweep.model_copy(update=changed)}
            yield centre.model_copy(update=update)


def _lines(task: tasks.Task, axes: Axes, penalty: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """What is changed of the point and of the sweep, place by place."""
    for factor in axes.samples:
        if (samples := round(factor * task.sizes.train)) <= task.most_training:
            yield {"batch": samples}, {}
    for width in axes.width:
        yield {"layers": (task.inputs, *(width,) * len(task.hidden), task.outputs)}, {}
    for depth in axes.depth:
        if depth != len(task.hidden) + 1:  # which is at the centre
            yield {"layers": (task.inputs, *task.hidden[:1] * (depth - 1), task.outputs)}, {}
    yield from (({"grid_size": grid}, {}) for grid in axes.grid)
    yield from (({"spline_order": order}, {}) for order in axes.order)
    for name in ("minibatch", "steps", "learning_rate"):
        yield from (({}, {name: value}) for value in getattr(axes, name))
    if penalty in (axes.lbfgs_penalties or axes.penalties):
        yield from (({}, {"optimiser": optimiser, "steps": axes.lbfgs_steps}) for optimiser in axes.optimiser)


def _groups(study: Sparsity, seeds: int) -> list[tuple[int, ...]]:
    first, end = study.first_seed, study.first_seed + seeds
    return [tuple(range(a, min(a + study.seeds_per_case, end))) for a in range(first, end, study.seeds_per_case)]


def _strengths(study: Sparsity, penalty: str) -> tuple[float, ...]:
    """From the weakest to the strongest, three significant digits each."""
    if penalty == "none":
        return (0.0,)
    if penalty not in study.ends:
        raise ValueError(f"sparsity.ends: expected an entry for {penalty!r}, got {', '.join(study.ends)}")
    low, high = study.ends[penalty]
    if not 0 < low <= high:
        raise ValueError(f"sparsity.ends: expected the weaker end of {penalty!r} above 0 first, got {low:g} and {high:g}")
    # Rounded to three digits two strengths may lie a little further apart than asked.
    steps = math.ceil(math.log(high / low) / math.log(study.step) - 1e-9)
    return tuple(float(f"{low * (high / low) ** (n / max(steps, 1)):.3g}") for n in range(steps + 1))


def _sweep(
    preset: Preset,
    study: Sparsity,
    task: tasks.Task,
    arm: str,
    penalty: str,
    strengths: tuple[float, ...],
    seeds: tuple[int, ...],
    timeout_s: float,
) -> Case:
    point = Point(
        batch=task.sizes.train,
        layers=task.layers,
        grid_size=study.grid,
        spline_order=study.order,
        dtype=preset.centre.dtype,
        device=preset.centre.device if study.device == "centre" else "cpu",
        threads=preset.centre.threads,
    )
    sweep = Sweep(
        task=task.name,
        penalty=penalty,
        strengths=strengths,
        seeds=seeds,
        steps=study.steps,
        learning_rate=study.learning_rate,
        refit_steps=study.refit_steps,
        refit_rounds=study.refit_rounds,
        refit_tolerance=study.refit_tolerance,
        edge_counts=_edge_counts(study, task, task.layers),
        formulas=study.formulas and bool(task.expressions),
    )
    return Case(kind="sparsity", arm=arm, point=point, sweep=sweep, timeout_s=timeout_s)


def _edge_counts(study: Sparsity, task: tasks.Task, layers: Sequence[int]) -> tuple[int, ...]:
    """From where the area begins to all edges: every count, or as many as declared, evenly on a log axis."""
    edges = sum(i * o for i, o in pairwise(layers))
    start = min(start_of(task, rule.load()), edges)
    if edges - start < study.counts:
        return tuple(range(start, edges + 1))
    return tuple(sorted({round(start * (edges / start) ** (n / (study.counts - 1))) for n in range(study.counts)}))


def packages(case: Case) -> Iterable[str]:
    """Return the distributions that decide what a training gives."""
    assert case.sweep is not None
    fitted = case.sweep.formulas or case.sweep.optimiser == "lbfgs"
    return ("scipy", *tasks.get_task(case.sweep.task).packages, *("pykan",) * fitted)


def seconds(case: Case) -> float:
    """Return the predicted time of all trainings and refits."""
    assert case.sweep is not None
    sweep, point = case.sweep, case.point
    runs = len(sweep.strengths) * len(sweep.seeds)
    values = point.batch * sum(point.layers[1:-1])
    products = point.batch * sum(i * o for i, o in pairwise(point.layers)) * (point.grid_size + 6)
    # Refits know no penalty and make up most of the steps, so one rate does for both.
    step = _STACKED_VALUE * values + 3 * 2 * products / predict.FLOPS
    if sweep.optimiser == "lbfgs":
        trained = runs * sweep.steps * _LBFGS_STEP
    else:
        share = sweep.minibatch / point.batch if sweep.minibatch else 1.0
        own = step * share if case.arm == "efficient_kan" else predict.step_seconds("pykan[nosave]", case)
        trained = runs * sweep.steps * own
    most = float(sweep.refit_steps * (2**sweep.refit_rounds - 1))
    refitted = most if sweep.refit_rounds == 1 else max(_REFITTED * most, sweep.refit_steps)
    return trained + runs * refitted * len(sweep.edge_counts) * step


def peak_bytes(case: Case) -> int:
    """Return the predicted peak: features, edges and weights of all runs."""
    assert case.sweep is not None
    sweep, point, seeds = case.sweep, case.point, len(case.sweep.seeds)
    runs, edges = seeds * len(sweep.strengths), sum(i * o for i, o in pairwise(point.layers))
    features = point.grid_size + 6
    shared = 4 * seeds * point.batch * point.layers[0] * features  # the first layer's, of all parts
    hidden = 6 * features * max(runs * point.batch * sum(point.layers[1:-1]), 100_000)
    per_sample = 3 * runs * edges * point.batch if sweep.penalty.startswith("sample") else 0
    return point.item_bytes * (shared + hidden + per_sample + 6 * runs * edges * features)


def group(case: Case, name: str) -> tuple[object, ...]:
    """Among which cases a field is compared: tasks declare values of their own, and edge counts follow from the layers."""
    if case.sweep is None or name not in _OF_A_TASK:
        return ()
    return (case.sweep.task, case.point.layers) if name == "sweep.edge_counts" else (case.sweep.task,)


KIND = Kind(
    name="sparsity",
    about="accuracy and sparsity by penalty",
    section=Sparsity,
    cases=cases,
    measure="benchmarks.study.sweep:measure",
    sources=(
        *(
            f"benchmarks.study.{name}"
            for name in (
                *("agreement", "curves", "expansion", "formulas", "lbfgs", "moments", "original", "penalties", "samples"),
                *("rule", "stacked", "sweep", "training", "yardstick"),
            )
        ),
        *("benchmarks.tasks", "efficient_kan.symbolic"),
    ),
    # As declared: every penalty goes through all tasks in turn, so that the time of the next cases is that of the last.
    order=lambda case: (),
    lacking={
        "batch": "trains on all samples of a task",
        "width": "trains the network that its task declares",
        "depth": "trains the network that its task declares",
        "processes": "measures each cell in one process",
        "matmul": "computes float32 products in float32",
    },
    # Small steps by the ten thousand: blocks stay with the process instead of being faulted in anew by each (glibc only).
    variables={
        "MALLOC_MMAP_THRESHOLD_": str(2**25),
        "MALLOC_TRIM_THRESHOLD_": str(2**32),
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    },
    packages=packages,
    trains=True,
    seconds=seconds,
    peak_bytes=peak_bytes,
    seen=frozenset(f"sweep.{name}" for name in ("task", "penalty", "strengths", "seeds", "formulas")),
    group=group,
    tables="benchmarks.report.sparsity:of_studies",
    figures="benchmarks.report.figures:study_figures",
    findings="benchmarks.report.findings_of_kinds:of_sparsity",
    part="sparsity",
    shown=(Shown(40, "sparsity", "Does L1 on the weights do the job? The sparsity study", whole=True),),
    together=lambda case: case.sweep.task if case.sweep else None,
    anywhere=lambda case: True,
)
