"""The study of sparsity: every penalty, strength and seed on every task, pruned and refitted; see benchmarks/study/RULE.md."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import pairwise, product

from pydantic import Field

from benchmarks import tasks
from benchmarks.kinds import predict
from benchmarks.kinds.design import Preset, along
from benchmarks.kinds.kind import Kind, Section
from benchmarks.schema.cases import Case, Point, Record, Sweep
from benchmarks.study.penalties import CHECKED, PENALTIES

_STACKED_VALUE = 4.5e-8  # seconds per sample and hidden node of a step of one of many stacked networks
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


class Sparsity(Section):
    """The sparsity study, see benchmarks/study/RULE.md: every penalty, strength and seed on every task."""

    tasks: tuple[str, ...] = Field(default=(), description="names of tasks; none: all that are registered")
    penalties: tuple[str, ...] = PENALTIES
    strengths: int = Field(ge=1, description="how many, evenly on a log axis between the ends")
    ends: dict[str, tuple[float, float]] = Field(description="weakest and strongest, by penalty")
    seeds: int = Field(ge=1)
    seeds_per_case: int = Field(default=5, ge=1)
    grid: int = Field(default=5, ge=1)
    steps: int = Field(ge=1)
    refit_steps: int = Field(ge=0)
    all_counts_up_to: int = Field(ge=1, description="networks with more edges are pruned to `counts` counts instead of all")
    counts: int = Field(ge=2, description="how many, evenly on a log axis")
    cross_check: CrossCheck | None = None
    timeout_s: float = Field(gt=0)


def cases(preset: Preset, sparsity: Sparsity) -> Iterator[Case]:
    """Return the cases of the study, at every grid size that the user names."""
    for study in along(sparsity, {"grid": preset.asked.get("grid", ())}):
        yield from _study(preset, study)


def _study(preset: Preset, study: Sparsity) -> Iterator[Case]:
    chosen = [tasks.get_task(name) for name in study.tasks] or list(tasks.all_tasks())
    groups = [tuple(range(a, min(a + study.seeds_per_case, study.seeds))) for a in range(0, study.seeds, study.seeds_per_case)]
    check = study.cross_check
    for task in [tasks.get_task(name) for name in check.tasks] if check else ():
        assert check is not None
        strengths = tuple(one for one in _strengths(study, CHECKED)[:: check.every] if one <= check.strongest)
        yield _sweep(preset, study, task, check.arm, CHECKED, strengths, check.seeds, check.timeout_s)
    for group, penalty, task in product(groups, study.penalties, chosen):
        yield _sweep(preset, study, task, "efficient_kan", penalty, _strengths(study, penalty), group, study.timeout_s)


def _strengths(study: Sparsity, penalty: str) -> tuple[float, ...]:
    """From the weakest to the strongest, three significant digits each."""
    if penalty == "none":
        return (0.0,)
    if penalty not in study.ends:
        raise ValueError(f"sparsity.ends: expected an entry for {penalty!r}, got {', '.join(study.ends)}")
    low, high = study.ends[penalty]
    steps = max(study.strengths - 1, 1)
    return tuple(float(f"{low * (high / low) ** (n / steps):.3g}") for n in range(study.strengths))


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
    # The study is about small networks on a CPU, whatever else the preset measures: a GPU would wait for each tiny operation.
    point = Point(
        batch=task.sizes.train,
        layers=task.layers,
        grid_size=study.grid,
        dtype=preset.centre.dtype,
        threads=preset.centre.threads,
    )
    sweep = Sweep(
        task=task.name,
        penalty=penalty,
        strengths=strengths,
        seeds=seeds,
        steps=study.steps,
        refit_steps=study.refit_steps,
        edge_counts=_edge_counts(study, sum(i * o for i, o in pairwise(task.layers))),
    )
    return Case(kind="sparsity", arm=arm, point=point, sweep=sweep, timeout_s=timeout_s)


def _edge_counts(study: Sparsity, edges: int) -> tuple[int, ...]:
    """Every count, or for many edges as many as declared: evenly on a log axis, as far as whole numbers go."""
    if edges <= study.all_counts_up_to:
        return tuple(range(1, edges + 1))
    return tuple(sorted({round(edges ** (n / (study.counts - 1))) for n in range(study.counts)}))


def packages(case: Case) -> Iterable[str]:
    """Return the distributions that decide what a training gives."""
    assert case.sweep is not None
    return ("scipy", *tasks.get_task(case.sweep.task).packages)


def seconds(case: Case) -> float:
    """Return the predicted time of all trainings and refits."""
    assert case.sweep is not None
    sweep, point = case.sweep, case.point
    runs = len(sweep.strengths) * len(sweep.seeds)
    values = point.batch * sum(point.layers[1:-1])
    products = point.batch * sum(i * o for i, o in pairwise(point.layers)) * (point.grid_size + 6)
    # Refits know no penalty and make up most of the steps, so one rate does for both.
    step = _STACKED_VALUE * values + 3 * 2 * products / predict.FLOPS
    trained = runs * sweep.steps * (step if case.arm == "efficient_kan" else predict.step_seconds("pykan[nosave]", case))
    return trained + runs * sweep.refit_steps * len(sweep.edge_counts) * step


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
    """Among which cases a field is compared: tasks declare values of their own."""
    return (case.sweep.task,) if case.sweep and name in _OF_A_TASK else ()


KIND = Kind(
    name="sparsity",
    about="accuracy and sparsity by penalty",
    section=Sparsity,
    cases=cases,
    measure="benchmarks.study.sweep:measure",
    sources=(
        *(f"benchmarks.study.{name}" for name in ("agreement", "original", "penalties", "stacked", "sweep", "training")),
        "benchmarks.tasks",
    ),
    # As declared: every penalty goes through all tasks in turn, so that the time of the next cases is that of the last.
    order=lambda case: (),
    lacking={
        "batch": "trains on all samples of a task",
        "width": "trains the network that its task declares",
        "order": "trains cubic splines",
        "depth": "trains the network that its task declares",
        "device": "runs on the CPU",
        "processes": "measures each cell in one process",
        "matmul": "computes float32 products in float32",
    },
    # Small steps by the ten thousand: blocks stay with the process instead of being faulted in anew by each (glibc only).
    variables={"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**32)},
    packages=packages,
    trains=True,
    seconds=seconds,
    peak_bytes=peak_bytes,
    seen=frozenset(f"sweep.{name}" for name in ("task", "penalty", "strengths", "seeds")),
    group=group,
    tables="benchmarks.report.sparsity:of_studies",
    figures="benchmarks.report.figures:study_figures",
)
