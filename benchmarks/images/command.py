"""`python -m benchmarks train-images` and `audit-images`: the words of the command line. torch is imported late."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.images.labels import Task
from benchmarks.run import usage

if TYPE_CHECKING:
    from benchmarks.images.metrics import Metrics
    from benchmarks.images.settings import Settings

_MODEL = re.compile(r"resnet(18|34|50)-(kan|linear|mlp)")


@Parameter(name="*")
@dataclass(frozen=True)
class Data:
    """Which images.

    Parameters
    ----------
    data
        digits, mnist5k, lfw_subset, tissue, hyperkvasir or kvasir_v2.
    root
        Folder of hyperkvasir or kvasir_v2.
    splits
        Official split file of hyperkvasir, or its folder; by default official_splits beside the images.
    task
        Labels of hyperkvasir: 23 classes, the 7 of the seed, organ or category.
    folds
        Number of folds; hyperkvasir has official ones for 2 and 5.
    fold
        The test fold.
    """

    data: str
    root: Path | None = None
    splits: Path | None = None
    task: Task = "23"
    folds: int = 5
    fold: int = 0

    def fields(self) -> dict[str, object]:
        """The fields of `Settings` that these are."""
        paths = {name: str(path) if path else None for name, path in (("root", self.root), ("splits", self.splits))}
        return {"data": self.data, "task": self.task, "folds": self.folds, "fold": self.fold} | paths


@Parameter(name="*")
@dataclass(frozen=True)
class Network:
    """Which network.

    Parameters
    ----------
    model
        resnet18, resnet34 or resnet50, and -kan, -linear or -mlp (with the parameters of the KAN), as in resnet34-kan.
    normalize
        Of the features: none, layer, tanh or batch.
    hidden
        Width between features and logits.
    grid
        Grid intervals of the KAN.
    grid_updates
        After how many first epochs the grid of the KAN follows the features.
    stem
        imagenet or small; by default small for images below 64 pixels.
    width
        Factor on all channel numbers.
    weights
        File of published weights for the backbone (a state dict saved by torch).
    penalty
        none, weight_l1, sample_l1 or sample_std, on the edges of the KAN.
    strength
        Factor of the penalty.
    """

    model: str = "resnet18-kan"
    normalize: Literal["none", "layer", "tanh", "batch"] = "none"
    hidden: int = 64
    grid: int = 5
    grid_updates: int = 0
    stem: Literal["imagenet", "small"] | None = None
    width: float = 1.0
    weights: Path | None = None
    penalty: Literal["none", "weight_l1", "sample_l1", "sample_std"] = "none"
    strength: float = 0.0

    def fields(self) -> dict[str, object]:
        """The fields of `Settings` that these are. Raises ValueError if the model is unknown."""
        match = _MODEL.fullmatch(self.model)
        if match is None:
            raise ValueError(f"model: expected resnet18, 34 or 50 with -kan, -linear or -mlp, got {self.model!r}")
        names = ("normalize", "hidden", "grid", "grid_updates", "stem", "width", "penalty", "strength")
        own = {name: getattr(self, name) for name in names}
        return own | {"depth": int(match[1]), "head": match[2], "weights": str(self.weights) if self.weights else None}


@Parameter(name="*")
@dataclass(frozen=True)
class Plan:
    """How to train.

    Parameters
    ----------
    recipe
        official (the HyperKvasir baseline), seed, or small (images of a few dozen pixels); by default small for offline data.
    epochs
        Epochs instead of the recipe's.
    batch
        Batch size instead of the recipe's.
    learning_rate
        Learning rate instead of the recipe's.
    size
        Side of the images instead of the recipe's, such as 224 with the recipe of the seed.
    validation
        Share of each class for validation; by default the next fold, or a tenth where there are two folds.
    patience
        End after so many epochs without a better macro F1 on the validation set; 0: never.
    imbalance
        none, weighted (the loss, by inverse class frequency) or resampled (images, likewise).
    precision
        float32 or bfloat16 (mixed precision).
    seed
        Of weights, order and augmentation.
    device
        Device of torch: auto, cpu, cuda or cuda:N.
    """

    recipe: Literal["official", "seed", "small"] | None = None
    epochs: int | None = None
    batch: int | None = None
    learning_rate: float | None = None
    size: int | None = None
    validation: float | None = None
    patience: int = 10
    imbalance: Literal["none", "weighted", "resampled"] = "none"
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    device: str = "auto"

    def fields(self) -> dict[str, object]:
        """The fields of `Settings` that these are, but for the recipe."""
        names = ("epochs", "batch", "learning_rate", "size", "validation", "patience", "imbalance", "precision", "seed")
        return {name: getattr(self, name) for name in names}


def settings_of(data: Data, network: Network, plan: Plan) -> Settings:
    """Return the settings that these words mean. Raises ValueError if one is unknown or out of its range."""
    from benchmarks.images.offline import OFFLINE
    from benchmarks.images.settings import Settings
    from benchmarks.schema.environment import resolve_device

    _check(data, network, plan, workable=data.data in OFFLINE)
    tiny = data.data in OFFLINE and data.data != "tissue"
    recipe = plan.recipe or ("small" if data.data in OFFLINE else "official")
    chosen = {"stem": "small" if tiny else "imagenet"} | {k: v for k, v in network.fields().items() if v is not None}
    return Settings.of(recipe, **data.fields(), **chosen, **plan.fields(), device=resolve_device(plan.device))


# Head -> options of a network that cannot change it; an MLP has the parameters of the KAN, and so follows its grid.
_OF_A_KAN = ("grid_updates", "penalty", "strength")
_NOT_OF_HEAD = {"linear": ("hidden", "grid", *_OF_A_KAN), "mlp": _OF_A_KAN, "kan": ()}


def _check(data: Data, network: Network, plan: Plan, *, workable: bool) -> None:
    """Raise ValueError if an option would be ignored, or no device is called so."""
    head = str(network.fields()["head"])
    for name in _NOT_OF_HEAD[head]:
        if getattr(network, name) != getattr(Network(), name):
            raise ValueError(f"{name}: expected a model that has it, such as resnet18-kan, got {network.model}")
    if network.strength and network.penalty == "none":
        raise ValueError(f"strength: expected a penalty to multiply, got {network.strength} with --penalty none")
    if workable:
        own = {"root": None, "splits": None, "task": "23"}
        for name in (name for name, default in own.items() if getattr(data, name) != default):
            raise ValueError(f"{name}: expected data that has it, hyperkvasir or kvasir_v2, got {data.data}")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", plan.device):
        raise ValueError(f"device: expected auto, cpu, cuda or cuda:N, got {plan.device!r}")


def _found(device: str) -> None:
    """Raise ValueError if torch finds no such GPU."""
    import torch

    number = int(device.partition(":")[2] or 0)
    if device.startswith("cuda") and number >= torch.cuda.device_count():
        raise ValueError(f"device: expected cpu or a GPU that this torch finds ({torch.cuda.device_count()}), got {device}")


def train_images(
    data: Data, network: Network = Network(), plan: Plan = Plan(), *, out: Path, workers: int = 0, checkpoint_steps: int = 0
) -> None:
    """Train a residual network with a KAN, an MLP or a linear layer on top; a killed run continues in OUT.

    The test fold is used once, at the end. OUT receives checkpoint.pt, history.jsonl, predictions.csv and result.json.

    Parameters
    ----------
    out
        Folder of this run.
    workers
        Processes that decode images; 0 decodes in this one.
    checkpoint_steps
        Steps between checkpoints within an epoch; 0: at the end of each epoch only.
    """
    console = Console(stderr=True)
    for name, number in (("workers", workers), ("checkpoint_steps", checkpoint_steps)):
        if number < 0:
            raise ValueError(f"{name}: expected at least 0, got {number}")
    settings = settings_of(data, network, plan)
    if settings.weights and not Path(settings.weights).is_file():
        raise ValueError(f"weights: expected a file with a state dict, got {settings.weights}, which is none")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"out: expected a folder to write to, got {out}: {error.strerror}") from error
    _found(settings.device)
    images = settings.open()
    from benchmarks.images.training import Training

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"))
    progress = Progress(*columns, TimeRemainingColumn(), console=console)
    bar = progress.add_task("steps", total=None)

    def on_step(epoch: int, step: int, steps: int, loss: float) -> None:
        text = f"epoch {epoch + 1} of {settings.epochs}, loss {loss:.3f}"
        progress.update(bar, total=settings.epochs * steps, completed=epoch * steps + step, description=text)

    for problem in images.problems:
        console.print(str(problem), markup=False, highlight=False)
    training = Training(settings, images, out, workers=workers, checkpoint_steps=checkpoint_steps, on_step=on_step)
    if training.history:
        console.print(f"{len(training.history)} epochs are in {out} already")
    with progress:
        try:
            trained = training.run()
        except (ValueError, FloatingPointError) as error:
            progress.stop()
            usage.refuse(error)
    print(f"epoch {trained.epoch + 1} of {trained.epochs}, chosen on the validation set; all results in {out}")
    for part, found in (("validation", trained.validation), ("test", trained.test)):
        print(f"{part:<10} {_line(found.metrics())}")


def _line(found: Metrics) -> str:
    def text(value: float | None) -> str:
        return "n/a" if value is None else f"{value:.4f}"

    macro = f"macro P {text(found.macro_precision)} R {text(found.macro_recall)} F1 {text(found.macro_f1)}"
    rest = f"MCC {text(found.mcc)}  ROC-AUC {text(found.roc_auc)}  ECE {text(found.ece)}"
    return f"{found.images} images  accuracy {text(found.accuracy)}  {macro}  {rest}"


def audit_images(data: Data, *, workers: int = 4) -> None:
    """List every file of hyperkvasir or kvasir_v2 that is missing, extra, duplicated, misplaced or broken.

    Reads and decodes all images. The exit status is 0 if the data set is what it should be, 1 if not, 2 if there is none.

    Parameters
    ----------
    workers
        Threads that decode.
    """
    from benchmarks.images.audit import audit, blocking
    from benchmarks.images.sets import FileSet
    from benchmarks.images.settings import Settings

    if workers < 1:
        raise ValueError(f"workers: expected at least 1, got {workers}")
    images = Settings.of("official", **data.fields()).open(problems="list")
    problems = audit(images, workers) if isinstance(images, FileSet) else []
    for problem in problems:
        print(problem)
    bad = blocking(problems)
    print(f"{len(images)} images usable, {len(problems)} problems, {len(bad)} of which change the data set")
    if bad:
        raise SystemExit(1)
