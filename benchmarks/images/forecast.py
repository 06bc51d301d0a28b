"""Predicted time of cases about images, on one CPU core: the right order of magnitude, not the second."""

from __future__ import annotations

from benchmarks.schema.cases import Backbone, Case

# Data set -> images, and side of an image where no size is set.
_SETS = {
    "digits": (1797, 8),
    "mnist5k": (5000, 28),
    "lfw_subset": (200, 25),
    "tissue": (128, 64),
    "hyperkvasir": (10_662, 224),
    "kvasir_v2": (8000, 224),
}
_MULTIPLICATIONS = {18: 1.8e9, 34: 3.7e9, 50: 4.1e9}  # of an image of 224 x 224, width 1, stem "imagenet"
_RATE = 2e10  # of multiplications of a core, in convolutions
_IMAGE = 3e-4  # seconds beside the convolutions, for each image
_HEAD_STEP = 4e-3  # of a head on 128 features
_HEAD_BATCH = 128


def image_seconds(backbone: Backbone, side: int) -> float:
    """Return the time of a training step for each image."""
    work = _MULTIPLICATIONS[backbone.depth] * backbone.width**2 * (side / 224) ** 2 * (16 if backbone.stem == "small" else 1)
    return _IMAGE + 3 * work / _RATE


def seconds(case: Case) -> float:
    """Return the time of a case of kind `images`, or `head_cost`, without what a process needs to start.

    The first case on frozen features also trains the backbone; its share is not in it.
    """
    if case.images is None:
        backbone = case.backbone or Backbone()
        return (2 * case.blocks + case.warmup + 6) * case.point.batch * image_seconds(backbone, backbone.size)
    study = case.images
    count, side = _SETS.get(study.data, (1000, 224))
    runs = len(study.penalties) * len(study.seeds)
    if study.scope == "frozen":
        return runs * study.head_epochs * (count / _HEAD_BATCH) * _HEAD_STEP * (1 if study.head == "kan" else 0.25)
    return 2 + runs * study.epochs * count * image_seconds(study.backbone, study.backbone.size or side)
