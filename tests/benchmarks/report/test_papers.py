"""The tables of the papers' experiments: which rows count."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import papers
from benchmarks.analysis import data
from benchmarks.papers.measuring import case_of
from benchmarks.report.papers import groups

PLACE = {"device": "cpu", "threads": 1}


def test_networks_that_were_told_something_else_are_not_counted_with_the_newest(run: Any, tmp_path: Path) -> None:
    one, *_ = papers.get_experiment("interpretability").runs("reduced")
    part = {"shape": "2-1-1", "formula_error": 1e-9, "error": 1e-3}
    for told, seeds in (({"strength": 0.5}, (0, 1, 2)), ({}, (0, 1))):
        for seed in seeds:
            trained = replace(one, told=dict(one.told) | told, seed=seed)
            run.add(case_of("interpretability", "reduced", trained, PLACE, 60), part=part)
    (group,) = groups(data.load(run.write(tmp_path)))
    assert [(result.run.seed, result.run.told["strength"]) for result in group.results] == [(0, 0.01), (1, 0.01)]


def test_what_a_lost_job_did_not_come_to_says_nothing(run: Any, tmp_path: Path) -> None:
    one, *_ = papers.get_experiment("interpretability").runs("reduced")
    part = {"shape": "2-1-1", "formula_error": 1e-9, "error": 1e-3}
    for seed in range(4):
        case = case_of("interpretability", "reduced", replace(one, seed=seed), PLACE, 60)
        lost = {"status": "killed", "reason": "its job was lost", "wall_s": 0.0}
        run.add(case, **({"part": part} if seed == 0 else lost))
    (group,) = groups(data.load(run.write(tmp_path)))
    assert [result.lost for result in group.results] == [False, True, True, True]
    assert {line.ours for line in group.experiment.judge(group.results)} == {"1 of 1"}
