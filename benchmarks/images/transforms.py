"""From a decoded image to a tensor, and the batches of an epoch.

Everything random about an image follows from (seed, epoch, index), never from the order in which workers get to it: an
interrupted epoch continues exactly, with any number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from benchmarks.images.sets import ImageSet, Indices


@dataclass(frozen=True)
class Transform:
    """What is done to an image, in this order.

    Attributes:
        resize: length of the shorter side; 0 leaves it.
        crop: side of the square cut from the middle; 0 cuts nothing.
        size: side of the square that this is then resized to; 0 leaves it.
        flip: mirror left-right and up-down, with probability 1/2 each (training only).
        rotate: turn by a multiple of 90 degrees (training only).
        shift: move by up to so many pixels in each direction, black coming in (training only).
        mean, std: `(x - mean) / std` of pixels in [0, 1].
    """

    resize: int = 0
    crop: int = 0
    size: int = 0
    flip: bool = False
    rotate: bool = False
    shift: int = 0
    mean: float = 0.5
    std: float = 0.5

    def __call__(self, image: Image.Image, rng: np.random.Generator | None = None) -> Tensor:
        """Return `(C, H, W)` float32; augmented if there is an `rng`."""
        if self.resize:
            factor = self.resize / min(image.size)
            sides = (max(self.resize, round(image.width * factor)), max(self.resize, round(image.height * factor)))
            image = image.resize(sides, Image.Resampling.BILINEAR)
        if self.crop:
            left, top = (image.width - self.crop) // 2, (image.height - self.crop) // 2
            image = image.crop((left, top, left + self.crop, top + self.crop))  # black where it is smaller
        if self.size and image.size != (self.size, self.size):
            image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        pixels = np.array(image)
        if rng is not None:
            pixels = self._augmented(pixels, rng)
        pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        values = torch.from_numpy(np.ascontiguousarray(pixels)).float()
        return values.div_(255).sub_(self.mean).div_(self.std)

    def _augmented(self, pixels: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
        if self.flip:
            mirror = rng.random(2) < 0.5
            pixels = pixels[:, ::-1] if mirror[0] else pixels
            pixels = pixels[::-1] if mirror[1] else pixels
        if self.rotate:
            pixels = np.rot90(pixels, int(rng.integers(4)))
        if self.shift:
            down, right = rng.integers(2 * self.shift + 1, size=2)
            margins = [(self.shift, self.shift)] * 2 + [(0, 0)] * (pixels.ndim - 2)
            padded = np.pad(pixels, margins)
            pixels = padded[down : down + pixels.shape[0], right : right + pixels.shape[1]]
        return pixels


class Views(Dataset[tuple[Tensor, int, int]]):
    """The tensors of a set: an item is asked for by (epoch, index); an epoch below 0 means without augmentation."""

    def __init__(self, images: ImageSet, transform: Transform, seed: int) -> None:
        self.images, self.transform, self.seed = images, transform, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: tuple[int, int]) -> tuple[Tensor, int, int]:
        epoch, index = place
        rng = np.random.default_rng((self.seed, epoch, index)) if epoch >= 0 else None
        return self.transform(self.images.image(index), rng), int(self.images.labels[index]), index


class Order(Sampler[list[tuple[int, int]]]):
    """The batches of one epoch: a permutation that follows from (seed, epoch), from batch number `start` on.

    A last batch of a single image is left out: a batch norm knows nothing of one.
    """

    def __init__(self, indices: Indices, batch: int, seed: int, weights: Sequence[float] | None = None) -> None:
        self.indices, self.batch, self.seed, self.weights = indices, batch, seed, weights
        self.epoch, self.start = 0, 0

    def __len__(self) -> int:
        return len(range(self.start * self.batch, self._end(), self.batch))

    def _end(self) -> int:
        return len(self.indices) - (len(self.indices) % self.batch == 1 < self.batch)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        if self.weights is None:
            order = rng.permutation(self.indices)
        else:
            share = np.asarray(self.weights) / np.sum(self.weights)
            order = rng.choice(self.indices, size=len(self.indices), p=share)
        for at in range(self.start * self.batch, self._end(), self.batch):
            yield [(self.epoch, int(index)) for index in order[at : at + self.batch]]


def collate(items: Sequence[tuple[Tensor, int, int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Stack images `(B, C, H, W)`, labels `(B,)` and indices `(B,)`."""
    images, labels, indices = zip(*items, strict=True)
    return torch.stack(images), torch.tensor(labels), torch.tensor(indices)


def training_batches(views: Views, order: Order, workers: int) -> DataLoader[Any]:
    """Return batches in the order of `order`, decoded and augmented by `workers` processes (0: by this one)."""
    return DataLoader(views, batch_sampler=order, num_workers=workers, collate_fn=collate, persistent_workers=workers > 0)


def plain_batches(views: Views, indices: Indices, batch: int, workers: int) -> DataLoader[Any]:
    """Return batches of these images, in this order, without augmentation."""
    places = [[(-1, int(i)) for i in indices[at : at + batch]] for at in range(0, len(indices), batch)]
    return DataLoader(views, batch_sampler=places, num_workers=workers, collate_fn=collate)
