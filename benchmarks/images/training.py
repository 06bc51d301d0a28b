"""Train a network on images, select its epoch on the validation set, and say how good it is on the test set.

With a folder, every epoch (and every so many steps) is checkpointed. What a run does next follows from the checkpoint and
the settings alone, so that a killed run ends with the weights of one that was never interrupted: bit for bit on a CPU.
"""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.images import metrics
from benchmarks.images.sets import ImageSet, Indices
from benchmarks.images.settings import RECIPES, Settings, equal_width, kan_parameters
from benchmarks.images.transforms import Order, Transform, Views, plain_batches, training_batches
from benchmarks.measure import workload
from efficient_kan import ResNetKAN, SampleL1, SampleStd, WeightL1
from efficient_kan.resnet import Head

PENALTIES = {"weight_l1": WeightL1, "sample_l1": SampleL1, "sample_std": SampleStd}
_GRID_SAMPLES = 512


@dataclass(frozen=True)
class Predictions:
    """What a network says about some images: `(N,)` indices and labels, `(N, C)` probabilities, and the mean cross-entropy."""

    indices: Indices
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    loss: float

    def metrics(self) -> metrics.Metrics:
        """The metrics of these predictions."""
        return metrics.evaluate(self.labels, self.probabilities)


@dataclass(frozen=True)
class Trained:
    """A finished run: the best epoch's network and what it predicts."""

    model: ResNetKAN
    epoch: int
    epochs: int
    validation: Predictions
    test: Predictions
    seconds: float


OnStep = Callable[[int, int, int, float], None]


class Training:
    """One run of `settings` on `images`.

    Args:
        settings: what to do.
        images: the data, `settings.open()`.
        folder: for checkpoints and results; `None` keeps nothing.
        workers: processes that decode images; 0 decodes in this one.
        checkpoint_steps: steps between checkpoints within an epoch; 0: at the end of epochs only.
        on_step: told the epoch, the step, the number of steps of an epoch and the loss after every step.

    Raises:
        ValueError: if `folder` holds a run with other settings.
    """

    def __init__(
        self,
        settings: Settings,
        images: ImageSet,
        folder: Path | None = None,
        *,
        workers: int = 0,
        checkpoint_steps: int = 0,
        on_step: OnStep = lambda epoch, step, steps, loss: None,
    ) -> None:
        self.settings, self.images, self.folder = settings, images, folder
        self.workers, self.checkpoint_steps, self.on_step = workers, checkpoint_steps, on_step
        recipe = RECIPES[settings.recipe]
        size = settings.size or recipe.size
        scale = {"resize": round(recipe.resize * size / recipe.size) if recipe.size else 0}
        scale["crop"] = round(recipe.crop * size / recipe.size) if recipe.size else 0
        self.transform = Transform(size=size, flip=recipe.flip, rotate=recipe.rotate, shift=recipe.shift, **scale)
        self.split = images.split(settings.validation)
        self.views = Views(images, self.transform, settings.seed)
        counts = np.bincount(images.labels[self.split.train], minlength=len(images.classes))
        share = np.divide(len(self.split.train) / len(counts), counts, out=np.zeros(len(counts)), where=counts > 0)
        drawn = share[images.labels[self.split.train]].tolist() if settings.imbalance == "resampled" else None
        self.order = Order(self.split.train, settings.batch, settings.seed, drawn)
        self.device = torch.device(settings.device)
        weights = torch.tensor(share, dtype=torch.float32) if settings.imbalance == "weighted" else None
        self.criterion = nn.CrossEntropyLoss(weights).to(self.device)
        self.model = build(settings, images.channels, len(images.classes)).to(self.device)
        self.optimiser = _optimiser(self.model, settings)
        self.scheduler = _scheduler(self.optimiser, settings, len(self.order))
        self.history: list[dict[str, Any]] = []
        self.total, self.seen, self.step = 0.0, 0, 0
        self.best: dict[str, Any] = {"epoch": -1, "score": [-1.0, 0.0]}
        self.best_weights: dict[str, Tensor] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._resume()

    @property
    def finished(self) -> bool:
        """Whether no epoch is left, or none has been better for too long."""
        done, patience = len(self.history), self.settings.patience
        return done >= self.settings.epochs or (patience > 0 and done - 1 - self.best["epoch"] >= patience)

    def run(self) -> Trained:
        """Train to the end and evaluate the best epoch on validation and test set; with a folder, write the results there."""
        start = time.perf_counter()
        batches = training_batches(self.views, self.order, self.workers)
        while not self.finished:
            self._epoch(batches)
        del batches  # ends its workers
        self.model.load_state_dict(self.best_weights)
        parts = [self.predict(part) for part in (self.split.validation, self.split.test)]
        seconds = time.perf_counter() - start
        trained = Trained(self.model, self.best["epoch"], len(self.history), parts[0], parts[1], seconds)
        if self.folder is not None:
            self._report(trained, self.folder)
        return trained

    def _epoch(self, batches: Any) -> None:
        epoch = len(self.history)
        self.order.epoch, self.order.start = epoch, self.step
        steps = self.step + len(self.order)
        self.model.train()
        for x, y, _ in batches:
            loss = self._step(x.to(self.device), y.to(self.device))
            self.total, self.seen, self.step = self.total + loss * len(y), self.seen + len(y), self.step + 1
            self.on_step(epoch, self.step, steps, loss)
            if self.checkpoint_steps and self.step % self.checkpoint_steps == 0 and self.step < steps:
                self._save()
        if epoch < self.settings.grid_updates and self.model.head.kind == "kan":
            self._update_grid()
        found = self.predict(self.split.validation)
        scores = found.metrics()
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step(found.loss)
        elif RECIPES[self.settings.recipe].schedule == "exponential":
            self.scheduler.step()
        line = {"epoch": epoch, "train_loss": self.total / self.seen, "validation_loss": found.loss}
        line |= {"validation_accuracy": scores.accuracy, "validation_macro_f1": scores.macro_f1}
        self.history.append(line | {"learning_rate": float(self.optimiser.param_groups[0]["lr"])})
        score = [scores.macro_f1, -found.loss]
        if score > self.best["score"]:
            self.best = {"epoch": epoch, "score": score}
            self.best_weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.total, self.seen, self.step = 0.0, 0, 0
        self._save()

    def _step(self, x: Tensor, y: Tensor) -> float:
        self.optimiser.zero_grad(set_to_none=True)
        with self._precision():
            if self.settings.penalty == "none" or self.model.head.kind != "kan":
                logits, extra = self.model(x), None
            else:
                logits, extra = self.model.forward_with_penalty(x, PENALTIES[self.settings.penalty]())
        loss: Tensor = self.criterion(logits.float(), y)
        total = loss if extra is None else loss + self.settings.strength * extra
        total.backward()
        self.optimiser.step()
        if RECIPES[self.settings.recipe].schedule == "one_cycle":
            self.scheduler.step()
        value = float(loss.detach())
        if not np.isfinite(value):
            raise FloatingPointError(f"training diverged: loss {value} in epoch {len(self.history)}")
        return value

    def _precision(self) -> AbstractContextManager[Any]:
        wanted = self.settings.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=wanted)

    def _update_grid(self) -> None:
        some = self.split.train[:: max(1, len(self.split.train) // _GRID_SAMPLES)][:_GRID_SAMPLES]
        batch = next(iter(plain_batches(self.views, some, len(some), 0)))
        self.model.eval()
        with torch.no_grad():
            features = self.model.backbone(batch[0].to(self.device))
        follow_features(self.model.head, features)

    @torch.no_grad()
    def predict(self, indices: Indices) -> Predictions:
        """Return what the network says about these images, in evaluation mode.

        Raises FloatingPointError if that is not finite.
        """
        self.model.eval()
        rows, labels, loss = [], [], 0.0
        for x, y, _ in plain_batches(self.views, indices, max(self.settings.batch, 128), self.workers):
            with self._precision():
                logits = self.model(x.to(self.device))
            logits = logits.double().cpu()
            if not logits.isfinite().all():
                raise FloatingPointError("training diverged: logits are not finite")
            loss += float(nn.functional.cross_entropy(logits, y, reduction="sum"))
            rows.append(logits.softmax(1).numpy())
            labels.append(y.numpy())
        return Predictions(indices, np.concatenate(labels), np.concatenate(rows), loss / len(indices))

    def _save(self) -> None:
        if self.folder is None:
            return
        state = {
            "settings": self.settings.model_dump_json(),
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "history": self.history,
            "best": self.best,
            "best_weights": self.best_weights,
            "sums": [self.total, self.seen, self.step],
            "generator": torch.get_rng_state(),
        }
        target = self.folder / "checkpoint.pt"
        aside = target.with_suffix(".part")
        with aside.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(target)

    def _resume(self) -> None:
        assert self.folder is not None
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            torch.manual_seed(self.settings.seed)
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["settings"] != self.settings.model_dump_json():
            raise ValueError(f"out: expected a folder without a run, or with one of these settings, got {self.folder}")
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.history, self.best, self.best_weights = state["history"], state["best"], state["best_weights"]
        self.total, self.seen, self.step = state["sums"]
        torch.set_rng_state(state["generator"].cpu())

    def _report(self, trained: Trained, folder: Path) -> None:
        lines = (json.dumps(line) for line in self.history)
        (folder / "history.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        with (folder / "predictions.csv").open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            classes = self.images.classes
            rows.writerow(["name", "part", "label", "predicted", *(f"p {name}" for name in classes)])
            for part, found in (("validation", trained.validation), ("test", trained.test)):
                for index, label, p in zip(found.indices, found.labels, found.probabilities, strict=True):
                    chances = [f"{value:.6f}" for value in p]
                    rows.writerow([self.images.names[index], part, classes[label], classes[int(p.argmax())], *chances])
        result = {
            "settings": self.settings.model_dump(),
            "parameters": sum(p.numel() for p in trained.model.parameters()),
            "head_parameters": sum(p.numel() for p in trained.model.head.parameters()),
            "images": {name: len(getattr(self.split, name)) for name in ("train", "validation", "test")},
            "problems": [str(problem) for problem in self.images.problems],
            "classes": self.images.classes,
            "epoch": trained.epoch,
            "epochs": trained.epochs,
            "validation": asdict(trained.validation.metrics()),
            "test": asdict(trained.test.metrics()),
            "versions": {"torch": torch.__version__, "numpy": np.__version__},
        }
        (folder / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def build(settings: Settings, channels: int, classes: int) -> ResNetKAN:
    """Return the untrained network of `settings`, from its seed; with `weights`, the published ones in the backbone.

    Raises ValueError if that file does not hold the backbone's weights.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    model = ResNetKAN(
        settings.depth, classes, "linear", stem=settings.stem, width=settings.width, in_channels=channels, generator=generator
    )
    # The head comes last from the generator: networks that differ in it alone start from the same backbone.
    model.head = head(settings, model.head.in_features, classes, generator)
    if settings.weights is not None:
        own = model.backbone.state_dict()
        try:
            state = torch.load(settings.weights, map_location="cpu", weights_only=True)
            model.backbone.load_state_dict({k: v for k, v in state.items() if k in own}, strict=True)
        except (OSError, AttributeError, RuntimeError, UnpicklingError) as error:
            raise ValueError(f"weights: expected those of this backbone, got {settings.weights}: {error}") from error
    return model


def head(settings: Settings, features: int, classes: int, generator: torch.Generator) -> Head:
    """Return the untrained head of `settings`; an MLP has as many parameters as the KAN, within half a unit."""
    keywords: dict[str, Any] = {"normalize": settings.normalize, "generator": generator}
    if settings.head == "kan":
        keywords |= {"hidden": (settings.hidden,), "grid_size": settings.grid, "spline_order": settings.spline_order}
    elif settings.head == "mlp":
        count = kan_parameters(features, settings.hidden, classes, settings.grid, settings.spline_order)
        keywords |= {"hidden": (equal_width(features, classes, count),)}
    return Head(features, classes, settings.head, **keywords)


def follow_features(head: Head, features: Tensor) -> None:
    """Put the knots of a KAN head at the quantiles of these features, as pykan does, in place, and in evaluation mode.

    `Head.update_grid` keeps the function, and moves few of some hundred features; here the grid is to follow all of them.
    """
    head.eval()
    with torch.no_grad():
        workload.follow(head.kan, head.normalize(features))


def _optimiser(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    recipe = RECIPES[settings.recipe]
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(model.parameters(), settings.learning_rate, 0.9, weight_decay=recipe.weight_decay)
    return torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=recipe.weight_decay)


def _scheduler(optimiser: torch.optim.Optimizer, settings: Settings, steps: int) -> Any:
    kinds = torch.optim.lr_scheduler
    schedule = RECIPES[settings.recipe].schedule
    if schedule == "plateau":
        return kinds.ReduceLROnPlateau(optimiser, factor=0.1, patience=10)
    if schedule == "exponential":
        return kinds.ExponentialLR(optimiser, 0.8)
    return kinds.OneCycleLR(optimiser, settings.learning_rate, total_steps=steps * settings.epochs)
