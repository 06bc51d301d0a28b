"""Stored times as files of pytest-benchmark, read by its own command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks import cli
from benchmarks.analysis import results
from benchmarks.analysis.export import export
from benchmarks.kinds import is_paired
from benchmarks.schema.cases import Case


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def pytest_benchmark(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest_benchmark", *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_its_own_command_compares_the_file(full_run: Any, tmp_path: Path) -> None:
    file = tmp_path / "exported.json"
    export(full_run.write(tmp_path), file)
    done = pytest_benchmark("compare", file, "--csv", tmp_path / "table.csv", "--sort", "name", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Failed to load" not in done.stdout + done.stderr
    assert "benchmark 'speed step B=128 32-32-1 G=5 k=3 float32 cpu threads=1': 5 tests" in done.stdout
    table = pd.read_csv(tmp_path / "table.csv")
    timed = [row for row in full_run.rows if is_paired(row.case.kind)]
    frame = pd.concat([results.speed_frame(timed), results.speed_frame(timed, "penalty_cost")])
    times = frame["arm_ms"].dropna()
    assert sorted(table["median"]) == pytest.approx(sorted(times / 1e3), rel=1e-12)


def test_two_files_are_compared_cell_by_cell(
    run: Any, speed_case: Callable[..., Case], times: Callable[..., Any], tmp_path: Path
) -> None:
    for side, factor in (("old", 1.0), ("new", 2.0)):
        rows = type(run)()
        rows.add(speed_case("pykan[speed]"), speed=times(factor))
        export(rows.write(tmp_path / side), tmp_path / f"{side}.json")
    done = pytest_benchmark("compare", "--between", "median", tmp_path / "old.json", tmp_path / "new.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 tests, 2 sources" in done.stdout
    # The sources are sorted by name: "new" is the reference.
    assert "-50.0%" in done.stdout


def test_every_sample_is_there_in_seconds_a_call(
    run: Any, speed_case: Callable[..., Case], times: Callable[..., Any], tmp_path: Path
) -> None:
    row = run.add(speed_case("pykan[speed]"), speed=times(3.0))
    export(run.write(tmp_path), tmp_path / "x.json")
    content = read(tmp_path / "x.json")
    (benchmark,) = content["benchmarks"]
    (series,) = row.speed
    stats, samples = benchmark["stats"], np.array(series.arm_ns) / series.arm_loops / 1e9
    assert stats["data"] == pytest.approx(samples.tolist(), rel=1e-15)
    assert (stats["rounds"], stats["iterations"]) == (len(samples), series.arm_loops)
    assert stats["median"] == pytest.approx(np.median(samples))
    assert stats["stddev"] == pytest.approx(samples.std(ddof=1))
    assert stats["ops"] == pytest.approx(1 / samples.mean())
    baseline = np.array(series.baseline_ns) / series.baseline_loops / 1e9
    assert benchmark["extra_info"]["baseline_data"] == pytest.approx(baseline.tolist(), rel=1e-15)
    assert benchmark["params"]["arm"] == "pykan[speed]"
    assert content["commit_info"]["id"] == "0123abc"
    assert content["machine_info"]["cpu"] == {"brand_raw": "Example CPU"}


def test_the_fields_are_those_that_the_plugin_writes(
    run: Any, speed_case: Callable[..., Case], times: Callable[..., Any], tmp_path: Path
) -> None:
    run.add(speed_case(), speed=times())
    export(run.write(tmp_path), tmp_path / "ours.json")
    (tmp_path / "test_x.py").write_text("def test_x(benchmark):\n    benchmark(sum, [1])\n", encoding="utf-8")
    options = ["--benchmark-json", "theirs.json", "--benchmark-max-time", "0.01", "-p", "no:cacheprovider", "-q"]
    command = [sys.executable, "-m", "pytest", "--rootdir", ".", "test_x.py", *options]
    # pytest-benchmark measures nothing where it sees that it runs in a worker of xdist.
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    subprocess.run(command, cwd=tmp_path, env=alone, check=True, capture_output=True)
    ours, theirs = read(tmp_path / "ours.json"), read(tmp_path / "theirs.json")
    for part in (lambda x: x, lambda x: x["benchmarks"][0], lambda x: x["benchmarks"][0]["stats"], lambda x: x["commit_info"]):
        assert set(part(ours)) == set(part(theirs))
    assert set(theirs["machine_info"]) <= set(ours["machine_info"])
    assert ours["version"] == theirs["version"]


def test_cells_without_times_are_listed_and_none_is_lost(
    full_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sub" / "x.json"
    cli.app(["export", str(file), "--out", str(full_run.write(tmp_path))], result_action="return_value")
    content, error = read(file), capsys.readouterr().err
    listed = content["machine_info"]["without_times"]
    cells = [(row, mode) for row in full_run.rows if is_paired(row.case.kind) for mode in row.case.modes]
    assert len(content["benchmarks"]) + len(listed) == len(cells)
    assert len(listed) == sum(row.status != "ok" for row, _ in cells) > 0
    assert any("timeout: exceeded 300 s" in text for text in listed)
    assert all(f"no times: {text}" in error for text in listed)


def test_a_cell_measured_twice_keeps_both_names(
    run: Any, speed_case: Callable[..., Case], times: Callable[..., Any], tmp_path: Path
) -> None:
    for blocks in (2, 3):
        run.add(speed_case().model_copy(update={"blocks": blocks}), speed=times())
    export(run.write(tmp_path), tmp_path / "x.json")
    names = [benchmark["fullname"] for benchmark in read(tmp_path / "x.json")["benchmarks"]]
    assert len(set(names)) == 2


def test_equal_rows_give_equal_bytes(full_run: Any, tmp_path: Path) -> None:
    out = full_run.write(tmp_path)
    export(out, tmp_path / "a.json")
    export(out, tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_nothing_to_export_and_nowhere_to_write_are_refused(
    run: Any, speed_case: Callable[..., Case], times: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"out: expected a folder with rows below raw/"):
        export(tmp_path, tmp_path / "x.json")
    run.add(speed_case(), status="oom", reason="no memory")
    with pytest.raises(ValueError, match="out: expected at least one case with times, got 1 without"):
        export(run.write(tmp_path / "failed"), tmp_path / "x.json")
    run.add(speed_case(batch=7), speed=times())
    with pytest.raises(ValueError, match="file: expected a file that can be written"):
        export(run.write(tmp_path / "timed"), tmp_path)
