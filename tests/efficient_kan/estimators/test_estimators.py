"""The estimators against scikit-learn's own checks, its tools, and the network that they hold."""

from __future__ import annotations

import builtins
import importlib
import pickle
import sys
import unittest
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.inspection import permutation_importance
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import QuantileTransformer
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.estimator_checks import estimator_checks_generator

import efficient_kan
from efficient_kan import KANClassifier, KANRegressor, SampleL1
from efficient_kan.estimators.base import threads
from efficient_kan.estimators.scaling import into_grid, standard

SMALL: dict[str, Any] = {"hidden_layer_sizes": (2,), "grid_size": 3, "kernel": "native", "random_state": 0}


def regression(count: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Inputs of very different ranges; the third says nothing, the fourth is constant."""
    random = np.random.default_rng(seed)
    unit = random.uniform(-1, 1, (count, 3))
    X = np.column_stack([5e3 + 1e3 * unit[:, 0], 1e-3 * unit[:, 1], unit[:, 2], np.full(count, 7.0)])
    return X, 100 + 10 * (np.sin(2 * unit[:, 0]) + unit[:, 1] ** 2)


def fitted(**options: Any) -> KANRegressor:
    return KANRegressor(**{**SMALL, "max_iter": 3, "optimizer": "lbfgs", **options}).fit(*regression())


CHECKED = [
    KANRegressor(**SMALL, lr=0.2, max_iter=20, batch_size=None),
    KANClassifier(**{**SMALL, "hidden_layer_sizes": ()}, lr=0.2, max_iter=20, batch_size=None),
]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.parametrize("estimator", CHECKED, ids=lambda one: type(one).__name__)
def test_scikit_learns_checks_pass_without_exception(estimator: Any) -> None:
    """One is skipped by scikit-learn itself, unless SCIPY_ARRAY_API is set."""
    skipped = []
    for candidate, check in estimator_checks_generator(estimator):
        name = getattr(check, "func", check).__name__
        try:
            check(candidate)
        except unittest.SkipTest:
            skipped.append(name)
        except Exception as error:
            raise AssertionError(name) from error
    assert skipped == ["check_array_api_input"]


# Regression


def test_a_regressor_learns_whatever_the_scales() -> None:
    X, _ = regression()
    model = fitted(max_iter=5)
    new_X, new_y = regression(seed=1)
    assert model.score(new_X, new_y) > 0.99
    assert model.predict(X).shape == (200,) and model.predict(X).dtype == np.float64
    assert model.n_features_in_ == 4 and model.n_iter_ == 5 == len(model.history_)
    assert model.loss_ == model.history_[-1].train_loss


def test_predictions_are_the_networks() -> None:
    X, y = regression()
    model = fitted()
    scaled = 2 * (X - X.min(0)) / np.where(np.ptp(X, 0) > 0, np.ptp(X, 0), 1) - 1
    scaled[:, 3] = 0
    outputs = model.network_(torch.from_numpy(scaled)).detach().numpy()[:, 0]
    np.testing.assert_allclose(model.predict(X), outputs * y.std() + y.mean(), rtol=1e-9)
    losses = ((model.predict(X) - y) / y.std()) ** 2
    assert losses.mean() == pytest.approx(model.loss_, rel=1e-6), "the last evaluation of LBFGS is the network that came out"


def test_several_targets() -> None:
    X, y = regression()
    both = np.column_stack([y, -1e6 * y])
    model = KANRegressor(**SMALL, max_iter=3, optimizer="lbfgs").fit(X, both)
    assert model.predict(X).shape == (200, 2) and model.score(X, both) > 0.9
    assert model.network_.layers_hidden == [4, 2, 2]
    assert KANRegressor(**SMALL, max_iter=1).fit(X, y[:, None]).predict(X).shape == (200, 1)
    same = KANRegressor(**SMALL, max_iter=3, optimizer="lbfgs").fit(X, np.full(200, 3.0))
    np.testing.assert_allclose(same.predict(X), 3.0, atol=1e-3, err_msg="a constant target has no deviation to scale by")


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_weights_are_repetitions(optimizer: str) -> None:
    X, y = regression(60)
    counts = np.random.default_rng(1).integers(0, 4, 60)
    options: dict[str, Any] = {**SMALL, "optimizer": optimizer, "max_iter": 2, "batch_size": None, "scaling": "standard"}
    weighted = KANRegressor(**options).fit(X, y, sample_weight=counts)
    repeated = KANRegressor(**options).fit(X.repeat(counts, 0), y.repeat(counts))
    np.testing.assert_allclose(weighted.predict(X), repeated.predict(X), rtol=1e-7)
    labels = (y > 100).astype(int)
    classifier = KANClassifier(**options)
    weighted_p = classifier.fit(X, labels, sample_weight=counts).predict_log_proba(X)
    repeated_p = clone(classifier).fit(X.repeat(counts, 0), labels.repeat(counts)).predict_log_proba(X)
    # Log odds reach hundreds: probabilities would magnify rounding as many times.
    np.testing.assert_allclose(np.diff(weighted_p), np.diff(repeated_p), rtol=1e-7)


def test_importances_find_what_matters() -> None:
    X, y = regression()
    model = fitted(max_iter=5)
    importances = model.feature_importances_
    assert importances.sum() == pytest.approx(1) and importances[3] < 1e-12
    assert set(np.argsort(importances)[-2:]) == {0, 1} and importances[2] < 0.1
    permuted = permutation_importance(model, X, y, n_repeats=3, random_state=0).importances_mean
    assert set(np.argsort(permuted)[-2:]) == {0, 1}


def test_a_penalty_thins_the_network() -> None:
    plain, thin = fitted(), fitted(penalty="sample_l1", penalty_weight=0.1)
    assert thin.history_[-1].penalty is not None and plain.history_[-1].penalty is None
    x = torch.from_numpy(plain.input_scaling_.apply(regression()[0]))
    size = [sum(SampleL1().edge_norms(layer, x).sum().item() for layer in m.network_.kan_layers[:1]) for m in (plain, thin)]
    assert size[1] < 0.7 * size[0]
    assert fitted(penalty=SampleL1(), penalty_weight=0.1).loss_ == thin.loss_


def test_schedules_count_passes() -> None:
    X, y = regression()
    model = KANRegressor(**SMALL, max_iter=6, batch_size=50, refine={3: 7}, update_grid_every=2, update_grid_until=3).fit(X, y)
    assert len(model.history_) == 24 and model.n_iter_ == 6 and model.network_.grid_size == 7
    assert len({record.step for record in model.history_ if record.note} - {0, 8}) == 0


def test_early_stopping_keeps_the_best() -> None:
    X, y = regression()
    noisy = y + np.random.default_rng(0).normal(0, 20, len(y))
    options: dict[str, Any] = {**SMALL, "hidden_layer_sizes": 8, "lr": 0.1, "max_iter": 300}
    model = KANRegressor(**options, early_stopping=True, validation_fraction=0.25, n_iter_no_change=5, tol=0).fit(X, noisy)
    losses = [record.validation_loss for record in model.history_]
    assert model.n_iter_ < 300 and min(losses) == losses[-6]


def test_float32_and_outlying_samples() -> None:
    X, y = regression()
    model = KANRegressor(**SMALL, max_iter=3, optimizer="lbfgs", dtype="float32").fit(X, y)
    assert model.network_.kan_layers[0].base_weight.dtype == torch.float32 and model.score(X, y) > 0.95
    assert np.isfinite(model.predict(X * 10)).all()


def test_random_state_decides() -> None:
    X, y = regression()
    models = [KANRegressor(**{**SMALL, "random_state": s}, max_iter=2, batch_size=64).fit(X, y) for s in (0, 0, 1)]
    predictions = [model.predict(X) for model in models]
    assert np.array_equal(predictions[0], predictions[1]) and not np.array_equal(predictions[0], predictions[2])


def test_warm_start_continues() -> None:
    X, y = regression()
    model = KANRegressor(**SMALL, max_iter=2, optimizer="lbfgs", warm_start=True).fit(X, y)
    first, network, scaling = model.loss_, model.network_, model.input_scaling_
    model.fit(X[:150], y[:150])
    assert model.network_ is network and model.input_scaling_ is scaling and model.loss_ < first
    with pytest.raises(ValueError, match=r"^warm_start: expected the widths of the network there is"):
        model.set_params(hidden_layer_sizes=(5,)).fit(X, y)
    model.set_params(hidden_layer_sizes=(2,), device=torch.device("cpu"), grid_size=np.int64(3)).fit(X, y)
    cold = KANRegressor(**SMALL, max_iter=2, optimizer="lbfgs").fit(X, y)
    network = cold.network_
    assert cold.fit(X, y).network_ is not network and cold.loss_ == first


@pytest.mark.parametrize(
    ("name", "value", "had"),
    [
        ("grid_size", 7, "3"),
        ("grid_size", [3, 3], "3"),
        ("spline_order", 2, "3"),
        ("kernel", "auto", "native"),
        ("scaling", None, "range"),
        ("dtype", "float32", "float64"),
        ("device", "meta", "cpu"),
    ],
)
def test_a_warm_start_keeps_what_made_the_network(name: str, value: Any, had: str) -> None:
    X, y = regression()
    model = KANRegressor(**SMALL, max_iter=1, warm_start=True).fit(X, y)
    predicted = model.predict(X)
    model.set_params(**{name: value})
    assert np.array_equal(model.predict(X), predicted), "predictions are those of the fitted network"
    with pytest.raises(ValueError, match=rf"^warm_start: expected {name} of the fit before, {had}, got "):
        model.fit(X, y)
    assert np.array_equal(model.predict(X), predicted)
    model.set_params(warm_start=False)
    if name not in ("device", "scaling") and not isinstance(value, list):
        model.fit(X, y)


def test_a_warm_start_goes_on_with_refined_grids() -> None:
    X, y = regression()
    model = KANRegressor(**SMALL, max_iter=4, optimizer="lbfgs", warm_start=True, refine={1: 6}, update_grid_every=3)
    first = model.fit(X, y).loss_
    assert model.network_.grid_size == 6 and model.fit(X, y).loss_ < first
    model.set_params(refine={0: 4, 1: 9}).fit(X, y)
    assert model.network_.grid_size == 9 and not any("refine" in record.note for record in model.history_), "none got coarser"


@pytest.mark.parametrize("size", [1e-310, 1e-300, 1e-170, 1e160, 1e300])
@pytest.mark.parametrize("scaling", ["standard", "range"])
def test_sizes_of_inputs_and_targets_do_not_matter(size: float, scaling: str) -> None:
    X, y = regression()
    X, y = X / 1e4, y / 1e2
    options: dict[str, Any] = {**SMALL, "max_iter": 2, "optimizer": "lbfgs", "scaling": scaling}
    usual = KANRegressor(**options).fit(X, y).predict(X)
    rtol = 1e-4 if size < 1e-308 else 1e-6  # which has few digits
    np.testing.assert_allclose(KANRegressor(**options).fit(X, y * size).predict(X) / size, usual, rtol=rtol)
    X *= 1e4
    X[:, 1] *= 1e3
    usual = KANRegressor(**options).fit(X, y).predict(X)
    np.testing.assert_allclose(KANRegressor(**options).fit(X * size, y).predict(X * size), usual, rtol=rtol)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [5e-324, 1e-320, 1e-50, 1e40, 1e307])
def test_only_ratios_of_weights_count(size: float, dtype: str) -> None:
    X, y = regression()
    weight = 2.0 ** np.random.default_rng(0).integers(0, 3, 200)
    options: dict[str, Any] = {**SMALL, "max_iter": 2, "dtype": dtype, "scaling": "standard"}
    usual = KANRegressor(**options).fit(X, y, weight).predict(X)
    np.testing.assert_allclose(KANRegressor(**options).fit(X, y, weight * size).predict(X), usual, rtol=1e-6)
    labels = (y > 100).astype(int)
    for class_weight in ("balanced", {0: 1e300, 1: 1e299}):
        classifier = KANClassifier(**options, class_weight=class_weight)
        usual = classifier.fit(X, labels, weight).predict_proba(X)
        np.testing.assert_allclose(classifier.fit(X, labels, weight * size).predict_proba(X), usual, rtol=1e-5)


# Classification


def test_a_fit_that_fails_leaves_the_one_before_as_it_was() -> None:
    X, y = regression()
    model = fitted()
    expected = model.predict(X)
    with pytest.raises(ValueError, match="lr"):
        model.set_params(lr=-1.0).fit(10 * X, 100 * y)
    np.testing.assert_array_equal(model.predict(X), expected)
    labels = np.where(y > 100, "high", "low")
    judge = KANClassifier(**SMALL, max_iter=3).fit(X, labels)
    expected = judge.predict(X)
    with pytest.raises(ValueError, match="lr"):
        judge.set_params(lr=-1.0).fit(X, np.where(y > 100, "a", "b"))
    np.testing.assert_array_equal(judge.predict(X), expected)
    with pytest.raises(ValueError, match="lr"):
        (unfitted := KANRegressor(**SMALL, lr=-1.0)).fit(X, y)
    with pytest.raises(NotFittedError):
        unfitted.predict(X)


def test_a_fit_that_fails_on_other_features_or_in_training_leaves_the_one_before() -> None:
    X, y = regression()
    model = fitted(warm_start=True)
    expected = model.predict(X)
    with pytest.raises(FloatingPointError):
        model.set_params(lr=1e30, optimizer=torch.optim.SGD).fit(X, y)
    np.testing.assert_array_equal(model.predict(X), expected)
    with pytest.raises(ValueError, match="lr"):
        model.set_params(lr=-1.0, warm_start=False).fit(np.column_stack([X, X]), y)
    np.testing.assert_array_equal(model.predict(X), expected)


@pytest.mark.parametrize(
    "labels", [["setosa", "versicolor", "virginica"], [2, 7, -1], [0.0, 1.0, 2.0]], ids=["str", "int", "float"]
)
def test_labels_of_any_type(labels: list[Any]) -> None:
    X, y = load_iris(return_X_y=True)
    names = np.asarray(labels)[y]
    model = KANClassifier(**SMALL, max_iter=2, optimizer="lbfgs").fit(X, names)
    assert model.score(X, names) > 0.95
    assert model.classes_.tolist() == sorted(labels) and model.predict(X).dtype == names.dtype
    chances = model.predict_proba(X)
    assert chances.shape == (150, 3)
    np.testing.assert_allclose(chances.sum(1), 1)
    np.testing.assert_allclose(np.log(chances), model.predict_log_proba(X), atol=1e-6)
    assert (model.classes_[chances.argmax(1)] == model.predict(X)).all()


def test_two_classes_and_their_weights() -> None:
    X, y = regression()
    labels = np.where(y > 112, "rare", "common")
    assert (labels == "rare").mean() < 0.3
    options: dict[str, Any] = {**SMALL, "optimizer": "lbfgs", "max_iter": 1}
    recall = {}
    for weights in (None, "balanced", {"rare": 1000.0}):
        model = KANClassifier(**options, class_weight=weights).fit(X, labels)
        recall[str(weights)] = (model.predict(X)[labels == "rare"] == "rare").mean()
    assert recall["None"] <= recall["balanced"] <= recall["{'rare': 1000.0}"] == 1
    by_hand = KANClassifier(**options).fit(X, labels, sample_weight=np.where(labels == "rare", 1000.0, 1.0))
    assert np.array_equal(by_hand.predict_proba(X), model.predict_proba(X))


@pytest.mark.parametrize("class_weight", ["balanced", {0: 0.1, 2: 3.0}], ids=str)
def test_weights_are_repetitions_with_weights_of_classes(class_weight: Any) -> None:
    X, y = load_iris(return_X_y=True)
    counts = np.random.default_rng(1).integers(0, 3, len(y)) * (1 + (y == 1))
    options: dict[str, Any] = {**SMALL, "optimizer": "lbfgs", "max_iter": 2, "class_weight": class_weight}
    weighted = KANClassifier(**options).fit(X, y, sample_weight=counts).predict_proba(X)
    repeated = KANClassifier(**options).fit(X.repeat(counts, 0), y.repeat(counts)).predict_proba(X)
    np.testing.assert_allclose(weighted, repeated, atol=1e-6)


def test_balanced_weights_are_scikit_learns() -> None:
    X, y = load_iris(return_X_y=True)
    y = np.minimum(y, 1)
    ours = KANClassifier(**SMALL, max_iter=2, class_weight="balanced").fit(X, y).predict_proba(X)
    theirs = KANClassifier(**SMALL, max_iter=2).fit(X, y, compute_sample_weight("balanced", y)).predict_proba(X)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_a_class_whose_samples_all_have_weight_zero_has_no_part_in_balancing() -> None:
    X, y = load_iris(return_X_y=True)
    model = KANClassifier(**SMALL, max_iter=5, optimizer="lbfgs", class_weight="balanced")
    assert model.fit(X, y, sample_weight=(y != 1).astype(float)).predict_proba(X)[:, 1].max() < 0.1


@pytest.mark.parametrize(
    ("class_weight", "message"),
    [
        ({0: -1, 1: 1, 2: 0}, r"class_weight\[0\]: expected a finite number in \[0.0, inf\], got -1"),
        ({0: 1, 7: np.nan}, r"class_weight\[7\]: expected a finite number"),
        ({0: 1, 1: "2"}, r"class_weight\[1\]: expected a finite number"),
        ({0: 0, 1: 0, 2: 0}, "class_weight: expected a factor > 0"),
        ("fair", ".*class_weight"),
        ([1, 2, 3], ".*class_weight"),
    ],
    ids=str,
)
def test_bad_weights_of_classes_are_refused(class_weight: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        KANClassifier(**SMALL, class_weight=class_weight).fit(*load_iris(return_X_y=True))


def test_warm_start_wants_the_same_classes() -> None:
    X, y = load_iris(return_X_y=True)
    model = KANClassifier(**SMALL, max_iter=1, warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match=r"^warm_start: expected the classes of the fit before"):
        model.fit(X[:100], y[:100])


def test_early_stopping_holds_back_every_class() -> None:
    X, y = load_iris(return_X_y=True)
    KANClassifier(**SMALL, max_iter=2, early_stopping=True, validation_fraction=0.1).fit(X, y)
    with pytest.raises(ValueError, match="least populated class"):
        KANClassifier(**SMALL, early_stopping=True).fit(X, np.where(np.arange(150) == 0, 9, y))


# scikit-learn's tools


def test_pickle_and_clone() -> None:
    X, y = regression()
    model = fitted(penalty="weight_l1")
    assert np.array_equal(pickle.loads(pickle.dumps(model)).predict(X), model.predict(X))
    again = clone(model)
    assert not hasattr(again, "network_") and again.get_params() == model.get_params()
    assert np.array_equal(again.fit(X, y).predict(X), model.predict(X))


def test_search_and_pipeline() -> None:
    X, y = load_iris(return_X_y=True)
    pipeline = make_pipeline(QuantileTransformer(n_quantiles=50), KANClassifier(**SMALL, max_iter=1, optimizer="lbfgs"))
    search = GridSearchCV(pipeline, {"kanclassifier__grid_size": [2, 4]}, cv=2).fit(X, y)
    assert search.best_score_ > 0.8 and search.best_params_["kanclassifier__grid_size"] in (2, 4)
    assert cross_val_score(KANClassifier(**SMALL, max_iter=1, optimizer="lbfgs"), X, y, cv=2, scoring="neg_log_loss").shape == (
        2,
    )


def test_names_of_features() -> None:
    X, y = regression()
    frame = pd.DataFrame(X, columns=["a", "b", "c", "d"])
    model = KANRegressor(**SMALL, max_iter=1).fit(frame, y)
    assert model.feature_names_in_.tolist() == ["a", "b", "c", "d"]
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[["b", "a", "c", "d"]])


def test_threads_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    with threads(2):
        assert asked == [2]
    with threads(-1):
        pass
    with threads(None):
        pass
    assert asked[1] == 3 and asked[2] >= 1 and asked[3:] == [3]
    with threads(10**6):
        assert asked[4:] == [8]
    for bad in (0, 1.5, True):
        with pytest.raises(ValueError, match=r"^n_jobs: expected an integer other than 0"), threads(bad):  # type: ignore[arg-type]
            pass


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    fitted(verbose=1)
    assert "step 3/3" in capsys.readouterr().err


# Scaling


def test_scalings_of_inputs() -> None:
    X, _ = regression()
    scaled = into_grid(X, None, "range").apply(X)
    np.testing.assert_allclose([scaled[:, :3].min(0), scaled[:, :3].max(0)], [[-1] * 3, [1] * 3], rtol=1e-12)
    assert not scaled[:, 3].any()
    weight = np.arange(200.0)
    scaled = into_grid(X, weight, "standard").apply(X)
    np.testing.assert_allclose(np.average(scaled, axis=0, weights=weight), 0, atol=1e-12)
    np.testing.assert_allclose(np.average(scaled[:, :3] ** 2, axis=0, weights=weight), 1 / 9)
    assert np.array_equal(into_grid(X, None, None).apply(X), X)
    noise = np.full((100, 1), 0.1) + np.tile([[0.0], [1.4e-17]], (50, 1))
    assert np.abs(standard(noise, None).apply(noise)).max() < 1e-10, "rounding is no deviation"
    for constant in (np.full((200, 1), 7e-4), np.full((200, 1), 7e160)):
        assert not into_grid(constant, np.arange(200.0), "standard").apply(constant).any()
    huge = np.array([[-1.7e308], [1.7e308]])
    assert np.array_equal(into_grid(huge, None, "range").apply(huge), [[-1], [1]])
    with pytest.raises(ValueError, match=r"^X: expected columns of which three standard deviations are finite"):
        into_grid(huge, None, "standard")


BAD: list[tuple[dict[str, Any], str]] = [
    ({"hidden_layer_sizes": (0,)}, r"hidden_layer_sizes\[0\]: expected an integer >= 1, got 0"),
    ({"hidden_layer_sizes": "8"}, "hidden_layer_sizes: expected a sequence of widths"),
    ({"grid_size": 0}, "grid_size: expected an integer >= 1"),
    ({"scaling": "max"}, "scaling: expected one of"),
    ({"optimizer": "sgd"}, "optimizer: expected 'adam', 'lbfgs'"),
    ({"max_iter": 0}, "max_iter: expected an integer >= 1"),
    ({"batch_size": "all"}, "batch_size: expected 'auto', an integer >= 1 or None"),
    ({"penalty": "l1"}, "penalty: expected one of"),
    ({"update_grid_every": 0}, "update_grid_every: expected an integer >= 1"),
    ({"refine": [3]}, "refine: expected a mapping"),
    ({"refine": {-1: 3}}, "refine: pass: expected an integer >= 0, got -1"),
    ({"max_iter": 40, "refine": {3: 4, 100: 10}}, r"refine: expected passes below max_iter=40, got \[100\]"),
    ({"update_grid_every": 5, "grid_size": 30}, r"update_grid_every: expected at least \d+ samples .* knots by, got 200$"),
    ({"refine": {2: 0}, "batch_size": 50}, r"refine\[2\]: expected an integer >= 1, got 0"),
    ({"early_stopping": 1}, "early_stopping: expected a bool"),
    ({"early_stopping": True, "tol": -1}, r"tol: expected a finite number in \[0.0, inf\], got -1"),
    ({"early_stopping": True, "n_iter_no_change": 0}, "n_iter_no_change: expected an integer >= 1, got 0"),
    ({"early_stopping": True, "validation_fraction": 1.5}, "validation_fraction: expected a finite number"),
    ({"warm_start": "yes"}, "warm_start: expected a bool"),
    ({"dtype": "float16"}, "dtype: expected one of"),
    ({"device": "abacus"}, "device: expected a torch device"),
    ({"n_jobs": 0}, "n_jobs: expected an integer other than 0"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[f"{n}-{next(iter(options))}" for n, (options, _) in enumerate(BAD)])
def test_parameters_that_do_not_fit_are_refused_by_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        KANRegressor(**{**SMALL, **options}).fit(*regression())


def test_data_that_does_not_fit_is_refused() -> None:
    X, y = regression()
    with pytest.raises(ValueError, match=r"^y: expected at least 2 classes, got '1 class'"):
        KANClassifier(**SMALL).fit(X, np.ones(200, int))
    with pytest.raises(ValueError, match="at least one non-zero"):
        KANRegressor(**SMALL).fit(X, y, sample_weight=np.zeros(200))
    with pytest.raises(ValueError, match="Negative values"):
        KANRegressor(**SMALL).fit(X, y, sample_weight=-np.ones(200))
    with pytest.raises(ValueError, match=r"^y: expected finite values, got 200 NaN or infinite of 200"):
        KANRegressor(**SMALL, max_iter=1, dtype="float32", warm_start=True).fit(X, y).fit(X, y * 1e100)
    model = KANRegressor(**SMALL, max_iter=1, dtype="float32").fit(X, y)
    with pytest.raises(ValueError, match=r"^X: expected finite values, got 4 NaN or infinite of 4"):
        model.predict(np.full((1, 4), 1e300))


def test_a_missing_scikit_learn_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "sklearn":
            raise ImportError(name)
        return real(name, *args, **options)

    for module in [name for name in sys.modules if name.startswith("efficient_kan.estimators")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'efficient-kan-bench\[sklearn\]'"):
        importlib.import_module("efficient_kan.estimators")
    with pytest.raises(AttributeError, match="no attribute 'KANTransformer'"):
        _ = efficient_kan.KANTransformer
    assert {"KANRegressor", "train"} <= set(dir(efficient_kan))
