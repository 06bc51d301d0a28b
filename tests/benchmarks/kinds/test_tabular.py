"""Estimators on tables: the nested cross-validation, and what a run of it needs to know of its data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin

from benchmarks import presets
from benchmarks.kinds import get_kind, tabular
from benchmarks.measure import tabular as measured

TOLD = {"data": "iris", "folds": 3, "repeats": 2, "inner": 2, "steps": 2}


def test_shapes_are_those_of_the_data() -> None:
    assert set(tabular.SHAPES) == set(measured.LOADERS)
    for name, load in measured.LOADERS.items():
        X, y = load(return_X_y=True)
        outputs = 1 if name == "diabetes" else len(np.unique(y))
        assert (*X.shape, outputs) == tabular.SHAPES[name]


def test_a_preset_asks_for_every_model_on_every_data_set() -> None:
    preset = presets.load("default")
    cases = presets.expand(preset, ["tabular"])
    told = [dict(case.options) for case in cases]
    assert {(one["data"], one["model"]) for one in told} == {
        (d, m) for d in tabular.SHAPES for m in ("kan", "mlp", "trees", "linear")
    }
    assert len(cases) == 20 and all(one["folds"] == 5 and one["inner"] == 3 and one["steps"] == 300 for one in told)
    assert len({case.cell for case in cases}) == 20
    assert "data=diabetes model=kan" in cases[0].label
    assert all(0 < get_kind("tabular").seconds(case) < case.timeout_s for case in cases)


@pytest.mark.parametrize("regression", [False, True])
@pytest.mark.parametrize("model", ["kan", "mlp", "trees", "linear"])
def test_every_model_has_six_candidates_that_it_takes(model: str, regression: bool) -> None:
    estimator, candidates = measured.search(model, regression, 3, 64, 0)
    sizes = [np.prod([len(values) for values in one.values()]) for one in candidates]
    assert sum(sizes) == 6
    assert {name for one in candidates for name in one} <= set(estimator.get_params())
    with pytest.raises(ValueError, match=r"^model: expected kan, mlp, trees or linear, got 'forest'"):
        measured.search("forest", regression, 3, 64, 0)


def test_all_models_get_the_same_folds_and_equal_seeds_equal_scores() -> None:
    found = {model: measured.study(TOLD | {"model": model}, 64, 0) for model in ("kan", "linear")}
    for one in found.values():
        assert [(fold["fold"], fold["train"], fold["test"]) for fold in one["folds"]] == [(n, 100, 50) for n in range(6)]
        assert one["task"] == "classification" and one["candidates"] == 6
        assert all(
            0 <= fold["score"] <= 1 and fold["loss"] > 0 and fold["search_s"] > fold["refit_s"] > 0 for fold in one["folds"]
        )
    again = measured.study(TOLD | {"model": "kan", "repeats": 1}, 64, 0)
    values = [[(fold["score"], fold["loss"], fold["chosen"]) for fold in one["folds"][:3]] for one in (again, found["kan"])]
    assert values[0] == values[1]


def test_a_regression_is_scored_by_r_squared() -> None:
    found = measured.study(TOLD | {"data": "diabetes", "model": "linear", "repeats": 1}, 64, 0)
    assert found["task"] == "regression"
    for fold in found["folds"]:
        assert fold["score"] == pytest.approx(1 - fold["loss"]) and 0.3 < fold["score"] < 0.6
        assert set(fold["chosen"]) == {"alpha"}


class Remembers(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Knows the samples that it was shown by heart, and nothing else."""

    seen: set[bytes] = set()  # noqa: RUF012
    asked: list[set[bytes]] = []  # noqa: RUF012

    def __init__(self, strength: int = 0) -> None:
        self.strength = strength

    def fit(self, X: Any, y: Any) -> Remembers:
        self.classes_ = np.unique(y)
        self.rows_ = {row.tobytes() for row in X}
        return self

    def predict_proba(self, X: Any) -> Any:
        assert not self.rows_ & {row.tobytes() for row in X}, "a sample was trained on and scored"
        return np.full((len(X), len(self.classes_)), 1 / len(self.classes_))


def test_no_sample_is_both_trained_on_and_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: an estimator that notices."""
    rows = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) % 3
    monkeypatch.setitem(measured.LOADERS, "iris", lambda return_X_y: rows)  # type: ignore[arg-type]
    monkeypatch.setattr(measured, "search", lambda *_: measured.Search(Remembers(), [{"strength": [0, 1]}]))
    found = measured.study(TOLD | {"model": "kan"}, 64, 0)
    assert [fold["score"] for fold in found["folds"]] == [pytest.approx(1 / 3, abs=0.05)] * 6
