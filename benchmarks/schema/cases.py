"""Points and cases: what is measured, under a key that changes when the answer could.

A *point* is one size (batch, layer widths, grid, spline order, dtype, precision of products, device, threads). A *cell* is one
thing measured at one point; a *case* is a cell measured in one fresh process. This module imports no torch, so that planning is
instant and the parent process stays small.
"""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Mode = Literal["inference", "forward", "forward_backward", "step"]
Penalty = Literal["none", "weight_l1", "sample_l1", "sample_std"]
Axis = Literal["batch", "width", "grid", "order", "depth"]
Policy = Literal["cpu", "cuda"]
Matmul = Literal["ieee", "tf32", "bf16"]


class Record(BaseModel):
    """Base of all stored records: immutable, and a misspelt field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Point(Record):
    """One size at which arms are compared.

    `matmul` is the precision in which float32 products are computed, see `benchmarks.measure.precision`.
    """

    batch: int = Field(ge=1)
    layers: tuple[int, ...] = Field(min_length=2, description="widths, input first: (I, hidden..., O)")
    grid_size: int = Field(ge=1)
    spline_order: int = Field(default=3, ge=1)
    dtype: Literal["float32", "float64"] = "float32"
    # Written where it is another only: points from before keep their text, and with it keys and digests.
    matmul: Matmul = Field(default="ieee", exclude_if=lambda matmul: matmul == "ieee")
    device: str = "cpu"
    threads: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _of_float32(self) -> Self:
        if self.dtype != "float32" and self.matmul != "ieee":
            raise ValueError(f"matmul: expected ieee with {self.dtype}, which has no other products, got {self.matmul}")
        return self

    @property
    def width(self) -> int:
        """Largest layer width."""
        return max(self.layers)

    @property
    def depth(self) -> int:
        """Number of layers (weight matrices, not widths)."""
        return len(self.layers) - 1

    @property
    def size(self) -> int:
        """Number of samples times edges times bases, by which points are ordered."""
        return self.batch * sum(i * o for i, o in pairwise(self.layers)) * (self.grid_size + self.spline_order)

    @property
    def item_bytes(self) -> int:
        """Bytes of a number."""
        return 8 if self.dtype == "float64" else 4

    @property
    def label(self) -> str:
        """Short text for progress bars and listings."""
        size = f"B={self.batch} {'-'.join(map(str, self.layers))} G={self.grid_size} k={self.spline_order}"
        return size if self.matmul == "ieee" else f"{size} {self.matmul}"


class Backbone(Record):
    """A residual network below a head, see `efficient_kan.ResNetKAN`; `size` is the side of its images (0: as the data has)."""

    depth: Literal[18, 34, 50] = 18
    stem: Literal["imagenet", "small"] = "imagenet"
    width: float = Field(default=1.0, gt=0)
    size: int = Field(default=0, ge=0)

    @property
    def features(self) -> int:
        """Number of features that it gives."""
        return round(64 * self.width) * 8 * (4 if self.depth == 50 else 1)


class ImageStudy(Record):
    """What an images case trains: one head after one preparation of the features, with every penalty from every seed.

    `scope` "frozen": the head alone, on the features of a backbone that all such cases share, trained once with a linear head;
    "end_to_end": the whole network. `preparation` is a normalisation, or "update_grid": none, but the grid follows the
    features.
    """

    data: str
    task: Literal["23", "seed7", "organ", "category"] = "23"
    folds: int = Field(default=5, ge=2)
    fold: int = Field(default=0, ge=0)
    scope: Literal["frozen", "end_to_end"]
    backbone: Backbone
    recipe: str
    epochs: int = Field(ge=1, description="of the backbone, or of the whole network")
    batch: int = Field(ge=1, description="likewise")
    learning_rate: float = Field(gt=0, description="likewise")
    head_epochs: int = Field(default=0, ge=0, description="of a head on frozen features")
    head: Literal["linear", "mlp", "kan"]
    preparation: Literal["none", "layer", "tanh", "batch", "update_grid"] = "none"
    penalties: tuple[tuple[Penalty, float], ...] = Field(default=(("none", 0.0),), description="with their strengths")
    seeds: tuple[int, ...] = Field(min_length=1)


class Sweep(Record):
    """What a sparsity case trains: every strength of one penalty, from the initial weights of every seed (`benchmarks.study`).

    Each trained network is pruned to every one of `edge_counts` and refitted.
    """

    task: str
    penalty: str = Field(description="see `benchmarks.study.penalties`")
    strengths: tuple[float, ...] = Field(min_length=1, description="factors of the penalty in the training loss, ascending")
    seeds: tuple[int, ...] = Field(min_length=1)
    steps: int = Field(ge=1)
    refit_steps: int = Field(ge=0)
    edge_counts: tuple[int, ...] = Field(min_length=1, description="ascending; the last is all edges")
    # Fields that came later are written where they say something only: the keys of older rows stay.
    learning_rate: float = Field(default=2e-2, gt=0, exclude_if=lambda rate: rate == 2e-2)
    optimiser: Literal["adam", "lbfgs"] = Field(default="adam", exclude_if=lambda optimiser: optimiser == "adam")
    minibatch: int = Field(default=0, ge=0, description="samples of a step; 0: all", exclude_if=lambda size: size == 0)
    refit_rounds: int = Field(
        default=1, ge=1, description="at most; each is twice as long as the last", exclude_if=lambda rounds: rounds == 1
    )
    refit_tolerance: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="a round that gains less ends the refit",
        exclude_if=lambda tolerance: tolerance == 0,
    )
    formulas: bool = Field(
        default=False, description="whether edges are fitted by functions", exclude_if=lambda formulas: not formulas
    )


class Case(Record):
    """One measurement in one fresh process.

    `axes` names the lines through the centre point that this case lies on and `name` a point declared by name; both are labels
    for plots and no part of the key. `baseline` is the arm that the time is compared with; for `penalty_cost` it is the same
    arm without a penalty. A `frontier` asks for the largest batch, so its `point.batch` is 1.
    """

    kind: str = Field(description="see `benchmarks.kinds`")
    arm: str
    point: Point
    baseline: str | None = None
    modes: tuple[Mode, ...] = ()
    penalty: Penalty = "none"
    sweep: Sweep | None = Field(default=None, description="what is trained (sparsity)")
    images: ImageStudy | None = Field(default=None, description="what is trained (images)")
    backbone: Backbone | None = Field(default=None, description="what lies below the head (head_cost)")
    options: tuple[tuple[str, str | int | float], ...] = Field(
        default=(), description="what else a kind of a plugin is told, by name", exclude_if=lambda options: not options
    )
    seed: int = 0
    process: int = Field(default=0, ge=0, description="which of the processes that repeat this cell (speed, penalty_cost)")
    blocks: int = Field(default=0, ge=0, description="ABBA blocks, two pairs each, at most (speed, penalty_cost)")
    budget_s: float = Field(default=0.0, ge=0, description="no further block of a mode after this time; one is always measured")
    warmup: int = Field(default=0, ge=0, description="untimed calls of each side before the first block")
    min_sample_ms: float = Field(default=0.0, ge=0, description="calls are looped until one sample lasts this long")
    rounding_bytes: int = Field(default=1, ge=1, description="each storage takes a multiple of this (simulated, frontier)")
    policy: Policy = Field(
        default="cpu", description="device that tensors stand for (simulated, frontier); see `benchmarks.measure.simulate`"
    )
    capacities_gib: tuple[int, ...] = Field(default=(), description="memory sizes to fill (frontier)")
    timeout_s: float = Field(default=300.0, gt=0)
    axes: tuple[Axis, ...] = ()
    name: str | None = None

    @model_validator(mode="after")
    def _follows_matmul(self) -> Self:
        if self.point.matmul != "ieee":
            from benchmarks.kinds import find_kind  # kinds are made of cases

            if (kind := find_kind(self.kind)) is not None and not kind.in_precisions:
                raise ValueError(f"matmul: expected ieee in a case of kind {self.kind}, got {self.point.matmul}")
        return self

    @property
    def label(self) -> str:
        """Short text for progress bars and listings."""
        extra = "" if self.penalty == "none" else f" {self.penalty}"
        if self.sweep:
            runs = len(self.sweep.strengths) * len(self.sweep.seeds)
            extra += f" {self.sweep.task} {self.sweep.penalty}: {runs} runs, seeds from {self.sweep.seeds[0]},"
        if self.images:
            it = self.images
            extra += f" {it.data} {it.scope} {it.head} {it.preparation}: {len(it.penalties) * len(it.seeds)} runs,"
        extra += "".join(f" {name}={value}" for name, value in self.options)
        repeat = f" process {self.process}" if self.process else ""
        return f"{self.kind} {self.arm}{extra} {self.point.label}{repeat}"

    @property
    def cell(self) -> str:
        """Equal for the cases that measure the same thing in different processes."""
        return self.model_dump_json(exclude=_NOT_IN_KEY | {"process"})


# What a case is called or how long it may take does not change what it measures.
_NOT_IN_KEY = {"axes", "name", "timeout_s"}


def case_key(case: Case, source_hash: str, versions: dict[str, str], machine: str) -> str:
    """Return 20 hex digits that identify `case` measured on this source with these versions on this machine.

    `source_hash` covers the source of every module that the measurement runs, see `benchmarks.kinds.sources`; `machine` is the
    hardware in words, see `benchmarks.schema.environment.machine`.
    """
    # Fields that came later leave the keys of cases which they say nothing about as they were.
    absent = {name for name in ("images", "backbone") if getattr(case, name) is None}
    if case.policy == "cpu":
        absent.add("policy")
    config = case.model_dump(mode="json", exclude=_NOT_IN_KEY | absent)
    text = json.dumps([config, source_hash, versions, machine], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]
