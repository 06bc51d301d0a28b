"""The points of a declared experiment: a centre and lines through it, or all combinations, and points with names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import BeforeValidator, Field, model_validator

from benchmarks.kinds.kind import Section
from benchmarks.schema.cases import Axis, Matmul, Point, Record

AXES: tuple[Axis, ...] = get_args(Axis)
S = TypeVar("S", bound=Record)


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


class Corners(Record):
    """Values of which all combinations are corners; none: the ends of the line."""

    batch: tuple[int, ...] = ()
    width: tuple[int, ...] = ()
    grid: tuple[int, ...] = ()


class Named(Record):
    """A point of its own, such as a case that somebody published; memory is measured and simulated there."""

    name: str
    batch: int = Field(ge=1)
    layers: tuple[int, ...] = Field(min_length=2)
    grid: int = Field(ge=1)
    spline_order: int = Field(default=3, ge=1)


class Preset(Record):
    """A declared experiment; the sections of the kinds are fields of what `benchmarks.presets.load` returns.

    `jobs` untimed cases (memory, sparsity) run at once; timed ones always run alone.
    """

    name: str
    about: str
    jobs: int = Field(default=1, ge=1)
    design: Literal["lines", "lines+corners", "lines+product", "product"] = "lines"
    centre: Centre
    lines: Lines = Lines()
    corners: Corners = Field(default_factory=lambda: Corners(), description="where they are not the ends of the lines")
    named: tuple[Named, ...] = ()
    asked: dict[Axis, tuple[int, ...]] = Field(
        default_factory=dict, description="values named by the user: every kind that has the axis is measured at all of them"
    )

    def sections(self, kind: str) -> tuple[Section, ...]:
        """Return what is declared for the kind of that name: none, one, or several sections."""
        found = getattr(self, kind, None)
        return found if isinstance(found, tuple) else () if found is None else (found,)

    @model_validator(mode="after")
    def _products_exist(self) -> Self:
        asked = {*self.centre.matmul, *self.lines.matmul} - {"ieee"}
        if self.centre.dtype == "float64" and asked:
            raise ValueError(f"matmul: expected ieee with float64, which has no other products, got {', '.join(sorted(asked))}")
        return self


# What the centre calls its place on each axis.
CENTRE: Mapping[Axis, str] = {"batch": "batch", "width": "width", "grid": "grid", "order": "spline_order", "depth": "depth"}


Placed = tuple[Point, tuple[Axis, ...]]


class AtPoints(Section):
    """A section that is measured at all points for `arms`, for `centre_arms` at the centre.

    `named` says at which of the named points too (true: all), and `named_arms` for which arms (none: all of them). Who asks for
    sizes of his own gets none of the points that are listed.
    """

    arms: tuple[str, ...]
    centre_arms: tuple[str, ...] = ()
    named: bool | tuple[str, ...] = False
    named_arms: tuple[str, ...] = ()

    def at_named(self, preset: Preset) -> Iterator[tuple[str, Point, str]]:
        """The named points of the section, each with its arms.

        Raises ValueError if it names a point that the preset lacks.
        """
        known = dict(named_points(preset))
        chosen = self.named if isinstance(self.named, tuple) else tuple(known) if self.named else ()
        if preset.asked and self.named is not True:
            return
        if unknown := [name for name in chosen if name not in known]:
            raise ValueError(f"named: expected names of [[named]] points ({', '.join(known) or 'none'}), got {unknown[0]!r}")
        for name in chosen:
            for arm in dict.fromkeys(self.named_arms or (*self.arms, *self.centre_arms)):
                yield name, known[name], arm


def points(preset: Preset) -> Iterator[Placed]:
    """The centre first, then the others, each with the axes on whose line through the centre it lies."""
    lines: dict[Axis, tuple[int, ...]] = {
        "batch": preset.lines.batch,
        "width": preset.lines.width,
        "grid": preset.lines.grid,
        "order": preset.lines.order,
        "depth": preset.lines.depth,
    }
    at = place_of(preset.centre)
    values: dict[Axis, list[int]] = {axis: sorted({*line, at[axis]}) for axis, line in lines.items()}
    everywhere = tuple(axis for axis in lines if len(values[axis]) > 1)
    yield point_at(preset.centre, at), everywhere
    if preset.design == "product":
        for combination in product(*values.values()):
            place = dict(zip(values, combination, strict=True))
            if place != at:
                # Every point of a product lies on a whole line along each axis.
                yield point_at(preset.centre, place), everywhere
        return
    for axis in lines:
        for value in values[axis]:
            if value != at[axis]:
                yield point_at(preset.centre, at | {axis: value}), (axis,)
    sizes: tuple[Axis, ...] = ("batch", "width", "grid")
    if preset.design == "lines+corners":
        ends = [sorted({*getattr(preset.corners, axis)} or {values[axis][0], values[axis][-1]}) for axis in sizes]
        for corner in product(*ends):
            yield point_at(preset.centre, at | dict(zip(sizes, corner, strict=True))), ()
    if preset.design == "lines+product":
        for combination in product(*(values[axis] for axis in sizes)):
            yield point_at(preset.centre, at | dict(zip(sizes, combination, strict=True))), sizes


def place_of(centre: Centre) -> dict[Axis, int]:
    """The place of the centre on each axis."""
    return {axis: getattr(centre, CENTRE[axis]) for axis in AXES}


def asked_points(preset: Preset, axes: Sequence[Axis]) -> Iterator[Point]:
    """The centre, and the points on the lines through it that the user named along `axes`."""
    at = place_of(preset.centre)
    yield point_at(preset.centre, at)
    for axis in axes:
        for value in sorted(preset.asked.get(axis, ())):
            if value != at[axis]:
                yield point_at(preset.centre, at | {axis: value})


def point_at(centre: Centre, at: Mapping[Axis, int]) -> Point:
    """The point at a place on each axis."""
    return Point(
        batch=at["batch"],
        layers=(at["width"],) * (at["depth"] + 1),
        grid_size=at["grid"],
        spline_order=at["order"],
        dtype=centre.dtype,
        device=centre.device,
        threads=centre.threads,
    )


def named_points(preset: Preset) -> Iterator[tuple[str, Point]]:
    """The points with names of their own, on the device and in the precision of the centre."""
    centre = point_at(preset.centre, place_of(preset.centre))
    for named in preset.named:
        sizes = {"batch": named.batch, "layers": named.layers, "grid_size": named.grid, "spline_order": named.spline_order}
        yield named.name, centre.model_copy(update=sizes)


def measured(preset: Preset, section: AtPoints) -> Iterator[tuple[Point, str, tuple[Axis, ...]]]:
    """Every point and arm of `section`, with the axes on whose line through the centre the point lies."""
    for n, (point, axes) in enumerate(points(preset)):
        for arm in dict.fromkeys((*section.arms, *(section.centre_arms if n == 0 else ()))):
            yield point, arm, axes


def along(section: S, lines: Mapping[str, Sequence[Any]]) -> Iterator[S]:
    """Return `section` at the centre of `lines` and at every other place on one of them.

    `lines` gives values by the field that takes them (none: the field stays). The centre is the section's own value where it is
    among them, else their median.
    """
    lines = {name: sorted(set(values)) for name, values in lines.items() if values}
    own = {name: getattr(section, name) for name in lines}
    at = {name: own[name] if own[name] in values else values[len(values) // 2] for name, values in lines.items()}
    middle = section.model_copy(update=at)
    yield middle
    for name, values in lines.items():
        for value in values:
            if value != at[name]:
                yield middle.model_copy(update={name: value})
