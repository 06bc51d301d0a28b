"""What people run, from start to end (`benchmarks.workflows`): seconds and peak memory to a declared error, arm by arm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from benchmarks import workflows
from benchmarks.kinds.design import Preset
from benchmarks.kinds.kind import Kind, Section, Shown
from benchmarks.schema.cases import Case, Point

# How many times as long as this package an arm takes, roughly; for predictions.
_SLOWER = {"cox_de_boor": 2.0, "pykan[speed]": 8.0, "pykan[nosave]": 20.0, "pykan[default]": 30.0, "mlp[params]": 1.0}
_OURS_S = 8.0


class Workflows(Section):
    """Which workflows, and which arms of theirs. `times` multiplies the limits of time that workflows declare."""

    workflows: tuple[str, ...] = Field(default=(), description="names; none: all")
    arms: tuple[str, ...] = Field(default=(), description="of those that a workflow names; none: all")
    seeds: int = Field(default=1, ge=1)
    times: float = Field(default=1.0, gt=0)
    timeout_s: float = Field(gt=0, description="ends a single step that takes too long; at most twice the limit of a workflow")


def cases(preset: Preset, section: Workflows) -> Iterator[Case]:
    """Return the cases: workflow by workflow, arm by arm. All run on the CPU."""
    place: dict[str, Any] = {"device": "cpu", "threads": preset.centre.threads}
    for name in section.workflows or workflows.names():
        it = workflows.get_workflow(name)
        point = Point(batch=it.samples, layers=it.layers, grid_size=it.grid_size, dtype=it.dtype, **place)
        limits: tuple[tuple[str, str | int | float], ...] = (
            ("workflow", name),
            *(() if it.target is None else (("target", it.target),)),
            ("limit_s", it.limit_s * section.times),
        )
        for arm in it.arms:
            if section.arms and arm not in section.arms:
                continue
            for seed in range(section.seeds):
                told = (*limits, *sorted(it.told.items()))
                yield Case(
                    kind="workflows",
                    arm=arm,
                    point=point,
                    options=told,
                    seed=seed,
                    timeout_s=min(section.timeout_s, 2 * it.limit_s * section.times),
                )


def seconds(case: Case) -> float:
    """Return a rough time: the limit at most."""
    return min(float(dict(case.options)["limit_s"]), _OURS_S * _SLOWER.get(case.arm, 1.0))


def packages(case: Case) -> tuple[str, ...]:
    """The distributions that decide a workflow beside those of the arm."""
    found = workflows.find_workflow(str(dict(case.options)["workflow"]))
    return ("scipy", *(found.packages if found else ()))


_NOTE = (
    "KANs start from the same weights and see the same batches; the clock stands still while an error is measured. Seconds are "
    "given where all seeds reached the error, or their end where none is named. In the open division (`open_...`) each package "
    "follows its own tutorial: steps, penalties and grids differ, and the edges that it leaves are counted. Memory is the peak "
    "of the resident set above what it was before."
)

KIND = Kind(
    name="workflows",
    about="workflows, from start to end",
    section=Workflows,
    cases=cases,
    measure="benchmarks.measure.workflows:measure",
    sources=(
        *("benchmarks.measure.workflows", "benchmarks.measure.memory", "benchmarks.workflows.runs"),
        *("benchmarks.workflows.tutorial", "benchmarks.papers.runs", "benchmarks.papers.functions", "efficient_kan"),
    ),
    # As declared: workflow by workflow, arm by arm.
    order=lambda case: (),
    lacking={
        "batch": "trains on as many samples as a workflow declares",
        "width": "trains the widths that a workflow declares",
        "grid": "trains the grids that a workflow declares",
        "order": "trains cubic splines",
        "depth": "trains the layers that a workflow declares",
        "dtype": "trains in the dtype that a workflow declares",
        "matmul": "computes float32 products in float32",
        "device": "runs on the CPU",
        "processes": "measures each workflow in one process a seed",
    },
    packages=packages,
    timed=True,
    trains=True,
    seconds=seconds,
    seen=frozenset({"point.batch", "point.layers", "point.grid_size", "point.dtype", "options", "seed"}),
    tables="benchmarks.report.workflows:of_tables",
    grouped=("workflows",),
    shown=(Shown(64, "workflows", "Workflows, from start to end", ("workflows",), note=_NOTE),),
)
