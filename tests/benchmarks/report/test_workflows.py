"""The table of workflows: how many seeds are behind it, and which arms a workflow was not planned for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.analysis import data
from benchmarks.report import workflows
from benchmarks.report.tables import Table
from benchmarks.schema.cases import Case, Point


def _add(
    run: Any, name: str, arm: str, seed: int, *, limit: float = 60.0, seconds: float, reached: bool = True,
    told: tuple[tuple[str, float], ...] = (),
) -> None:  # fmt: skip
    where = Point(batch=8, layers=(2, 5, 1), grid_size=5, dtype="float64")
    options = (("workflow", name), ("target", 0.02), ("limit_s", limit), *told)
    part = {"reached": reached, "seconds": seconds, "error": 0.01, "rss_above_bytes": 2**20, "items": 4}
    run.add(Case(kind="workflows", arm=arm, point=where, options=options, seed=seed), part=part)


def _table(run: Any, out: Path, arms: dict[str, dict[str, int]]) -> Table:
    """The table of workflows, each with the number of seeds of its arms; a seed takes 2 + seed seconds."""
    for name, seeds_of in arms.items():
        for arm, seeds in seeds_of.items():
            for seed in range(seeds):
                _add(run, name, arm, seed, seconds=2.0 + seed)
    return workflows.table(data.load(run.write(out)))


def test_an_arm_that_only_another_workflow_has_is_not_planned(run: Any, tmp_path: Path) -> None:
    table = _table(run, tmp_path, {"lbfgs": {"efficient_kan": 1, "pykan[default]": 1}, "poisson": {"efficient_kan": 1}})
    lines = list(zip(table.view["workflow"], table.view["arm"], table.view["otherwise"], strict=True))
    assert lines == [
        ("lbfgs", "`efficient_kan`", "–"),
        ("lbfgs", "`pykan[default]`", "–"),
        ("poisson", "`efficient_kan`", "–"),
        ("poisson", "`pykan[default]`", "not planned"),
    ]
    assert table.view["seeds that reached it"] == ["1 of 1", "1 of 1", "1 of 1", "–"]
    assert table.view["seconds"] == ["2.00", "2.00", "2.00", "–"]
    assert table.caption.endswith("One seed each. Not planned: another workflow has a case of this arm, this one none.")


@pytest.mark.parametrize(("other", "said"), [(3, "Medians over 3 seeds."), (1, "Medians over 1 to 3 seeds.")])
def test_medians_are_over_as_many_seeds_as_there_were(run: Any, tmp_path: Path, other: int, said: str) -> None:
    table = _table(run, tmp_path, {"lbfgs": {"efficient_kan": 3, "pykan[speed]": other}})
    assert table.caption.endswith(said)
    assert table.view["seconds"] == ["3.00", "3.00" if other == 3 else "2.00"]


def test_runs_that_were_told_something_else_are_not_counted_with_the_newest(run: Any, tmp_path: Path) -> None:
    for seed in range(3):
        _add(run, "lbfgs", "efficient_kan", seed, seconds=9.0)
    for seed in range(2):
        _add(run, "lbfgs", "efficient_kan", seed, seconds=2.0, told=(("learning_rate", 0.5),))
    _add(run, "lbfgs", "efficient_kan", 3, seconds=9.0)
    _add(run, "lbfgs", "efficient_kan", 2, seconds=2.0, told=(("learning_rate", 0.5),))
    table = workflows.table(data.load(run.write(tmp_path)))
    assert table.view["seeds that reached it"] == ["3 of 3"] and table.view["seconds"] == ["2.00"]


@pytest.mark.parametrize("limits", [(30.0, 180.0), (180.0, 30.0)])
def test_of_several_limits_the_longest_counts(run: Any, tmp_path: Path, limits: tuple[float, float]) -> None:
    for limit in limits:
        _add(run, "lbfgs", "efficient_kan", 0, limit=limit, seconds=min(limit, 90.0), reached=limit > 90)
    _add(run, "lbfgs", "efficient_kan", 1, limit=30.0, seconds=1.0)
    table = workflows.table(data.load(run.write(tmp_path)))
    assert table.view["seeds that reached it"] == ["1 of 1"] and table.view["seconds"] == ["90.0"]
