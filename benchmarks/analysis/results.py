"""Loading rows into pandas, and what is derived from them: medians, ratios, intervals, the noise floor.

The schema is in `benchmarks.schema.rows`; its names are re-exported here.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import ValidationError

from benchmarks.analysis.stats import paired_ratio
from benchmarks.kinds import every, find_kind, is_paired
from benchmarks.run import archive
from benchmarks.schema.rows import SCHEMA_VERSION as SCHEMA_VERSION
from benchmarks.schema.rows import Division as Division
from benchmarks.schema.rows import Environment as Environment
from benchmarks.schema.rows import FrontierPoint as FrontierPoint
from benchmarks.schema.rows import Gate as Gate
from benchmarks.schema.rows import GateError as GateError
from benchmarks.schema.rows import MemorySeries as MemorySeries
from benchmarks.schema.rows import Outcome as Outcome
from benchmarks.schema.rows import Row as Row
from benchmarks.schema.rows import SimulatedSeries as SimulatedSeries
from benchmarks.schema.rows import SparsityResult as SparsityResult
from benchmarks.schema.rows import SparsityRun as SparsityRun
from benchmarks.schema.rows import SpeedSeries as SpeedSeries
from benchmarks.schema.rows import Status as Status
from benchmarks.schema.wrong import wrong
from benchmarks.study import phase
from benchmarks.study import rule as rules


def _of_schema(records: Iterable[tuple[str, archive.Record]]) -> Iterable[tuple[str, archive.Record]]:
    for place, record in records:
        if record.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(
                f"{place}: expected schema_version {SCHEMA_VERSION}, got {record.get('schema_version')!r}; "
                "rows of different schemas are never mixed"
            )
        yield place, record


def load_rows(out: Path | str) -> list[Row]:
    """Return the rows of the report folder `out`, one for each case key, in the order of first appearance.

    Of rows with the same key the last counts, but no failure instead of a result: see `benchmarks.run.archive.replaces`. Raises
    ValueError on a damaged line or on a row of another schema version.
    """
    return load_ordered(out)[0]


def load_ordered(out: Path | str) -> tuple[list[Row], dict[str, int]]:
    """Return the same rows, and by case key which was stored after which: unlike `finished_at` that follows no clock."""
    rows: dict[str, Row] = {}
    order: dict[str, int] = {}
    for number, (place, record) in enumerate(_of_schema(archive.rows(Path(out) / "raw"))):
        try:
            row = Row.model_validate(record)
        except ValidationError as error:
            raise ValueError(f"{place}: expected a row of schema {SCHEMA_VERSION}: {wrong(error)}") from error
        earlier = rows.get(row.case_key)
        if earlier is None or archive.replaces(row.status, earlier.status):
            rows[row.case_key], order[row.case_key] = row, number
    return list(rows.values()), order


def load_environments(out: Path | str) -> dict[str, Environment]:
    """Return the environments of the report folder `out` by `run_id`."""
    found: dict[str, Environment] = {}
    for place, record in _of_schema(archive.environments(Path(out) / "raw")):
        try:
            environment = Environment.model_validate(record)
        except ValidationError as error:
            raise ValueError(f"{place}: expected an environment of schema {SCHEMA_VERSION}: {wrong(error)}") from error
        found[environment.run_id] = environment
    return found


def _common(row: Row) -> dict[str, Any]:
    point, case = row.case.point, row.case
    worst = row.gate.worst if row.gate and row.gate.errors else None
    return {
        "case_key": row.case_key,
        "run_id": row.run_id,
        "env_id": row.env_id,
        "machine": row.machine,
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(row.versions.items())),
        "kind": case.kind,
        "arm": case.arm,
        "baseline": case.baseline,
        "division": row.division,
        "penalty": case.penalty,
        "batch": point.batch,
        "width": point.width,
        "depth": point.depth,
        "layers": "-".join(map(str, point.layers)),
        "grid_size": point.grid_size,
        "spline_order": point.spline_order,
        "dtype": point.dtype,
        "matmul": point.matmul,
        "device": point.device,
        "threads": point.threads,
        "seed": case.seed,
        "process": case.process,
        "name": case.name,
        "on_batch": "batch" in case.axes,
        "on_width": "width" in case.axes,
        "on_grid": "grid" in case.axes,
        "on_order": "order" in case.axes,
        "on_depth": "depth" in case.axes,
        "status": row.status,
        "reason": row.reason,
        "wall_s": row.wall_s,
        "parameter_count": row.parameter_count,
        "gate_passed": None if row.gate is None else row.gate.passed,
        "gate_tensor": None if worst is None else worst.tensor,
        "gate_error": None if worst is None else worst.error,
        "gate_limit": None if worst is None else worst.limit,
    }


def rows_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """One line per case, all kinds and statuses: point, arm, status, reason, worst gate error."""
    return pd.DataFrame([_common(row) for row in rows])


def _measured(row: Row, part: str) -> bool:
    """Whether a row is of a kind that measures `part` of it, whether or not there is any."""
    kind = find_kind(row.case.kind)
    return kind is not None and kind.part == part


def _kind_of_the_floor() -> str:
    return next(kind.name for kind in every() if kind.gives_floor)


def speed_frame(rows: Sequence[Row], kind: str | None = None, *, apart: Mapping[str, str] | None = None) -> pd.DataFrame:
    """One line per cell and mode of `kind`, over all processes that measured it on one machine.

    It is a kind that times in pairs (None: the one whose baseline against itself gives the noise floor). `apart` gives by case
    key what else must be equal in the processes of a cell.

    `ratio` is the time of the arm over that of the baseline (above 1: the arm is slower) with its 95 % interval `ratio_low`,
    `ratio_high`, see `stats.paired_ratio`. `arm_ms`, `baseline_ms` are medians per call over all samples, wall
    time; `arm_ms_low`, `arm_ms_high` the quartiles; `arm_device_ms`, `baseline_device_ms` the medians on the device (CUDA), and
    `arm_graph_ms`, `baseline_graph_ms` those of CUDA graphs replayed, or `graph_failure` says why there is none. `l2`, `sm_mhz`
    and `throttle` are the conditions on the GPU in all processes, see `benchmarks.schema.rows.GpuTiming`.
    `processes` counts those that were timed and `pairs` all their pairs. A cell of which a process failed has that
    process's status and reason, and the times of the others; one without any has NaN.
    """
    kind = kind or _kind_of_the_floor()
    if not is_paired(kind):
        named = ", ".join(one.name for one in every() if one.paired)
        raise ValueError(f"kind: expected a kind that times in pairs ({named}), got {kind!r}")
    cells: dict[tuple[str, str, str | None], list[Row]] = {}
    for row in rows:
        if row.case.kind == kind:
            cells.setdefault((row.case.cell, row.machine, (apart or {}).get(row.case_key)), []).append(row)
    lines: list[dict[str, Any]] = []
    for repeats in cells.values():
        repeats.sort(key=lambda row: row.case.process)
        shown = next((row for row in repeats if row.status not in ("ok", "skipped_by_frontier")), repeats[0])
        axes = tuple(dict.fromkeys(axis for row in repeats for axis in row.case.axes))
        shown = shown.model_copy(update={"case": shown.case.model_copy(update={"axes": axes})})
        for mode in shown.case.modes:
            series = [one for row in repeats for one in row.speed if one.mode == mode]
            lines.append(_common(shown) | {"mode": mode} | _times(shown, mode, series) | _conditions(repeats, series))
    return pd.DataFrame(lines)


def _conditions(repeats: Sequence[Row], series: Sequence[SpeedSeries]) -> dict[str, str | None]:
    """What is known of the GPU and of replays, of all processes; None where nothing is."""
    timings = [row.gpu for row in repeats if row.gpu is not None]
    readings = [one for timing in timings for one in (timing.before, timing.after) if one is not None]
    clocks = [one.sm_mhz for one in readings if one.sm_mhz is not None]
    reasons = [one.throttle for one in readings if one.throttle is not None]
    rotates = {"warm L2 in graphs" for one in series if one.graph_rotates is False and any(t.input_copies > 1 for t in timings)}
    return {
        "l2": _joined([*(timing.l2 for timing in timings), *rotates]),
        "sm_mhz": f"{min(clocks)} to {max(clocks)}" if clocks else None,
        "throttle": (_joined(reason for one in reasons for reason in one) or "none") if reasons else None,
        "graph_failure": _joined(one.graph_failure for one in series if one.graph_failure),
    }


def _joined(texts: Iterable[str]) -> str | None:
    return "; ".join(dict.fromkeys(texts)) or None


_TIMES = ("arm_ms", "arm_ms_low", "arm_ms_high", "baseline_ms", "arm_device_ms", "baseline_device_ms")
_GRAPHS = ("arm_graph_ms", "baseline_graph_ms")


def _times(row: Row, mode: str, series: Sequence[SpeedSeries]) -> dict[str, float]:
    timed = [one for one in series if one.arm_ns]
    if not timed:
        return dict.fromkeys((*_TIMES, *_GRAPHS, "ratio", "ratio_low", "ratio_high"), math.nan) | {"pairs": 0, "processes": 0}
    pairs = [(_per_call(one.arm_ns, one.arm_loops), _per_call(one.baseline_ns, one.baseline_loops)) for one in timed]
    arm, baseline = (np.concatenate(side) for side in zip(*pairs, strict=True))
    # Seeded by the cell itself: the interval is the same whenever and beside whatever other rows it is computed.
    ratio = paired_ratio(pairs, np.random.default_rng(zlib.crc32(f"{row.case.cell}/{mode}".encode())))
    low, middle, high = np.quantile(arm, [0.25, 0.5, 0.75])
    return {
        "arm_ms": float(middle),
        "arm_ms_low": float(low),
        "arm_ms_high": float(high),
        "baseline_ms": float(np.median(baseline)),
        "arm_device_ms": _median(_per_call(one.arm_device_ns, one.arm_loops) for one in timed),
        "baseline_device_ms": _median(_per_call(one.baseline_device_ns, one.baseline_loops) for one in timed),
        "arm_graph_ms": _median(_per_call(one.arm_graph_ns, max(1, one.arm_graph_loops)) for one in timed),
        "baseline_graph_ms": _median(_per_call(one.baseline_graph_ns, max(1, one.baseline_graph_loops)) for one in timed),
        "ratio": ratio.value,
        "ratio_low": ratio.low,
        "ratio_high": ratio.high,
        "pairs": len(arm),
        "processes": len(timed),
    }


def _per_call(nanoseconds: Sequence[int], loops: int) -> NDArray[np.float64]:
    """Milliseconds of one call."""
    found: NDArray[np.float64] = np.asarray(nanoseconds, dtype=float) / loops / 1e6
    return found


def _median(parts: Iterable[NDArray[np.float64]]) -> float:
    joined = np.concatenate(list(parts))
    return float(np.median(joined)) if joined.size else math.nan


def memory_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """One line per memory case and mode, `penalty` included. A failed case has a line with NaN bytes per mode.

    `simulated_peak_bytes` is the peak of the `simulated` case of the same arm, point, penalty and mode that follows the point's
    own device, and `simulated_case_key` names that case; NaN and None if there is none. `outside_bytes` is what the call took
    outside torch's allocator, by the resident set.
    """
    lines: list[dict[str, Any]] = []
    names = [name for name in MemorySeries.model_fields if name not in ("mode", "sampled_rss")]
    simulated = {
        (*_simulated_as(row), series.mode): (series.peak_bytes, row.case_key)
        for row in rows
        for series in row.simulated
        if row.case.policy == row.case.point.device.partition(":")[0]
    }
    for row in rows:
        if not _measured(row, "memory"):
            continue
        by_mode = {series.mode: series for series in row.memory}
        for mode in row.case.modes:
            series = by_mode.get(mode)
            values: dict[str, Any] = (
                dict.fromkeys(names, math.nan)
                if series is None
                else series.model_dump(exclude={"sampled_rss"}) | {"workspace_bytes": series.workspace_bytes}
            ) | {"outside_bytes": _outside(series)}
            peak, key = simulated.get((*_simulated_as(row), mode), (math.nan, None))
            lines.append(_common(row) | values | {"mode": mode, "simulated_peak_bytes": peak, "simulated_case_key": key})
    return pd.DataFrame(lines)


def _outside(series: MemorySeries | None) -> float:
    """Pages that a call on a CPU took for anything but tensors: how much more the resident set grew than the tensors did.

    It holds what libraries and kernels allocate by themselves and Python's objects, and pages that are touched for the first
    time; below 0 the call found pages that were free already. NaN where the resident set was not watched.
    """
    if series is None or series.rss_peak_bytes is None or series.rss_before_bytes is None:
        return math.nan
    return series.rss_peak_bytes - series.rss_before_bytes - series.gradient_bytes - series.activation_bytes


def _simulated_as(row: Row) -> tuple[object, ...]:
    """What a measured and a simulated row must share before their bytes are compared."""
    case = row.case
    return case.arm, case.point, case.penalty, case.seed, row.machine, row.versions.get("torch")


def resident_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """One line per sample of the resident set that `memory_profiler` took: `seconds` since the first call, `rss_bytes`,
    and `rss_before_bytes`, the resident set before the measurement.
    """
    lines = [
        common | {"mode": series.mode, "seconds": at, "rss_bytes": size, "rss_before_bytes": series.rss_before_bytes}
        for row in rows
        if any(series.sampled_rss for series in row.memory)
        for common in [_common(row)]
        for series in row.memory
        for at, size in series.sampled_rss
    ]
    return pd.DataFrame(lines)


def simulated_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """One line per simulated case and mode: `before_bytes`, `peak_bytes` (NaN if it failed), `policy`, `rounding_bytes`."""
    lines: list[dict[str, Any]] = []
    for row in rows:
        if not _measured(row, "simulated"):
            continue
        by_mode = {series.mode: series for series in row.simulated}
        for mode in row.case.modes:
            series = by_mode.get(mode)
            lines.append(
                _common(row)
                | {
                    "mode": mode,
                    "policy": row.case.policy,
                    "rounding_bytes": row.case.rounding_bytes,
                    "before_bytes": series.before_bytes if series else math.nan,
                    "peak_bytes": series.peak_bytes if series else math.nan,
                }
            )
    return pd.DataFrame(lines)


def frontier_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """One line per frontier case and capacity: `capacity_gib`, `largest_batch` (NaN if the case failed), the peak there."""
    lines: list[dict[str, Any]] = []
    for row in rows:
        if not _measured(row, "frontier"):
            continue
        by_capacity = {point.capacity_gib: point for point in row.frontier}
        for capacity in row.case.capacities_gib:
            found = by_capacity.get(capacity)
            lines.append(
                _common(row)
                | {
                    "policy": row.case.policy,
                    "rounding_bytes": row.case.rounding_bytes,
                    "capacity_gib": capacity,
                    "largest_batch": found.batch if found else math.nan,
                    "peak_bytes": found.peak_bytes if found else math.nan,
                    "next_peak_bytes": found.next_peak_bytes if found else math.nan,
                }
            )
    return pd.DataFrame(lines)


def sparsity_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """One line per trained network: task, penalty, strength, seed, what was measured, and its curves as tuples.

    A case that gave no networks has one line for each it should have given, with its status and missing values; one that a lost
    job did not come to has none. `confirmatory` says by the rule of the study whether a network is, and `place` where its
    setting lies on the axes of the study.
    """
    lines: list[dict[str, Any]] = []
    rule = rules.load()
    names = [name for name in SparsityRun.model_fields if name not in ("seed", "strength")]
    for row in rows:
        sweep = row.case.sweep
        if sweep is None or row.lost:
            continue
        shared = _common(row) | {"task": sweep.task, "penalty": sweep.penalty, "edge_counts": sweep.edge_counts}
        shared |= {"place": phase.place(row.case)}
        fits, first = phase.confirmatory(row.case, rule), rule.confirmatory.first_seed
        if row.sparsity is not None:
            steps = {"checkpoints": row.sparsity.checkpoints}
            found = [{name: getattr(run, name) for name in SparsityRun.model_fields} for run in row.sparsity.runs]
            lines += [shared | steps | run | {"confirmatory": fits and run["seed"] >= first} for run in found]
            continue
        for seed, strength in product(sweep.seeds, sweep.strengths):
            missing = dict.fromkeys(names) | {"seed": seed, "strength": strength, "checkpoints": ()}
            lines.append(shared | missing | {"confirmatory": fits and seed >= first})
    return pd.DataFrame(lines)


def noise_floor(rows: Sequence[Row]) -> float:
    """Largest |log ratio| that an arm measured against itself reached, interval ends included; NaN if there was none.

    A ratio within exp(+-floor) is within the noise of these runs.
    """
    frame = speed_frame([row for row in rows if row.case.arm == row.case.baseline])
    if frame.empty:
        return math.nan
    own = frame[frame["ratio"].notna()]
    if own.empty:
        return math.nan
    return float(np.abs(np.log(own[["ratio_low", "ratio_high"]].to_numpy())).max())
