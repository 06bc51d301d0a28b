r"""How good a classifier is.

With `C` classes, `tp_c` images of class c predicted as c, `p_c` images predicted as c and `n_c` images of class c:

- macro: the mean over all `C` classes of `tp_c / p_c` (precision), `tp_c / n_c` (recall), and their harmonic mean (F1), each 0
  where its denominator is; micro: the same of the sums over classes, where all three are the accuracy;
- MCC: Matthews' correlation for several classes (Gorodkin 2004); None where it is 0/0, as for a constant prediction;
- ROC-AUC: one class against the rest by the probability given to it, the mean over the classes that have images in and
  outside of them; None if there are none;
- ECE, expected calibration error (Guo et al. 2017): images fall into 15 bins of equal width by the probability p of the
  predicted class, a bin including its upper end; the mean over images of |accuracy - mean p| of their bin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn import metrics as sk

BINS = 15


@dataclass(frozen=True)
class Metrics:
    """The figures defined above, of one set of images and one state of a network."""

    images: int
    accuracy: float
    macro_precision: float
    macro_recall: float
    macro_f1: float
    micro_precision: float
    micro_recall: float
    micro_f1: float
    mcc: float | None
    roc_auc: float | None
    ece: float | None
    confusion: tuple[tuple[int, ...], ...]


def evaluate(labels: ArrayLike, probabilities: ArrayLike) -> Metrics:
    """Return the metrics of `probabilities` `(N, C)` for `labels` `(N,)`; the prediction is the first of the most probable.

    Raises ValueError unless the shapes fit, N >= 1, the labels lie in 0...C-1 and every row sums to 1.
    """
    y, p = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 2 or y.shape != (len(p),) or not p.size:
        raise ValueError(f"probabilities: expected (N, C) for labels (N,), N >= 1, got {p.shape} and {y.shape}")
    if y.min() < 0 or y.max() >= p.shape[1]:
        raise ValueError(f"labels: expected 0 to {p.shape[1] - 1}, got {y.min()} to {y.max()}")
    if not np.allclose(p.sum(1), 1, atol=1e-4) or p.min() < 0:
        raise ValueError("probabilities: expected rows >= 0 that sum to 1, got others")
    predicted = p.argmax(1)
    return of_predictions(y, predicted, p.shape[1], roc_auc(y, p), calibration_error(p.max(1), predicted == y))


def of_predictions(
    labels: ArrayLike, predicted: ArrayLike, classes: int, auc: float | None = None, ece: float | None = None
) -> Metrics:
    """Return the metrics of the classes `predicted` for `labels`, both `(N,)`, and those of probabilities as given."""
    every = list(range(classes))

    def averaged(average: str) -> tuple[float, float, float]:
        found = sk.precision_recall_fscore_support(labels, predicted, labels=every, average=average, zero_division=0)
        return float(found[0]), float(found[1]), float(found[2])

    macro, micro = averaged("macro"), averaged("micro")
    confusion = sk.confusion_matrix(labels, predicted, labels=every)
    constant = 1 in (np.count_nonzero(confusion.sum(0)), np.count_nonzero(confusion.sum(1)))
    return Metrics(
        images=int(confusion.sum()),
        accuracy=float(sk.accuracy_score(labels, predicted)),
        macro_precision=macro[0],
        macro_recall=macro[1],
        macro_f1=macro[2],
        micro_precision=micro[0],
        micro_recall=micro[1],
        micro_f1=micro[2],
        mcc=None if constant else float(sk.matthews_corrcoef(labels, predicted)),
        roc_auc=auc,
        ece=ece,
        confusion=tuple(tuple(int(n) for n in row) for row in confusion),
    )


def roc_auc(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float | None:
    """Return the mean over classes of the probability that a member of the class scores above another image (ties half)."""
    present = [c for c in range(probabilities.shape[1]) if 0 < np.count_nonzero(labels == c) < len(labels)]
    return float(np.mean([sk.roc_auc_score(labels == c, probabilities[:, c]) for c in present])) if present else None


def calibration_error(confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int = BINS) -> float:
    """Return the expected calibration error of predictions with this confidence."""
    place = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence, side="left")
    gaps = np.bincount(place, weights=correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def constant_prediction(labels: NDArray[np.int64], label: int, classes: int) -> Metrics:
    """Return the metrics of predicting `label` always: with the most frequent class, the majority row of a table."""
    return of_predictions(labels, np.full_like(labels, label), classes)


def random_prediction(labels: NDArray[np.int64], classes: int, rng: np.random.Generator) -> Metrics:
    """Return the metrics of predicting every class with equal probability."""
    return of_predictions(labels, rng.integers(classes, size=len(labels)), classes)
