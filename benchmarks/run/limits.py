"""How much of this machine a run may use: of the memory what the job's cgroup and its scheduler leave, and its own cores."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from benchmarks.schema.cases import Case

MEMORY = "BENCHMARKS_MEMORY_BYTES"  # of a job whose scheduler sets no limit itself
_CGROUPS = Path("/sys/fs/cgroup")
_OURS = Path("/proc/self/cgroup")
# Files with the limit and with what is in use, for the second and the first version of cgroups.
_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))


def available_bytes() -> int:
    """Return how many bytes a case may allocate: 9 tenths of what is free, in the machine and within the job's limits."""
    free = [psutil.virtual_memory().available, *cgroup_bytes(_OURS, _CGROUPS)]
    if (limit := scheduled_bytes(os.environ)) is not None:
        free.append(limit - _own_bytes())
    return max(0, int(0.9 * min(free)))


def _own_bytes() -> int:
    """What this process and those below it hold: the fork servers, and the cases that they are at."""
    total = 0
    for process in (own := psutil.Process(), *own.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total


def scheduled_bytes(variables: Mapping[str, str]) -> int | None:
    """Return the memory that the scheduler granted this job, from the variables it sets; None if it set none.

    SLURM tells it in MiB, for the node or for each of the job's processors there.
    """
    if given := variables.get(MEMORY):
        return int(given)
    if (whole := _number(variables, "SLURM_MEM_PER_NODE")) is not None:
        return whole * 2**20 or None  # 0 grants all
    each, count = _number(variables, "SLURM_MEM_PER_CPU"), _number(variables, "SLURM_CPUS_ON_NODE")
    return None if each is None or count is None else each * count * 2**20 or None


def _number(variables: Mapping[str, str], name: str) -> int | None:
    text = variables.get(name, "")
    return int(text) if text.isdecimal() else None


def cgroup_bytes(ours: Path, root: Path) -> Iterator[int]:
    """What the limits of the cgroup that `ours` names, and of those around it below `root`, leave; nothing without a limit."""
    for line in (_text(ours) or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = root / controllers
        # Inside a container the path may be that of the host, and the limit is at the top.
        inside = top / path.lstrip("/")
        for folder in (inside, *inside.parents):
            for limit, used in _FILES:
                bound, current = _text(folder / limit), _text(folder / used)
                if bound and current and bound.isdecimal() and current.isdecimal():
                    yield int(bound) - int(current) + _cache_bytes(folder)
            if folder == top:
                break


def _cache_bytes(folder: Path) -> int:
    """The cached files that a cgroup counts as in use, which make room for whoever needs it."""
    lines = (line.split() for line in (_text(folder / "memory.stat") or "").splitlines())
    values = {words[0]: int(words[1]) for words in lines if len(words) == 2 and words[1].isdecimal()}
    return max(values.get(f"{scope}inactive_file", 0) + values.get(f"{scope}active_file", 0) for scope in ("total_", ""))


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None


def require_cores(cases: Sequence[Case]) -> None:
    """Raise ValueError if a case computes with more threads than this process has cores."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    needed = max((case.point.threads for case in cases), default=1)
    if needed > usable:
        raise ValueError(f"threads: expected at most the {usable} cores that this job may use, got {needed}")
