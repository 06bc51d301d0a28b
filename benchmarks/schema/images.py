"""What the rows of the kinds `images` and `head_cost` hold."""

from __future__ import annotations

from pydantic import Field

from benchmarks.schema.cases import Penalty, Record


class HeadRun(Record):
    """One trained network: metrics on the test fold (see `benchmarks.images.metrics`) and what it predicts for its images.

    A run that diverged has no metrics and no predictions.
    """

    seed: int
    penalty: Penalty
    strength: float
    diverged: bool = False
    head_parameters: int
    epoch: int = Field(default=-1, description="the epoch chosen by the validation set, from 0")
    validation_accuracy: float | None = None
    accuracy: float | None = None
    macro_precision: float | None = None
    macro_recall: float | None = None
    macro_f1: float | None = None
    mcc: float | None = None
    roc_auc: float | None = None
    ece: float | None = None
    confusion: tuple[tuple[int, ...], ...] = Field(default=(), description="rows: labels; columns: predictions")
    predicted: tuple[int, ...] = Field(default=(), description="class of each test image")
    confidence: tuple[float, ...] = Field(default=(), description="probability of that class, rounded to 4 digits")
    active_edges: int | None = Field(
        default=None, description="edges of the KAN with an importance above 0.01 on the test fold"
    )
    total_edges: int | None = None
    seconds: float = Field(default=0.0, description="of training, in the process that ended it")


class ImageResult(Record):
    """All networks of an images case: penalties first, then seeds."""

    classes: tuple[str, ...]
    images: tuple[int, int, int] = Field(description="training, validation, test")
    names_sha256: str = Field(description="of the names of the test images, one a line, in the order of `labels`")
    labels: tuple[int, ...] = Field(description="of the test images")
    backbone_accuracy: float | None = Field(
        default=None, description="of the frozen backbone with the head it was trained with"
    )
    backbone_seconds: float | None = Field(default=None, description="time of its training, in whichever process that was")
    runs: tuple[HeadRun, ...]


class HeadCost(Record):
    """Forward and backward of a head alone and of the whole network with it, and of the network with a linear head.

    Pair `i` of the times was taken next to each other. Peaks are the allocator's, parameters and gradients included.
    """

    head_ns: tuple[int, ...]
    whole_ns: tuple[int, ...]
    head_loops: int = Field(ge=1, description="calls in one sample of the head")
    whole_loops: int = Field(ge=1)
    head_parameters: int
    whole_parameters: int
    head_peak_bytes: int
    whole_peak_bytes: int
    linear_peak_bytes: int = Field(description="of the same network with a linear head")
