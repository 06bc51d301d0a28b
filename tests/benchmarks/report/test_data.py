"""Which rows are shown, and how a ratio is judged."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.analysis import data
from benchmarks.report import cells, tables
from benchmarks.schema.cases import Case
from benchmarks.schema.rows import GpuReading, GpuTiming, SpeedSeries

Times = Callable[..., tuple[Any, ...]]


def test_the_newest_measurement_of_a_case_is_shown(
    run: Any, speed_case: Callable[..., Case], times: Times, tmp_path: Path
) -> None:
    run.add(speed_case(), speed=times())
    newest = run.add(speed_case(), speed=times())  # same case, another key: its source changed
    other = run.add(speed_case(batch=7), speed=times())
    loaded = data.load(run.write(tmp_path))
    assert [row.case_key for row in loaded.rows] == [newest.case_key, other.case_key]
    assert loaded.superseded == 1


def test_a_sweep_replaces_one_of_other_strengths(run: Any, full_run: Any, tmp_path: Path) -> None:
    sweeps = [row for row in full_run.rows if row.case.sweep is not None and row.sparsity is not None]
    for row in sweeps:
        run.add(row.case, sparsity=row.sparsity)
    old = next(row for row in sweeps if row.case.sweep.penalty == "weight_l1+entropy" and row.case.sweep.task == "product")
    moved = {strength: strength / 10 for strength in old.case.sweep.strengths}
    sweep = old.case.sweep.model_copy(update={"strengths": tuple(moved.values())})
    runs = tuple(one.model_copy(update={"strength": moved[one.strength]}) for one in old.sparsity.runs)
    run.add(
        old.case.model_copy(update={"sweep": sweep}),
        sparsity=old.sparsity.model_copy(update={"runs": runs}),
        finished_at="2026-01-02T09:00:00+00:00",
    )
    loaded = data.load(run.write(tmp_path))
    assert loaded.superseded == 1
    shown = loaded.sparsity[loaded.sparsity["penalty"] == "weight_l1+entropy"].groupby("task")["strength"].agg(set)
    assert shown["product"] == set(moved.values())
    assert shown["exp_sin"] == set(moved)


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.5, "slower"), (0.5, "faster"), (1.0, "within noise")], ids=["slow", "fast", "equal"]
)
def test_a_ratio_is_judged_against_the_floor_of_its_point(
    run: Any, speed_case: Callable[..., Case], times: Times, tmp_path: Path, factor: float, verdict: str
) -> None:
    run.add(speed_case(), speed=times())
    run.add(speed_case("pykan[speed]"), speed=times(factor))
    frame = data.load(run.write(tmp_path)).speed.set_index("arm")
    assert frame.loc["efficient_kan", "verdict"] == "baseline"
    assert frame.loc["pykan[speed]", "verdict"] == verdict
    assert frame["floor"].between(1, 1.02).all()


def test_without_a_floor_there_is_no_verdict(run: Any, speed_case: Callable[..., Case], times: Times, tmp_path: Path) -> None:
    run.add(speed_case("pykan[speed]"), speed=times(3.0))
    assert list(data.load(run.write(tmp_path)).speed["verdict"]) == ["no noise floor"]


def test_where_the_baseline_has_no_case_its_time_comes_from_the_pairs(
    run: Any, speed_case: Callable[..., Case], times: Times, tmp_path: Path
) -> None:
    run.add(speed_case(), speed=times())
    for arm, factor in (("pykan[speed]", 3.0), ("cox_de_boor", 2.0)):
        run.add(speed_case(arm), speed=times(factor))
        run.add(speed_case(arm, batch=32), speed=times(factor))
    shown = data.with_baseline(data.load(run.write(tmp_path)).speed)
    base = shown[shown["arm"] == "efficient_kan"].set_index("batch")
    assert list(base.index) == [128, 32]
    assert base.loc[32, "arm_ms"] == base.loc[128, "baseline_ms"]
    assert base.loc[32, "reason"] == "from the pairs with pykan[speed], cox_de_boor"
    # The floor of the one point where it was measured serves the others.
    assert shown["floor"].nunique() == 1


def test_lines_fix_every_other_size(full_run: Any, tmp_path: Path) -> None:
    loaded = data.load(full_run.write(tmp_path))
    (family,) = data.families(loaded.speed)
    assert [line.axis for line in family] == ["batch", "width", "grid"]
    for line in family:
        fixed = line.frame[list(data.AXES[line.axis][1])].drop_duplicates()
        assert len(fixed) == 1
        assert line.frame[line.x].nunique() == 3


def test_the_centre_is_where_the_lines_cross(full_run: Any, tmp_path: Path) -> None:
    centre = data.centre(data.load(full_run.write(tmp_path)).speed)
    assert set(zip(centre["batch"], centre["layers"], centre["grid_size"], strict=True)) == {(128, "32-32-1", 5)}


def test_penalty_costs_are_relative_to_the_arms_own_plain_step(full_run: Any, tmp_path: Path) -> None:
    costs = tables.penalty_costs(data.load(full_run.write(tmp_path)))
    known = costs[costs["status"] == "ok"]
    assert set(known["penalty"]) == {"weight_l1", "sample_l1", "sample_std"}
    assert known["ratio"].between(1.38, 1.42).all()
    assert known["memory_ratio"].between(1.0, 1.1).all()
    assert list(costs.loc[costs["status"] != "ok", "memory_status"]) == ["unsupported"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.0, "1.00"),
        (9.999, "10.0"),
        (0.0123456, "0.0123"),
        (123456.0, "123,456"),
        (1e-4, "0.000100"),
        (-9.876e-5, "-9.88e-5"),
        (9.9999e-5, "0.000100"),
        (2.72e-16, "2.72e-16"),
        (-2.5, "-2.50"),
        (math.nan, "–"),
        (None, "–"),
        (math.inf, "∞"),
    ],
)
def test_numbers_keep_three_significant_digits(value: float | None, text: str) -> None:
    assert cells.number(value) == text


def test_a_table_of_times_shows_what_a_gpu_adds(
    run: Any, speed_case: Callable[..., Case], times: Times, tmp_path: Path
) -> None:
    reading = {"memory_mhz": 2619, "temperature_c": 40, "power_w": 300.0}
    before = GpuReading(sm_mhz=1700, throttle=(), **reading)
    after = GpuReading(sm_mhz=1980, throttle=("power cap",), **reading)
    timing = GpuTiming(l2="rotated inputs", l2_bytes=1000, input_copies=4, before=before, after=after)
    device = {"arm_device_ns": (2_000_000,) * 10, "baseline_device_ns": (1_000_000,) * 10}
    replays = {"arm_graph_ns": (8_000_000,) * 4, "arm_graph_loops": 16, "graph_rotates": False, "graph_failure": "baseline: no"}
    for arm in ("efficient_kan", "pykan[speed]"):
        series = tuple(SpeedSeries(**one.model_dump() | device | replays) for one in times())
        run.add(speed_case(arm), speed=series, gpu=timing)
    found = data.load(run.write(tmp_path))
    line = found.speed.iloc[0]
    loops = found.rows[0].speed[0].arm_loops
    assert (line["arm_device_ms"], line["arm_graph_ms"]) == (2 / loops, 0.5)
    assert math.isnan(line["baseline_graph_ms"])
    view = tables.time(found).view
    shown = {heading: texts[0] for heading, texts in view.items()}
    assert shown["graph replayed (ms)"] == "0.500"
    assert shown["why no replay"] == "baseline: no"
    assert shown["L2 cache"] == "rotated inputs; warm L2 in graphs"
    assert shown["SM clock (MHz)"] == "1700 to 1980"
    assert shown["clocks held down by"] == "power cap"
    baseline = data.with_baseline(found.speed[found.speed["arm"] == "pykan[speed]"])
    assert baseline[baseline["arm"] == "efficient_kan"]["arm_graph_ms"].isna().all()


def test_without_a_gpu_a_table_of_times_has_no_word_of_one(
    run: Any, speed_case: Callable[..., Case], times: Times, tmp_path: Path
) -> None:
    run.add(speed_case(), speed=times())
    table = tables.time(data.load(run.write(tmp_path)))
    assert not {"graph replayed (ms)", "L2 cache", "between events (ms)"} & set(table.view)
    assert b"graph" not in cells.csv(table.frame).splitlines()[0]
