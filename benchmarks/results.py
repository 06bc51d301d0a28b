"""Loading rows into pandas, and what is derived from them: medians, ratios, intervals, the noise floor.

The schema is in `benchmarks.rows`; its names are re-exported here.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import ValidationError

from benchmarks.rows import SCHEMA_VERSION as SCHEMA_VERSION
from benchmarks.rows import Division as Division
from benchmarks.rows import Environment as Environment
from benchmarks.rows import Gate as Gate
from benchmarks.rows import GateError as GateError
from benchmarks.rows import MemorySeries as MemorySeries
from benchmarks.rows import Outcome as Outcome
from benchmarks.rows import Row as Row
from benchmarks.rows import SparsityResult as SparsityResult
from benchmarks.rows import SpeedSeries as SpeedSeries
from benchmarks.rows import Status as Status
from benchmarks.stats import paired_ratio


def _lines(path: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    text = path.read_text(encoding="utf-8")
    complete, _, _torn = text.rpartition("\n")  # an unfinished last line belongs to a run that is still writing or was killed
    for number, line in enumerate(complete.splitlines(), start=1):
        if not line:
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path.name} line {number}: expected a JSON object, got {line[:60]!r}") from error
        if record.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(
                f"{path.name} line {number}: expected schema_version {SCHEMA_VERSION}, got "
                f"{record.get('schema_version')!r}; rows of different schemas are never mixed"
            )
        yield number, record


def load_rows(out: Path | str) -> list[Row]:
    """Return the rows of the report folder `out`, the newest one for each case key, in the order of first appearance.

    Raises ValueError on a damaged line or on a row of another schema version.
    """
    path = Path(out) / "raw" / "rows.jsonl"
    rows: dict[str, Row] = {}
    for number, record in _lines(path) if path.exists() else ():
        try:
            row = Row.model_validate(record)
        except ValidationError as error:
            raise ValueError(f"{path.name} line {number}: expected a row of schema {SCHEMA_VERSION}, got {error}") from error
        rows[row.case_key] = row
    return list(rows.values())


def load_environments(out: Path | str) -> dict[str, Environment]:
    """Return the environments of the report folder `out` by `env_id` (the newest for each id)."""
    path = Path(out) / "raw" / "environments.jsonl"
    found = (Environment.model_validate(record) for _, record in (_lines(path) if path.exists() else ()))
    return {environment.env_id: environment for environment in found}


def _common(row: Row) -> dict[str, Any]:
    point, case = row.case.point, row.case
    worst = row.gate.worst if row.gate and row.gate.errors else None
    return {
        "case_key": row.case_key,
        "run_id": row.run_id,
        "env_id": row.env_id,
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
        "device": point.device,
        "threads": point.threads,
        "seed": case.seed,
        "on_batch": "batch" in case.axes,
        "on_width": "width" in case.axes,
        "on_grid": "grid" in case.axes,
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


def speed_frame(rows: Sequence[Row], kind: str = "speed") -> pd.DataFrame:
    """One line per case and mode of `kind` ("speed" or "penalty_cost"). A failed case has a line with NaN times per mode.

    `ratio` is the time of the arm over that of the baseline (above 1: the arm is slower): the exponential of the median of
    paired log-ratios, with its 95 % bootstrap interval `ratio_low`, `ratio_high`. `arm_ms`, `baseline_ms` are medians
    per call; `arm_ms_low`, `arm_ms_high` the quartiles.
    """
    if kind not in ("speed", "penalty_cost"):
        raise ValueError(f"kind: expected 'speed' or 'penalty_cost', got {kind!r}")
    lines: list[dict[str, Any]] = []
    for row in rows:
        if row.case.kind != kind:
            continue
        by_mode = {series.mode: series for series in row.speed}
        for mode in row.case.modes:
            lines.append(_common(row) | {"mode": mode} | _times(row, by_mode.get(mode)))
    return pd.DataFrame(lines)


def _times(row: Row, series: SpeedSeries | None) -> dict[str, float]:
    if series is None or not series.arm_ns:
        names = ("arm_ms", "arm_ms_low", "arm_ms_high", "baseline_ms", "ratio", "ratio_low", "ratio_high", "pairs")
        return dict.fromkeys(names, math.nan) | {"pairs": 0}
    arm = np.asarray(series.arm_ns) / series.arm_loops / 1e6
    baseline = np.asarray(series.baseline_ns) / series.baseline_loops / 1e6
    # Seeded by the row itself: the interval is the same whenever and beside whatever other rows it is computed.
    rng = np.random.default_rng(zlib.crc32(f"{row.case_key}/{series.mode}".encode()))
    ratio = paired_ratio(arm, baseline, rng)
    low, middle, high = np.quantile(arm, [0.25, 0.5, 0.75])
    return {
        "arm_ms": float(middle),
        "arm_ms_low": float(low),
        "arm_ms_high": float(high),
        "baseline_ms": float(np.median(baseline)),
        "ratio": ratio.value,
        "ratio_low": ratio.low,
        "ratio_high": ratio.high,
        "pairs": len(arm),
    }


def memory_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """One line per memory case and mode, `penalty` included. A failed case has a line with NaN bytes per mode."""
    lines: list[dict[str, Any]] = []
    names = [name for name in MemorySeries.model_fields if name not in ("mode", "method")]
    for row in rows:
        if row.case.kind != "memory":
            continue
        by_mode = {series.mode: series for series in row.memory}
        for mode in row.case.modes:
            series = by_mode.get(mode)
            values: dict[str, Any] = dict.fromkeys(names, math.nan) if series is None else series.model_dump()
            lines.append(_common(row) | values | {"mode": mode})
    return pd.DataFrame(lines)


def sparsity_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """One line per sparsity case: penalty, strength, seed, RMSEs and edge counts (NaN if it failed)."""
    lines: list[dict[str, Any]] = []
    names = [name for name in SparsityResult.model_fields if name != "edge_scores"]
    for row in rows:
        if row.case.kind != "sparsity":
            continue
        result = row.sparsity
        values: dict[str, Any] = (
            dict.fromkeys(names, math.nan) if result is None else result.model_dump(exclude={"edge_scores"})
        )
        case = row.case
        values |= {"task": case.task, "strength": case.strength, "steps": case.steps, "threshold": case.threshold}
        lines.append(_common(row) | values)
    return pd.DataFrame(lines)


def noise_floor(rows: Sequence[Row]) -> float:
    """Largest |log ratio| that an arm measured against itself reached, interval ends included; NaN if there was none.

    A ratio within exp(+-floor) is within the noise of these runs.
    """
    frame = speed_frame(rows)
    if frame.empty:
        return math.nan
    own = frame[(frame["arm"] == frame["baseline"]) & frame["ratio"].notna()]
    if own.empty:
        return math.nan
    return float(np.abs(np.log(own[["ratio_low", "ratio_high"]].to_numpy())).max())
