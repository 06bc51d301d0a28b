"""A plan in parts that several machines measure: disjoint, together the whole plan, of about equal predicted time.

What is compared with one another stays in one part, with all arms, kinds and processes and in the order of the plan: the points
on a line, so that what a failure rules out, the verdict of a gate and the noise floor stay on one machine; the penalties and
seeds of a task of the sparsity study; the networks of a paper's experiment that compares times; the heads on one trained
backbone, whereas a network that is trained as a whole is one case. A part depends on nothing but the cases.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from benchmarks.kinds import get_kind
from benchmarks.run import forecast
from benchmarks.schema.cases import Axis, Case, Point

_SIZES: Mapping[Axis, Callable[[Point], object]] = {
    "batch": lambda point: point.batch,
    "width": lambda point: point.layers if len(set(point.layers)) > 1 else point.width,
    "grid": lambda point: point.grid_size,
    "order": lambda point: point.spline_order,
    "depth": lambda point: point.depth,
}


@dataclass(frozen=True)
class Part:
    """The `index`-th of `count` parts, counted from 1."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "3/16". Raises ValueError if it is no part of a whole."""
        found = re.fullmatch(r"(\d+)/(\d+)", text, flags=re.ASCII)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise ValueError(f"part: expected I/N with 1 <= I <= N, such as 3/16, got {text!r}")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def of(self, cases: Sequence[Case], jobs: int = 1) -> list[Case]:
        """Return the cases of this part of the plan `cases`, in its order; see `split`."""
        return split(cases, self.count, jobs)[self.index - 1]


def split(cases: Sequence[Case], count: int, jobs: int = 1) -> list[list[Case]]:
    """Return `count` parts of the plan `cases`, of which `jobs` untimed ones run at once.

    The longest unit that is left goes to the part with the least to do; a part of more parts than units is empty.
    """
    units: dict[object, list[int]] = {}
    axes: dict[object, set[Axis]] = {}
    for case in cases:
        axes.setdefault(_sizes(case.point), set()).update(case.axes)
    for place, case in enumerate(cases):
        units.setdefault(_unit(case, axes[_sizes(case.point)]), []).append(place)
    times = {unit: _seconds([cases[place] for place in places], jobs) for unit, places in units.items()}
    loads, found = [0.0] * count, [list[int]() for _ in range(count)]
    for unit in sorted(units, key=lambda unit: (-times[unit], units[unit])):
        least = min(range(count), key=lambda part: (loads[part], len(found[part]), part))
        loads[least] += times[unit]
        found[least] += units[unit]
    return [[cases[place] for place in sorted(places)] for places in found]


def digest(cases: Sequence[Case]) -> str:
    """Return a hash of what is measured, by which two machines see whether they cut the same plan the same way."""
    text = "\n".join(f"{case.cell} {case.process}" for case in cases)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _seconds(cases: Sequence[Case], jobs: int) -> float:
    """Return the predicted time, as on a CPU whatever the device: "auto" may be another one where the plan is made."""
    on_cpu = [case.model_copy(update={"point": case.point.model_copy(update={"device": "cpu"})}) for case in cases]
    expected = forecast.forecast(on_cpu)
    return sum(one.seconds / (1 if get_kind(one.case.kind).timed else jobs) for one in expected)


def _sizes(point: Point) -> tuple[object, ...]:
    """The sizes of a point."""
    return tuple(size(point) for size in _SIZES.values())


def _unit(case: Case, axes: set[Axis]) -> object:
    """What stays in one part with `case`, whose point lies on the lines along `axes`: the line along the first of them."""
    if (own := get_kind(case.kind).together(case)) is not None:
        return case.kind, own
    along = next((axis for axis in _SIZES if axis in axes), None)
    return along, tuple(size(case.point) for axis, size in _SIZES.items() if axis != along)
