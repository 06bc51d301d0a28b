"""Declared experiments: a TOML file becomes a list of cases.

Every preset has a centre point and values along five axes: batch, width, grid size, spline order and depth. Its points are the
lines through the centre (`design = "lines"`), these and the corners of batch, width and grid size (`"lines+corners"`), these
and all combinations of batch, width and grid size (`"lines+product"`), or all combinations of all axes (`"product"`). `arms`
are measured at all points, `centre_arms` at the centre only. Time and memory are measured in every precision of products that
the centre's `matmul` names at all points, in those of the lines' `matmul` at the centre only.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from benchmarks import tasks
from benchmarks.cases import OF_ANY_MATMUL, Axis, Case, Kind, Matmul, Mode, Penalty, Point, Record, Sweep
from benchmarks.environment import resolve_device
from benchmarks.presets.axes import AXES, along
from benchmarks.presets.images import HeadCosts, Images, head_cost_cases, image_cases
from benchmarks.study.penalties import CHECKED, PENALTIES
from benchmarks.wrong import wrong

FOLDER = Path(__file__).parent


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Matmuls = Annotated[tuple[Matmul, ...], BeforeValidator(_several)]


class Centre(Record):
    """The point that all lines go through: `depth` layers of equal `width`."""

    batch: int = Field(ge=1)
    width: int = Field(ge=1)
    depth: int = Field(ge=1)
    grid: int = Field(ge=1)
    spline_order: int = Field(default=3, ge=1)
    dtype: Literal["float32", "float64"] = "float32"
    matmul: Matmuls = Field(default=("ieee",), min_length=1, description="one or several, see `benchmarks.measure.precision`")
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
    matmul: Matmuls = ()


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
    """Peak memory without computing, at the same points and at the named ones, which need not fit this machine.

    The lines are simulated as on their own device, to stand beside what is measured there, the named points as on a GPU.
    """

    named: bool = True


class Frontier(Record):
    """Largest batch of which a training step fits: for each arm and each of `widths`, other sizes as at the centre.

    Simulated as on a GPU: storages count as CUDA's caching allocator hands them out, in multiples of 512 bytes.
    """

    arms: tuple[str, ...]
    widths: tuple[int, ...]
    capacities_gib: tuple[int, ...] = (8, 16, 24, 40, 80, 141)
    rounding_bytes: int = Field(default=512, ge=1)
    timeout_s: float = Field(gt=0)


class PenaltyCost(Timing):
    """Time and memory of a training step with each penalty, at the centre and along the axes that the user names."""

    arms: tuple[str, ...]
    penalties: tuple[Penalty, ...] = ("weight_l1", "sample_l1", "sample_std")


class CrossCheck(Record):
    """pykan itself, trained on a few of the study's tasks with every `every`-th strength: slow, so small.

    `strongest` bounds the strengths: what orders the edges of a network that has collapsed is rounding, which no two
    implementations share.
    """

    arm: str = "pykan[speed]"
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    every: int = Field(default=1, ge=1)
    strongest: float = Field(default=math.inf, gt=0)
    timeout_s: float = Field(gt=0)


class Sparsity(Record):
    """The sparsity study, see benchmarks/study/RULE.md: every penalty, strength and seed on every task."""

    tasks: tuple[str, ...] = Field(default=(), description="names of tasks; none: all that are registered")
    penalties: tuple[str, ...] = PENALTIES
    strengths: int = Field(ge=1, description="how many, evenly on a log axis between the ends")
    ends: dict[str, tuple[float, float]] = Field(description="weakest and strongest, by penalty")
    seeds: int = Field(ge=1)
    seeds_per_case: int = Field(default=5, ge=1)
    grid: int = Field(default=5, ge=1)
    steps: int = Field(ge=1)
    refit_steps: int = Field(ge=0)
    all_counts_up_to: int = Field(ge=1, description="networks with more edges are pruned to `counts` counts instead of all")
    counts: int = Field(ge=2, description="how many, evenly on a log axis")
    cross_check: CrossCheck | None = None
    timeout_s: float = Field(gt=0)


class Preset(Record):
    """A declared experiment. `jobs` untimed cases (memory, sparsity) run at once; timed ones always run alone."""

    name: str
    about: str
    jobs: int = Field(default=1, ge=1)
    design: Literal["lines", "lines+corners", "lines+product", "product"] = "lines"
    centre: Centre
    lines: Lines = Lines()
    named: tuple[Named, ...] = ()
    speed: Speed | None = None
    memory: Memory | None = None
    simulated: Simulated | None = None
    frontier: Frontier | None = None
    penalty_cost: PenaltyCost | None = None
    sparsity: Sparsity | None = None
    head_cost: HeadCosts | None = None
    images: tuple[Images, ...] = ()
    asked: dict[Axis, tuple[int, ...]] = Field(
        default_factory=dict, description="values named by the user: every kind that has the axis is measured at all of them"
    )

    @model_validator(mode="after")
    def _products_exist(self) -> Self:
        asked = {*self.centre.matmul, *self.lines.matmul} - {"ieee"}
        if self.centre.dtype == "float64" and asked:
            raise ValueError(f"matmul: expected ieee with float64, which has no other products, got {', '.join(sorted(asked))}")
        return self


def load(name: str) -> Preset:
    """Return the preset called `name`, or the one in the file `name` if it ends in .toml.

    Raises ValueError if there is none or it does not fit the schema.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.is_file():
        choices = ", ".join(sorted(p.stem for p in FOLDER.glob("*.toml")))
        what = "which is a folder" if path.is_dir() else "which does not exist"
        got = f"{name!r}, {what}" if name.endswith(".toml") else f"{name!r}"
        raise ValueError(f"preset: expected one of {choices}, or a .toml file, got {got}")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"preset: expected a file that can be read, got {name}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"preset: expected a file in TOML, got {path.name}: {error}") from error
    try:
        return Preset.model_validate({"name": path.stem} | content)
    except ValidationError as error:
        raise ValueError(f"preset: expected a file of this schema, got {path.name}: {wrong(error)}") from error


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
    matmul: Sequence[str] | None = None,
    device: str | None = None,
    processes: int | None = None,
) -> Preset:
    """Return `preset` with other lines, threads, dtype, precisions of products, device or number of processes.

    A line's values are replaced by those given; if the centre is not among them it moves to their median. All points are
    measured in each of `matmul`. Kinds that have no lines of their own are measured at all values too, see `along`; which kinds
    have which option says `axes.LACKING`.

    Raises ValueError if a value is not positive, `device` is neither auto, cpu nor cuda, with or without a number, or `matmul`
    is no precision that products of this dtype, on this device, are computed in.
    """
    centre, lines = preset.centre.model_dump(), preset.lines.model_dump()
    given: dict[Axis, Sequence[int] | None] = {"batch": batch, "width": width, "grid": grid, "order": order, "depth": depth}
    for axis, values in given.items():
        if values is None:
            continue
        if not values or min(values) < 1:
            raise ValueError(f"{axis}: expected positive whole numbers, got {', '.join(map(str, values)) or 'none'}")
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
    if matmul is not None:
        centre["matmul"], lines["matmul"] = tuple(dict.fromkeys(matmul)), ()
        _check_matmul(centre)
    elif centre["dtype"] == "float64":
        centre["matmul"], lines["matmul"] = ("ieee",), ()  # the dtype was asked for, the preset's precisions were not
    changed: dict[str, object] = {"centre": Centre(**centre), "lines": Lines(**lines)}
    if processes is not None:
        for kind in ("speed", "penalty_cost"):
            if timing := getattr(preset, kind):
                changed[kind] = timing.model_copy(update={"processes": processes})
    if width is not None and preset.frontier:
        changed["frontier"] = preset.frontier.model_copy(update={"widths": tuple(dict.fromkeys(width))})
    asked = {axis: tuple(dict.fromkeys(values)) for axis, values in given.items() if values is not None}
    return preset.model_copy(update=changed | {"asked": preset.asked | asked})


def _check_matmul(centre: Mapping[str, Any]) -> None:
    """Raise ValueError if the products of `centre` cannot be computed as it says."""
    asked, known = centre["matmul"], get_args(Matmul)
    if not asked or any(one not in known for one in asked):
        raise ValueError(f"matmul: expected at least one of {', '.join(known)}, got {', '.join(asked) or 'none'}")
    if centre["dtype"] == "float64" and set(asked) != {"ieee"}:
        raise ValueError(f"matmul: expected ieee with float64, which has no other products, got {', '.join(asked)}")
    if "tf32" in asked and resolve_device(centre["device"]) == "cpu":
        raise ValueError("matmul: expected ieee or bf16 on a CPU, where torch computes float32 products in float32, got tf32")


def everywhere(preset: Preset, arms: Sequence[str]) -> Preset:
    """Return `preset` with those of `arms` that it measures at the centre alone measured at all points."""
    changed: dict[str, object] = {}
    for kind in ("speed", "memory", "simulated"):
        section: Speed | Memory | None = getattr(preset, kind)
        if section and (moved := [arm for arm in section.centre_arms if arm in arms]):
            changed[kind] = section.model_copy(update={"arms": tuple(dict.fromkeys((*section.arms, *moved)))})
    return preset.model_copy(update=changed)


# What the centre calls its place on each axis.
_CENTRE: Mapping[Axis, str] = {"batch": "batch", "width": "width", "grid": "grid", "order": "spline_order", "depth": "depth"}


def expand(preset: Preset, only: Sequence[Kind] | None = None, arms: Sequence[str] | None = None) -> list[Case]:
    """Return the cases of `preset`, each once, kinds in a fixed order and sizes ascending within a kind.

    `only` keeps those kinds, `arms` those arms. Ascending sizes, with the baseline first, let a failure rule out what is
    larger; the processes that repeat a cell lie a whole round apart. The device "auto" is resolved here.
    """
    device = resolve_device(preset.centre.device)
    preset = preset.model_copy(update={"centre": preset.centre.model_copy(update={"device": device})})
    merged: dict[str, Case] = {}
    for case in (precise for plain in _cases(preset) for precise in _in_precisions(preset, plain)):
        if (only and case.kind not in only) or (arms and case.arm not in arms):
            continue
        key = f"{case.cell} {case.process}"
        if key in merged:
            axes = tuple(dict.fromkeys((*merged[key].axes, *case.axes)))
            merged[key] = merged[key].model_copy(update={"axes": axes, "name": merged[key].name or case.name})
        else:
            merged[key] = case
    return sorted(merged.values(), key=_order)


def _in_precisions(preset: Preset, case: Case) -> Iterator[Case]:
    """Return `case`, whose products are IEEE's, in each precision that `preset` asks for at its point."""
    if case.kind not in OF_ANY_MATMUL:
        yield case
        return
    centre = case.name is None and case.point == _point(preset.centre, _at(preset.centre))
    for matmul in dict.fromkeys((*preset.centre.matmul, *(preset.lines.matmul if centre else ()))):
        # Through a point that the axis alone adds there is no line.
        axes = case.axes if matmul in preset.centre.matmul else ()
        yield case.model_copy(update={"point": case.point.model_copy(update={"matmul": matmul}), "axes": axes})


def _order(case: Case) -> tuple[object, ...]:
    kinds = ("speed", "penalty_cost", "head_cost", "memory", "simulated", "frontier", "sparsity", "images")
    if case.kind == "sparsity":
        # As declared: every penalty goes through all tasks in turn, so that the time of the next cases is that of the last.
        return kinds.index(case.kind), 0, 0, False
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
    at = _at(preset.centre)
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
    sizes: tuple[Axis, ...] = ("batch", "width", "grid")
    if preset.design == "lines+corners":
        for corner in product(*(sorted({values[axis][0], values[axis][-1]}) for axis in sizes)):
            yield _point(preset.centre, at | dict(zip(sizes, corner, strict=True))), ()
    if preset.design == "lines+product":
        for combination in product(*(values[axis] for axis in sizes)):
            yield _point(preset.centre, at | dict(zip(sizes, combination, strict=True))), sizes


def _at(centre: Centre) -> dict[Axis, int]:
    """The place of the centre on each axis."""
    return {axis: getattr(centre, _CENTRE[axis]) for axis in AXES}


def _asked_points(preset: Preset, axes: Sequence[Axis]) -> Iterator[Point]:
    """The centre, and the points on the lines through it that the user named along `axes`."""
    at = _at(preset.centre)
    yield _point(preset.centre, at)
    for axis in axes:
        for value in sorted(preset.asked.get(axis, ())):
            if value != at[axis]:
                yield _point(preset.centre, at | {axis: value})


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


_TIMING = {"blocks", "budget_s", "warmup", "min_sample_ms", "timeout_s"}
# How a simulation follows a GPU: its policy, under which this package computes with torch's operations alone, and the multiple
# of which CUDA's caching allocator hands out memory.
_ON_CUDA = {"policy": "cuda", "rounding_bytes": 512}


def _named(preset: Preset, centre: Point) -> Iterator[tuple[Named, Point]]:
    for named in preset.named:
        sizes = {"batch": named.batch, "layers": named.layers, "grid_size": named.grid, "spline_order": named.spline_order}
        yield named, centre.model_copy(update=sizes)


def _cases(preset: Preset) -> Iterator[Case]:
    points = list(_points(preset))
    centre = points[0][0]
    seed = preset.centre.seed
    on_gpu = centre.device.startswith("cuda")
    if preset.speed:
        shared = preset.speed.model_dump(include=_TIMING | {"baseline", "modes"}) | {"kind": "speed", "seed": seed}
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
            yield Case(arm=arm, point=point, axes=axes, **shared | (_ON_CUDA if kind == "simulated" and on_gpu else {}))
        for named, point in _named(preset, centre) if section.named else ():
            for arm in dict.fromkeys((*section.arms, *section.centre_arms)):
                yield Case(arm=arm, point=point, name=named.name, **shared | (_ON_CUDA if kind == "simulated" else {}))
    if preset.frontier:
        frontier = preset.frontier
        shared = frontier.model_dump(include={"capacities_gib", "rounding_bytes", "timeout_s"})
        shared |= {"kind": "frontier", "modes": ("step",), "seed": seed, "policy": "cuda"}
        for width, at in product(frontier.widths, _asked_points(preset, ("grid", "order", "depth"))):
            # Simulated on the CPU whatever the device of the preset: `policy` says which device is followed.
            point = at.model_copy(update={"batch": 1, "layers": (width,) * len(at.layers), "device": "cpu"})
            for arm in frontier.arms:
                yield Case(arm=arm, point=point, **shared)
    if preset.penalty_cost:
        for point in _asked_points(preset, ("batch", "width", "grid", "order", "depth")):
            yield from _penalty_costs(preset, preset.penalty_cost, point)
    if preset.sparsity:
        for study in along(preset.sparsity, {"grid": preset.asked.get("grid", ())}):
            yield from _sparsity(preset, study)
    where = preset.centre.model_dump(include={"device", "threads"})
    if preset.head_cost:
        for costs in along(preset.head_cost, preset.head_cost.lines(preset.asked)):
            yield from head_cost_cases(costs, preset.centre.seed, **where)
    for declared in preset.images:
        for images in along(declared, declared.lines(preset.asked)):
            yield from image_cases(images, **where)


def _penalty_costs(preset: Preset, cost: PenaltyCost, point: Point) -> Iterator[Case]:
    shared: dict[str, Any] = {"modes": ("step",), "seed": preset.centre.seed, "point": point}
    timed = cost.model_dump(include=_TIMING) | shared
    untimed = shared | {"timeout_s": max(cost.timeout_s, preset.memory.timeout_s if preset.memory else 0.0)}
    for arm, penalty in product(cost.arms, cost.penalties):
        for process in range(cost.processes):
            yield Case(kind="penalty_cost", arm=arm, baseline=arm, penalty=penalty, process=process, **timed)
        yield Case(kind="memory", arm=arm, penalty=penalty, **untimed)
    for arm in cost.arms:
        # What the memory of the penalised steps is compared with; often measured above already.
        modes = preset.memory.modes if preset.memory and "step" in preset.memory.modes else ("step",)
        yield Case(kind="memory", arm=arm, **untimed | {"modes": modes})


def _measured(section: Speed | Memory, points: Sequence[Placed]) -> Iterator[tuple[Point, str, tuple[Axis, ...]]]:
    for n, (point, axes) in enumerate(points):
        for arm in dict.fromkeys((*section.arms, *(section.centre_arms if n == 0 else ()))):
            yield point, arm, axes


def _sparsity(preset: Preset, study: Sparsity) -> Iterator[Case]:
    chosen = [tasks.get_task(name) for name in study.tasks] or list(tasks.all_tasks())
    groups = [tuple(range(a, min(a + study.seeds_per_case, study.seeds))) for a in range(0, study.seeds, study.seeds_per_case)]
    check = study.cross_check
    for task in [tasks.get_task(name) for name in check.tasks] if check else ():
        assert check is not None
        strengths = tuple(one for one in _strengths(study, CHECKED)[:: check.every] if one <= check.strongest)
        yield _sweep(preset, study, task, check.arm, CHECKED, strengths, check.seeds, check.timeout_s)
    for group, penalty, task in product(groups, study.penalties, chosen):
        yield _sweep(preset, study, task, "efficient_kan", penalty, _strengths(study, penalty), group, study.timeout_s)


def _strengths(study: Sparsity, penalty: str) -> tuple[float, ...]:
    """From the weakest to the strongest, three significant digits each."""
    if penalty == "none":
        return (0.0,)
    if penalty not in study.ends:
        raise ValueError(f"sparsity.ends: expected an entry for {penalty!r}, got {', '.join(study.ends)}")
    low, high = study.ends[penalty]
    steps = max(study.strengths - 1, 1)
    return tuple(float(f"{low * (high / low) ** (n / steps):.3g}") for n in range(study.strengths))


def _sweep(
    preset: Preset,
    study: Sparsity,
    task: tasks.Task,
    arm: str,
    penalty: str,
    strengths: tuple[float, ...],
    seeds: tuple[int, ...],
    timeout_s: float,
) -> Case:
    # The study is about small networks on a CPU, whatever else the preset measures: a GPU would wait for each tiny operation.
    point = Point(
        batch=task.sizes.train,
        layers=task.layers,
        grid_size=study.grid,
        dtype=preset.centre.dtype,
        threads=preset.centre.threads,
    )
    sweep = Sweep(
        task=task.name,
        penalty=penalty,
        strengths=strengths,
        seeds=seeds,
        steps=study.steps,
        refit_steps=study.refit_steps,
        edge_counts=_edge_counts(study, sum(i * o for i, o in pairwise(task.layers))),
    )
    return Case(kind="sparsity", arm=arm, point=point, sweep=sweep, timeout_s=timeout_s)


def _edge_counts(study: Sparsity, edges: int) -> tuple[int, ...]:
    """Every count, or for many edges as many as declared: evenly on a log axis, as far as whole numbers go."""
    if edges <= study.all_counts_up_to:
        return tuple(range(1, edges + 1))
    return tuple(sorted({round(edges ** (n / (study.counts - 1))) for n in range(study.counts)}))
