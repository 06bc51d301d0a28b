"""Time of a training step with a penalty against the same step without, and what it adds to the memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from pydantic import PositiveInt

from benchmarks.kinds import timing
from benchmarks.kinds.design import Preset, asked_points
from benchmarks.kinds.kind import SIZES, Shown, of_one_arm
from benchmarks.schema.cases import Case, Penalty, Point


class PenaltyCost(timing.Timing):
    """Time and memory of a training step with each penalty: at the centre, at each size of `batch`, or where the user asks.

    `arms` are measured at all of these points, `centre_arms` at the centre. Who asks for sizes of his own gets none of `batch`.
    """

    arms: tuple[str, ...]
    centre_arms: tuple[str, ...] = ()
    batch: tuple[PositiveInt, ...] = ()
    penalties: tuple[Penalty, ...] = ("weight_l1", "sample_l1", "sample_std")


def cases(preset: Preset, cost: PenaltyCost) -> Iterator[Case]:
    """Return the cases of `cost`, those of kind memory among them."""
    asked = preset.model_copy(update={"asked": preset.asked or {"batch": cost.batch}})
    for n, point in enumerate(asked_points(asked, ("batch", "width", "grid", "order", "depth"))):
        arms = tuple(dict.fromkeys((*cost.arms, *(cost.centre_arms if n == 0 else ()))))
        yield from _at(preset, cost, point, arms)


def _at(preset: Preset, cost: PenaltyCost, point: Point, arms: Sequence[str]) -> Iterator[Case]:
    memory: Any = next(iter(preset.sections("memory")), None)
    shared: dict[str, Any] = {"modes": ("step",), "seed": preset.centre.seed, "point": point}
    timed = cost.model_dump(include=timing.FIELDS) | shared
    untimed = shared | {"timeout_s": max(cost.timeout_s, memory.timeout_s if memory else 0.0)}
    for arm, penalty in product(arms, cost.penalties):
        for process in range(cost.processes):
            yield Case(kind="penalty_cost", arm=arm, baseline=arm, penalty=penalty, process=process, **timed)
        yield Case(kind="memory", arm=arm, penalty=penalty, **untimed)
    for arm in arms:
        # What the memory of the penalised steps is compared with; often measured above already.
        modes = memory.modes if memory and "step" in memory.modes else ("step",)
        yield Case(kind="memory", arm=arm, **untimed | {"modes": modes})


_NOTE = "A ratio near 1 is cheap only beside a cheap plain step: read it together with the absolute values."
KIND = timing.timed_kind(
    name="penalty_cost",
    about="time of a step with a penalty against the step without",
    section=PenaltyCost,
    cases=cases,
    dominates=of_one_arm,
    seen=SIZES | {"baseline", "seed"},
    tables="benchmarks.report.tables:of_penalty_cost",
    figures="benchmarks.report.figures:penalty_figures",
    findings="benchmarks.report.findings_of_kinds:of_penalty_cost",
    grouped=("equivalence",),
    shown=(
        Shown(
            30,
            "penalty_cost",
            "What a penalty costs",
            ("penalty_cost",),
            note=_NOTE,
        ),
    ),
)
