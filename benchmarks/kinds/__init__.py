"""Kinds of cases: the registry. One file here is one kind; see `benchmarks.kinds.kind` for what a kind says of itself.

A kind of your own is registered by a plugin: `benchmarks.kinds.register(Kind(...))`.
"""

from __future__ import annotations

from benchmarks.kinds import (
    frontier,
    head_cost,
    images,
    memory,
    papers,
    penalty_cost,
    simulated,
    sparsity,
    speed,
    tabular,
    workflows,
)
from benchmarks.kinds.kind import Kind as Kind
from benchmarks.kinds.kind import Section as Section
from benchmarks.schema.cases import Case

# In the order in which a run measures them.
_KINDS: dict[str, Kind] = {
    module.KIND.name: module.KIND
    for module in (speed, penalty_cost, head_cost, memory, simulated, frontier, sparsity, images, tabular, papers, workflows)
}
BUILT_IN = frozenset(_KINDS)
STOPS_LARGER = ("oom", "killed", "timeout")


def names() -> list[str]:
    """Return the names of all kinds, in the order in which a run measures them."""
    return list(_KINDS)


def every() -> list[Kind]:
    """Return all kinds in that order."""
    return list(_KINDS.values())


def get_kind(name: str) -> Kind:
    """Return the kind called `name`. Raises ValueError, listing the choices, if there is none."""
    if name not in _KINDS:
        raise ValueError(f"kind: expected one of {', '.join(_KINDS)}, got {name!r}")
    return _KINDS[name]


def find_kind(name: str) -> Kind | None:
    """Return the kind called `name`; None for that of a plugin which is not loaded."""
    return _KINDS.get(name)


def is_paired(name: str) -> bool:
    """Whether rows of the kind called `name` hold times of an arm against a baseline."""
    kind = find_kind(name)
    return kind is not None and kind.paired


def register(kind: Kind) -> None:
    """Add a kind of your own. Raises ValueError if the name is taken, or it does not say how it is measured."""
    if not kind.measure:
        raise ValueError(f"kind: expected a function that measures, got none for {kind.name!r}")
    if kind.name in _KINDS:
        raise ValueError(f"kind: expected a new name, got {kind.name!r}, which is taken")
    _KINDS[kind.name] = kind


def rules_out(smaller: Case, status: str, case: Case) -> bool:
    """Whether `smaller`, which ended in `status`, shows that `case` is in vain.

    Lack of memory rules out whatever asks for more. A time limit rules out only cases whose own is no longer.
    """
    if status not in STOPS_LARGER or not dominates(case, smaller):
        return False
    return status != "timeout" or case.timeout_s <= smaller.timeout_s


def dominates(case: Case, smaller: Case) -> bool:
    """Whether a failure of `smaller` rules `case` out, which asks for at least as much."""
    return case.kind == smaller.kind and get_kind(case.kind).dominates(case, smaller)
