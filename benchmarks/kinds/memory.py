"""Peak memory of a call, by the allocator."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from pydantic import Field

from benchmarks.kinds import predict
from benchmarks.kinds.design import AtPoints, Preset, measured, named_points
from benchmarks.kinds.kind import SIZES, Kind, of_one_arm
from benchmarks.schema.cases import Case, Mode

_WATCHED = 40  # times as long: pykan's loop over edges, an operator at a time, with every allocation and operator recorded


class Memory(AtPoints):
    """Peak memory of each arm."""

    modes: tuple[Mode, ...] = ("inference", "step")
    timeout_s: float = Field(gt=0)


def cases(preset: Preset, memory: Memory) -> Iterator[Case]:
    """Return the cases of `memory`."""
    shared = memory.model_dump(include={"modes", "timeout_s"}) | {"kind": "memory", "seed": preset.centre.seed}
    for point, arm, axes in measured(preset, memory):
        yield Case(arm=arm, point=point, axes=axes, **shared)
    for name, point in named_points(preset) if memory.named else ():
        for arm in dict.fromkeys((*memory.arms, *memory.centre_arms)):
            yield Case(arm=arm, point=point, name=name, **shared)


def seconds(case: Case) -> float:
    """Return the predicted time: a call is watched in several ways."""
    edges = sum(i * o for i, o in pairwise(case.point.layers))
    watched = 10 * predict.step_seconds(case.arm, case) + _WATCHED * predict.edge_seconds(case.arm) * edges
    return sum(0.2 + watched * predict.SHARE[mode] for mode in case.modes)


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
)
