"""Heads against each other: on the frozen features of one trained backbone, and with the whole network trained.

The backbone of frozen features is trained once, with a linear head and seed 0, into a folder that the cases of a run share; it
continues there if it was killed. All heads have the same features, batches, optimiser (AdamW, one cycle) and choice of epoch
by the validation set; only seeds, which give their first weights and the order of batches, and the heads differ.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.images import metrics
from benchmarks.images.sets import ImageSet
from benchmarks.images.settings import HeadName, Settings
from benchmarks.images.training import PENALTIES, Training, follow_features, head
from benchmarks.images.transforms import plain_batches
from benchmarks.kinds import sources
from benchmarks.kinds.images import FOLDERS
from benchmarks.schema.cases import Case, ImageStudy, Penalty
from benchmarks.schema.images import HeadRun, ImageResult
from efficient_kan.resnet import Head
from reference.arm import Unsupported

VALIDATION = 0.1
HEAD_BATCH = 128
HEAD_LEARNING_RATE = 3e-3
WEIGHT_DECAY = 1e-4
GRID_UPDATES = 3  # before the first epoch and after each of the next ones
ACTIVE = 0.01
_DECIMALS = 4


def run(case: Case) -> ImageResult:
    """Train everything that `case` names. Raises `Unsupported` where its data is not on this machine."""
    study = case.images
    if study is None:
        raise ValueError(f"images: expected what to train in a case of kind images, got none in {case.label}")
    return _frozen(case, study) if study.scope == "frozen" else _end_to_end(case, study)


def settings_of(case: Case, study: ImageStudy, name: HeadName, seed: int, penalty: Penalty, strength: float) -> Settings:
    """Return the settings of a whole network with the head `name`."""
    variable = FOLDERS.get(study.data)
    root = os.environ.get(variable) if variable else None
    if variable and not root:
        raise Unsupported(f"{study.data}: its images are not here; set {variable} to their folder")
    updates = study.preparation == "update_grid"
    return Settings.of(
        study.recipe,
        data=study.data,
        root=root,
        task=study.task,
        folds=study.folds,
        fold=study.fold,
        validation=VALIDATION,
        depth=study.backbone.depth,
        stem=study.backbone.stem,
        width=study.backbone.width,
        size=study.backbone.size,
        epochs=study.epochs,
        batch=study.batch,
        learning_rate=study.learning_rate,
        head=name,
        hidden=case.point.layers[1],
        normalize="none" if updates else study.preparation,
        grid=case.point.grid_size,
        spline_order=case.point.spline_order,
        grid_updates=GRID_UPDATES if updates else 0,
        penalty=penalty,
        strength=strength,
        seed=seed,
        device=case.point.device,
    )


def _end_to_end(case: Case, study: ImageStudy) -> ImageResult:
    runs: list[HeadRun] = []
    described: dict[str, Any] = {}
    folders = []
    for penalty, strength in study.penalties:
        for seed in study.seeds:
            settings = settings_of(case, study, study.head, seed, penalty, strength)
            images = settings.open()
            folders.append(_folder(case, settings))
            training = Training(settings, images, folders[-1], workers=_workers(study.data))
            split = training.split
            described = _described(images, [split.train, split.validation, split.test])
            count = sum(p.numel() for p in training.model.head.parameters())
            start: dict[str, Any] = {"seed": seed, "penalty": penalty, "strength": strength, "head_parameters": count}
            try:
                trained = training.run()
            except FloatingPointError:
                runs.append(HeadRun(diverged=True, **start))
                continue
            accuracy = trained.validation.metrics().accuracy
            found = _measured(trained.test.labels, trained.test.probabilities)
            edges = _edges(trained.model.head, training, split.test)
            runs.append(
                HeadRun(epoch=trained.epoch, validation_accuracy=accuracy, seconds=trained.seconds, **start, **found, **edges)
            )
    for folder in filter(None, folders):
        shutil.rmtree(folder)  # the row holds what is worth keeping
    return ImageResult(runs=tuple(runs), **described)


def _edges(trained: Head, training: Training, test: NDArray[np.int64]) -> dict[str, Any]:
    """How many edges of a KAN at the end of a whole network are in use."""
    if trained.kind != "kan":
        return {}
    batches = plain_batches(training.views, test[:HEAD_BATCH], HEAD_BATCH, 0)
    with torch.no_grad():
        features = training.model.eval().backbone(next(iter(batches))[0].to(training.device))
    return _active(trained, features)


@dataclass(frozen=True)
class Features:
    """What the shared backbone makes of all images: `x` `(N, F)`, `y` `(N,)`, and the indices of the three parts."""

    x: Tensor
    y: Tensor
    parts: tuple[NDArray[np.int64], ...]
    described: dict[str, Any]


def _frozen(case: Case, study: ImageStudy) -> ImageResult:
    found = features(case, study)
    runs = []
    for penalty, strength in study.penalties:
        for seed in study.seeds:
            settings = settings_of(case, study, study.head, seed, penalty, strength)
            runs.append(train_head(settings, found, study.head_epochs))
    return ImageResult(runs=tuple(runs), **found.described)


def features(case: Case, study: ImageStudy) -> Features:
    """Return the features of the shared backbone, which is trained unless another case has done so."""
    plain = study.model_copy(update={"preparation": "none", "head": "linear"})
    settings = settings_of(case, plain, "linear", 0, "none", 0.0)
    folder = _folder(case, settings)
    path = folder / "features.pt" if folder else None
    with ExitStack() as stack:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((folder / ".lock").open("a+"))
            fcntl.flock(lock, fcntl.LOCK_EX)  # another case may be at it
        if path is not None and path.exists():
            state = torch.load(path, weights_only=True)
        else:
            state = _trained_backbone(settings, folder)
            if path is not None:
                torch.save(state, path.with_suffix(".part"))
                path.with_suffix(".part").replace(path)
                (path.parent / "checkpoint.pt").unlink()
    parts = tuple(part.numpy() for part in state["parts"])
    return Features(state["x"].to(case.point.device), state["y"].to(case.point.device), parts, state["described"])


@torch.no_grad()
def _features(training: Training, count: int) -> Tensor:
    training.model.eval()
    batches = plain_batches(training.views, np.arange(count), HEAD_BATCH, training.workers)
    return torch.cat([training.model.backbone(x.to(training.device)).float().cpu() for x, *_ in batches])


def _trained_backbone(settings: Settings, folder: Path | None) -> dict[str, Any]:
    images = settings.open()
    training = Training(settings, images, folder, workers=_workers(settings.data))
    trained = training.run()
    parts = [training.split.train, training.split.validation, training.split.test]
    described = _described(images, parts)
    described |= {"backbone_accuracy": trained.test.metrics().accuracy, "backbone_seconds": trained.seconds}
    return {
        "x": _features(training, len(images)),
        "y": torch.from_numpy(images.labels),
        "parts": [torch.from_numpy(part) for part in parts],
        "described": described,
    }


def train_head(settings: Settings, given: Features, epochs: int) -> HeadRun:
    """Train the head of `settings` on the features and return what it came to."""
    begin = time.perf_counter()
    generator = torch.Generator().manual_seed(settings.seed)
    model = head(settings, given.x.shape[1], len(given.described["classes"]), generator).to(given.x.device)
    count = sum(p.numel() for p in model.parameters())
    start: dict[str, Any] = {"seed": settings.seed, "penalty": settings.penalty, "strength": settings.strength}
    start |= {"head_parameters": count}
    (x, y), (val_x, val_y), (test_x, test_y) = ((given.x[part], given.y[part]) for part in map(torch.from_numpy, given.parts))
    optimiser = torch.optim.AdamW(model.parameters(), HEAD_LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = epochs * (len(x) // HEAD_BATCH + (len(x) % HEAD_BATCH > 1))
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimiser, HEAD_LEARNING_RATE, total_steps=steps)
    best, chosen, weights = (-1.0, 0.0), -1, {}
    for epoch in range(epochs):
        if settings.head == "kan" and epoch < settings.grid_updates:
            follow_features(model, x)
        order = torch.randperm(len(x), generator=generator).to(x.device)
        model.train()
        for batch in order.split(HEAD_BATCH):
            if len(batch) == 1:
                continue  # a batch norm knows nothing of one sample
            optimiser.zero_grad(set_to_none=True)
            loss = _loss(model, settings, x[batch], y[batch])
            loss.backward()
            optimiser.step()
            scheduler.step()
        p, lost = _probabilities(model, val_x, val_y)
        if not np.isfinite([float(loss.detach()), lost]).all():
            return HeadRun(diverged=True, seconds=time.perf_counter() - begin, **start)
        score = (metrics.evaluate(val_y.cpu().numpy(), p).macro_f1, -lost)
        if score > best:
            best, chosen = score, epoch
            weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
    model.load_state_dict(weights)
    seconds = time.perf_counter() - begin
    val, _ = _probabilities(model, val_x, val_y)
    accuracy = metrics.evaluate(val_y.cpu().numpy(), val).accuracy
    found = _measured(test_y.cpu().numpy(), _probabilities(model, test_x, test_y)[0])
    edges = _active(model, test_x)
    return HeadRun(epoch=chosen, validation_accuracy=accuracy, seconds=seconds, **start, **found, **edges)


def _loss(model: Head, settings: Settings, x: Tensor, y: Tensor) -> Tensor:
    if settings.penalty == "none" or settings.head != "kan":
        return nn.functional.cross_entropy(model(x), y)
    logits, penalty = model.forward_with_penalty(x, PENALTIES[settings.penalty]())
    return nn.functional.cross_entropy(logits, y) + settings.strength * penalty


@torch.no_grad()
def _probabilities(model: Head, x: Tensor, y: Tensor) -> tuple[NDArray[np.float64], float]:
    logits = model.eval()(x).double()
    return logits.softmax(1).cpu().numpy(), float(nn.functional.cross_entropy(logits, y))


@torch.no_grad()
def _active(model: Head, x: Tensor) -> dict[str, Any]:
    if model.kind != "kan":
        return {}
    scores = model.kan.importance(model.eval().normalize(x))
    return {
        "active_edges": sum(int((score > ACTIVE).sum()) for score in scores),
        "total_edges": sum(score.numel() for score in scores),
    }


def _measured(labels: NDArray[np.int64], p: NDArray[np.float64]) -> dict[str, Any]:
    found = metrics.evaluate(labels, p)
    names = ("accuracy", "macro_precision", "macro_recall", "macro_f1", "mcc", "roc_auc", "ece", "confusion")
    confidence = tuple(round(float(value), _DECIMALS) for value in p.max(1))
    return {name: getattr(found, name) for name in names} | {
        "predicted": tuple(int(c) for c in p.argmax(1)),
        "confidence": confidence,
    }


def _described(images: ImageSet, parts: list[NDArray[np.int64]]) -> dict[str, Any]:
    names = "\n".join(images.names[i] for i in parts[2])
    return {
        "classes": images.classes,
        "images": tuple(len(part) for part in parts),
        "names_sha256": hashlib.sha256(names.encode()).hexdigest(),
        "labels": tuple(int(images.labels[i]) for i in parts[2]),
    }


def _workers(data: str) -> int:
    """Processes that decode: images in files keep several busy, those in memory none."""
    return min(4, os.cpu_count() or 1) if data in FOLDERS else 0


def _folder(case: Case, settings: Settings) -> Path | None:
    """The shared folder of a training, which its settings and everything else that decides its outcome name."""
    shared = os.environ.get("BENCHMARKS_SHARED")
    if not shared:
        return None
    words = [settings.model_dump_json(), sources.source_hash(case), str(sorted(sources.versions(case).items()))]
    digest = hashlib.sha256("\n".join([*words, str(case.point.threads)]).encode()).hexdigest()[:16]
    return Path(shared) / digest
