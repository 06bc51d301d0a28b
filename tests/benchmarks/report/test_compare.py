"""Comparing two folders: what is planted is found, noise is not, and nothing is lost on the way."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks import cli
from benchmarks.analysis.compare import CELL, Comparison, compare
from benchmarks.schema.cases import Case
from benchmarks.schema.rows import Environment, MemorySeries, Row, SimulatedSeries, SpeedSeries

SEEDS = range(20)
ARMS = {"efficient_kan": 1.0, "pykan[speed]": 5.0, "cox_de_boor": 2.2, "gemm_bound": 0.3}
SpeedCase = Callable[..., Case]
Folders = Callable[..., tuple[Path, Path]]


def noisy(rng: np.random.Generator, factor: float) -> tuple[SpeedSeries, ...]:
    """Twenty pairs of a step: 2 % of noise on each side of a pair, and a machine that drifts by a fifth."""
    drift = 1e6 * np.linspace(1, 1.2, 20)
    arm, baseline = (level * drift * np.exp(rng.normal(0, 0.02, 20)) for level in (factor, 1.0))
    return (
        SpeedSeries(
            mode="step",
            arm_loops=1,
            baseline_loops=1,
            arm_ns=tuple(map(int, arm)),
            baseline_ns=tuple(map(int, baseline)),
            arm_first=(True, False) * 10,
        ),
    )


def memory(peak: int) -> tuple[MemorySeries, ...]:
    fields = ("parameter_bytes", "gradient_bytes", "optimiser_bytes", "input_bytes", "activation_bytes")
    values = {"mode": "step", "method": "profiler allocation events", "peak_bytes": peak} | dict.fromkeys(fields, 0)
    return (MemorySeries.model_validate(values),)


@pytest.fixture
def folders(run: Any, speed_case: SpeedCase, tmp_path: Path) -> Folders:
    """`folders(seed, {arm: factor on its time})` writes two noisy runs that differ by the factors, as OLD and NEW."""

    def write(seed: int, changes: Mapping[str, float], batches: tuple[int, ...] = (128,)) -> tuple[Path, Path]:
        rng = np.random.default_rng(seed)
        paths = []
        for side, changed in (("old", {}), ("new", changes)):
            rows = type(run)()
            for batch in batches:
                for arm, factor in ARMS.items():
                    relative = changed.get(arm, 1.0) / changed.get("efficient_kan", 1.0)
                    rows.add(speed_case(arm, batch=batch), speed=noisy(rng, factor * relative))
            paths.append(rows.write(tmp_path / f"{side}-{seed}"))
        return paths[0], paths[1]

    return write


def pair(run: Any, tmp_path: Path, old: Callable[[Any], object], new: Callable[[Any], object]) -> tuple[Path, Path]:
    """Two folders with the rows that `old` and `new` add."""
    paths = []
    for side, fill in (("old", old), ("new", new)):
        rows = type(run)()
        fill(rows)
        paths.append(rows.write(tmp_path / side))
    return paths[0], paths[1]


def verdicts(comparison: Comparison) -> dict[str, str]:
    return dict(zip(comparison.cells["arm"], comparison.cells["verdict"], strict=True))


def change_environment(folder: Path, **fields: Any) -> None:
    path = folder / "raw" / "environments.jsonl"
    environment = Environment.model_validate_json(path.read_text(encoding="utf-8"))
    path.write_text(environment.model_copy(update=fields).model_dump_json() + "\n", encoding="utf-8")


def move_rows(folder: Path, machine: str) -> None:
    path = folder / "raw" / "rows.jsonl"
    rows = [Row.model_validate_json(line) for line in path.read_text(encoding="utf-8").splitlines()]
    moved = (row.model_copy(update={"machine": machine}).model_dump_json() for row in rows)
    path.write_text("".join(f"{line}\n" for line in moved), encoding="utf-8")


def run_cli(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as end:
        cli.app(["compare", *map(str, words)], result_action="return_value")
    return int(end.value.code or 0)


@pytest.mark.parametrize(("factor", "verdict"), [(1.1, "slower"), (1 / 1.1, "faster")], ids=["slower", "faster"])
@pytest.mark.parametrize("seed", SEEDS[:5])
def test_a_planted_change_of_ten_percent_is_found_where_it_is(folders: Folders, seed: int, factor: float, verdict: str) -> None:
    comparison = compare(*folders(seed, {"pykan[speed]": factor}))
    assert verdicts(comparison) == dict.fromkeys(ARMS, "within noise") | {"pykan[speed]": verdict}
    assert comparison.baseline["verdict"].tolist() == ["within noise"]
    (changed,) = comparison.changes().to_dict("records")
    assert changed["change_low"] < factor < changed["change_high"]


@pytest.mark.end_to_end
def test_fewer_than_one_unchanged_cell_in_fifty_is_flagged(folders: Folders) -> None:
    cells = pd.concat([compare(*folders(seed, {}, batches=(32, 128))).cells for seed in SEEDS])
    cells = cells[cells["arm"] != "efficient_kan"]  # its own cells make the floors
    assert len(cells) == 120
    assert (cells["verdict"] != "within noise").sum() < len(cells) / 50


def test_a_slower_baseline_is_told_from_faster_arms(folders: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = folders(0, {"efficient_kan": 1.1})
    comparison = compare(old, new)
    assert verdicts(comparison) == dict.fromkeys(ARMS, "faster") | {"efficient_kan": "within noise"}
    follows = comparison.cells.set_index("arm")["follows_baseline"]
    assert follows[["pykan[speed]", "cox_de_boor"]].all()
    assert not follows["gemm_bound"]  # it is what tells
    (itself,) = comparison.baseline.to_dict("records")
    assert itself["verdict"] == "slower"
    assert itself["change_low"] < 1.1 < itself["change_high"]
    assert itself["others"] == pytest.approx(1 / 1.1, rel=0.02)
    assert comparison.changes(worse_only=True)["arm"].tolist() == ["gemm_bound"]
    assert run_cli(old, new, "--worse-only") == 1
    text = capsys.readouterr().out
    assert "The baseline itself: efficient_kan / gemm_bound" in text


def test_a_faster_baseline_is_no_change_for_the_worse(folders: Folders) -> None:
    old, new = folders(0, {"efficient_kan": 1 / 1.1})
    comparison = compare(old, new)
    assert len(comparison.changes()) == 3
    assert comparison.changes(worse_only=True).empty
    assert run_cli(old, new) == 1
    assert run_cli(old, new, "--worse-only") == 0


def test_a_change_beyond_that_of_the_baseline_still_counts(folders: Folders) -> None:
    comparison = compare(*folders(0, {"efficient_kan": 1 / 1.1, "pykan[speed]": 1.2}))
    assert comparison.changes(worse_only=True)["arm"].tolist() == ["pykan[speed]"]


def test_a_point_without_its_own_floor_takes_the_largest_of_its_setting(
    run: Any, speed_case: SpeedCase, times: Callable[..., Any], tmp_path: Path
) -> None:
    def fill(rows: Any) -> None:
        rows.add(speed_case(), speed=times())
        rows.add(speed_case("pykan[speed]", batch=32), speed=times(3.0))
        rows.add(
            Case(kind="penalty_cost", arm="efficient_kan", baseline="efficient_kan", point=speed_case().point,
                 modes=("step",), penalty="sample_l1"),
            speed=times(1.5),
        )  # fmt: skip

    cells = compare(*pair(run, tmp_path, fill, fill)).cells
    assert cells["floor"].between(1, 1.02).all()
    assert set(cells["verdict"]) == {"within noise"}


def test_without_a_floor_no_time_is_judged_and_that_is_said(
    run: Any, speed_case: SpeedCase, times: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = pair(
        run,
        tmp_path,
        lambda rows: rows.add(speed_case("pykan[speed]"), speed=times(3.0)),
        lambda rows: rows.add(speed_case("pykan[speed]"), speed=times(9.0)),
    )
    assert verdicts(compare(old, new)) == {"pykan[speed]": "no noise floor"}
    assert run_cli(old, new) == 0
    assert "1 no noise floor" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("before", "after", "verdict", "worse"),
    [
        ("ok", "oom", "worse status", 1),
        ("unsupported", "timeout", "worse status", 1),
        ("gate_failed", "ok", "better status", 0),
        ("oom", "timeout", "other status", 0),
        ("oom", "oom", "failed in both", 0),
    ],
)
def test_a_change_of_status_is_a_change(
    run: Any,
    speed_case: SpeedCase,
    times: Callable[..., Any],
    tmp_path: Path,
    before: str,
    after: str,
    verdict: str,
    worse: int,
) -> None:
    def outcome(status: str) -> dict[str, Any]:
        return {"speed": times()} if status == "ok" else {"status": status, "reason": f"it was {status}"}

    old, new = pair(
        run,
        tmp_path,
        lambda rows: rows.add(speed_case("pykan[speed]"), **outcome(before)),
        lambda rows: rows.add(speed_case("pykan[speed]"), **outcome(after)),
    )
    assert verdicts(compare(old, new)) == {"pykan[speed]": verdict}
    assert run_cli(old, new) == (verdict != "failed in both")
    assert run_cli(old, new, "--worse-only") == worse


@pytest.mark.parametrize(
    ("peak", "tolerance", "verdict"),
    [
        (1_002_000, "0.001", "more memory"),
        (998_000, "0.001", "less memory"),
        (1_000_500, "0.001", "equal"),
        (1_000_001, "0", "more memory"),
        (1_000_000, "0", "equal"),
    ],
)
def test_bytes_are_compared_exactly_up_to_the_tolerance(
    run: Any, speed_case: SpeedCase, tmp_path: Path, peak: int, tolerance: str, verdict: str
) -> None:
    case = Case(kind="memory", arm="efficient_kan", point=speed_case().point, modes=("step",))
    old, new = pair(
        run,
        tmp_path,
        lambda rows: rows.add(case, memory=memory(1_000_000)),
        lambda rows: rows.add(case, memory=memory(peak)),
    )
    assert verdicts(compare(old, new, memory_tolerance=float(tolerance))) == {"efficient_kan": verdict}
    assert run_cli(old, new, "--memory-tolerance", tolerance) == (verdict != "equal")


def test_simulated_peaks_are_compared_for_each_device_they_follow(run: Any, speed_case: SpeedCase, tmp_path: Path) -> None:
    def fill(on_cuda: int) -> Callable[[Any], object]:
        def add(rows: Any) -> None:
            for policy, peak in (("cpu", 1000), ("cuda", on_cuda)):
                case = Case(kind="simulated", arm="efficient_kan", point=speed_case().point, modes=("step",), policy=policy)
                rows.add(case, simulated=(SimulatedSeries(mode="step", before_bytes=10, peak_bytes=peak),))

        return add

    cells = compare(*pair(run, tmp_path, fill(2000), fill(3000))).cells.set_index("policy")["verdict"]
    assert cells.to_dict() == {"cpu": "equal", "cuda": "more memory"}


def test_cells_of_one_folder_only_are_listed_and_counted_and_are_no_change(
    run: Any, speed_case: SpeedCase, times: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fill(*arms: str) -> Callable[[Any], object]:
        return lambda rows: [rows.add(speed_case(arm), speed=times()) for arm in ("efficient_kan", *arms)]

    old, new = pair(run, tmp_path, fill("cox_de_boor"), fill("mlp[width]", "mlp[params]"))
    found = verdicts(compare(old, new))
    assert found.pop("cox_de_boor") == "only in OLD"
    assert set(found.items()) == {
        ("efficient_kan", "within noise"),
        ("mlp[width]", "only in NEW"),
        ("mlp[params]", "only in NEW"),
    }
    csv = tmp_path / "cells.csv"
    assert run_cli(old, new, "--csv", csv) == 0
    text = capsys.readouterr().out
    assert "1 cells in both folders, 0 changed: 2 only in NEW, 1 only in OLD, 1 within noise" in text
    assert all(arm in text for arm in ("cox_de_boor", "mlp[width]", "mlp[params]"))
    written = pd.read_csv(csv)
    assert len(written) == 4
    assert {*CELL, "old", "new", "change", "verdict"} <= set(written.columns)


def test_kinds_that_are_not_compared_are_counted(full_run: Any, tmp_path: Path) -> None:
    folder = full_run.write(tmp_path)
    comparison = compare(folder, folder)
    sparsity = sum(row.case.kind == "sparsity" for row in full_run.rows)
    assert comparison.not_compared == {"sparsity": (sparsity, sparsity)}
    modes = sum(len(row.case.modes) for row in full_run.rows if row.case.kind != "sparsity")
    assert len(comparison.cells) == modes
    assert comparison.environment == {}
    assert comparison.changes().empty


def test_machines_are_compared_only_on_request_and_differences_are_said(
    folders: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = folders(0, {})
    change_environment(new, gpu="Example GPU", details={"cpu": "Other CPU", "packages": ["numpy==9"]})
    move_rows(new, "Other CPU with Example GPU")
    with pytest.raises(
        ValueError, match=r"OLD is from Example CPU, 2 cores, 8 GiB, NEW from Other CPU with Example GPU.*--across-machines"
    ):
        compare(old, new)
    differs = compare(old, new, across_machines=True).environment
    assert differs["CPU"] == ("Example CPU, 2 cores", "Other CPU")
    assert differs["GPU"] == ("none", "Example GPU")
    assert differs["packages"] == ("–", "numpy==9")
    assert run_cli(old, new, "--across-machines") == 0
    assert "Other CPU" in capsys.readouterr().out


def test_commits_and_versions_that_differ_are_said(
    run: Any, speed_case: SpeedCase, times: Callable[..., Any], tmp_path: Path
) -> None:
    old, new = pair(
        run,
        tmp_path,
        lambda rows: rows.add(speed_case(), speed=times()),
        lambda rows: rows.add(
            speed_case(), speed=times(), commit="4567def+dirty", versions={"torch": "2.14.0", "pykan": "0.2.8"}
        ),
    )
    assert compare(old, new).environment == {"commit": ("0123abc", "4567def+dirty"), "torch": ("2.13.0", "2.14.0")}


def test_a_single_pair_decides_nothing(run: Any, speed_case: SpeedCase, times: Callable[..., Any], tmp_path: Path) -> None:
    def one_pair(factor: int) -> Callable[[Any], None]:
        series = SpeedSeries(
            mode="step", arm_loops=1, baseline_loops=1, arm_ns=(1000 * factor,), baseline_ns=(1000,), arm_first=(True,)
        )

        def fill(rows: Any) -> None:
            rows.add(speed_case(), speed=times())
            rows.add(speed_case("pykan[speed]"), speed=(series,))

        return fill

    cells = compare(*pair(run, tmp_path, one_pair(1), one_pair(9))).cells.set_index("arm")
    assert set(cells["verdict"]) == {"within noise"}
    assert math.isinf(cells.loc["pykan[speed]", "change_high"])


def test_bad_folders_are_refused(folders: Folders, speed_case: SpeedCase, run: Any, tmp_path: Path) -> None:
    old, new = folders(0, {})
    with pytest.raises(ValueError, match=r"NEW: expected a folder with rows below raw/, got .*nowhere"):
        compare(old, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="memory_tolerance: expected a share"):
        compare(old, new, memory_tolerance=1.5)
    other = type(run)()
    other.add(speed_case(batch=7), status="oom", reason="no memory")
    with pytest.raises(ValueError, match="OLD, NEW: expected at least one cell in both, got none"):
        compare(old, other.write(tmp_path / "other"))
    rows = new / "raw" / "rows.jsonl"
    again = json.loads(rows.read_text(encoding="utf-8").splitlines()[1])
    again["case_key"], again["case"]["blocks"] = "f" * 20, 3
    rows.write_text(rows.read_text(encoding="utf-8") + json.dumps(again) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"NEW: expected one measurement of each cell, got two of .*pykan\[speed\]"):
        compare(old, new)
    rows.write_text("{}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"NEW: rows\.jsonl line 1: expected schema_version"):
        compare(old, new)


def test_bad_input_ends_with_status_2(folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = folders(0, {})
    assert run_cli(old, tmp_path / "nowhere") == 2
    assert "NEW: expected a folder" in capsys.readouterr().err
    assert run_cli(old, new, "--csv", tmp_path / "no" / "cells.csv") == 2
    assert "csv: expected a file that can be written" in capsys.readouterr().err
