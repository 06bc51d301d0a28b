"""What all data sets of images have in common: names, labels, folds, and images decoded on demand.

An image's *name* is unique in its set and stays the same wherever the files lie; all splits follow from names, never from the
order of a listing.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Problem:
    """Something wrong with a file of a data set. `blocking`: training on what is left would be another data set."""

    kind: str
    file: str
    detail: str = ""
    blocking: bool = True

    def __str__(self) -> str:
        return f"{self.kind}: {self.file}" + (f" ({self.detail})" if self.detail else "")


class DamagedError(ValueError):
    """A data set is not what it should be; `problems` lists every file that is wrong."""

    def __init__(self, name: str, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        shown = "\n".join(f"  {problem}" for problem in self.problems[:20])
        rest = f"\n  ... and {len(self.problems) - 20} more" if len(self.problems) > 20 else ""
        super().__init__(f"{name}: expected an undamaged data set, got {len(self.problems)} problems:\n{shown}{rest}")


@dataclass(frozen=True)
class Split:
    """Indices of three disjoint parts of a data set."""

    train: Indices
    validation: Indices
    test: Indices


class ImageSet(ABC):
    """Labelled images in folds.

    Attributes:
        title: name of the set.
        classes: names of the labels, sorted.
        names: name of each image.
        labels: `(N,)`, index into `classes`.
        folds: `(N,)`, the fold of each image; those in fold number `fold` are the test set.
        channels: 1 or 3.
        problems: what is wrong with the files, if the set was opened in spite of it.
    """

    def __init__(
        self,
        title: str,
        classes: Sequence[str],
        names: Sequence[str],
        labels: Sequence[int] | Indices,
        folds: Sequence[int] | Indices,
        fold: int,
        channels: int,
    ) -> None:
        self.title, self.classes, self.names = title, tuple(classes), tuple(names)
        self.labels, self.folds = np.asarray(labels, dtype=np.int64), np.asarray(folds, dtype=np.int64)
        self.fold, self.channels = fold, channels
        self.problems: tuple[Problem, ...] = ()
        if len(set(self.names)) != len(self.names) or not len(self.names) == len(self.labels) == len(self.folds):
            raise ValueError(f"names: expected one distinct name for each label and fold of {title}, got others")
        if not np.any(self.folds == fold):
            raise ValueError(f"fold: expected one of {sorted(set(self.folds.tolist()))}, got {fold}")

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def image(self, index: int) -> Image.Image:
        """Decode the image at `index`, in mode L or RGB. Raises DamagedError, naming the file, if that fails."""

    def split(self, validation: float | None = None) -> Split:
        """Return training, validation and test set: the test set is the fold `fold`, and nothing else touches it.

        With `validation` None and three folds or more, the validation set is the next fold; else it is that share (0.1 for
        None) of every class outside of the test fold, chosen by the images' names.

        Raises ValueError if a share is not within (0, 1).
        """
        rest = np.flatnonzero(self.folds != self.fold)
        test = np.flatnonzero(self.folds == self.fold)
        kinds = sorted(set(self.folds.tolist()))
        if validation is None and len(kinds) > 2:
            chosen = self.folds[rest] == kinds[(kinds.index(self.fold) + 1) % len(kinds)]
        else:
            share = 0.1 if validation is None else validation
            if not 0 < share < 1:
                raise ValueError(f"validation: expected a share within (0, 1), got {share}")
            ranks = _ranks(self.labels[rest], [self.names[i] for i in rest])
            counts = np.bincount(self.labels[rest], minlength=len(self.classes))
            chosen = ranks < np.ceil(share * counts)[self.labels[rest]]
            chosen &= counts[self.labels[rest]] > 1  # a class of one image is there to learn from
        return Split(rest[~chosen], rest[chosen], test)


class FileSet(ImageSet):
    """Images in files, decoded when asked for."""

    def __init__(
        self,
        title: str,
        classes: Sequence[str],
        paths: Sequence[Path],
        labels: Sequence[int],
        folds: Sequence[int] | Indices,
        fold: int,
    ) -> None:
        super().__init__(title, classes, [path.stem for path in paths], labels, folds, fold, channels=3)
        self.paths = tuple(paths)

    def image(self, index: int) -> Image.Image:
        path = self.paths[index]
        try:
            with Image.open(path) as image:
                return image.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DamagedError(self.title, [Problem("corrupt image", str(path), str(error))]) from error


class ArraySet(ImageSet):
    """Images in memory: `(N, H, W)` or `(N, H, W, 3)`, uint8. Folds are made by name, stratified."""

    def __init__(
        self,
        title: str,
        classes: Sequence[str],
        images: NDArray[np.uint8],
        labels: Sequence[int] | Indices,
        folds: int,
        fold: int,
    ) -> None:
        names = [f"{title}-{n:05d}" for n in range(len(images))]
        parts = stratified_folds(np.asarray(labels, dtype=np.int64), names, folds)
        super().__init__(title, classes, names, labels, parts, fold, channels=3 if images.ndim == 4 else 1)
        self.images = images

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.images[index])


def stratified_folds(labels: Indices, names: Sequence[str], folds: int) -> Indices:
    """Return a fold for each image: every class is dealt out evenly, in the order of a hash of the names.

    Raises ValueError unless `folds` is at least 2 and no class has fewer images.
    """
    smallest = int(np.bincount(labels)[np.unique(labels)].min())
    if not 2 <= folds <= smallest:
        raise ValueError(f"folds: expected 2 to {smallest} (images of the smallest class), got {folds}")
    return _ranks(labels, names) % folds


def _ranks(labels: Indices, names: Sequence[str]) -> Indices:
    """The place of each image among those of its class, in the order of a hash of the names."""
    hashes = np.array([hashlib.sha256(name.encode()).hexdigest() for name in names])
    ranks = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        ranks[own[np.argsort(hashes[own], kind="stable")]] = np.arange(len(own))
    return ranks
