"""What a KAN head adds to the time and memory of a whole residual network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from pydantic import Field

from benchmarks.images import forecast
from benchmarks.kinds import predict
from benchmarks.kinds.design import Preset, along
from benchmarks.kinds.kind import SIZES, Kind, Section, Shown
from benchmarks.schema.cases import Axis, Backbone, Case, Point

_HEAD_FIELDS: Mapping[Axis, str] = {"batch": "batch", "grid": "grid", "order": "spline_order"}


class HeadCosts(Section):
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


def cases(preset: Preset, section: HeadCosts) -> Iterator[Case]:
    """Return the cases of `section`, along the axes that the user names."""
    where = preset.centre.model_dump(include={"device", "threads"})
    for costs in along(section, section.lines(preset.asked)):
        yield from _cases(costs, preset.centre.seed, **where)


def _cases(section: HeadCosts, seed: int, *, device: str, threads: int) -> Iterator[Case]:
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


_NOTE = (
    "Forward and backward of the head alone, with the gradient for its inputs, over the same of the whole network in "
    "training, in interleaved pairs. The memory of a head in the whole is what the peak has above that with a linear "
    "head: early layers may reach the peak while the head holds nothing."
)
KIND = Kind(
    name="head_cost",
    about="what a head adds to a residual network",
    section=HeadCosts,
    cases=cases,
    measure="benchmarks.images.measured:head_cost",
    sources=("benchmarks.images.cost", "benchmarks.measure.speed", "benchmarks.measure.memory", "efficient_kan.resnet"),
    lacking={
        "depth": "has the layers of its head declared",
        "dtype": "computes in float32",
        "matmul": "computes float32 products in float32",
        "processes": "measures each cell in one process",
    },
    timed=True,
    seconds=forecast.seconds,
    peak_bytes=predict.peak_bytes,
    seen=SIZES | {"backbone.depth", "backbone.size"},
    tables="benchmarks.report.images:of_head_cost",
    part="head_cost",
    shown=(
        Shown(
            70,
            "head_cost",
            "What a head costs in the whole network",
            ("head_cost",),
            note=_NOTE,
        ),
    ),
    together=lambda case: case.backbone.model_dump_json() if case.backbone else None,
)
