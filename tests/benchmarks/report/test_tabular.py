"""The table of estimators, from rows with planted scores."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmarks.analysis import data as stored
from benchmarks.report import render, tabular
from benchmarks.schema.cases import Case, Point
from tests.benchmarks.report.conftest import Run

SCORES = {"kan": [0.9, 0.8, 0.9, 0.8], "mlp": [0.8, 0.8, 0.8, 0.8], "trees": [0.95, 0.85, 0.94, 0.86]}


def case(model: str, data: str = "wine", steps: int = 300) -> Case:
    told = (("data", data), ("model", model), ("folds", 4), ("repeats", 1), ("inner", 3), ("steps", steps))
    return Case(kind="tabular", arm="efficient_kan", point=Point(batch=128, layers=(13, 3), grid_size=3), options=told)


def folds(scores: list[float]) -> list[dict[str, Any]]:
    common = {"train": 120, "test": 40, "loss": 0.5, "search_s": 2.0, "refit_s": 0.25}
    return [common | {"fold": n, "score": score, "chosen": {"alpha": 0.01, "penalty": None}} for n, score in enumerate(scores)]


def run(**more: Any) -> Run:
    made = Run()
    for model, scores in SCORES.items():
        made.add(case(model), part={"folds": folds(scores)})
    return made


def test_differences_are_paired_over_folds(tmp_path: Path) -> None:
    frame = tabular.tabular(stored.load(run().write(tmp_path))).frame.set_index("model")
    assert list(frame.index) == ["kan", "mlp", "trees"]
    assert frame.loc["kan", "score"] == pytest.approx(0.85) and math.isnan(frame.loc["kan", "over"])
    differences = np.array([0.1, 0.0, 0.1, 0.0])
    reach = stats.t.ppf(0.975, 3) * differences.std(ddof=1) * math.sqrt(1 / 4 + 40 / 120)
    found = frame.loc["mlp", ["over", "over_low", "over_high"]].tolist()
    assert found == pytest.approx([0.05, 0.05 - reach, 0.05 + reach])
    assert frame.loc["trees", "over"] == pytest.approx(-0.05)
    assert frame.loc["trees", "over_high"] < 0, "the same spread in both: each fold says the same"
    plain = stats.ttest_1samp(differences, 0).confidence_interval()
    assert found[1] < plain.low and found[2] > plain.high, "overlapping training sets widen it"


def test_missing_folds_give_no_difference() -> None:
    kan, other = folds(SCORES["kan"]), folds(SCORES["mlp"])[:3]
    for a, b in ((kan, other), ([], other), (kan, [])):
        assert all(map(math.isnan, tabular.paired(a, b)))


def test_the_table_is_on_the_page(tmp_path: Path) -> None:
    made = run()
    made.add(case("linear"), status="timeout", reason="exceeded 300 s")
    made.add(case("kan", data="iris"), part={"folds": folds(SCORES["kan"])})
    made.add(case("kan", data="iris", steps=7), part={"folds": folds(SCORES["mlp"])})
    render(made.write(tmp_path))
    page = (tmp_path / "README.md").read_text(encoding="utf-8").partition("## Estimators on tables")[2].partition("\n## ")[0]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]
    table = [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]
    assert [line["model"] for line in table] == [
        "KAN",
        "MLP",
        "HistGradientBoosting",
        "Ridge or logistic regression",
        "KAN",
        "KAN",
    ]
    assert {line["protocol"] for line in table[:5]} == {"1 x 4 folds, 3 inner, 300 steps of 128"}
    assert table[5]["protocol"].endswith("7 steps of 128") and table[5]["score"] == "0.800"
    assert table[1]["KAN's score minus this (95 %)"].startswith("+0.050 (-0.")
    assert table[1]["chosen most often"] == "alpha 0.0100" and table[1]["folds"] == "4"
    failed = table[3]
    assert (failed["score"], failed["KAN's score minus this (95 %)"], failed["folds"]) == ("–", "–", "0")
    assert (tmp_path / "tables" / "tabular.csv").exists()


def test_without_rows_there_is_no_table(tmp_path: Path) -> None:
    made = Run()
    made.add(
        Case(kind="memory", arm="efficient_kan", point=Point(batch=8, layers=(2, 2), grid_size=3)),
        status="oom",
        reason="planted",
    )
    assert tabular.tabular(stored.load(made.write(tmp_path))).frame.empty


def test_a_case_measured_again_counts_once(tmp_path: Path) -> None:
    made = run()
    made.add(case("mlp"), part={"folds": folds([0.1, 0.1, 0.1, 0.1])})
    frame = tabular.tabular(stored.load(made.write(tmp_path))).frame
    assert frame.set_index("model").loc["mlp", "score"] == pytest.approx(0.1) and len(frame) == 3
