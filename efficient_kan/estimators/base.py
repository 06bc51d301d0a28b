"""What both estimators share: parameters, the network, and how it is trained."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor

from efficient_kan import _checks
from efficient_kan._computed import Snapshot
from efficient_kan.estimators.scaling import Affine, Array, into_grid, relative
from efficient_kan.network import KAN
from efficient_kan.penalties import SampleL1, SampleStd, WeightL1
from efficient_kan.training import Record, train

PENALTIES: dict[str, Any] = {"sample_l1": SampleL1, "sample_std": SampleStd, "weight_l1": WeightL1}
_DTYPES = {"float32": torch.float32, "float64": torch.float64}
# Samples of a step of Adam, at most, if their number is not given; of a prediction; and that importances are measured at.
_BATCH, _PREDICTED, _IMPORTANCE = 256, 8192, 1024
# Parameters of the network and its scaling, which a warm start keeps.
_KEPT = ("grid_size", "spline_order", "kernel", "scaling", "dtype")


class KANEstimator(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no annotations
    """Base of the estimators. :class:`KANRegressor` describes parameters and attributes."""

    network_: KAN
    history_: list[Record]
    n_iter_: int
    loss_: float
    feature_importances_: Array
    input_scaling_: Affine

    def __init__(
        self,
        hidden_layer_sizes: Any = (8,),
        *,
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
        self.hidden_layer_sizes = hidden_layer_sizes
        self.grid_size = grid_size
        self.spline_order = spline_order
        self.kernel = kernel
        self.scaling = scaling
        self.optimizer = optimizer
        self.lr = lr
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.penalty = penalty
        self.penalty_weight = penalty_weight
        self.update_grid_every = update_grid_every
        self.update_grid_until = update_grid_until
        self.refine = refine
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.warm_start = warm_start
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.dtype = dtype
        self.device = device

    def _continues(self) -> bool:
        return bool(_checks.flag(self.warm_start, "warm_start")) and hasattr(self, "network_")

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Leave all attributes, and a network that is trained on, as they were if the block fails."""
        before, network = dict(self.__dict__), Snapshot([self.network_] if self._continues() else [])
        try:
            yield
        except BaseException:
            network.restore()
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    def _checked(self, X: Any, y: Any, sample_weight: Any, **options: Any) -> tuple[Array, Any, Array | None]:
        """Samples, targets and weights as arrays; weights are scaled so that the largest is in [0.5, 1)."""
        X, y = validate_data(self, X, y, reset=not self._continues(), dtype=np.float64, **options)
        if sample_weight is None:
            return X, y, None
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        _checks.require(bool(weight.any()), "sample_weight", "at least one non-zero weight", "none")
        return X, y, relative(weight)

    def _train(self, X: Array, y: Tensor, weight: Array | None, outputs: int, loss: Any, stratify: Any) -> None:
        """Train the network for these samples, with targets as the loss takes them."""
        if weight is not None and not weight.all():
            kept = weight > 0
            X, y, weight = X[kept], y[torch.from_numpy(kept)], weight[kept]
            stratify = None if stratify is None else stratify[kept]
        random = check_random_state(self.random_state)
        generator = torch.Generator().manual_seed(int(random.randint(2**31 - 1)))
        continued = self._continues()
        network = self._network(X.shape[1], outputs, generator)
        if not continued:
            self.input_scaling_ = into_grid(X, weight, self.scaling)
        x = self._inputs(X, network)
        weights = () if weight is None else (torch.from_numpy(weight).to(x.dtype),)
        data, validation = (x, y, *weights), None
        if _checks.flag(self.early_stopping, "early_stopping"):
            parts = self._parts(len(x), stratify, random)
            data, validation = (tuple(tensor[part] for tensor in (x, y, *weights)) for part in parts)
            if weight is not None:  # the largest may be in the other part
                data, validation = ((x, y, weight / weight.amax()) for x, y, weight in (data, validation))
        with threads(self.n_jobs):
            trained = train(network, data, loss=loss, validation=validation, generator=generator, **self._options(len(data[0])))
            self.network_, self.history_ = trained.network, trained.history
            self.n_iter_, self.loss_ = self.history_[-1].epoch + 1, self.history_[-1].train_loss
            self.feature_importances_ = self._importances(x)
            self._kept = self._to_keep()

    def _network(self, inputs: int, outputs: int, generator: torch.Generator) -> KAN:
        sizes = self.hidden_layer_sizes
        hidden = [sizes] if isinstance(sizes, (int, np.integer)) else sizes
        usable = isinstance(hidden, (tuple, list, np.ndarray))
        _checks.require(usable, "hidden_layer_sizes", "a sequence of widths, or one width", sizes)
        widths = [inputs, *(_checks.integer(w, f"hidden_layer_sizes[{n}]", 1) for n, w in enumerate(hidden)), outputs]
        if self._continues():
            had = self.network_.layers_hidden
            _checks.require(had == widths, "warm_start", f"the widths of the network there is, {had}", widths)
            kept = getattr(self, "_kept", None) or self._to_keep()  # pickles of before have none
            for name, now in self._to_keep().items():
                before = kept[name]
                _checks.require(np.array_equal(before, now), "warm_start", f"{name} of the fit before, {before}", now)
            return self.network_
        shape: dict[str, Any] = {"grid_size": self.grid_size, "spline_order": self.spline_order, "kernel": self.kernel}
        network = KAN(widths, **shape, generator=generator, dtype=torch.float64, bias=True)
        return network.to(device=_checks.device(self.device, "device"), dtype=self._dtype())

    def _to_keep(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _KEPT} | {"device": str(self.device)}

    def _dtype(self) -> torch.dtype:
        _checks.require(isinstance(self.dtype, str) and self.dtype in _DTYPES, "dtype", f"one of {list(_DTYPES)}", self.dtype)
        return _DTYPES[self.dtype]

    def _options(self, count: int) -> dict[str, Any]:
        """The arguments of ``train`` beside network, samples and loss; ``count`` samples are trained on."""
        automatic = isinstance(self.batch_size, str)
        if automatic:
            _checks.require(self.batch_size == "auto", "batch_size", "'auto', an integer >= 1 or None", self.batch_size)
        full = isinstance(self.optimizer, str) and self.optimizer == "lbfgs"
        batch = (None if full else min(_BATCH, count)) if automatic else self.batch_size
        batches = 1 if batch is None else -(-count // _checks.integer(batch, "batch_size", 1))
        refine = self.refine
        usable = refine is None or isinstance(refine, Mapping)
        _checks.require(usable, "refine", "a mapping {pass: grid_size} or None", refine)
        passes = _checks.integer(self.max_iter, "max_iter", 1)
        finer = {
            _checks.integer(at, "refine: pass", 0): _checks.integer(size, f"refine[{at}]", 1)
            for at, size in (refine or {}).items()
        }
        late = [at for at in finer if at >= passes]
        _checks.require(not late, "refine", f"passes below max_iter={passes}", late)
        if self._continues():  # what is finer already is not made coarser
            finer = {at: size for at, size in finer.items() if size > self.network_.grid_size}
        penalty = self._penalty()
        stopping: dict[str, Any] = {}
        if self.early_stopping:
            stopping["patience"] = _checks.integer(self.n_iter_no_change, "n_iter_no_change", 1)
            stopping["min_delta"] = _checks.number(self.tol, "tol", 0.0)
        return {
            "epochs": passes,
            "batch_size": batch,
            "optimizer": self.optimizer,
            "lr": self.lr,
            "penalty": penalty,
            "penalty_weight": None if penalty is None else self.penalty_weight,
            "update_grid_every": _times(self.update_grid_every, batches, "update_grid_every"),
            "update_grid_until": _times(self.update_grid_until, batches, "update_grid_until"),
            "refine": {at * batches: size for at, size in finer.items()},
            "progress": bool(self.verbose),
            "group": None,
            **stopping,
        }

    def _penalty(self) -> Any:
        if not isinstance(self.penalty, str):
            return self.penalty
        _checks.require(self.penalty in PENALTIES, "penalty", f"one of {list(PENALTIES)}, a penalty or None", self.penalty)
        return PENALTIES[self.penalty]()

    def _parts(self, count: int, stratify: Any, random: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The samples to train on and those held back."""
        fraction = _checks.number(self.validation_fraction, "validation_fraction", 0.0, 1.0)
        train_part, held_back = train_test_split(
            np.arange(count), test_size=fraction, random_state=random.randint(2**31 - 1), stratify=stratify
        )
        return train_part, held_back

    def _inputs(self, X: Array, network: KAN) -> Tensor:
        """Scaled inputs of the network, on the CPU."""
        scaled = torch.from_numpy(self.input_scaling_.apply(X)).to(_place(network).dtype)
        _checks.finite(scaled, "X")
        return scaled

    @torch.no_grad()
    def _importances(self, x: Tensor) -> NDArray[np.float64]:
        if x.shape[0] < 2:
            return np.zeros(x.shape[1])
        some = x[:: -(-x.shape[0] // _IMPORTANCE)].to(_place(self.network_).device)
        scores = self.network_.importance(some, group=None)[0].sum(0).double().cpu().numpy()
        return np.asarray(scores / scores.sum() if scores.sum() > 0 else np.zeros_like(scores))

    @torch.no_grad()
    def _outputs(self, X: Any) -> Tensor:
        """The network's outputs for samples ``X``, in float64 on the CPU."""
        check_is_fitted(self, "network_")
        network = self.network_
        x, device = self._inputs(validate_data(self, X, reset=False, dtype=np.float64), network), _place(network).device
        with threads(self.n_jobs):
            return torch.cat([network(part.to(device)).cpu().double() for part in x.split(_PREDICTED)])


@contextmanager
def threads(n_jobs: int | None) -> Iterator[None]:
    """Let torch use so many threads within a block, at most one a core of the machine."""
    if n_jobs is None:
        yield
        return
    ok = isinstance(n_jobs, (int, np.integer)) and not isinstance(n_jobs, bool) and n_jobs != 0
    _checks.require(ok, "n_jobs", "an integer other than 0, or None", n_jobs)
    before = torch.get_num_threads()
    cores = os.cpu_count() or 1
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    torch.set_num_threads(min(int(n_jobs), cores) if n_jobs > 0 else max(1, available + 1 + int(n_jobs)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _place(network: KAN) -> Tensor:
    """A parameter, whose dtype and device are the network's."""
    return next(network.parameters())


def _times(passes: int | None, batches: int, name: str) -> int | None:
    return None if passes is None else _checks.integer(passes, name, 1) * batches
