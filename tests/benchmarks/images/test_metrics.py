"""Metrics against scikit-learn, and the rows of the published table that follow from the split files alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from benchmarks.images import metrics
from benchmarks.images.labels import task_classes
from benchmarks.images.trees import read_split


def case(seed: int, count: int = 400, classes: int = 7) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Unbalanced labels, probabilities that know something, the last class never predicted."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, size=count, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
    scores = rng.normal(size=(count, classes)) + 1.5 * np.eye(classes)[labels]
    scores[:, -1] = -9
    return labels, np.exp(scores) / np.exp(scores).sum(1, keepdims=True)


@pytest.mark.parametrize("seed", range(5))
def test_metrics_are_those_of_scikit_learn(seed: int) -> None:
    labels, p = case(seed)
    found, predicted = metrics.evaluate(labels, p), p.argmax(1)
    every = list(range(p.shape[1]))
    for average in ("macro", "micro"):
        expected = sk.precision_recall_fscore_support(labels, predicted, labels=every, average=average, zero_division=0)[:3]
        ours = [getattr(found, f"{average}_{name}") for name in ("precision", "recall", "f1")]
        assert ours == pytest.approx(expected, rel=1e-12)
    assert found.accuracy == pytest.approx(sk.accuracy_score(labels, predicted), rel=1e-12)
    assert found.mcc == pytest.approx(sk.matthews_corrcoef(labels, predicted), rel=1e-12)
    assert found.roc_auc == pytest.approx(sk.roc_auc_score(labels, p, multi_class="ovr", average="macro"), rel=1e-12)
    assert np.array_equal(found.confusion, sk.confusion_matrix(labels, predicted, labels=every))
    assert found.images == len(labels)


@pytest.mark.parametrize("seed", range(3))
def test_calibration_error_is_the_weighted_gap_of_a_calibration_curve(seed: int) -> None:
    labels, p = case(seed)
    confidence, correct = p.max(1), p.argmax(1) == labels
    share, mean = calibration_curve(correct, confidence, n_bins=15, strategy="uniform")
    counts = np.histogram(confidence, bins=np.linspace(0, 1, 16))[0]
    expected = (np.abs(share - mean) * counts[counts > 0]).sum() / len(labels)
    assert metrics.evaluate(labels, p).ece == pytest.approx(expected, rel=1e-12)


def test_calibration_error_by_hand() -> None:
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.3, 0.7]])
    # Bins of width 1/15: the 0.9 are half right, 0.6 (the upper end of its bin) is right, 0.7 is wrong.
    assert metrics.evaluate(np.array([0, 1, 0, 0]), p).ece == pytest.approx((2 * 0.4 + 0.4 + 0.7) / 4)


def test_ties_count_half_in_the_area() -> None:
    labels, p = np.array([0, 0, 1, 1]), np.array([[0.5, 0.5]] * 4)
    assert metrics.roc_auc(labels, p) == 0.5
    assert metrics.roc_auc(np.array([1, 1]), p[:2]) is None
    three = np.column_stack([p, np.zeros(4)])
    assert metrics.roc_auc(labels, three) == 0.5  # the class without images does not count


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="labels: expected 0 to 1, got 0 to 2"):
        metrics.evaluate([0, 2], [[0.5, 0.5], [0.5, 0.5]])
    with pytest.raises(ValueError, match="sum to 1"):
        metrics.evaluate([0], [[0.5, 0.6]])
    with pytest.raises(ValueError, match=r"expected \(N, C\)"):
        metrics.evaluate([], np.zeros((0, 2)))


def official(folder: Path) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Labels outside of and in each fold of the official 2-fold split."""
    rows, _ = read_split(folder / "2_fold_split.csv", 2)
    classes = task_classes("23")
    labels = np.array([classes.index(one.folder) for one, _ in rows.values()])
    folds = np.array([fold for _, fold in rows.values()])
    return [(labels[folds != fold], labels[folds == fold]) for fold in (0, 1)]


def test_the_majority_row_of_the_published_table_follows_from_the_split_file(official_splits: Path) -> None:
    """Borgli et al. 2020, table 3, mean of two folds: macro .004/.043/.008, micro .108, no MCC. They truncate."""
    found = []
    for train, test in official(official_splits):
        majority = int(np.bincount(train).argmax())
        assert task_classes("23")[majority] == "bbps-2-3"
        found.append(metrics.constant_prediction(test, majority, 23))
        assert found[-1].mcc is None
    rows = [[m.macro_precision, m.macro_recall, m.macro_f1, m.micro_f1] for m in found]
    mean = np.mean(rows, axis=0)
    assert np.floor(1000 * mean[:3]).tolist() == [4, 43, 8]
    assert round(float(mean[3]), 3) == 0.108
    assert [round(m.micro_f1, 4) for m in found] in ([0.1078, 0.1075], [0.1075, 0.1078])


def random_rows(splits: Path, count: int) -> NDArray[np.float64]:
    """Draws of macro precision, recall and F1, micro F1, and MCC by chance, the mean of both folds."""
    rng, folds = np.random.default_rng(0), official(splits)
    return np.array(
        [
            np.mean(
                [
                    [m.macro_precision, m.macro_recall, m.macro_f1, m.micro_f1, m.mcc or 0.0]
                    for _, test in folds
                    for m in [metrics.random_prediction(test, 23, rng)]
                ],
                axis=0,
            )
            for _ in range(count)
        ]
    )


PUBLISHED = np.array([0.044, 0.038, 0.034, 0.044, 0.000])


def test_the_random_row_of_the_published_table_is_near_ours(official_splits: Path) -> None:
    draws = random_rows(official_splits, 40)
    assert (abs(PUBLISHED - draws.mean(0)) <= 5e-4 + 3 * draws.std(0)).all()
    assert draws[:, [0, 1, 3]].mean(0) == pytest.approx([1 / 23] * 3, rel=0.05)


@pytest.mark.slow
def test_the_random_row_of_the_published_table_is_a_draw_of_ours(official_splits: Path) -> None:
    """The same table: macro .044/.038/.034, micro .044, MCC .000. One draw: each figure lies within what ours spread over."""
    draws = random_rows(official_splits, 300)
    low, high = np.quantile(draws, [0.005, 0.995], axis=0)
    assert ((low - 5e-4 <= PUBLISHED) & (high + 5e-4 >= PUBLISHED)).all()
    assert draws[:, [0, 1, 3]].mean(0) == pytest.approx([1 / 23] * 3, rel=0.02)
    assert abs(draws[:, 4].mean()) < 1e-3
