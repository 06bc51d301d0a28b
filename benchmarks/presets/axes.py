"""Which option of the command line reaches which kind of case."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from benchmarks import kinds

OPTIONS = ("batch", "width", "grid", "order", "depth", "threads", "dtype", "matmul", "device", "processes")


def lacking(option: str) -> Mapping[str, str]:
    """Return the kinds that `option` cannot change, each with what it does instead."""
    return {kind.name: kind.lacking[option] for kind in kinds.every() if option in kind.lacking}


def refuse(options: Collection[str], named: Collection[str]) -> None:
    """Raise ValueError if one of `options` cannot change one of the kinds `named` by the user."""
    for option in options:
        reasons = lacking(option)
        if found := [kind for kind in named if kind in reasons]:
            having = ", ".join(kind for kind in kinds.names() if kind not in reasons)
            raise ValueError(f"{option}: expected kinds that it applies to ({having}), got {_text(found, reasons)}")


def without_effect(options: Collection[str], measured: Collection[str]) -> list[str]:
    """Say in one sentence for each of `options` which of the kinds `measured` it leaves as they are; none if it reaches all.

    Raises ValueError if it reaches none of them.
    """
    found = []
    for option in options:
        reasons = lacking(option)
        left = [kind for kind in kinds.names() if kind in measured and kind in reasons]
        if left and len(left) == len(set(measured)):
            refuse([option], left)
        if left:
            found.append(f"{option} has no effect on {_text(left, reasons)}")
    return found


def _text(named: Sequence[str], reasons: Mapping[str, str]) -> str:
    """'memory and simulated (measures each cell in one process), sparsity (...)'."""
    by_reason: dict[str, list[str]] = {}
    for kind in named:
        by_reason.setdefault(reasons[kind], []).append(kind)
    return "; ".join(f"{', '.join(same)}, which {reason}" for reason, same in by_reason.items())
