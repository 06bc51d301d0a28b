"""The KAN papers' experiments: the paper's figure beside ours and a status, by the rule that each experiment declares."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from benchmarks import papers
from benchmarks.analysis.data import Data
from benchmarks.papers.experiment import Result, Run
from benchmarks.papers.measuring import run_of
from benchmarks.report.tables import Table


@dataclass(frozen=True)
class Group:
    """All results of one experiment with one effort, in one setting."""

    setting: str
    effort: str
    experiment: papers.Experiment
    results: Sequence[Result]

    @property
    def seeds(self) -> int:
        """How many seeds its results have."""
        return len({result.run.seed for result in self.results})


def groups(data: Data) -> Iterator[Group]:
    """The experiments of which there are rows, in the order of registration; of a case that was repeated the newest row.

    Networks that were told something else than the newest of their row, model and arm are of another experiment, and left out.
    """
    found: dict[tuple[str, str, str], dict[str, tuple[int, Result]]] = {}
    settings = dict(zip(data.cases["case_key"], data.cases["setting"], strict=True))
    for row in data.rows:
        if row.case.kind != "papers":
            continue
        told = dict(row.case.options)
        key = settings[row.case_key], str(told["effort"]), str(told["experiment"])
        place = data.order.get(row.case_key, 0)
        cells = found.setdefault(key, {})
        if row.case.cell not in cells or cells[row.case.cell][0] < place:
            cells[row.case.cell] = place, Result(run_of(row.case), row.status, row.part, row.case_key, row.lost)
    for name in papers.names():
        for (setting, effort, experiment), cells in found.items():
            if experiment == name:
                yield Group(setting, effort, papers.get_experiment(name), _as_the_newest(cells.values()))


def _as_the_newest(placed: Collection[tuple[int, Result]]) -> list[Result]:
    """The results that were trained as the newest of their row, model and arm."""
    results = [result for _, result in placed]
    in_time = [result.run for _, result in sorted(placed, key=lambda one: one[0])]
    newest = {(run.row, run.model, run.arm): _how(run) for run in in_time}
    return [one for one in results if _how(one.run) == newest[one.run.row, one.run.model, one.run.arm]]


def _how(run: Run) -> tuple[object, ...]:
    return run.layers, run.samples, run.grid_size, tuple(sorted(run.told.items()))


def of_tables(data: Data, _: object) -> list[Table]:
    """The statuses in all detail, and what each experiment is and how its statuses are found."""
    return [statuses(data), declared(data)]


def statuses(data: Data) -> Table:
    """Every line of every experiment."""
    lines = []
    for group in groups(data):
        for line in group.experiment.judge(group.results):
            place = f"{group.experiment.paper}, {group.experiment.place}"
            told: dict[str, object] = {"setting": group.setting, "experiment": group.experiment.name, "effort": group.effort}
            told |= {"place": place, "seeds": group.seeds}
            shown = {name: getattr(line, name) for name in ("row", "quantity", "paper", "ours", "status", "because")}
            lines.append(told | shown | {f"value_{name}": number for name, number in line.values.items()})
    frame = pd.DataFrame(lines)
    if frame.empty:
        return Table("papers", frame, {})
    several = [name for name in ("setting", "effort") if frame[name].nunique() > 1]
    names = (*several, "experiment", "row", "quantity", "paper", "ours", "seeds", "status", "because")
    return Table("papers", frame, {name: [str(value) for value in frame[name]] for name in names})


def declared(data: Data) -> Table:
    """One line an experiment: source, claim, method, rule, and how many of its lines have each status."""
    lines = []
    for group in groups(data):
        found = [line.status for line in group.experiment.judge(group.results)]
        counts = {status: found.count(status) for status in ("reproduced", "ordering only", "not", "not measured")}
        it = group.experiment
        told = {"setting": group.setting, "experiment": it.name, "source": f"{it.paper}, {it.place}", "effort": group.effort}
        lines.append(told | {"seeds": group.seeds} | counts | {"claim": it.about, "method": it.method, "rule": it.rule})
    frame = pd.DataFrame(lines)
    if frame.empty:
        return Table("papers_declared", frame, {})
    hidden = [] if frame["setting"].nunique() > 1 else ["setting"]
    view = {str(name): [str(value) for value in frame[name]] for name in frame if name not in hidden}
    return Table("papers_declared", frame, view)
