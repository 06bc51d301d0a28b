"""The stored row and its parts.

One JSON line per finished case in `<out>/raw/rows.jsonl`, one per run in `<out>/raw/environments.jsonl`. Rows hold raw values
only; `benchmarks.results` derives medians, ratios and intervals on loading, so a better statistic needs no new measurement.

Units are in the names: `_ns` nanoseconds, `_ms` milliseconds, `_s` seconds, `_bytes` bytes. A time of a series is for
`arm_loops` or `baseline_loops` calls together; divide for one call.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from benchmarks.cases import Case, Mode, Record

SCHEMA_VERSION = 1

Status = Literal["ok", "oom", "killed", "timeout", "unsupported", "gate_failed", "error", "skipped_by_frontier"]
Division = Literal["closed", "bound", "different_maths"]


class GateError(Record):
    """Error of one tensor of the arm: max|d| / max|ref| against the float64 oracle."""

    tensor: str = Field(
        description="'output', 'input.grad', 'penalty' or '<layer>.<parameter>.grad'; see `benchmarks.measure.gate`"
    )
    error: float | None = Field(description="None if not finite")
    limit: float


class Gate(Record):
    """The equivalence check. No time is reported when `passed` is false."""

    passed: bool
    rule: str = Field(description="how the limit was set")
    errors: tuple[GateError, ...]

    @property
    def worst(self) -> GateError:
        """The tensor closest to, or furthest beyond, its limit."""
        return max(self.errors, key=lambda e: math.inf if e.error is None else e.error / e.limit)


class SpeedSeries(Record):
    """Paired times of one mode. Pair `i` is (`arm_ns[i]`, `baseline_ns[i]`), taken next to each other.

    `arm_first[i]` says which side ran first in the pair: ABBA blocks make it alternate.
    """

    mode: Mode
    arm_loops: int = Field(ge=1, description="calls in one sample of the arm")
    baseline_loops: int = Field(ge=1, description="calls in one sample of the baseline")
    arm_ns: tuple[int, ...]
    baseline_ns: tuple[int, ...]
    arm_first: tuple[bool, ...]

    @model_validator(mode="after")
    def _paired(self) -> Self:
        if not len(self.arm_ns) == len(self.baseline_ns) == len(self.arm_first):
            raise ValueError(
                "arm_ns, baseline_ns, arm_first: expected equal lengths, "
                f"got {len(self.arm_ns)}, {len(self.baseline_ns)}, {len(self.arm_first)}"
            )
        return self


class MemorySeries(Record):
    """Memory of one call of one mode, in bytes, in a process of its own.

    `peak_bytes` is what was live before the call (parameters, buffers, optimiser state, inputs) plus the peak of the running
    sum of the allocator's events during it: exact, and equal from run to run. `activation_bytes` is the rest of the
    peak once parameters, gradients, optimiser state and inputs are taken off.
    """

    mode: Mode
    method: str = Field(description="source of peak_bytes: 'profiler allocation events' or 'cuda max_memory_allocated'")
    peak_bytes: int
    parameter_bytes: int = Field(description="parameters and buffers")
    gradient_bytes: int
    optimiser_bytes: int
    input_bytes: int
    activation_bytes: int
    reserved_bytes: int | None = Field(default=None, description="CUDA max_memory_reserved")
    rss_before_bytes: int | None = Field(default=None, description="resident set of the process just before the call")
    rss_peak_bytes: int | None = Field(default=None, description="VmHWM after a reset just before the call (Linux)")
    sampled_rss_peak_bytes: int | None = Field(default=None, description="largest sample taken by memory_profiler")


class SparsityResult(Record):
    """A trained network: how well it predicts and how many edges it uses."""

    train_rmse: float
    test_rmse: float
    pruned_test_rmse: float = Field(description="test RMSE with the inactive edges masked out, no retraining")
    active_edges: int
    total_edges: int
    irrelevant_inputs: int = Field(description="inputs that the target does not depend on")
    irrelevant_inputs_active: int = Field(description="of those, how many still have an active first-layer edge")
    edge_scores: tuple[tuple[float, ...], ...] = Field(description="importance per layer, (O, I) flattened row-major")
    train_seconds: float


class Outcome(Record):
    """What a worker process reports about its case."""

    status: Status
    reason: str = Field(default="", description="why, if the status is not ok; never empty then")
    parameter_count: int | None = Field(default=None, description="trainable parameters of the arm's network")
    gate: Gate | None = None
    speed: tuple[SpeedSeries, ...] = ()
    memory: tuple[MemorySeries, ...] = ()
    sparsity: SparsityResult | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.status != "ok" and not self.reason:
            raise ValueError(f"reason: expected why the status is {self.status}, got an empty text")
        if self.speed and self.gate is not None and not self.gate.passed:
            raise ValueError("speed: expected no times on a red gate, got some")
        return self


class Row(Outcome):
    """One finished case."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    case_key: str
    preset: str
    case: Case
    division: Division | None = None
    finished_at: str = Field(description="ISO 8601, UTC")
    wall_s: float = Field(description="start, imports and measurement; not the wait for the cases before it")
    env_id: str
    commit: str = Field(description="git commit, '+dirty' appended if the tree had changes; 'unknown' outside git")
    versions: dict[str, str]


class Environment(Record):
    """Where a run took place. `details` is free-form: see `benchmarks.environment`."""

    schema_version: int = SCHEMA_VERSION
    env_id: str
    run_id: str
    started_at: str
    command: str
    commit: str
    dirty: bool | None
    versions: dict[str, str]
    gpu: str | None = Field(description="name of the GPU; None if the machine has none that torch can use")
    details: dict[str, Any]
