"""The KAN papers' experiments (`benchmarks.papers`): a case for each network and seed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from benchmarks import papers
from benchmarks.kinds.design import Preset
from benchmarks.kinds.kind import Kind, Section, Shown
from benchmarks.papers.measuring import case_of, run_of
from benchmarks.schema.cases import Case


class Papers(Section):
    """Which experiments, and how much is spent on each: "full" is the paper's setting where that is known.

    A preset may have several such sections, each with its effort. Seeds, grids and steps are those that an experiment declares
    for the effort; `seeds` replaces the number of seeds.
    """

    experiments: tuple[str, ...] = Field(default=(), description="names; none: all")
    effort: papers.Effort = "reduced"
    seeds: int | None = Field(default=None, ge=1)
    first_seed: int = Field(default=0, ge=0)
    timeout_s: float = Field(gt=0)


def cases(preset: Preset, section: Papers) -> Iterator[Case]:
    """Return the cases of every experiment. Networks are small, so all are trained on the CPU, in float64."""
    place: dict[str, Any] = {"device": "cpu", "threads": preset.centre.threads}
    for name in section.experiments or papers.names():
        experiment = papers.get_experiment(name)
        for run in experiment.runs(section.effort):
            for seed in range(section.first_seed, section.first_seed + (section.seeds or experiment.seeds[section.effort])):
                case = case_of(name, section.effort, run, place, section.timeout_s)
                yield case.model_copy(update={"seed": seed})


def seconds(case: Case) -> float:
    """Return the time that the experiment predicts."""
    experiment = papers.find_experiment(str(dict(case.options)["experiment"]))
    return experiment.seconds(run_of(case)) if experiment else 0.0


def together(case: Case) -> str | None:
    """Networks whose times are compared stay on one machine."""
    told = dict(case.options)
    return None if anywhere(case) else f"{told['experiment']} {told['effort']}"


def anywhere(case: Case) -> bool:
    """Whether the experiment compares no times."""
    experiment = papers.find_experiment(str(dict(case.options).get("experiment")))
    return experiment is not None and not experiment.timed


def known(case: Case) -> bool:
    """Whether the experiment is registered."""
    return papers.find_experiment(str(dict(case.options).get("experiment"))) is not None


def packages(case: Case) -> tuple[str, ...]:
    """The distributions that decide an experiment beside those of the arm."""
    found = papers.find_experiment(str(dict(case.options).get("experiment")))
    return ("scipy", *(found.packages if found else ()))


_NOTE = (
    "Numbers of the papers are transcribed in benchmarks/papers/published.csv with equation, table and row. The status is "
    "computed from the rows by the rule of each experiment, last table. The effort *reduced* has fewer seeds, grids and steps "
    "than the papers; *full* has theirs where they are known."
)

KIND = Kind(
    name="papers",
    about="the KAN papers' experiments",
    section=Papers,
    cases=cases,
    measure="benchmarks.papers.measuring:measure",
    sources=("benchmarks.papers.runs", "benchmarks.papers.functions", "benchmarks.papers.measuring", "efficient_kan"),
    # As declared: experiment by experiment.
    order=lambda case: (),
    lacking={
        "batch": "trains on as many samples as an experiment declares",
        "width": "trains the shapes of the papers",
        "grid": "trains the grids of the papers",
        "order": "trains cubic splines",
        "depth": "trains the shapes of the papers",
        "dtype": "trains in float64",
        "matmul": "trains in float64, which has one precision of products",
        "device": "runs on the CPU",
        "processes": "measures each network in one process",
    },
    packages=packages,
    many=True,
    trains=True,
    seconds=seconds,
    seen=frozenset({"point.batch", "point.layers", "point.grid_size", "options", "seed"}),
    tables="benchmarks.report.papers:of_tables",
    figures="benchmarks.report.papers_figures:of_figures",
    grouped=("papers", "papers_declared"),
    together=together,
    anywhere=anywhere,
    known=known,
    shown=(Shown(62, "papers", "The KAN papers reproduced", ("papers", "papers_declared"), note=_NOTE),),
)
