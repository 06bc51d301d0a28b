"""The sections of a preset about images: heads against each other, and what a head costs in the whole network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Literal

from pydantic import Field

from benchmarks.cases import Axis, Backbone, Case, ImageStudy, Penalty, Point, Record
from benchmarks.images.labels import KVASIR_V2, task_classes

Head = Literal["linear", "mlp", "kan"]
Preparation = Literal["none", "layer", "tanh", "batch", "update_grid"]
_HEAD_FIELDS: Mapping[Axis, str] = {"batch": "batch", "grid": "grid", "order": "spline_order"}
_CLASSES = {"digits": 10, "mnist5k": 10, "lfw_subset": 2, "tissue": 2, "kvasir_v2": len(KVASIR_V2)}


class Images(Record):
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


class HeadCosts(Record):
    """A head of each arm, with the widths `layers`, on each backbone."""

    arms: tuple[str, ...]
    layers: tuple[int, ...] = (512, 64, 23)
    grid: int = Field(default=5, ge=1)
    spline_order: int = Field(default=3, ge=1)
    batch: int = Field(ge=1)
    backbones: tuple[Backbone, ...]
    blocks: int = Field(ge=1)
    budget_s: float = Field(default=10.0, gt=0)
    warmup: int = Field(default=1, ge=1)
    timeout_s: float = Field(gt=0)

    def lines(self, asked: Mapping[Axis, Sequence[int]]) -> dict[str, Sequence[Any]]:
        """Return the values of `asked` by the field that takes them; a head is as wide as its hidden layers.

        Raises ValueError if a width is asked for and the head has no hidden layer.
        """
        first, *hidden, last = self.layers
        if "width" in asked and not hidden:
            raise ValueError(f"width: expected a head with hidden layers in head_cost, got the layers {first}, {last}")
        widths = [(first, *(width for _ in hidden), last) for width in asked.get("width", ())]
        return {name: asked.get(axis, ()) for axis, name in _HEAD_FIELDS.items()} | {"layers": widths}


def image_cases(section: Images, *, device: str, threads: int) -> Iterator[Case]:
    """Return the cases of `section`."""
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


def head_cost_cases(section: HeadCosts, seed: int, *, device: str, threads: int) -> Iterator[Case]:
    """Return the cases of `section`."""
    timing = section.model_dump(include={"blocks", "budget_s", "warmup", "timeout_s"})
    for backbone, arm in product(section.backbones, section.arms):
        point = Point(
            batch=section.batch,
            layers=section.layers,
            grid_size=section.grid,
            spline_order=section.spline_order,
            device=device,
            threads=threads,
        )
        yield Case(kind="head_cost", arm=arm, point=point, backbone=backbone, seed=seed, **timing)
