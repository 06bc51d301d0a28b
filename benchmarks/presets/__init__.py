"""Declared experiments: a TOML file becomes a list of cases.

Every preset has a centre point and values along five axes: batch, width, grid size, spline order and depth. Its points are the
lines through the centre (`design = "lines"`), these and the corners of batch, width and grid size (`"lines+corners"`: the ends
of the lines, or what `[corners]` says), these and all combinations of batch, width and grid size (`"lines+product"`), or all
combinations of all axes (`"product"`). `arms` are measured at all points, `centre_arms` at the centre only. Time and memory are
measured in every precision of products that the centre's `matmul` names at all points, in those of the lines' `matmul` at the
centre only.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import ValidationError, create_model

from benchmarks import kinds
from benchmarks.kinds import Section
from benchmarks.kinds.design import CENTRE, Centre, Corners, Lines, place_of, point_at
from benchmarks.kinds.design import Preset as Preset
from benchmarks.schema.cases import Axis, Case, Matmul
from benchmarks.schema.environment import resolve_device
from benchmarks.schema.wrong import wrong

FOLDER = Path(__file__).parent
_LONGEST_S = 3600.0  # what patience ends at


def schema() -> type[Preset]:
    """Return the schema of a preset's file, with the sections of all kinds that are registered."""
    fields: dict[str, Any] = {
        kind.name: (tuple[kind.section, ...], ()) if kind.many else (kind.section | None, None)  # type: ignore[name-defined]
        for kind in kinds.every()
    }
    return create_model("Preset", __base__=Preset, **fields)


def file(name: str) -> Path:
    """Return the file of the preset called `name`, or the one that is named if it ends in .toml."""
    return Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"


def kept(name: str, out: Path) -> str:
    """The preset as published commands name it: a file is copied to `out`/presets, with a number if its name is taken.

    Raises ValueError if nothing can be written there.
    """
    if not name.endswith(".toml"):
        return name
    text, stem, folder = file(name).read_text(encoding="utf-8"), Path(name).stem, out / "presets"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            path = folder / (f"{stem}.toml" if number == 1 else f"{stem}-{number}.toml")
            if not path.exists():
                path.write_text(text, encoding="utf-8")
            if path.read_text(encoding="utf-8") == text:
                break
    except OSError as error:
        raise ValueError(f"out: expected a folder to write to, got {out}: {error.strerror}") from error
    return f"presets/{path.name}"


def load(name: str) -> Preset:
    """Return the preset called `name`, or the one in the file `name` if it ends in .toml.

    Raises ValueError if there is none or it does not fit the schema.
    """
    path = file(name)
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
        return schema().model_validate({"name": path.stem} | content)
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
    centre, lines, corners = preset.centre.model_dump(), preset.lines.model_dump(), preset.corners.model_dump()
    given: dict[Axis, Sequence[int] | None] = {"batch": batch, "width": width, "grid": grid, "order": order, "depth": depth}
    for axis, values in given.items():
        if values is None:
            continue
        if not values or min(values) < 1:
            raise ValueError(f"{axis}: expected positive whole numbers, got {', '.join(map(str, values)) or 'none'}")
        lines[axis] = tuple(values)
        corners |= {axis: ()} if axis in corners else {}
        if centre[CENTRE[axis]] not in values:
            centre[CENTRE[axis]] = sorted(values)[len(values) // 2]
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
    asked = {axis: tuple(dict.fromkeys(values)) for axis, values in given.items() if values is not None}
    changed = {
        "centre": Centre(**centre),
        "lines": Lines(**lines),
        "corners": Corners(**corners),
        "asked": preset.asked | asked,
    }
    return _with_sections(
        preset.model_copy(update=changed), lambda section: section.override(processes=processes, width=width, device=device)
    )


def _with_sections(preset: Preset, change: Callable[[Section], Section]) -> Preset:
    changed: dict[str, object] = {}
    for kind in kinds.every():
        sections = tuple(map(change, preset.sections(kind.name)))
        if sections:
            changed[kind.name] = sections if kind.many else sections[0]
    return preset.model_copy(update=changed)


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
    return _with_sections(preset, lambda section: section.everywhere(arms))


def expand(preset: Preset, only: Sequence[str] | None = None, arms: Sequence[str] | None = None) -> list[Case]:
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
    if not kinds.get_kind(case.kind).in_precisions:
        yield case
        return
    centre = case.name is None and case.point == point_at(preset.centre, place_of(preset.centre))
    for matmul in dict.fromkeys((*preset.centre.matmul, *(preset.lines.matmul if centre else ()))):
        # Through a point that the axis alone adds there is no line.
        axes = case.axes if matmul in preset.centre.matmul else ()
        yield case.model_copy(update={"point": case.point.model_copy(update={"matmul": matmul}), "axes": axes})


def _cases(preset: Preset) -> Iterator[Case]:
    """Each kind's own cases first: what a section of another kind adds to them is often there already."""
    sections = [(kind, section) for kind in kinds.every() for section in preset.sections(kind.name)]
    made = [(kind.name, _given_time(case, section)) for kind, section in sections for case in kind.cases(preset, section)]
    yield from (case for name, case in made if case.kind == name)
    yield from (case for name, case in made if case.kind != name)


def _given_time(case: Case, section: Section) -> Case:
    """Return `case` with a time limit that follows its predicted time, where its section asks for that."""
    follows = min(_LONGEST_S, section.patience * kinds.get_kind(case.kind).seconds(case))
    return case.model_copy(update={"timeout_s": max(case.timeout_s, round(follows, 1))})


def _order(case: Case) -> tuple[object, ...]:
    return kinds.names().index(case.kind), *kinds.get_kind(case.kind).order(case)
