"""A kind of case from outside, in one file: how far the outputs of an arm in float32 are from float64's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from benchmarks.kinds import Kind, Section, register
from benchmarks.kinds.design import Preset, place_of, point_at
from benchmarks.kinds.kind import Finding
from benchmarks.schema.cases import Case
from benchmarks.schema.rows import Outcome


class Rounding(Section):
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    timeout_s: float = Field(gt=0)


def cases(preset: Preset, section: Rounding) -> Iterator[Case]:
    point = point_at(preset.centre, place_of(preset.centre))
    for arm in section.arms:
        for seed in section.seeds:
            yield Case(kind="rounding", arm=arm, point=point, seed=seed, options=(("share", 0.5),), timeout_s=section.timeout_s)


def measure(case: Case) -> Outcome:
    import copy

    from benchmarks.measure import workload
    from reference.arm import get_arm

    arm = get_arm(case.arm)
    source, data = workload.network(case.point, case.seed), workload.data(case.point, case.seed)
    exact = arm.build(copy.deepcopy(source).double())(data.x.double())
    rounded = arm.build(source)(data.x)
    largest = float((exact - rounded).abs().max() / exact.abs().max())
    return Outcome(status="ok", part={"largest": largest, "share": dict(case.options)["share"]})


def tables(data: Any, _: object) -> list[Any]:
    import pandas as pd

    from benchmarks.report.cells import code
    from benchmarks.report.tables import Table

    rows = [row for row in data.rows if row.case.kind == "rounding" and row.part]
    frame = pd.DataFrame([{"case_key": row.case_key, "arm": row.case.arm, "largest": row.part["largest"]} for row in rows])
    if frame.empty:
        return []
    return [Table("rounding", frame, {"arm": code(frame["arm"]), "largest": [f"{one:.1e}" for one in frame["largest"]]})]


def figures(data: Any, _: object, folder: Path) -> Iterator[Any]:
    from matplotlib.figure import Figure

    from benchmarks.report.figures import Entry
    from benchmarks.report.style import save

    for table in tables(data, None):
        figure = Figure()
        figure.subplots().scatter(table.frame["arm"], table.frame["largest"])
        save(figure, table.frame, folder, "rounding-all")
        yield Entry("rounding", "rounding-all", "Largest deviation of the outputs from float64's.")


def findings(made: Any) -> Finding:
    largest = made["rounding"].frame["largest"].max() if "rounding" in made else None
    return Finding(15, "Rounding", "" if largest is None else f"- Outputs are off by at most {largest:.1e}.")


register(
    Kind(
        name="rounding",
        about="rounding of the outputs",
        section=Rounding,
        cases=cases,
        measure=measure,
        lacking={"processes": "measures each cell in one process"},
        seen=frozenset({"seed"}),
        tables=tables,
        figures=figures,
        findings=findings,
    )
)
