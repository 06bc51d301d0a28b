"""What a training run is: data, network, recipe. Imports no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, ValidationError

from benchmarks.images.labels import Task
from benchmarks.images.offline import OFFLINE, offline
from benchmarks.images.sets import ImageSet
from benchmarks.images.trees import HyperKvasir, KvasirV2, OnProblems
from benchmarks.schema.cases import Penalty, Record
from benchmarks.schema.wrong import wrong

HeadName = Literal["linear", "mlp", "kan"]
NormalizeName = Literal["none", "layer", "tanh", "batch"]
Imbalance = Literal["none", "weighted", "resampled"]
DATA = (*OFFLINE, "hyperkvasir", "kvasir_v2")
HEADS: tuple[HeadName, ...] = get_args(HeadName)


@dataclass(frozen=True)
class Recipe:
    """How to train. Sizes and augmentations as in `benchmarks.images.transforms.Transform`.

    `schedule` is "plateau" (a tenth after 10 epochs without a lower validation loss), "exponential" (times 0.8 each epoch)
    or "one_cycle" (up over 30 % of the steps, then down to nothing, by a cosine).
    """

    about: str
    optimiser: Literal["sgd", "adamw"]
    learning_rate: float
    weight_decay: float
    schedule: Literal["plateau", "exponential", "one_cycle"]
    batch: int
    epochs: int
    resize: int = 0
    crop: int = 0
    size: int = 0
    flip: bool = False
    rotate: bool = False
    shift: int = 0


RECIPES = {
    "official": Recipe(
        about="the PyTorch baseline of the HyperKvasir paper; it chose its epoch on the test fold, which we do not",
        optimiser="sgd",
        learning_rate=1e-3,
        weight_decay=1e-5,
        schedule="plateau",
        batch=32,
        epochs=50,
        resize=256,
        crop=256,
        size=224,
        flip=True,
        rotate=True,
    ),
    "seed": Recipe(
        about="the scripts that this project goes back to; their learning rate is a thousandth after 31 epochs",
        optimiser="adamw",
        learning_rate=1e-3,
        weight_decay=1e-4,
        schedule="exponential",
        batch=64,
        epochs=100,
        size=512,
        flip=True,
    ),
    "small": Recipe(
        about="images of a few dozen pixels",
        optimiser="adamw",
        learning_rate=3e-3,
        weight_decay=1e-2,
        schedule="one_cycle",
        batch=32,
        epochs=15,
        shift=1,
    ),
}


class Settings(Record):
    """Everything that decides the weights that a training run ends with, but for the contents of the data."""

    data: str
    root: str | None = None
    splits: str | None = None
    task: Task = "23"
    folds: int = 5
    fold: int = 0
    validation: float | None = Field(
        default=None, description="share of the other folds; None: the next fold, if there are three"
    )
    depth: int = 18
    stem: Literal["imagenet", "small"] = "imagenet"
    width: float = 1.0
    head: HeadName = "kan"
    hidden: int = Field(
        default=64, ge=1, description="width between features and logits of the KAN; an MLP gets its parameters"
    )
    normalize: NormalizeName = "none"
    grid: int = Field(default=5, ge=1)
    spline_order: int = Field(default=3, ge=1)
    grid_updates: int = Field(default=0, ge=0, description="after how many first epochs the grid follows the features")
    penalty: Penalty = "none"
    strength: float = Field(default=0.0, ge=0)
    weights: str | None = Field(default=None, description="file of published weights for the backbone")
    recipe: str = "official"
    epochs: int = Field(default=50, ge=1)
    batch: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    size: int = Field(default=0, ge=0, description="side of the images; 0: as in the recipe")
    patience: int = Field(default=0, ge=0, description="epochs without a better validation score before the end; 0: all epochs")
    imbalance: Imbalance = "none"
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = Field(default=0, ge=0)
    device: str = "cpu"

    @classmethod
    def of(cls, recipe: str, **chosen: object) -> Settings:
        """Return the settings of `recipe`, but for what is `chosen` (None: not chosen).

        Raises ValueError if a name is unknown or a value is out of its range.
        """
        if recipe not in RECIPES:
            raise ValueError(f"recipe: expected one of {', '.join(RECIPES)}, got {recipe!r}")
        kept = {name: value for name, value in asdict(RECIPES[recipe]).items() if name in ("epochs", "batch", "learning_rate")}
        try:
            return cls.model_validate(kept | {"recipe": recipe} | {k: v for k, v in chosen.items() if v is not None})
        except ValidationError as error:
            raise ValueError(wrong(error)) from error

    def open(self, problems: OnProblems = "raise") -> ImageSet:
        """Return the data. Raises ValueError if it is damaged or not found."""
        if self.data in OFFLINE:
            return offline(self.data, self.folds, self.fold)
        if self.data not in DATA:
            raise ValueError(f"data: expected one of {', '.join(DATA)}, got {self.data!r}")
        if self.root is None:
            raise ValueError(f"root: expected the folder of {self.data}, got none; see benchmarks/images/README.md")
        if self.data == "kvasir_v2":
            return KvasirV2(Path(self.root), self.folds, self.fold, problems=problems)
        return HyperKvasir(Path(self.root), self.folds, self.fold, self.task, splits=self.splits, problems=problems)


def kan_parameters(features: int, hidden: int, classes: int, grid: int, spline_order: int) -> int:
    """Return the number of parameters of the KAN `[features, hidden, classes]`: G + k coefficients and two scales an edge."""
    return (features + classes) * hidden * (grid + spline_order + 2)


def equal_width(features: int, classes: int, parameters: int) -> int:
    """Return the width of the hidden layer with which an MLP of one has nearest to `parameters` parameters."""
    return max(1, round((parameters - classes) / (features + classes + 1)))
