"""One estimator on one data set of scikit-learn: nested cross-validation, with the folds that all estimators get."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from sklearn import datasets
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, log_loss, mean_squared_error, r2_score
from sklearn.model_selection import GridSearchCV, KFold, RepeatedKFold, RepeatedStratifiedKFold, StratifiedKFold
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.schema.cases import Case
from benchmarks.schema.rows import Outcome
from efficient_kan import KANClassifier, KANRegressor

LOADERS: Mapping[str, Any] = {
    "diabetes": datasets.load_diabetes,
    "breast_cancer": datasets.load_breast_cancer,
    "wine": datasets.load_wine,
    "digits": datasets.load_digits,
    "iris": datasets.load_iris,
}
_REGRESSION = ("diabetes",)
_STRENGTHS = tuple(float(10.0**n) for n in range(-2, 4))


class Search(NamedTuple):
    """An estimator and the parameters that the inner folds choose from."""

    estimator: Any
    candidates: list[dict[str, list[Any]]]


def measure(case: Case) -> Outcome:
    """Return what `study` finds, as the part of a row."""
    return Outcome(status="ok", part=study(dict(case.options), case.point.batch, case.seed))


def study(told: Mapping[str, Any], batch: int, seed: int) -> dict[str, Any]:
    """Score the model `told["model"]` on every outer fold, with the candidate that is best on the inner folds.

    `score` is R squared or accuracy, `loss` the mean squared error over the variance of the fold's targets, or the log loss.
    Candidates are chosen by the loss.
    """
    X, y = LOADERS[told["data"]](return_X_y=True)
    regression = told["data"] in _REGRESSION
    kind, inner_kind = (RepeatedKFold, KFold) if regression else (RepeatedStratifiedKFold, StratifiedKFold)
    outer = kind(n_splits=told["folds"], n_repeats=told["repeats"], random_state=seed)
    folds = []
    for number, (train, test) in enumerate(outer.split(X, y)):
        start = time.perf_counter()
        passes = -(-told["steps"] // -(-len(train) // batch))
        estimator, candidates = search(told["model"], regression, passes, batch, seed + number)
        chosen = GridSearchCV(
            estimator,
            candidates,
            scoring="neg_mean_squared_error" if regression else "neg_log_loss",
            cv=inner_kind(told["inner"], shuffle=True, random_state=seed + number),
            error_score="raise",
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # of networks: their steps are declared
            chosen.fit(X[train], y[train])
        seconds = time.perf_counter() - start
        score, loss = _scores(chosen, X[test], y[test], regression)
        best = {name.rpartition("__")[2]: _plain(value) for name, value in chosen.best_params_.items()}
        sizes = {"train": len(train), "test": len(test)}
        fold = {"fold": number, **sizes, "score": score, "loss": loss, "chosen": best}
        folds.append(fold | {"search_s": seconds, "refit_s": float(chosen.refit_time_)})
    count = sum(int(np.prod([len(values) for values in one.values()])) for one in candidates)
    task = "regression" if regression else "classification"
    return {"task": task, "samples": X.shape[0], "features": X.shape[1], "candidates": count, "folds": folds}


def _scores(model: Any, X: Any, y: Any, regression: bool) -> tuple[float, float]:
    if regression:
        found = model.predict(X)
        return float(r2_score(y, found)), float(mean_squared_error(y, found) / np.var(y))
    chances = model.predict_proba(X)
    return float(accuracy_score(y, model.classes_[chances.argmax(1)])), float(log_loss(y, chances, labels=model.classes_))


def search(model: str, regression: bool, passes: int, batch: int, seed: int) -> Search:
    """Return the estimator of that name and its six candidates. Networks are trained for `passes` passes on batches."""
    if model == "kan":
        fixed: dict[str, Any] = {
            "grid_size": 3,
            "max_iter": passes,
            "batch_size": batch,
            "random_state": seed,
            "dtype": "float32",
        }
        hidden: list[Any] = [(), (8,)]
        candidates: list[dict[str, list[Any]]] = [
            {"hidden_layer_sizes": hidden, "penalty": [None]},
            {"hidden_layer_sizes": hidden, "penalty": ["sample_l1"], "penalty_weight": [1e-3, 1e-2]},
        ]
        return Search((KANRegressor if regression else KANClassifier)(scaling="standard", **fixed), candidates)
    if model == "mlp":
        fixed = {"hidden_layer_sizes": (64,), "max_iter": passes, "batch_size": batch, "random_state": seed}
        fixed |= {"n_iter_no_change": passes, "tol": 0.0}  # all passes, as the KAN
        values = {"alpha": [1e-4, 1e-2, 1.0], "learning_rate_init": [1e-3, 1e-2]}
        network = make_pipeline(StandardScaler(), (MLPRegressor if regression else MLPClassifier)(**fixed))
        last = "mlpregressor" if regression else "mlpclassifier"
        if not regression:
            return Search(network, [{f"{last}__{name}": choices for name, choices in values.items()}])
        scaled = TransformedTargetRegressor(network, transformer=StandardScaler())
        return Search(scaled, [{f"regressor__{last}__{name}": choices for name, choices in values.items()}])
    if model == "trees":
        boosting = HistGradientBoostingRegressor if regression else HistGradientBoostingClassifier
        values = {"learning_rate": [0.03, 0.1], "max_leaf_nodes": [4, 8, 31]}
        return Search(boosting(early_stopping=False, random_state=seed), [values])
    if model == "linear" and regression:
        return Search(make_pipeline(StandardScaler(), Ridge()), [{"ridge__alpha": list(_STRENGTHS)}])
    if model == "linear":
        logistic = LogisticRegression(max_iter=1000)
        return Search(make_pipeline(StandardScaler(), logistic), [{"logisticregression__C": [1 / one for one in _STRENGTHS]}])
    raise ValueError(f"model: expected kan, mlp, trees or linear, got {model!r}")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
