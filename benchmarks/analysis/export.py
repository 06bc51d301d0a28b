"""Stored times as JSON of pytest-benchmark, so that its own `compare`, histograms and services can read them.

There is one benchmark for each row and mode, in the group of its point and mode, with every sample in seconds a call. The
format has no place for a case without times: those are returned, and listed under `machine_info`. pytest-benchmark's table
compares absolute times of different processes; the paired ratios are in the report (`python -m benchmarks report`). The
samples of the baseline, taken in turn with the arm's, are in `extra_info`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.analysis.data import current_rows
from benchmarks.kinds import is_paired
from benchmarks.schema.rows import Environment, Row, SpeedSeries


@dataclass(frozen=True)
class Exported:
    """How many benchmarks were written, and in words what has no times: "<case> <mode>: <status>: <reason>"."""

    benchmarks: int
    failed: Sequence[str]


def export(reports: Path | Sequence[Path], file: Path) -> Exported:
    """Write the speed and penalty_cost rows of the report folders `reports` to `file`; equal rows give equal bytes.

    Of several folders each benchmark names its own. Raises ValueError if none holds times or `file` cannot be written.
    """
    folders = [reports] if isinstance(reports, Path) else list(reports)
    timed: list[tuple[Row, str]] = []
    superseded = 0
    environments: dict[str, Environment] = {}
    for folder in folders:
        rows, older, found, _ = current_rows(folder)
        superseded += older
        environments |= found
        timed += [(row, folder.resolve().name if len(folders) > 1 else "") for row in rows if is_paired(row.case.kind)]
    series = [(row, one, folder) for row, folder in timed for one in row.speed if one.arm_ns]
    failed = [f"{folder}{' ' if folder else ''}{text}" for row, folder in timed for text in _without_times(row)]
    if not series:
        where = ", ".join(map(str, folders)) or "no folder"
        raise ValueError(f"out: expected at least one case with times, got {len(timed)} without in {where}")
    used = [environments[run_id] for run_id in sorted({row.run_id for row, _ in timed}) if run_id in environments]
    content = {
        "machine_info": _machine_info(used) | {"without_times": failed, "superseded_rows": superseded},
        "commit_info": _commit_info([row for row, _ in timed]),
        "benchmarks": _benchmarks(series),
        "datetime": max(row.finished_at for row, *_ in series),
        "version": _format_version(),
    }
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise ValueError(f"file: expected a file that can be written, got {file}: {error.strerror or error}") from error
    return Exported(len(series), failed)


def _without_times(row: Row) -> list[str]:
    found = {series.mode for series in row.speed if series.arm_ns}
    return [f"{row.case.label} {mode}: {row.status}: {row.reason}" for mode in row.case.modes if mode not in found]


def _benchmarks(series: Sequence[tuple[Row, SpeedSeries, str]]) -> list[dict[str, Any]]:
    several = len({row.machine for row, *_ in series}) > 1
    found: list[dict[str, Any]] = []
    for row, one, folder in series:
        params = _params(row, one)
        products = "" if params["matmul"] == "ieee" else f" {params['matmul']} products"
        who = row.case.arm if row.case.penalty == "none" else f"{row.case.arm}+{row.case.penalty}"
        size = "B={batch} {layers} G={grid_size} k={spline_order} {dtype} {device} threads={threads}".format(**params)
        place = " ".join([size + products, *([row.machine] if several else []), *([folder] if folder else [])])
        # The index of the process is part of the name: the processes of a cell stand one below the other in a table.
        process = f" process={params['process']}"
        found.append(
            {
                "group": f"{row.case.kind} {one.mode} {place}",
                "name": f"{one.mode}[{who} {place}{process}]",
                "fullname": f"{row.case.kind}::{one.mode}[{who} {place}{process}]",
                "params": params,
                "param": f"{who} {place}{process}",
                "extra_info": _extra_info(row, one),
                "options": {"warmup": row.case.warmup, "min_time": row.case.min_sample_ms / 1e3, "timer": "perf_counter_ns"},
                "stats": _stats(one.arm_ns, one.arm_loops),
            }
        )
    twice = {name for name, count in Counter(one["fullname"] for one in found).items() if count > 1}
    for benchmark in found:
        if benchmark["fullname"] in twice:  # the same cell measured with other settings, such as another preset's
            for key in ("name", "fullname"):
                benchmark[key] = f"{benchmark[key]}#{benchmark['extra_info']['case_key']}"
    return found


def _params(row: Row, series: SpeedSeries) -> dict[str, Any]:
    case, point = row.case.model_dump(mode="json"), row.case.point.model_dump(mode="json")
    chosen = {name: case[name] for name in ("kind", "arm", "baseline", "penalty", "process")}
    return chosen | {"matmul": "ieee"} | point | {"layers": "-".join(map(str, row.case.point.layers)), "mode": series.mode}


def _extra_info(row: Row, series: SpeedSeries) -> dict[str, Any]:
    fields = row.model_dump(
        mode="json",
        include={"case_key", "run_id", "env_id", "machine", "commit", "versions", "division", "parameter_count", "algorithm"},
    )
    gate = None if row.gate is None else {"passed": row.gate.passed, "rule": row.gate.rule}
    return fields | {
        "gate": gate,
        "baseline_data": _seconds(series.baseline_ns, series.baseline_loops),
        "baseline_iterations": series.baseline_loops,
        "arm_first": list(series.arm_first),
    }


def _seconds(nanoseconds: Iterable[int], loops: int) -> list[float]:
    return [value / loops / 1e9 for value in nanoseconds]


def _stats(nanoseconds: Sequence[int], loops: int) -> dict[str, Any]:
    """pytest-benchmark's own statistics: their definitions, of quartiles and outliers above all, are its own."""
    from pytest_benchmark.stats import Stats

    stats = Stats()  # type: ignore[no-untyped-call]
    for value in _seconds(nanoseconds, loops):
        stats.update(value)  # type: ignore[no-untyped-call]
    fields: dict[str, Any] = stats.as_dict()  # type: ignore[no-untyped-call]
    return fields | {"data": stats.data, "iterations": loops}


def _format_version() -> str:
    import pytest_benchmark

    return str(pytest_benchmark.__version__)


def _machine_info(environments: Sequence[Environment]) -> dict[str, Any]:
    """The fields that pytest-benchmark writes, None where the environments do not tell or differ, and the environments."""
    names = ("node", "processor", "machine", "python_compiler", "python_build", "release", "system")
    shared = {
        "python_version": _single(environment.details.get("python") for environment in environments),
        "python_implementation": None,
        "python_implementation_version": None,
        "cpu": {"brand_raw": _single(environment.details.get("cpu") for environment in environments)},
        "gpu": _single(environment.gpu for environment in environments),
    }
    records = {environment.env_id: environment.model_dump(mode="json") for environment in environments}
    return dict.fromkeys(names) | shared | {"environments": records}


def _commit_info(rows: Sequence[Row]) -> dict[str, Any]:
    commits = {row.commit for row in rows}
    return {
        "id": "; ".join(sorted({commit.removesuffix("+dirty") for commit in commits})),
        "time": None,
        "author_time": None,
        "dirty": any(commit.endswith("+dirty") for commit in commits),
        "project": "efficient-kan-bench",
        "branch": None,
    }


def _single(values: Iterable[Any]) -> Any:
    found = set(values)
    return found.pop() if len(found) == 1 else None
