"""Time of each arm against a baseline, in interleaved pairs behind the gate."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from benchmarks.kinds import timing
from benchmarks.kinds.design import AtPoints, Preset, measured, place_of, point_at
from benchmarks.kinds.kind import SIZES, Shown, at_least
from benchmarks.schema.cases import Case, Mode


class Speed(timing.Timing, AtPoints):
    """Time of each arm against `baseline`."""

    baseline: str = "efficient_kan"
    modes: tuple[Mode, ...] = ("inference", "forward", "forward_backward", "step")
    centre_modes: tuple[Mode, ...] = Field(default=(), description="modes at the centre, if other than elsewhere")


def cases(preset: Preset, speed: Speed) -> Iterator[Case]:
    """Return the cases of `speed`, one for each process."""
    shared = speed.model_dump(include=timing.FIELDS | {"baseline", "modes"}) | {"kind": "speed", "seed": preset.centre.seed}
    centre = point_at(preset.centre, place_of(preset.centre))
    for process in range(speed.processes):
        for point, arm, axes in measured(preset, speed):
            modes = (speed.centre_modes if point == centre else ()) or speed.modes
            yield from speed.effort(Case(arm=arm, point=point, axes=axes, process=process, **shared | {"modes": modes}))
        for name, point, arm in speed.at_named(preset):
            yield from speed.effort(Case(arm=arm, point=point, name=name, process=process, **shared))


def dominates(case: Case, smaller: Case) -> bool:
    """A case also runs its baseline, so that where the baseline has failed against itself the arm need not be tried."""
    of_baseline = smaller.arm == smaller.baseline == case.baseline
    return (case.arm == smaller.arm or of_baseline) and at_least(case, smaller)


KIND = timing.timed_kind(
    name="speed",
    about="time of a call against a baseline",
    section=Speed,
    cases=cases,
    dominates=dominates,
    seen=SIZES | {"policy", "capacities_gib", "seed"},
    tables="benchmarks.report.tables:of_speed",
    figures="benchmarks.report.figures:scaling_figures",
    summarised=True,
    gives_floor=True,
    grouped=("overall", "equivalence"),
    shown=(Shown(0, "ratio", "Time compared with `efficient_kan`"), Shown(80, "time", "Time", ("time",))),
)
