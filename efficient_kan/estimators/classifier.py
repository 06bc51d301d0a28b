"""A classifier with the interface of scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from torch import nn

from efficient_kan import _checks
from efficient_kan.estimators.base import KANEstimator
from efficient_kan.estimators.scaling import Array, relative


class KANClassifier(ClassifierMixin, KANEstimator):  # type: ignore[misc]
    """A :class:`KAN` with the interface of scikit-learn's classifiers; two or more classes, with labels of any type.

    Inputs are scaled into the grid; the network gives one logit a class, and the loss is the cross-entropy.

    Args:
        class_weight: factors of samples' weights by class: ``None``, ``"balanced"`` (inversely to a class's total weight) or a
            mapping ``{label: factor}`` with factors >= 0; a label that is not in it has factor 1.
        hidden_layer_sizes and others: as in :class:`KANRegressor`. Samples are held back class by class.

    Attributes:
        classes_: the labels, sorted.
        network_ and others: as in :class:`KANRegressor`; there is no scaling of targets.
    """

    classes_: NDArray[Any]

    def __init__(
        self,
        hidden_layer_sizes: Any = (8,),
        *,
        class_weight: Any = None,
        grid_size: int = 5,
        spline_order: int = 3,
        kernel: str = "auto",
        scaling: str | None = "range",
        optimizer: Any = "adam",
        lr: Any = None,
        max_iter: int = 200,
        batch_size: Any = "auto",
        penalty: Any = None,
        penalty_weight: float = 1e-3,
        update_grid_every: int | None = None,
        update_grid_until: int | None = None,
        refine: Mapping[int, int] | None = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        tol: float = 1e-4,
        warm_start: bool = False,
        random_state: Any = None,
        n_jobs: int | None = None,
        verbose: Any = False,
        dtype: str = "float64",
        device: Any = "cpu",
    ) -> None:
        super().__init__(
            hidden_layer_sizes,
            grid_size=grid_size,
            spline_order=spline_order,
            kernel=kernel,
            scaling=scaling,
            optimizer=optimizer,
            lr=lr,
            max_iter=max_iter,
            batch_size=batch_size,
            penalty=penalty,
            penalty_weight=penalty_weight,
            update_grid_every=update_grid_every,
            update_grid_until=update_grid_until,
            refine=refine,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            n_iter_no_change=n_iter_no_change,
            tol=tol,
            warm_start=warm_start,
            random_state=random_state,
            n_jobs=n_jobs,
            verbose=verbose,
            dtype=dtype,
            device=device,
        )
        self.class_weight = class_weight

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> KANClassifier:
        """Train the network.

        Args:
            X: ``(N, I)`` samples.
            y: ``(N,)`` labels.
            sample_weight: ``(N,)``, >= 0: of the loss.

        Raises:
            ValueError: if data or parameters are out of range, there is one class alone, or with ``warm_start`` the classes
                are not those of the fit before.

        If anything fails, the estimator stays as it was.
        """
        with self._all_or_nothing():
            return self._fit(X, y, sample_weight)

    def _fit(self, X: Any, y: Any, sample_weight: Any) -> KANClassifier:
        X, y, weight = self._checked(X, y, sample_weight)
        check_classification_targets(y)
        classes, index = np.unique(y, return_inverse=True)
        _checks.require(len(classes) >= 2, "y", "at least 2 classes", f"{len(classes)} class")
        if self._continues():
            same = np.array_equal(classes, self.classes_)
            _checks.require(same, "warm_start", f"the classes of the fit before, {self.classes_}", classes)
        weight = self._by_class(y, index, weight)
        self.classes_ = classes
        self._train(X, torch.from_numpy(index), weight, len(classes), nn.CrossEntropyLoss(), index)
        return self

    def _by_class(self, y: Any, index: NDArray[np.intp], weight: Array | None) -> Array | None:
        """Weights of samples, of which ``index`` are the classes, times the factors of the classes."""
        if self.class_weight is None:
            return weight
        weight = np.ones(len(y)) if weight is None else weight
        if isinstance(self.class_weight, str) and self.class_weight == "balanced":
            totals = np.bincount(index, weights=weight)
            return weight / np.where(totals > 0, totals, 1.0)[index]
        if isinstance(self.class_weight, Mapping):
            for label, factor in self.class_weight.items():
                _checks.number(factor, f"class_weight[{label!r}]", 0.0)
        weight = relative(weight * relative(compute_sample_weight(self.class_weight, y)))
        _checks.require(bool(weight.any()), "class_weight", "a factor > 0 of some sample with weight", self.class_weight)
        return weight

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable label of each sample ``(N, I)``: ``(N,)``."""
        found = self._outputs(X).argmax(1).numpy()
        return np.asarray(self.classes_[found])

    def predict_proba(self, X: Any) -> NDArray[Any]:
        """Probabilities of the classes, in the order of ``classes_``: ``(N, C)``."""
        return np.asarray(self._outputs(X).softmax(1).numpy())

    def predict_log_proba(self, X: Any) -> NDArray[Any]:
        """Logarithms of the probabilities: ``(N, C)``."""
        return np.asarray(self._outputs(X).log_softmax(1).numpy())
