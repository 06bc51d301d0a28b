"""Heads against each other on images: accuracy and calibration on frozen features, or of the whole network."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Literal

from pydantic import Field

from benchmarks.images import forecast
from benchmarks.images.labels import KVASIR_V2, task_classes
from benchmarks.kinds import predict
from benchmarks.kinds.design import Preset, along
from benchmarks.kinds.kind import Kind, Section, Shown
from benchmarks.schema.cases import Axis, Backbone, Case, ImageStudy, Penalty, Point

Head = Literal["linear", "mlp", "kan"]
Preparation = Literal["none", "layer", "tanh", "batch", "update_grid"]
_CLASSES = {"digits": 10, "mnist5k": 10, "lfw_subset": 2, "tissue": 2, "kvasir_v2": len(KVASIR_V2)}
# Data set -> environment variable with its folder.
FOLDERS = {"hyperkvasir": "HYPERKVASIR", "kvasir_v2": "KVASIR_V2"}


class Images(Section):
    """Heads on one data set. `heads` x `preparations` on frozen features, those of `end_to_end` with the whole network.

    Only a KAN has a grid to update and edges to penalise: the other heads are trained without both.
    """

    data: str
    task: Literal["23", "seed7", "organ", "category"] = "23"
    folds: int = Field(default=5, ge=2)
    fold: int = Field(default=0, ge=0)
    backbone: Backbone
    recipe: str = "small"
    epochs: int = Field(ge=1)
    batch: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    hidden: int = Field(default=64, ge=1)
    grid: int = Field(default=5, ge=1)
    spline_order: int = Field(default=3, ge=1)
    heads: tuple[Head, ...] = ("linear", "mlp", "kan")
    preparations: tuple[Preparation, ...] = ("none", "layer", "tanh", "batch", "update_grid")
    penalties: tuple[tuple[Penalty, float], ...] = ()
    head_epochs: int = Field(ge=1)
    seeds: tuple[int, ...]
    timeout_s: float = Field(gt=0)
    end_to_end: tuple[tuple[Head, Preparation], ...] = ()
    end_to_end_seeds: tuple[int, ...] = ()
    end_to_end_timeout_s: float = Field(default=600.0, gt=0)

    def lines(self, asked: Mapping[Axis, Sequence[int]]) -> dict[str, Sequence[Any]]:
        """Return the values of `asked` by the field that takes them; a head is as wide as its hidden layer."""
        fields: dict[Axis, str] = {"batch": "batch", "width": "hidden", "grid": "grid", "order": "spline_order"}
        return {field: asked.get(axis, ()) for axis, field in fields.items()}


def cases(preset: Preset, section: Images) -> Iterator[Case]:
    """Return the cases of `section`, along the axes that the user names."""
    where = preset.centre.model_dump(include={"device", "threads"})
    for images in along(section, section.lines(preset.asked)):
        yield from _cases(images, **where)


def _cases(section: Images, *, device: str, threads: int) -> Iterator[Case]:
    classes = _CLASSES.get(section.data) or len(task_classes(section.task))
    point = Point(
        batch=section.batch,
        layers=(section.backbone.features, section.hidden, classes),
        grid_size=section.grid,
        spline_order=section.spline_order,
        device=device,
        threads=threads,
    )
    names = {"data", "task", "folds", "fold", "backbone", "recipe", "epochs", "batch", "learning_rate"}
    shared = section.model_dump(include=names)

    def case(scope: str, head: Head, preparation: Preparation, seeds: tuple[int, ...], timeout_s: float) -> Case:
        penalties = (("none", 0.0), *(section.penalties if head == "kan" and scope == "frozen" else ()))
        chosen = {"scope": scope, "head": head, "preparation": preparation, "penalties": penalties, "seeds": seeds}
        epochs = {"head_epochs": section.head_epochs if scope == "frozen" else 0}
        study = ImageStudy.model_validate(shared | chosen | epochs)
        return Case(kind="images", arm="efficient_kan", point=point, images=study, timeout_s=timeout_s)

    for head, preparation in product(section.heads, section.preparations):
        if head == "kan" or preparation != "update_grid":
            yield case("frozen", head, preparation, section.seeds, section.timeout_s)
    for head, preparation in section.end_to_end:
        yield case("end_to_end", head, preparation, section.end_to_end_seeds, section.end_to_end_timeout_s)


def facts(case: Case) -> dict[str, str]:
    """Whether there are images: a case that found none is to be tried again once they are there."""
    assert case.images is not None
    variable = FOLDERS.get(case.images.data)
    return {case.images.data: "given" if os.environ.get(variable) else "not given"} if variable else {}


def group(case: Case, _: str) -> tuple[object, ...]:
    """Among which cases a field is compared: data sets and their backbones declare values of their own."""
    assert case.images is not None
    below = case.images.backbone.model_copy(update={"size": 0})
    return case.images.data, case.images.task, case.images.scope, below


def together(case: Case) -> str:
    """Heads on one trained backbone stay on one machine; a network that is trained as a whole is one case."""
    assert case.images is not None
    shared = {"data", "task", "folds", "fold", "scope", "backbone", "recipe"}
    return case.images.model_dump_json(include=shared if case.images.scope == "frozen" else None)


_MODULES = ("labels", "sets", "trees", "offline", "transforms", "metrics", "settings", "training", "study")
_NOTE = (
    "An interval over seeds says how much a training differs from the next, on one test fold. What other images would "
    "give differs more: a share p of n images has a standard error of sqrt(p (1 - p) / n), 0.5 points at 97 % of 1,000. "
    "Only a KAN has a grid to update and edges to penalise. The second table is the published one for HyperKvasir."
)
KIND = Kind(
    name="images",
    about="heads on images",
    section=Images,
    cases=cases,
    measure="benchmarks.images.measured:study",
    sources=tuple(f"benchmarks.images.{name}" for name in _MODULES),
    many=True,
    lacking={
        "depth": "trains heads of two layers",
        "dtype": "trains in float32",
        "matmul": "computes float32 products in float32",
        "processes": "measures each cell in one process",
    },
    packages=lambda case: ("mlxtend", "pillow", "scikit-image", "scikit-learn"),
    facts=facts,
    trains=True,
    seconds=forecast.seconds,
    peak_bytes=predict.peak_bytes,
    seen=frozenset({"point.batch", *(f"images.backbone.{name}" for name in ("depth", "stem", "width"))})
    | {f"images.{name}" for name in ("data", "task", "fold", "scope", "head", "preparation", "penalties", "seeds")},
    group=group,
    tables="benchmarks.report.images:of_images",
    figures="benchmarks.report.figures:image_figures",
    findings="benchmarks.report.findings_of_kinds:of_images",
    part="images",
    grouped=("published",),
    shown=(
        Shown(
            50,
            "images",
            "Heads on images",
            ("images", "published"),
            note=_NOTE,
        ),
    ),
    together=together,
)
