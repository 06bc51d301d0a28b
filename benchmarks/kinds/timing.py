"""What kinds that time calls in pairs share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from benchmarks.kinds import predict
from benchmarks.kinds.kind import Kind, Section
from benchmarks.schema.cases import Case, Record

MEASURED_BY = "benchmarks.measure.timed:measure"
SOURCES = ("benchmarks.schema.nvml", *(f"benchmarks.measure.{name}" for name in ("timed", "speed", "gate", "gpu", "graphs")))
# Where glibc's own adjustment ends once a block of 32 MiB was freed: what is timed must not depend on whether the gate or the
# other side did so before.
VARIABLES = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**26)}
FIELDS = {"blocks", "budget_s", "warmup", "min_sample_ms", "timeout_s"}  # of a section, which its cases take over
CONDITIONS = ("seed", "blocks", "budget_s", "warmup", "min_sample_ms")


class Slow(Record):
    """How arms are timed whose step is predicted to take at least `times` that of the baseline: less often, see `Timing`.

    A long call varies little, so that these few pairs give an interval of a few per cent.
    """

    times: float = Field(default=100.0, gt=1)
    processes: int = Field(default=1, ge=1)
    blocks: int = Field(default=2, ge=1)


class Timing(Section):
    """How often and how long; see `Case`. Every cell is measured in `processes` fresh processes."""

    processes: int = Field(default=1, ge=1)
    blocks: int = Field(ge=1)
    budget_s: float = Field(default=0.0, ge=0)
    warmup: int = Field(default=3, ge=1)
    min_sample_ms: float = Field(default=2.0, ge=0)
    timeout_s: float = Field(gt=0)
    slow: Slow | None = None

    def effort(self, case: Case) -> Iterator[Case]:
        """Return `case` with the pairs and, unless that leaves it out, in the processes that its arm is worth."""
        times = predict.step_seconds(case.arm, case) / predict.step_seconds(case.baseline or case.arm, case)
        if self.slow is None or times < self.slow.times:
            yield case
        elif case.process < min(self.slow.processes, self.processes):
            yield case.model_copy(update={"blocks": min(self.slow.blocks, case.blocks), "budget_s": 0.0})


def seconds(case: Case) -> float:
    """Return the predicted time of the gate and of all pairs."""
    both = predict.step_seconds(case.arm, case) + predict.step_seconds(case.baseline or case.arm, case)
    return predict.gate_seconds(case) + sum(predict.pair_seconds(case, mode, both) for mode in case.modes)


def group(case: Case, name: str) -> tuple[object, ...]:
    """How often and how long is compared among cases of one arm at one point: slow arms are timed less often, see `Slow`."""
    return (case.arm, case.baseline, case.penalty, case.point) if name in CONDITIONS[1:] else ()


def timed_kind(**own: Any) -> Kind:
    """Return a kind that times calls in pairs behind the gate, with the fields of its own."""
    shared: dict[str, Any] = {
        "measure": MEASURED_BY,
        "sources": SOURCES,
        "variables": VARIABLES,
        "timed": True,
        "paired": True,
        "in_precisions": True,
        "seconds": seconds,
        "peak_bytes": predict.peak_bytes,
        "joined": True,
        "conditions": CONDITIONS,
        "group": group,
        "part": "speed",
        "compared": "time ratio",
    }
    return Kind(**shared | own)
