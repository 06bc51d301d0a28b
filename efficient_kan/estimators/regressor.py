"""A regressor with the interface of scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import MultiOutputMixin, RegressorMixin
from torch import nn

from efficient_kan import _checks
from efficient_kan.estimators.base import KANEstimator
from efficient_kan.estimators.scaling import Affine, standard


class KANRegressor(MultiOutputMixin, RegressorMixin, KANEstimator):  # type: ignore[misc]
    """A :class:`KAN` with the interface of scikit-learn's regressors; one or several targets.

    Inputs are scaled into the grid and targets to mean 0 and deviation 1; the loss is the mean squared error of scaled targets.

    Args:
        hidden_layer_sizes: widths of the hidden layers; ``()`` for one layer of edges, an additive model.
        grid_size, spline_order, kernel: of the network, see :class:`KAN`.
        scaling: of inputs: ``"range"`` (the training samples' range becomes the grid's), ``"standard"`` (three standard
            deviations do) or ``None`` (inputs are expected in [-1, 1]).
        optimizer: ``"adam"``, ``"lbfgs"`` or a function, see :func:`efficient_kan.train`.
        lr: learning rate, or a function of the optimizer's steps; ``None``: the optimizer's default.
        max_iter: passes over the samples.
        batch_size: samples of a step; ``"auto"``: all with ``"lbfgs"``, else at most 256. ``None``: all.
        penalty: ``"sample_l1"``, ``"sample_std"``, ``"weight_l1"``, an object of these classes, or ``None``.
        penalty_weight: its weight beside the mean loss; not used without ``penalty``.
        update_grid_every, update_grid_until, refine: when grids follow the samples or get more intervals, as in
            :func:`efficient_kan.train`, but counted in passes. Weights of samples do not count there.
        early_stopping: hold ``validation_fraction`` of the samples back, stop when the loss there has not got lower by ``tol``
            for ``n_iter_no_change`` passes, and keep the weights of the lowest one.
        validation_fraction, n_iter_no_change, tol: see ``early_stopping``.
        warm_start: let ``fit`` continue with the network (and the scaling) of the fit before. Parameters that make them must
            then be those of that fit: ``hidden_layer_sizes``, ``grid_size``, ``spline_order``, ``kernel``, ``scaling``,
            ``dtype`` and ``device``. Of ``refine`` only sizes above that of the network count then.
        random_state: of initial weights, order and held-back samples. With an int, a CPU with a fixed number of threads
            gives the same network bit by bit.
        n_jobs: threads of torch in ``fit`` and predictions, at most one a core; ``None``: as they are set, -1: all CPUs.
        verbose: show the training's progress on ``stderr``.
        dtype: ``"float64"`` or ``"float32"``: of the network. Predictions are float64 arrays; those of float32
            networks depend, in their last digits, on the samples that are predicted together.
        device: of the network.

    Attributes:
        network_: the :class:`KAN`, of scaled inputs and outputs.
        history_: one :class:`efficient_kan.training.Record` a step of the last fit.
        n_iter_: passes over the samples in the last fit.
        loss_: the last training loss.
        feature_importances_: pykan's attribution scores of the inputs (:meth:`KAN.importance`) at up to 1024 training
            samples, with sum 1; zeros if the network is constant there.
        input_scaling_: the map of inputs: ``center`` and ``scale``.
        n_features_in_, feature_names_in_: of the last fit.
        target_scaling_: the map of targets: ``center`` and ``scale``.
    """

    target_scaling_: Affine

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> KANRegressor:
        """Train the network.

        Args:
            X: ``(N, I)`` samples.
            y: ``(N,)`` targets, or ``(N, O)`` several.
            sample_weight: ``(N,)``, >= 0: of the loss, and of mean and deviation of targets. Only ratios count.

        Raises:
            ValueError: if data or parameters are out of range.

        If anything fails, the estimator stays as it was.
        """
        with self._all_or_nothing():
            return self._fit(X, y, sample_weight)

    def _fit(self, X: Any, y: Any, sample_weight: Any) -> KANRegressor:
        X, y, weight = self._checked(X, y, sample_weight, multi_output=True, y_numeric=True)
        targets = np.asarray(y, dtype=np.float64)
        columns = targets.reshape(len(targets), -1)
        if not self._continues():
            used = slice(None) if weight is None else weight > 0
            self.target_scaling_ = standard(columns[used], None if weight is None else weight[used])
        scaled = torch.from_numpy(self.target_scaling_.apply(columns)).to(self._dtype())
        _checks.finite(scaled, "y")
        self._train(X, scaled, weight, columns.shape[1], nn.MSELoss(), None)
        self._flat = targets.ndim == 1
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """The targets of samples ``(N, I)``: ``(N,)`` or ``(N, O)``, as they were given to ``fit``."""
        outputs = self._outputs(X)
        found = self.target_scaling_.undo(outputs.numpy())
        return found[:, 0] if self._flat else found
