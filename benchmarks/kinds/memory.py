"""Peak memory of a call, by the allocator."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from benchmarks.kinds import predict
from benchmarks.kinds.design import AtPoints, Preset, measured
from benchmarks.kinds.kind import SIZES, Kind, Shown, of_one_arm
from benchmarks.schema.cases import Case, Mode

_CALLS = 6  # that a case makes of each mode: unwatched, while the resident set is watched, and recorded


class Memory(AtPoints):
    """Peak memory of each arm."""

    modes: tuple[Mode, ...] = ("inference", "step")
    timeout_s: float = Field(gt=0)


def cases(preset: Preset, memory: Memory) -> Iterator[Case]:
    """Return the cases of `memory`."""
    shared = memory.model_dump(include={"modes", "timeout_s"}) | {"kind": "memory", "seed": preset.centre.seed}
    for point, arm, axes in measured(preset, memory):
        yield Case(arm=arm, point=point, axes=axes, **shared)
    for name, point, arm in memory.at_named(preset):
        yield Case(arm=arm, point=point, name=name, **shared)


def seconds(case: Case) -> float:
    """Return the predicted time: a call is watched in several ways."""
    step = _CALLS * predict.step_seconds(case.arm, case) + 2 * predict.WATCHED_S * predict.operators(case.arm, case)
    return sum(0.2 + step * predict.SHARE[mode] for mode in case.modes)


_NOTE = (
    "Bytes come from the allocator's own events in a process that measures no time. The process's resident set and what "
    "`memory_profiler` sampled of it stand beside them in the table under their own names: both count the pages of the "
    "whole process, libraries included: subtract the resident set before the call."
    " What a call takes outside the allocator, for the buffers of libraries and kernels and for Python's objects, is estimated"
    " by how much more the resident set grew than the tensors did: pages, and rather rough where little is allocated."
)
KIND = Kind(
    name="memory",
    about="peak memory of a call",
    section=Memory,
    cases=cases,
    measure="benchmarks.measure.peaks:measure",
    sources=("benchmarks.measure.peaks", "benchmarks.measure.memory", "benchmarks.measure.live"),
    dominates=of_one_arm,
    lacking={"processes": "measures each cell in one process"},
    # Large blocks go back to the system when freed, so that the resident set follows what is live (glibc only).
    variables={"MALLOC_MMAP_THRESHOLD_": "65536"},
    fills_memory=True,
    in_precisions=True,
    seconds=seconds,
    peak_bytes=predict.peak_bytes,
    joined=True,
    seen=SIZES | {"policy", "capacities_gib", "seed"},
    conditions=("seed",),
    tables="benchmarks.report.tables:of_memory",
    figures="benchmarks.report.figures:resident_figures",
    part="memory",
    compared="peak bytes",
    summarised=True,
    grouped=("cross_check",),
    shown=(
        Shown(
            10,
            "memory",
            "Memory",
            ("memory", "cross_check"),
            note=_NOTE,
        ),
    ),
)
