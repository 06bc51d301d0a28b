"""The study on the page: verdict first, numbers from the rows, failures counted."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.analysis import data
from benchmarks.report import ids, sparsity, sparsity_figures, style
from benchmarks.study import verdict


@pytest.fixture(scope="module")
def study(rendered: Path) -> sparsity.Study:
    (found,) = sparsity.studies(data.load(rendered))
    return found


def test_the_verdict_is_on_the_page_before_the_figures(rendered: Path) -> None:
    page = (rendered / "README.md").read_text(encoding="utf-8")
    section = page[page.index("## Does L1 on the weights do the job?") :]
    found, figure = section.index("**worse by 40 %**"), section.index("![Test error against the share of edges left")
    assert found < figure
    assert "No verdict for want of rows" in section
    assert "8 of 100 runs failed" in section or "6 of 100 runs failed" in section
    assert "benchmarks/study/RULE.md" in section


def test_the_numbers_are_those_of_the_rows(study: sparsity.Study) -> None:
    line = study.verdicts[(study.verdicts["family"] == "symbolic") & (study.verdicts["candidate"] == "weight_l1+entropy")]
    assert float(line["effect"].iloc[0]) == pytest.approx(math.log(0.7 / 0.5), abs=1e-3)
    assert set(study.choices.loc[study.choices["penalty"] != "none", "strength"]) == {1e-2}
    against = study.against_none.set_index("candidate")["effect"]
    sides = [verdict.area((1, 5, 25), [0.9 * size, 0.3 * size, 0.1 * size], study.rule) for size in (0.5, 1.3)]
    assert against["sample_l1+entropy"] == pytest.approx(sides[0] - sides[1], abs=0.02), (
        "without a penalty errors reach the ceiling"
    )
    assert list(study.cross_check["verdict"]) == ["the same curve"]
    assert "mnist_5k" not in set(study.runs["task"])


def test_bands_hold_their_curve_and_are_the_same_each_time(study: sparsity.Study) -> None:
    for found in (
        sparsity.task_band(study, "sample_l1+entropy", "product"),
        sparsity.family_band(study, "sample_l1+entropy", "symbolic", "before"),
        sparsity.sweep_band(study, "sample_l1+entropy", "symbolic"),
        sparsity.agreement_band(study, "none", ("weight_l1", "sample_l1")),
    ):
        assert found is not None
        assert (found.low <= found.y + 1e-12).all() and (found.y <= found.high + 1e-12).all()
    assert sparsity.task_band(study, "folded_l1", "product") is None
    again = sparsity.task_band(study, "none", "product"), sparsity.task_band(study, "none", "product")
    assert again[0] is not None and again[1] is not None
    assert (again[0].low == again[1].low).all()


def test_a_choice_that_failed_is_drawn_at_the_ceiling_and_is_no_success(study: sparsity.Study) -> None:
    lost = replace(study, choices=study.choices.assign(failed=True, exact_structure=None))
    found = sparsity.task_band(lost, "none", "product")
    assert found is not None
    assert (found.y == math.log(study.rule.ceiling)).all()
    frames = [{table.name: table.frame for table in sparsity.tables(one)}["sparsity_tasks"] for one in (study, lost)]
    assert (frames[0]["exact"] > 0).all()
    assert (frames[1]["exact"] == 0).all(), "left out, the rate would be that of the rest"


def test_every_figure_says_its_seeds_and_failures(study: sparsity.Study) -> None:
    with style.applied():
        drawn = list(sparsity_figures.draw_all(study))
    assert len({stem for stem, *_ in drawn}) == len(drawn) == 6
    for stem, _, frame, caption in drawn:
        assert "failed" in caption, stem
        assert not frame.empty, stem
        assert re.match(r"F\d+-cpu$", ids.figure_id(f"{stem}-cpu")), stem


def test_penalties_look_different_and_the_same_with_and_without_entropy() -> None:
    looks = [sparsity_figures.look(f"{norm}+entropy") for norm in ("weight_l1", "folded_l1", "sample_l1", "sample_std")]
    assert len({(look.colour, look.marker) for look in looks}) == 4
    plain = sparsity_figures.look("weight_l1")
    assert (plain.colour, plain.line) == (looks[0].colour, "--")


def test_two_settings_get_two_verdicts(full_run: Any, tmp_path: Path, run: Any) -> None:
    for row in full_run.rows:
        if row.case.sweep and row.case.arm == "efficient_kan":
            other = row.case.model_copy(update={"point": row.case.point.model_copy(update={"dtype": "float64"})})
            for case in (row.case, other):
                run.add(case, status=row.status, reason=row.reason, sparsity=row.sparsity)
    found = sparsity.studies(data.load(run.write(tmp_path)))
    assert [study.setting for study in found] == ["cpu, float32, 1 thread", "cpu, float64, 1 thread"]
    names = [table.name for study in found for table in sparsity.tables(study, named=True)]
    assert len(set(names)) == len(names) == 12
    assert len(found[0].verdicts) == len(found[1].verdicts) > 0
