"""Declared experiments: a TOML file becomes a list of cases.

Every preset has a centre point and values along five axes: batch, width, grid size, spline order and depth. Its points are the
lines through the centre (`design = "lines"`), these and the corners of batch, width and grid size (`"lines+corners"`), or all
combinations (`"product"`). `arms` are measured at all points, `centre_arms` at the centre only.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from benchmarks.cases import Axis, Case, Kind, Mode, Penalty, Point, Record
from benchmarks.environment import resolve_device

FOLDER = Path(__file__).parent


class Centre(Record):
    """The point that all lines go through: `depth` layers of equal `width`."""

    batch: int = Field(ge=1)
    width: int = Field(ge=1)
    depth: int = Field(ge=1)
    grid: int = Field(ge=1)
    spline_order: int = Field(default=3, ge=1)
    dtype: Literal["float32", "float64"] = "float32"
    device: str = Field(default="auto", description="auto: the first GPU if torch finds one, else the CPU")
    threads: int = Field(default=1, ge=1)
    seed: int = 0


class Lines(Record):
    """Values along each axis; the centre is added where it is missing."""

    batch: tuple[int, ...] = ()
    width: tuple[int, ...] = ()
    grid: tuple[int, ...] = ()
    order: tuple[int, ...] = ()
    depth: tuple[int, ...] = ()


class Named(Record):
    """A point of its own, such as a case that somebody published; memory is measured and simulated there."""

    name: str
    batch: int = Field(ge=1)
    layers: tuple[int, ...] = Field(min_length=2)
    grid: int = Field(ge=1)
    spline_order: int = Field(default=3, ge=1)


class Timing(Record):
    """How often and how long; see `Case`. Every cell is measured in `processes` fresh processes."""

    processes: int = Field(default=1, ge=1)
    blocks: int = Field(ge=1)
    budget_s: float = Field(default=0.0, ge=0)
    warmup: int = Field(default=3, ge=1)
    min_sample_ms: float = Field(default=2.0, ge=0)
    timeout_s: float = Field(gt=0)


class Speed(Timing):
    """Time of each arm against `baseline`, with `named` at the named points too."""

    named: bool = False
    baseline: str = "efficient_kan"
    arms: tuple[str, ...]
    centre_arms: tuple[str, ...] = ()
    modes: tuple[Mode, ...] = ("inference", "forward", "forward_backward", "step")
    centre_modes: tuple[Mode, ...] = Field(default=(), description="modes at the centre, if other than elsewhere")


class Memory(Record):
    """Peak memory of each arm, with `named` at the named points too."""

    arms: tuple[str, ...]
    centre_arms: tuple[str, ...] = ()
    named: bool = False
    modes: tuple[Mode, ...] = ("inference", "step")
    timeout_s: float = Field(gt=0)


class Simulated(Memory):
    """Peak memory under fake tensors, at the same points and at the named ones, which need not fit this machine."""

    named: bool = True


class Frontier(Record):
    """Largest batch of which a training step fits: for each arm and each width of the lines, other sizes as at the centre.

    Storages count as CUDA's caching allocator hands them out, in multiples of 512 bytes.
    """

    arms: tuple[str, ...]
    widths: tuple[int, ...]
    capacities_gib: tuple[int, ...] = (8, 16, 24, 40, 80, 141)
    rounding_bytes: int = Field(default=512, ge=1)
    timeout_s: float = Field(gt=0)


class PenaltyCost(Timing):
    """Time and memory of a training step with each penalty, at the centre."""

    arms: tuple[str, ...]
    penalties: tuple[Penalty, ...] = ("weight_l1", "sample_l1", "sample_std")


class Sparsity(Record):
    """Trained networks: error against active edges. `layers` must fit the task."""

    task: str
    layers: tuple[int, ...]
    grid: int = Field(default=5, ge=1)
    samples: int = Field(ge=2)
    steps: int = Field(ge=1)
    threshold: float = Field(ge=0)
    penalties: tuple[Penalty, ...]
    strengths: tuple[float, ...]
    seeds: tuple[int, ...] = (0,)
    timeout_s: float = Field(gt=0)


class Preset(Record):
    """A declared experiment. `jobs` untimed cases (memory, sparsity) run at once; timed ones always run alone."""

    name: str
    about: str
    jobs: int = Field(default=1, ge=1)
    design: Literal["lines", "lines+corners", "product"] = "lines"
    centre: Centre
    lines: Lines = Lines()
    named: tuple[Named, ...] = ()
    speed: Speed | None = None
    memory: Memory | None = None
    simulated: Simulated | None = None
    frontier: Frontier | None = None
    penalty_cost: PenaltyCost | None = None
    sparsity: tuple[Sparsity, ...] = ()


def load(name: str) -> Preset:
    """Return the preset called `name`, or the one in the file `name` if it ends in .toml.

    Raises ValueError if there is none or it does not fit the schema.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.is_file():
        choices = ", ".join(sorted(p.stem for p in FOLDER.glob("*.toml")))
        raise ValueError(f"preset: expected one of {choices}, or a .toml file, got {name!r}")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"preset: expected a file in TOML, got {path.name}: {error}") from error
    try:
        return Preset.model_validate({"name": path.stem} | content)
    except ValidationError as error:
        raise ValueError(f"preset: expected a file of this schema, got {path.name}: {_texts(error)}") from error


def _texts(error: ValidationError) -> str:
    """What is wrong where, on one line."""
    found = error.errors(include_url=False)
    return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}, got {one['input']!r}" for one in found)


def override(
    preset: Preset,
    *,
    batch: Sequence[int] | None = None,
    width: Sequence[int] | None = None,
    grid: Sequence[int] | None = None,
    order: Sequence[int] | None = None,
    depth: Sequence[int] | None = None,
    threads: int | None = None,
    dtype: Literal["float32", "float64"] | None = None,
    device: str | None = None,
    processes: int | None = None,
) -> Preset:
    """Return `preset` with other lines, threads, dtype, device or number of processes.

    A line's values are replaced by those given; if the centre is not among them it moves to their median.

    Raises ValueError if a value is not positive or `device` is neither auto, cpu nor cuda, with or without a number.
    """
    centre, lines = preset.centre.model_dump(), preset.lines.model_dump()
    given = {"batch": batch, "width": width, "grid": grid, "order": order, "depth": depth}
    for axis, values in given.items():
        if values is None:
            continue
        if not values or min(values) < 1:
            raise ValueError(f"{axis}: expected positive whole numbers, got {list(values)}")
        lines[axis] = tuple(values)
        if centre[_CENTRE[axis]] not in values:
            centre[_CENTRE[axis]] = sorted(values)[len(values) // 2]
    for name, number in (("threads", threads), ("processes", processes)):
        if number is not None and number < 1:
            raise ValueError(f"{name}: expected at least 1, got {number}")
    if device is not None and not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ValueError(f"device: expected auto, cpu, cuda or cuda:N, got {device!r}")
    chosen = {"threads": threads, "dtype": dtype, "device": device}
    centre |= {name: value for name, value in chosen.items() if value is not None}
    changed: dict[str, Record] = {"centre": Centre(**centre), "lines": Lines(**lines)}
    if processes is not None:
        for kind in ("speed", "penalty_cost"):
            if timing := getattr(preset, kind):
                changed[kind] = timing.model_copy(update={"processes": processes})
    if width is not None and preset.frontier:
        changed["frontier"] = preset.frontier.model_copy(update={"widths": tuple(width)})
    return preset.model_copy(update=changed)


# What the centre calls its place on each axis.
_CENTRE = {"batch": "batch", "width": "width", "grid": "grid", "order": "spline_order", "depth": "depth"}


def expand(preset: Preset, only: Sequence[Kind] | None = None, arms: Sequence[str] | None = None) -> list[Case]:
    """Return the cases of `preset`, each once, kinds in a fixed order and sizes ascending within a kind.

    `only` keeps those kinds, `arms` those arms. Ascending sizes, with the baseline first, let a failure rule out what is
    larger; the processes that repeat a cell lie a whole round apart. The device "auto" is resolved here.
    """
    device = resolve_device(preset.centre.device)
    preset = preset.model_copy(update={"centre": preset.centre.model_copy(update={"device": device})})
    merged: dict[str, Case] = {}
    for case in _cases(preset):
        if (only and case.kind not in only) or (arms and case.arm not in arms):
            continue
        key = f"{case.cell} {case.process}"
        if key in merged:
            axes = tuple(dict.fromkeys((*merged[key].axes, *case.axes)))
            merged[key] = merged[key].model_copy(update={"axes": axes, "name": merged[key].name or case.name})
        else:
            merged[key] = case
    return sorted(merged.values(), key=_order)


def _order(case: Case) -> tuple[object, ...]:
    kinds = ("speed", "penalty_cost", "memory", "simulated", "frontier", "sparsity")
    edges = sum(i * o for i, o in pairwise(case.point.layers))
    size = case.point.batch * edges * (case.point.grid_size + case.point.spline_order)
    return kinds.index(case.kind), case.process, size, case.arm != case.baseline


Placed = tuple[Point, tuple[Axis, ...]]


def _points(preset: Preset) -> Iterator[Placed]:
    """The centre first, then the others, each with the axes on whose line through the centre it lies."""
    lines: dict[Axis, tuple[int, ...]] = {
        "batch": preset.lines.batch,
        "width": preset.lines.width,
        "grid": preset.lines.grid,
        "order": preset.lines.order,
        "depth": preset.lines.depth,
    }
    at: dict[Axis, int] = {axis: getattr(preset.centre, _CENTRE[axis]) for axis in lines}
    values: dict[Axis, list[int]] = {axis: sorted({*line, at[axis]}) for axis, line in lines.items()}
    everywhere = tuple(axis for axis in lines if len(values[axis]) > 1)
    yield _point(preset.centre, at), everywhere
    if preset.design == "product":
        for combination in product(*values.values()):
            place = dict(zip(values, combination, strict=True))
            if place != at:
                # Every point of a product lies on a whole line along each axis.
                yield _point(preset.centre, place), everywhere
        return
    for axis in lines:
        for value in values[axis]:
            if value != at[axis]:
                yield _point(preset.centre, at | {axis: value}), (axis,)
    if preset.design == "lines+corners":
        ends = [(axis, {values[axis][0], values[axis][-1]}) for axis in ("batch", "width", "grid")]
        for corner in product(*(sorted(pair) for _, pair in ends)):
            yield _point(preset.centre, at | dict(zip(("batch", "width", "grid"), corner, strict=True))), ()


def _point(centre: Centre, at: Mapping[Axis, int]) -> Point:
    return Point(
        batch=at["batch"],
        layers=(at["width"],) * (at["depth"] + 1),
        grid_size=at["grid"],
        spline_order=at["order"],
        dtype=centre.dtype,
        device=centre.device,
        threads=centre.threads,
    )


def _named(preset: Preset, centre: Point) -> Iterator[tuple[Named, Point]]:
    for named in preset.named:
        sizes = {"batch": named.batch, "layers": named.layers, "grid_size": named.grid, "spline_order": named.spline_order}
        yield named, centre.model_copy(update=sizes)


def _cases(preset: Preset) -> Iterator[Case]:
    points = list(_points(preset))
    centre = points[0][0]
    seed = preset.centre.seed
    timing = {"blocks", "budget_s", "warmup", "min_sample_ms", "timeout_s"}
    if preset.speed:
        shared = preset.speed.model_dump(include=timing | {"baseline", "modes"}) | {"kind": "speed", "seed": seed}
        for process in range(preset.speed.processes):
            for point, arm, axes in _measured(preset.speed, points):
                modes = (preset.speed.centre_modes if point == centre else ()) or preset.speed.modes
                yield Case(arm=arm, point=point, axes=axes, process=process, **shared | {"modes": modes})
            for named, point in _named(preset, centre) if preset.speed.named else ():
                for arm in preset.speed.arms:
                    yield Case(arm=arm, point=point, name=named.name, process=process, **shared)
    for kind, section in (("memory", preset.memory), ("simulated", preset.simulated)):
        if section is None:
            continue
        shared = section.model_dump(include={"modes", "timeout_s"}) | {"kind": kind, "seed": seed}
        for point, arm, axes in _measured(section, points):
            yield Case(arm=arm, point=point, axes=axes, **shared)
        for named, point in _named(preset, centre) if section.named else ():
            for arm in dict.fromkeys((*section.arms, *section.centre_arms)):
                yield Case(arm=arm, point=point, name=named.name, **shared)
    if preset.frontier:
        frontier = preset.frontier
        shared = frontier.model_dump(include={"capacities_gib", "rounding_bytes", "timeout_s"})
        shared |= {"kind": "frontier", "modes": ("step",), "seed": seed}
        for width in frontier.widths:
            point = centre.model_copy(update={"batch": 1, "layers": (width,) * len(centre.layers)})
            for arm in frontier.arms:
                yield Case(arm=arm, point=point, **shared)
    if preset.penalty_cost:
        cost = preset.penalty_cost
        shared = {"modes": ("step",), "seed": seed, "point": centre}
        timed = cost.model_dump(include=timing) | shared
        untimed = shared | {"timeout_s": cost.timeout_s}
        for arm, penalty in product(cost.arms, cost.penalties):
            for process in range(cost.processes):
                yield Case(kind="penalty_cost", arm=arm, baseline=arm, penalty=penalty, process=process, **timed)
            yield Case(kind="memory", arm=arm, penalty=penalty, **untimed)
        for arm in cost.arms:
            # What the memory of the penalised steps is compared with; often measured above already.
            modes = preset.memory.modes if preset.memory and "step" in preset.memory.modes else ("step",)
            yield Case(kind="memory", arm=arm, **untimed | {"modes": modes})
    for sparsity in preset.sparsity:
        yield from _sparsity(preset, sparsity)


def _measured(section: Speed | Memory, points: Sequence[Placed]) -> Iterator[tuple[Point, str, tuple[Axis, ...]]]:
    for n, (point, axes) in enumerate(points):
        for arm in dict.fromkeys((*section.arms, *(section.centre_arms if n == 0 else ()))):
            yield point, arm, axes


def _sparsity(preset: Preset, sparsity: Sparsity) -> Iterator[Case]:
    point = Point(
        batch=sparsity.samples,
        layers=sparsity.layers,
        grid_size=sparsity.grid,
        spline_order=preset.centre.spline_order,
        dtype=preset.centre.dtype,
        device=preset.centre.device,
        threads=preset.centre.threads,
    )
    for seed in sparsity.seeds:
        for penalty in ("none", *sparsity.penalties):
            for strength in (0.0,) if penalty == "none" else sparsity.strengths:
                yield Case(
                    kind="sparsity",
                    arm="efficient_kan",
                    point=point,
                    penalty=penalty,
                    strength=strength,
                    seed=seed,
                    **sparsity.model_dump(include={"task", "steps", "threshold", "timeout_s"}),
                )
