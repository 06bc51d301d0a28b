"""Declared experiments: a TOML file becomes a list of cases.

Every preset has a centre point, and lines through it along batch, width and grid size. `centre_arms` are measured at the centre
only, `arms` along all lines.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from benchmarks.cases import Axis, Case, Kind, Mode, Penalty, Point, Record

FOLDER = Path(__file__).parent


class Centre(Record):
    """The point that all lines go through: `depth` layers of equal `width`."""

    batch: int = Field(ge=1)
    width: int = Field(ge=1)
    depth: int = Field(ge=1)
    grid: int = Field(ge=1)
    spline_order: int = Field(default=3, ge=1)
    dtype: Literal["float32", "float64"] = "float32"
    device: str = "cpu"
    threads: int = Field(default=1, ge=1)
    seed: int = 0


class Lines(Record):
    """Values along each line; the centre is added where it is missing."""

    batch: tuple[int, ...] = ()
    width: tuple[int, ...] = ()
    grid: tuple[int, ...] = ()


class Timing(Record):
    """How often and how long; see `Case`."""

    blocks: int = Field(ge=1)
    warmup: int = Field(default=3, ge=1)
    min_sample_ms: float = Field(default=2.0, ge=0)
    timeout_s: float = Field(gt=0)


class Speed(Timing):
    """Time of each arm against `baseline`."""

    baseline: str = "efficient_kan"
    arms: tuple[str, ...]
    centre_arms: tuple[str, ...] = ()
    modes: tuple[Mode, ...] = ("forward", "forward_backward", "step")


class Memory(Record):
    """Peak memory of each arm."""

    arms: tuple[str, ...]
    centre_arms: tuple[str, ...] = ()
    modes: tuple[Mode, ...] = ("forward", "step")
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
    centre: Centre
    lines: Lines = Lines()
    speed: Speed | None = None
    memory: Memory | None = None
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
    threads: int | None = None,
    device: str | None = None,
) -> Preset:
    """Return `preset` with other lines, threads or device.

    A line's values are replaced by those given; if the centre is not among them it moves to their median.

    Raises ValueError if a value is not positive or `device` is neither cpu nor cuda, with or without a number.
    """
    centre, lines = preset.centre.model_dump(), preset.lines.model_dump()
    given = {"batch": batch, "width": width, "grid": grid}
    for axis, values in given.items():
        if values is None:
            continue
        if not values or min(values) < 1:
            raise ValueError(f"{axis}: expected positive whole numbers, got {list(values)}")
        lines[axis] = tuple(values)
        if centre[axis] not in values:
            centre[axis] = sorted(values)[len(values) // 2]
    if threads is not None and threads < 1:
        raise ValueError(f"threads: expected at least 1, got {threads}")
    if device is not None and not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ValueError(f"device: expected cpu, cuda or cuda:N, got {device!r}")
    centre |= {name: value for name, value in (("threads", threads), ("device", device)) if value is not None}
    return preset.model_copy(update={"centre": Centre(**centre), "lines": Lines(**lines)})


def expand(preset: Preset, only: Sequence[Kind] | None = None, arms: Sequence[str] | None = None) -> list[Case]:
    """Return the cases of `preset`, each once, kinds in a fixed order and sizes ascending within a kind.

    `only` keeps those kinds, `arms` those arms. Ascending sizes let a failure rule out what is larger.
    """
    merged: dict[str, Case] = {}
    for case in _cases(preset):
        if (only and case.kind not in only) or (arms and case.arm not in arms):
            continue
        key = case.model_copy(update={"axes": (), "timeout_s": 1.0}).model_dump_json()
        if key in merged:
            axes = tuple(dict.fromkeys((*merged[key].axes, *case.axes)))
            merged[key] = merged[key].model_copy(update={"axes": axes})
        else:
            merged[key] = case
    kinds = ("speed", "penalty_cost", "memory", "sparsity")
    return sorted(merged.values(), key=lambda case: (kinds.index(case.kind), _size(case.point)))


def _size(point: Point) -> int:
    edges = sum(i * o for i, o in pairwise(point.layers))
    return point.batch * edges * (point.grid_size + point.spline_order)


def _points(preset: Preset) -> Iterator[tuple[Point, tuple[Axis, ...]]]:
    """The centre first, on every line that has further points, then the rest of each line."""
    centre = preset.centre
    lines: dict[Axis, tuple[int, ...]] = {
        "batch": preset.lines.batch,
        "width": preset.lines.width,
        "grid": preset.lines.grid,
    }
    at = {"batch": centre.batch, "width": centre.width, "grid": centre.grid}
    yield _point(centre, at), tuple(axis for axis, values in lines.items() if set(values) - {at[axis]})
    for axis, values in lines.items():
        for value in sorted(set(values) - {at[axis]}):
            yield _point(centre, at | {axis: value}), (axis,)


def _point(centre: Centre, at: dict[str, int]) -> Point:
    return Point(
        batch=at["batch"],
        layers=(at["width"],) * (centre.depth + 1),
        grid_size=at["grid"],
        spline_order=centre.spline_order,
        dtype=centre.dtype,
        device=centre.device,
        threads=centre.threads,
    )


def _cases(preset: Preset) -> Iterator[Case]:
    points = list(_points(preset))
    seed = preset.centre.seed
    timing = {"blocks", "warmup", "min_sample_ms", "timeout_s"}
    if preset.speed:
        speed = preset.speed
        shared = speed.model_dump(include=timing | {"baseline", "modes"})
        for n, (point, axes) in enumerate(points):
            for arm in dict.fromkeys((*speed.arms, *(speed.centre_arms if n == 0 else ()))):
                yield Case(kind="speed", arm=arm, point=point, axes=axes, seed=seed, **shared)
    if preset.memory:
        memory = preset.memory
        for n, (point, axes) in enumerate(points):
            for arm in dict.fromkeys((*memory.arms, *(memory.centre_arms if n == 0 else ()))):
                shared = memory.model_dump(include={"modes", "timeout_s"})
                yield Case(kind="memory", arm=arm, point=point, axes=axes, seed=seed, **shared)
    if preset.penalty_cost:
        cost = preset.penalty_cost
        shared = cost.model_dump(include=timing) | {"modes": ("step",), "seed": seed, "point": points[0][0]}
        untimed = {"kind": "memory", "blocks": 0, "warmup": 0, "min_sample_ms": 0.0}
        for arm in cost.arms:
            for penalty in cost.penalties:
                yield Case(**{"kind": "penalty_cost", "arm": arm, "baseline": arm, "penalty": penalty} | shared)
                yield Case(**shared | untimed | {"arm": arm, "penalty": penalty})
            # What the memory of the penalised steps is compared with; often measured above already.
            modes = preset.memory.modes if preset.memory and "step" in preset.memory.modes else ("step",)
            yield Case(**shared | untimed | {"arm": arm, "modes": modes})
    for sparsity in preset.sparsity:
        yield from _sparsity(preset, sparsity)


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
