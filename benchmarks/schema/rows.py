"""The stored row and its parts.

One row per finished case and one environment per run, stored as lines of JSON (`benchmarks.run.archive`); `schema()` gives the
JSON schema of both, published next to this file. Rows hold raw values only; `benchmarks.analysis.results` derives medians,
ratios and intervals on loading, so a better statistic needs no new measurement.

Units are in the names: `_ns` nanoseconds, `_ms` milliseconds, `_s` seconds, `_bytes` bytes. A time of a series is for
`arm_loops` or `baseline_loops` calls together; divide for one call.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from benchmarks.schema.cases import Case, Mode, Record
from benchmarks.schema.images import HeadCost, ImageResult

SCHEMA_VERSION = 3

Status = Literal["ok", "oom", "killed", "timeout", "unsupported", "gate_failed", "error", "skipped_by_frontier"]
FINAL: tuple[Status, ...] = ("ok", "unsupported")  # no failure
Division = Literal["closed", "bound", "different_maths"]


class GateError(Record):
    """Error of one tensor of the arm, max|d| / max|ref| against the float64 oracle; or of all: `benchmarks.measure.gate`."""

    tensor: str = Field(
        description="'output', 'input.grad', 'penalty' or '<layer>.<parameter>.grad', or which mean of all of them is judged"
    )
    error: float | None = Field(description="None if not finite")
    limit: float


class Gate(Record):
    """The equivalence check. No time is reported when `passed` is false."""

    passed: bool
    rule: str = Field(description="how the limit was set")
    rows: int | None = Field(default=None, description="on how many samples of the batch; None: on all")
    # Written where it is true only: rows from before keep their text, and with it the digests in reports.
    shared: bool = Field(
        default=False,
        exclude_if=lambda shared: not shared,
        description="found by an earlier process of the run, for the same arm and numbers",
    )
    errors: tuple[GateError, ...]

    @property
    def worst(self) -> GateError:
        """The tensor closest to, or furthest beyond, its limit."""
        return max(self.errors, key=lambda e: math.inf if e.error is None else e.error / e.limit)


class GpuReading(Record):
    """State of a GPU at one moment, by NVML; None: it does not tell."""

    sm_mhz: int | None
    memory_mhz: int | None
    temperature_c: int | None
    power_w: float | None
    throttle: tuple[str, ...] | None = Field(description="what keeps the clocks below the highest")


class GpuTiming(Record):
    """Under which conditions a case was timed on a GPU."""

    l2: Literal["rotated inputs", "warm L2"] = Field(
        description="whether each call of either side found its input outside the L2 cache, see `benchmarks.measure.gpu`"
    )
    l2_bytes: int
    input_copies: int = Field(ge=1, description="of input and target, taken in turn")
    before: GpuReading | None = Field(description="just before the first call; None without NVML")
    after: GpuReading | None = Field(description="just after the last")


def _nothing(value: Any) -> bool:
    """Whether a field that came later has nothing to say: it is not written, so that older rows keep their text."""
    return value in (None, 0, "", ())


class SpeedSeries(Record):
    """Paired times of one mode. Pair `i` is (`arm_ns[i]`, `baseline_ns[i]`), taken next to each other.

    `arm_first[i]` says which side ran first in the pair: ABBA blocks make it alternate. Times are wall time from an idle device
    to an idle device. On CUDA `arm_device_ns` and `baseline_device_ns` hold, of the same samples, the time between two events
    on the device; on a CPU they are empty. `arm_graph_ns` and `baseline_graph_ns` are samples of their own, of CUDA graphs
    replayed, each of `arm_graph_loops` or `baseline_graph_loops` calls: time on the device without the gaps in which it waits
    for launches. What could not be captured has none, and `graph_failure` says why.
    """

    mode: Mode
    arm_loops: int = Field(ge=1, description="calls in one sample of the arm")
    baseline_loops: int = Field(ge=1, description="calls in one sample of the baseline")
    arm_ns: tuple[int, ...]
    baseline_ns: tuple[int, ...]
    arm_first: tuple[bool, ...]
    arm_device_ns: tuple[int, ...] = ()
    baseline_device_ns: tuple[int, ...] = ()
    arm_graph_ns: tuple[int, ...] = Field(default=(), exclude_if=_nothing)
    baseline_graph_ns: tuple[int, ...] = Field(default=(), exclude_if=_nothing)
    arm_graph_loops: int = Field(default=0, ge=0, exclude_if=_nothing)
    baseline_graph_loops: int = Field(default=0, ge=0, exclude_if=_nothing)
    graph_rotates: bool | None = Field(
        default=None,
        exclude_if=lambda rotates: rotates is None,
        description="whether the calls of a graph take all copies of the inputs, so that these come from outside the L2 cache",
    )
    graph_failure: str = Field(default="", exclude_if=_nothing, description="why a side has no replays; empty on a CPU")
    involuntary_switches: int = Field(default=0, ge=0, description="context switches forced upon the process meanwhile")

    @model_validator(mode="after")
    def _paired(self) -> Self:
        if not len(self.arm_ns) == len(self.baseline_ns) == len(self.arm_first):
            raise ValueError(
                "arm_ns, baseline_ns, arm_first: expected equal lengths, "
                f"got {len(self.arm_ns)}, {len(self.baseline_ns)}, {len(self.arm_first)}"
            )
        for name in ("arm_device_ns", "baseline_device_ns"):
            if len(getattr(self, name)) not in (0, len(self.arm_ns)):
                raise ValueError(f"{name}: expected none or {len(self.arm_ns)}, got {len(getattr(self, name))}")
        for side in ("arm", "baseline"):
            samples, loops = len(getattr(self, f"{side}_graph_ns")), getattr(self, f"{side}_graph_loops")
            if bool(samples) != bool(loops):
                raise ValueError(f"{side}_graph_loops: expected the calls in each of {samples} samples, got {loops}")
        return self


class MemorySeries(Record):
    """Memory of one call of one mode, in bytes, in a process of its own.

    `peak_bytes` is what was live before the call (parameters, buffers, optimiser state, inputs) plus the peak of the running
    sum of the allocator's events during it: exact, and equal from run to run. `activation_bytes` is the rest of the peak once
    parameters, gradients, optimiser state, inputs and the workspace of cuBLAS are taken off. `live_peak_bytes` is the same peak
    by another method: the storages alive between operators, which does not see what an operator allocates and frees inside. A
    call of so many operators that the allocator's events would take gigabytes has its `peak_bytes` by that method, as `method`
    says.
    """

    mode: Mode
    method: str = Field(
        description="source of peak_bytes: 'profiler allocation events', 'live storages' or 'cuda max_memory_allocated'"
    )
    peak_bytes: int
    parameter_bytes: int = Field(description="parameters and buffers")
    gradient_bytes: int
    optimiser_bytes: int
    input_bytes: int
    activation_bytes: int
    workspace_bytes: int | None = Field(
        default=None,
        exclude_if=lambda size: size is None,
        description="of cuBLAS, in peak_bytes and not in activation_bytes (CUDA)",
    )
    live_peak_bytes: int | None = Field(default=None, description="largest sum of live storages after an operator")
    live_peak_operator: str | None = Field(default=None, description="the operator after which it was reached")
    reserved_bytes: int | None = Field(default=None, description="CUDA max_memory_reserved")
    rss_before_bytes: int | None = Field(default=None, description="resident set of the process just before the call")
    rss_peak_bytes: int | None = Field(default=None, description="VmHWM after a reset just before the call (Linux)")
    sampled_rss_peak_bytes: int | None = Field(default=None, description="largest sample taken by memory_profiler")
    sampled_rss: tuple[tuple[float, int], ...] = Field(
        default=(), description="memory_profiler's samples over repeated calls: seconds since the first call began, bytes"
    )


class SimulatedSeries(Record):
    """Peak of one call of one mode on tensors without values: nothing is computed, so any size can be asked for.

    Each storage counts with its size rounded up to a multiple of the case's `rounding_bytes`; the case's `policy` says which
    device is followed, see `benchmarks.measure.simulate`.
    """

    mode: Mode
    before_bytes: int
    peak_bytes: int


class FrontierPoint(Record):
    """The largest batch of which one training step fits into a memory size, by simulation."""

    capacity_gib: int = Field(description="memory in GiB; what the driver and fragmentation take comes on top")
    batch: int = Field(ge=0, description="0 if not even one sample fits")
    peak_bytes: int | None = Field(description="peak at `batch`; None if that is 0")
    next_peak_bytes: int | None = Field(
        description="peak at `batch` + 1, above the capacity; None if the search limit was reached"
    )


Curve = tuple[float | None, ...]


class SparsityRun(Record):
    """One trained network. Errors are those of benchmarks/study/RULE.md, where 1 is what a constant gives; None: not finite.

    `before`, `validation` and `test` have one entry for each of the case's `edge_counts`.
    """

    seed: int
    strength: float
    diverged: bool = Field(description="whether an error of the trained network is not finite: a failed run")
    train_error: float | None = Field(description="of the trained network, nothing pruned")
    validation_error: float | None
    test_error: float | None
    before: Curve = Field(description="test error of the pruned network before its refit")
    validation: Curve = Field(description="validation error after the refit")
    test: Curve = Field(description="test error after the refit")
    norms: dict[str, float | None] = Field(description="sum of each edge norm over all edges")
    dead_edges: int | None = Field(description="edges with an importance at or below the machine epsilon of the dtype")
    entropy: float | None = Field(description="of the edges' shares of all importance, in nats")
    relevance_auc: float | None = Field(description="that a relevant input outranks an irrelevant one; None: not known")
    exact_structure: bool | None = Field(description="whether pruning leaves the true structure; None: not known")
    agreement: tuple[Curve, ...] = Field(description="rank correlation for each checkpoint and pair of norms")
    short_validation: Curve = Field(
        default=(), exclude_if=_nothing, description="validation error after the first round of refit"
    )
    short_test: Curve = Field(default=(), exclude_if=_nothing, description="test error after the first round of the refit")
    rounds: tuple[int, ...] = Field(default=(), exclude_if=_nothing, description="of the refit, that were run")
    converged: tuple[int, ...] = Field(default=(), exclude_if=_nothing, description="1 if the refit converged, else 0")
    dead_inputs: float | None = Field(
        default=None,
        exclude_if=lambda share: share is None,
        description="share of the irrelevant inputs without an edge after pruning to the true size",
    )
    formula: dict[str, bool] = Field(
        default_factory=dict,
        exclude_if=lambda found: not found,
        description="by fitter, whether every edge of the true structure is fitted best by its true function; at the strength "
        "with the smallest validation area of the case",
    )


class SparsityResult(Record):
    """All networks of a sparsity case: seeds first, then strengths.

    The pairs of norms in `agreement` are those of `benchmarks.study.penalties.PAIRS`.
    """

    checkpoints: tuple[int, ...] = Field(description="steps at which the agreement of norms was taken")
    runs: tuple[SparsityRun, ...]
    train_seconds: float
    refit_seconds: float


class Outcome(Record):
    """What a worker process reports about its case."""

    status: Status
    reason: str = Field(default="", description="why, if the status is not ok; never empty then")
    parameter_count: int | None = Field(default=None, description="trainable parameters of the arm's network")
    gate: Gate | None = None
    algorithm: str = Field(
        default="",
        exclude_if=_nothing,
        description="what computed the timed arm's network where that is chosen by shape: `efficient_kan.kernels.algorithm`",
    )
    speed: tuple[SpeedSeries, ...] = ()
    gpu: GpuTiming | None = Field(default=None, exclude_if=lambda gpu: gpu is None, description="how it was timed on a GPU")
    memory: tuple[MemorySeries, ...] = ()
    simulated: tuple[SimulatedSeries, ...] = ()
    frontier: tuple[FrontierPoint, ...] = ()
    sparsity: SparsityResult | None = None
    images: ImageResult | None = None
    head_cost: HeadCost | None = None
    part: dict[str, Any] | None = Field(
        default=None, exclude_if=lambda part: part is None, description="what a kind of a plugin measured, by its own schema"
    )

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
    wall_s: float = Field(description="from the fork of the process to its end")
    env_id: str
    machine: str = Field(description="hardware in words; times and memory of different machines are never compared")
    load_average: float | None = Field(default=None, description="of the last minute, when the case ended")
    gpu_state: str | None = Field(default=None, description="of older rows: nvidia-smi's clocks, at the end; see `gpu`")
    commit: str = Field(description="git commit, '+dirty' appended if the tree had changes; 'unknown' outside git")
    versions: dict[str, str] = Field(description="of the packages that decide what this case computes")
    # Absent in rows from before: they keep their text, and with it the digests in reports.
    source: str | None = Field(
        default=None, exclude_if=lambda source: source is None, description="hash of the source that measured, part of the key"
    )

    @property
    def lost(self) -> bool:
        """Whether the case never began, since its job was lost: the row says nothing about it."""
        return self.status == "killed" and self.wall_s == 0


class Environment(Record):
    """Where a run took place. `details` is free-form: see `benchmarks.schema.environment`."""

    schema_version: int = SCHEMA_VERSION
    env_id: str
    run_id: str
    started_at: str
    command: str
    commit: str
    dirty: bool | None
    machine: str
    versions: dict[str, str]
    gpu: str | None = Field(description="name of the GPU; None if the machine has none that torch can use")
    details: dict[str, Any]


def schema() -> dict[str, Any]:
    """Return the JSON schema of rows and of environments, by file name."""
    return {
        f"{name}-v{SCHEMA_VERSION}.json": {"$schema": "https://json-schema.org/draft/2020-12/schema"}
        | model.model_json_schema()
        for name, model in (("row", Row), ("environment", Environment))
    }
