"""The largest batch of which a training step fits into a memory, by simulation."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from pydantic import Field

from benchmarks.kinds import predict, simulated
from benchmarks.kinds.design import Preset, asked_points
from benchmarks.kinds.kind import SIZES, Kind, Section, Shown, of_one_arm
from benchmarks.schema.cases import Case

_PEAKS_PER_CAPACITY = 6  # that a search asks for


class Frontier(Section):
    """Largest batch of which a training step fits: for each arm and each of `widths`, other sizes as at the centre.

    Simulated as on a GPU: storages count as CUDA's caching allocator hands them out, in multiples of 512 bytes.
    """

    arms: tuple[str, ...]
    widths: tuple[int, ...]
    capacities_gib: tuple[int, ...] = (8, 16, 24, 40, 80, 141)
    rounding_bytes: int = Field(default=512, ge=1)
    timeout_s: float = Field(gt=0)


def cases(preset: Preset, frontier: Frontier) -> Iterator[Case]:
    """Return the cases of `frontier`."""
    shared = frontier.model_dump(include={"capacities_gib", "rounding_bytes", "timeout_s"})
    shared |= {"kind": "frontier", "modes": ("step",), "seed": preset.centre.seed, "policy": "cuda"}
    for width, at in product(frontier.widths, asked_points(preset, ("grid", "order", "depth"))):
        # Simulated on the CPU whatever the device of the preset: `policy` says which device is followed.
        point = at.model_copy(update={"batch": 1, "layers": (width,) * len(at.layers), "device": "cpu"})
        for arm in frontier.arms:
            yield Case(arm=arm, point=point, **shared)


KIND = Kind(
    name="frontier",
    about="largest batch that fits a memory",
    section=Frontier,
    cases=cases,
    measure="benchmarks.measure.peaks:search_case",
    sources=(*simulated.SOURCES, "benchmarks.measure.frontier"),
    dominates=of_one_arm,
    lacking={**simulated.LACKING, "batch": "looks for the largest batch", "device": "is simulated as on a GPU"},
    simulated=True,
    seconds=lambda case: predict.simulation_seconds(case, _PEAKS_PER_CAPACITY * len(case.capacities_gib)),
    peak_bytes=predict.peak_bytes,
    joined=True,
    seen=SIZES | {"policy", "capacities_gib", "seed"},
    group=simulated.of_policy,
    tables="benchmarks.report.tables:of_frontier",
    figures="benchmarks.report.figures:frontier_figures",
    findings="benchmarks.report.findings_of_kinds:of_frontier",
    part="frontier",
    shown=(Shown(20, "capacity", "What fits", ("frontier",)),),
)
