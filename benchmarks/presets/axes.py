"""Which option of the command line reaches which kind of case, and how a kind without lines of its own follows one."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args

from benchmarks.cases import OF_ANY_MATMUL, Axis, Kind, Record

KINDS: tuple[Kind, ...] = get_args(Kind)
AXES: tuple[Axis, ...] = get_args(Axis)
_ONE_PROCESS = "measures each cell in one process"

# Option -> kinds that it cannot change, each with what it does instead.
LACKING: Mapping[str, Mapping[Kind, str]] = {
    "batch": {"frontier": "looks for the largest batch", "sparsity": "trains on all samples of a task"},
    "width": {"sparsity": "trains the network that its task declares"},
    "grid": {},
    "order": {"sparsity": "trains cubic splines"},
    "depth": {
        "sparsity": "trains the network that its task declares",
        "head_cost": "has the layers of its head declared",
        "images": "trains heads of two layers",
    },
    "threads": {},
    "dtype": {"head_cost": "computes in float32", "images": "trains in float32"},
    "matmul": {kind: "computes float32 products in float32" for kind in KINDS if kind not in OF_ANY_MATMUL},
    "device": {"frontier": "is simulated as on a GPU", "sparsity": "runs on the CPU"},
    "processes": {kind: _ONE_PROCESS for kind in KINDS if kind not in ("speed", "penalty_cost")},
}

S = TypeVar("S", bound=Record)


def refuse(options: Collection[str], kinds: Collection[Kind]) -> None:
    """Raise ValueError if one of `options` cannot change one of `kinds`, which the user named."""
    for option in options:
        lacking = LACKING[option]
        if found := [kind for kind in kinds if kind in lacking]:
            having = ", ".join(kind for kind in KINDS if kind not in lacking)
            raise ValueError(f"{option}: expected kinds that it applies to ({having}), got {_reasons(found, lacking)}")


def without_effect(options: Collection[str], kinds: Collection[Kind]) -> list[str]:
    """Say in one sentence for each of `options` which of `kinds` it leaves as they are; none where it reaches all.

    Raises ValueError if it reaches none of them.
    """
    found = []
    for option in options:
        lacking = LACKING[option]
        left = [kind for kind in KINDS if kind in kinds and kind in lacking]
        if left and len(left) == len(set(kinds)):
            refuse([option], left)
        if left:
            found.append(f"{option} has no effect on {_reasons(left, lacking)}")
    return found


def _reasons(kinds: Sequence[Kind], lacking: Mapping[Kind, str]) -> str:
    """'memory and simulated (measures each cell in one process), sparsity (...)'."""
    by_reason: dict[str, list[str]] = {}
    for kind in kinds:
        by_reason.setdefault(lacking[kind], []).append(kind)
    return "; ".join(f"{', '.join(named)}, which {reason}" for reason, named in by_reason.items())


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
