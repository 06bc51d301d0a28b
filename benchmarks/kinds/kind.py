"""What a kind of case is: everything that the suite must know of it, in one record.

This module imports no torch, and a kind names what does ("module:function"): planning reads kinds, and only the process that
measures a case pays for what it needs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from pydantic import Field

from benchmarks.schema.cases import Axis, Case, Record

if TYPE_CHECKING:
    from benchmarks.kinds.design import Preset


class Section(Record):
    """Base of what a preset declares for a kind."""

    patience: float = Field(
        default=0.0,
        ge=0,
        description="a case may take as many times its predicted time, up to an hour, where that is more than `timeout_s`",
    )

    def override(self, *, processes: int | None, width: Sequence[int] | None, device: str | None = None) -> Self:
        """Return the section as the command line changes it. Values that it does not have change nothing."""
        changed: dict[str, object] = {}
        if processes is not None and "processes" in type(self).model_fields:
            changed["processes"] = processes
        if width is not None and "widths" in type(self).model_fields:
            changed["widths"] = tuple(dict.fromkeys(width))
        if device is not None and "device" in type(self).model_fields:
            changed["device"] = "centre"  # which the device is of
        return self.model_copy(update=changed)

    def everywhere(self, arms: Collection[str]) -> Self:
        """Return the section with those of `arms` that it measures at the centre alone measured at all points."""
        moved = [arm for arm in getattr(self, "centre_arms", ()) if arm in arms]
        return self.model_copy(update={"arms": tuple(dict.fromkeys((*getattr(self, "arms", ()), *moved)))}) if moved else self


class Finding(NamedTuple):
    """What is said at the beginning of a report, in the order of `place`; texts of one heading stand below it together."""

    place: int
    about: str
    text: str  # Markdown, or empty


@dataclass(frozen=True)
class Shown:
    """A section of the report page: `figures` is what their entries call it, `tables` are the names of its tables, in order.

    Sections stand in the order of `place`; kinds that share a `figures` share a section. `whole` takes in every table whose
    name begins with `figures` instead, the verdicts first.
    """

    place: int
    figures: str
    heading: str
    tables: tuple[str, ...] = ()
    note: str = ""
    whole: bool = False


def _by_size(case: Case) -> tuple[object, ...]:
    """Ascending sizes, the baseline first: a failure rules out what is larger. Processes of a cell lie a round apart."""
    return case.process, case.point.size, case.arm != case.baseline


@dataclass(frozen=True)
class Kind:
    """One kind of case. Functions may be given as "module:function", which is imported when it is first called.

    A preset declares it in a section called `name`, of the schema `section`, or in several ([[name]]) if `many`. From each,
    `cases(preset, section)` makes the cases; `order(case)` sorts them, and `dominates(case, smaller)` says whether a failure
    of `smaller` rules `case` out. `lacking` names the options of the command line that cannot change such a case, each with
    what it does instead.

    `measure(case) -> Outcome` runs in a process of its own, on which `variables` are set. `sources` are the modules whose
    meaning decides what comes out, beside those of every measurement and of the arm; `packages(case)` the distributions whose
    version decides it too, and `facts(case)` whatever else does, by name.

    - `timed`: its cases run alone, one after the other; those of other kinds run side by side.
    - `paired`: it times an arm against a baseline, behind the gate, into the rows' `speed`.
    - `trains`: it trains networks with any of the penalties.
    - `simulated`: it computes nothing, so that neither the memory nor the device of the machine limits it.
    - `fills_memory`: what it measures is the memory that it takes, so that a large one gets the machine for itself.
    - `in_precisions`: its products may be computed in each precision of the axis `matmul`.

    `seconds(case)` and `peak_bytes(case)` predict. In reports, fields of the case in `seen` are columns, or pooled on purpose,
    and all others tell settings apart, compared among the rows of one `group(case, field)`; `joined` kinds share lines of a
    table. `compare` says of the fields in `conditions` whether they changed, and sets the quantity `compared` against that of
    another report. `tables(data, studies)` and `figures(data, studies, folder)` give its sections of the report, which `shown`
    describes; those of a plugin are named after the kind. `findings(tables) -> Finding` gives what it says at the beginning,
    from all tables by name. `part` is the field of a row that holds what it measured.

    - `summarised`: its cases without a penalty make up the summary of the centre points.
    - `gives_floor`: its baseline against itself gives the noise floor.
    - `grouped`: tables whose lines name no case and that summarise its cases.

    Cases of equal `together(case)` stay on one machine when a plan is cut into parts (None: as the lines of points do).
    `known(case)` says whether all that it names is registered; if not, it is of a plugin that is not loaded.
    `anywhere(case)` says whether its rows count together whichever machine they are of: errors of trained networks do, which
    differ by rounding and what training makes of it, and times do not.
    """

    name: str
    about: str
    section: type[Section]
    cases: Callable[[Preset, Any], Iterable[Case]] = lambda preset, section: ()
    measure: str | Callable[[Case], Any] = ""
    sources: tuple[str, ...] = ()
    many: bool = False
    order: Callable[[Case], tuple[object, ...]] = _by_size
    dominates: Callable[[Case, Case], bool] = lambda case, smaller: False
    lacking: Mapping[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    packages: Callable[[Case], Iterable[str]] = lambda case: ()
    facts: Callable[[Case], dict[str, str]] = lambda case: {}
    timed: bool = False
    paired: bool = False
    trains: bool = False
    simulated: bool = False
    fills_memory: bool = False
    in_precisions: bool = False
    seconds: Callable[[Case], float] = lambda case: 0.0
    peak_bytes: Callable[[Case], int | None] = lambda case: None
    joined: bool = False
    seen: frozenset[str] = frozenset()
    group: Callable[[Case, str], tuple[object, ...]] = lambda case, name: ()
    conditions: tuple[str, ...] = ()
    tables: str | Callable[..., Any] | None = None
    figures: str | Callable[..., Any] | None = None
    findings: str | Callable[..., Finding] | None = None
    part: str = "part"
    compared: Literal["", "time ratio", "peak bytes"] = ""
    summarised: bool = False
    gives_floor: bool = False
    grouped: tuple[str, ...] = ()
    shown: tuple[Shown, ...] = ()
    together: Callable[[Case], object | None] = lambda case: None
    anywhere: Callable[[Case], bool] = lambda case: False
    known: Callable[[Case], bool] = lambda case: True


def resolved(function: str | Callable[..., Any]) -> Callable[..., Any]:
    """Return a function, importing it if it is given as "module:function"."""
    if callable(function):
        return function
    module, _, name = function.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def at_least(case: Case, smaller: Case) -> bool:
    """Whether `case` asks for as much as `smaller` or more: equal but for the arm, at a point that is nowhere smaller."""
    if any(getattr(case, name) != getattr(smaller, name) for name in ("baseline", "modes", "penalty", "capacities_gib")):
        return False
    a, b = case.point, smaller.point
    if (a.device, a.dtype, a.matmul, a.threads, a.depth) != (b.device, b.dtype, b.matmul, b.threads, b.depth):
        return False
    return (
        a.batch >= b.batch
        and a.grid_size >= b.grid_size
        and a.spline_order >= b.spline_order
        and all(x >= y for x, y in zip(a.layers, b.layers, strict=True))
    )


def of_one_arm(case: Case, smaller: Case) -> bool:
    """Whether a failure of `smaller` rules `case` out: the same arm, at a point that is nowhere smaller."""
    return case.arm == smaller.arm and at_least(case, smaller)


SIZES = frozenset({"point.batch", "point.layers", "point.grid_size", "point.spline_order"})

__all__ = ["SIZES", "Axis", "Finding", "Kind", "Section", "Shown", "at_least", "of_one_arm", "resolved"]
