"""Peak memory of a call on tensors without values, at sizes that need not fit this machine."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.kinds import predict
from benchmarks.kinds.design import Preset, measured
from benchmarks.kinds.kind import SIZES, Kind, Shown, of_one_arm
from benchmarks.kinds.memory import Memory
from benchmarks.schema.cases import Case

SOURCES = tuple(f"benchmarks.measure.{name}" for name in ("peaks", "simulate", "meta", "shortcuts", "live"))
LACKING = {"processes": "measures each cell in one process", "matmul": "computes float32 products in float32"}
# How a simulation follows a GPU: its policy, under which this package computes with torch's operations alone, and the multiple
# of which CUDA's caching allocator hands out memory.
_ON_CUDA = {"policy": "cuda", "rounding_bytes": 512}


class Simulated(Memory):
    """Peak memory without computing, at the same points and at the named ones, which need not fit this machine.

    The lines are simulated as on their own device, to stand beside what is measured there, the named points as on a GPU.
    """

    named: bool | tuple[str, ...] = True


def cases(preset: Preset, simulated: Simulated) -> Iterator[Case]:
    """Return the cases of `simulated`."""
    shared = simulated.model_dump(include={"modes", "timeout_s"}) | {"kind": "simulated", "seed": preset.centre.seed}
    own = _ON_CUDA if preset.centre.device.startswith("cuda") else {}
    for point, arm, axes in measured(preset, simulated):
        yield Case(arm=arm, point=point, axes=axes, **shared | own)
    for name, point, arm in simulated.at_named(preset):
        yield Case(arm=arm, point=point, name=name, **shared | _ON_CUDA)


def of_policy(case: Case, _: str) -> tuple[object, ...]:
    """Among which cases a field is compared: each policy has values of its own."""
    return (case.policy,)


KIND = Kind(
    name="simulated",
    about="peak memory of a call, without computing",
    section=Simulated,
    cases=cases,
    measure="benchmarks.measure.peaks:simulate_case",
    sources=SOURCES,
    dominates=of_one_arm,
    lacking=LACKING,
    simulated=True,
    seconds=lambda case: predict.simulation_seconds(case, len(case.modes)),
    peak_bytes=predict.peak_bytes,
    joined=True,
    seen=SIZES | {"policy", "capacities_gib", "seed"},
    group=of_policy,
    conditions=("seed", "rounding_bytes"),
    tables="benchmarks.report.tables:of_simulated",
    figures="benchmarks.report.figures:named_figures",
    findings="benchmarks.report.findings_of_kinds:of_simulated",
    part="simulated",
    compared="peak bytes",
    grouped=("cross_check",),
    shown=(Shown(20, "capacity", "What fits", ("simulated",)),),
)
