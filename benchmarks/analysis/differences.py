"""In what two report folders differ beside their numbers: source, versions and machine."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.analysis.data import Data, processor
from benchmarks.kinds import find_kind

_DETAILS = ("python", "platform", "memory_bytes", "governor", "cgroup", "environment")


def environment_differences(old: Data, new: Data) -> dict[str, tuple[str, str]]:
    """Return what differs between the environments of the rows of `old` and of `new`, in words; several values: "a; b"."""
    facts = _facts(old), _facts(new)
    found = {}
    for name in dict.fromkeys([*facts[0], *facts[1]]):
        sides = [side.get(name, set()) for side in facts]
        if sides[0] == sides[1]:
            continue
        # Of long lists of packages only what is not on both sides is told.
        common = sides[0] & sides[1] if name == "packages" else set()
        found[name] = (_text(sides[0] - common), _text(sides[1] - common))
    return found


def _facts(data: Data) -> dict[str, set[str]]:
    facts: dict[str, set[str]] = {"commit": set(), "CPU": set(), "GPU": set()}
    for row in data.rows:
        facts["commit"].add(row.commit)
        for name, version in row.versions.items():
            facts.setdefault(name, set()).add(version)
        for name in kind.conditions if (kind := find_kind(row.case.kind)) else ():
            facts.setdefault(f"{name} of {row.case.kind}", set()).add(str(getattr(row.case, name)))
    unknown = {row.run_id for row in data.rows} - set(data.environments)
    if unknown:
        facts["without a record of the environment"] = {f"run {run_id}" for run_id in unknown}
    for run_id in {row.run_id for row in data.rows} - unknown:
        environment = data.environments[run_id]
        facts["CPU"].add(processor(environment))
        facts["GPU"].add(environment.gpu or "none")
        for name in _DETAILS:
            if name in environment.details and name not in environment.versions:
                facts.setdefault(name, set()).add(str(environment.details[name]))
        facts.setdefault("packages", set()).update(map(str, environment.details.get("packages", ())))
    return facts


def _text(values: Iterable[str]) -> str:
    return "; ".join(sorted(values)) or "–"
