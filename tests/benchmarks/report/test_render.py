"""The rendered folder: what is in it, that it depends on the rows alone, that nothing is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
import pytest

from benchmarks.report import figures, render
from benchmarks.schema.cases import Case

Times = Callable[..., tuple[Any, ...]]
PAGES = {"README.md", "REPRODUCIBILITY.md", "index.html"}


def contents(out: Path) -> dict[str, bytes]:
    """Every file below `out` except the raw rows."""
    files = (path for path in out.rglob("*") if path.is_file() and "raw" not in path.parts)
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def test_each_figure_comes_in_three_formats_with_its_values(rendered: Path) -> None:
    found = {path.name for path in (rendered / "figures").iterdir()}
    stems = {name.rpartition(".")[0] for name in found}
    study = {f"sparsity_{name}" for name in ("trade_off", "effects", "by_task", "sweep", "agreement", "cross_check")}
    assert {stem.split("-")[0] for stem in stems} == {"time", "time_ratio", "memory", "penalty_cost"} | study
    assert found == {f"{stem}.{suffix}" for stem in stems for suffix in ("pdf", "svg", "png", "csv", "json")}


def test_every_figure_and_table_is_on_the_page(rendered: Path) -> None:
    page = (rendered / "README.md").read_text(encoding="utf-8")
    for folder in ("figures", "tables"):
        for path in (rendered / folder).iterdir():
            assert f"]({folder}/{path.name})" in page


def test_no_temporary_folder_stays(rendered: Path) -> None:
    assert {path.name for path in rendered.iterdir()} == {"raw", "figures", "tables", "rendered.json", *PAGES}


def drawn_again(run: Any, rendered: Path, folder: Path) -> None:
    """Render `run` into `folder` with a user's settings, and compare with what was `rendered` of it."""
    out = run.write(folder)
    with mpl.rc_context({"lines.linewidth": 9, "font.family": "serif", "savefig.dpi": 33}):
        render(out)
    again, before = contents(out), contents(rendered)
    assert again.keys() == before.keys() and any(name.endswith(".pdf") for name in before)
    assert [name for name in before if again[name] != before[name]] == []


@pytest.mark.end_to_end
def test_rendering_again_gives_equal_bytes_whatever_the_users_matplotlib_settings(
    run: Any, speed_case: Callable[..., Case], times: Times, tmp_path: Path
) -> None:
    for batch in (32, 128):
        run.add(speed_case(batch=batch), speed=times())
        run.add(speed_case("pykan[speed]", batch=batch), speed=times(3.0))
    out = run.write(tmp_path / "first")
    render(out)
    drawn_again(run, out, tmp_path / "second")


@pytest.mark.slow
def test_rendering_every_kind_again_gives_equal_bytes(full_run: Any, rendered: Path, tmp_path: Path) -> None:
    drawn_again(full_run, rendered, tmp_path)


@pytest.mark.slow
def test_a_changed_row_changes_only_the_figures_that_draw_it(full_run: Any, rendered: Path, tmp_path: Path) -> None:
    out = full_run.write(tmp_path)
    lines = (out / "raw" / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    place = next(
        place
        for place, record in enumerate(records)
        if record["memory"] and record["case"]["arm"] == "pykan[speed]" and record["case"]["point"]["batch"] == 512
    )
    records[place]["memory"][0]["peak_bytes"] += 4096
    (out / "raw" / "rows.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in records), encoding="utf-8")
    render(out)
    before, after = contents(rendered), contents(out)
    assert before.keys() == after.keys()
    changed = {name for name in before if before[name] != after[name]}
    memory = {f"figures/memory-cpu-float32-1-thread.{suffix}" for suffix in ("pdf", "svg", "png", "csv", "json")}
    assert {name for name in changed if name.startswith("figures/")} == memory
    tables = {name.partition(".")[0] for name in changed if name.startswith("tables/")}
    assert tables == {"tables/memory", "tables/cross_check"}
    drawers = {
        f"figures/{json.loads(content)['name']}"
        for name, content in before.items()
        if name.startswith("figures/") and name.endswith(".json")
        if records[place]["case_key"] in json.loads(content)["case_keys"]
    }
    assert drawers == {"figures/memory-cpu-float32-1-thread"}


@pytest.mark.slow
def test_rendering_restores_every_derived_file(full_run: Any, rendered: Path, tmp_path: Path) -> None:
    out = full_run.write(tmp_path)
    render(out)
    for name in contents(out):
        (out / name).unlink()
    render(out)
    again, before = contents(out), contents(rendered)
    assert {name for name in before | again if before.get(name) != again.get(name)} == set()


def test_failed_cases_are_listed_with_their_reasons(full_run: Any, rendered: Path) -> None:
    page = (rendered / "README.md").read_text(encoding="utf-8")
    failed = [row for row in full_run.rows if row.status != "ok"]
    assert {row.status for row in failed} == {"oom", "timeout", "gate_failed", "unsupported"}
    listed = pd.read_csv(rendered / "tables" / "failed_cases.csv")
    assert list(listed["case_key"]) == [row.case_key for row in failed]
    assert all(row.reason.replace("|", r"\|") in page for row in failed)


def test_figures_hold_every_case_of_their_kind(full_run: Any, rendered: Path) -> None:
    drawn = pd.concat([pd.read_csv(path, dtype=str) for path in (rendered / "figures").glob("*.csv")])
    keys = set(drawn["case_key"].dropna()) | set(drawn["memory_case_key"].dropna())
    # The study's figures show statistics over many cases: its tests are in test_sparsity.py.
    assert keys == {row.case_key for row in full_run.rows if row.case.kind != "sparsity"}


def test_no_time_is_shown_for_a_red_gate(rendered: Path) -> None:
    times = pd.read_csv(rendered / "tables" / "time.csv")
    assert times.loc[times["status"] == "gate_failed", "arm_ms"].isna().all()
    equivalence = (rendered / "tables" / "equivalence.md").read_text(encoding="utf-8")
    assert "6 of 7" in equivalence


def test_page_says_that_no_gpu_was_measured(rendered: Path) -> None:
    page = (rendered / "README.md").read_text(encoding="utf-8")
    assert "no GPU was measured" in page
    assert "Example CPU" in page
    assert "0123abc" in page


@pytest.mark.parametrize("batches", [(32, 128), (128,)], ids=["line", "single point"])
@pytest.mark.end_to_end
def test_all_failed_still_renders(run: Any, speed_case: Callable[..., Case], tmp_path: Path, batches: tuple[int, ...]) -> None:
    for batch in batches:
        run.add(speed_case(batch=batch, axes=("batch",)), status="killed", reason="signal 9")
    render(run.write(tmp_path))
    assert "signal 9" in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert len(list((tmp_path / "figures").glob("*.png"))) == 2


@pytest.mark.end_to_end
def test_lines_through_two_centres_become_two_figures(
    run: Any, speed_case: Callable[..., Case], times: Times, tmp_path: Path
) -> None:
    for batch in (32, 64, 128):
        run.add(speed_case(batch=batch, axes=("batch",)), speed=times())
    for batch in (32, 64):
        run.add(speed_case(batch=batch, axes=("batch",), grid=20), speed=times())
    render(run.write(tmp_path))
    drawn = {path.name: set(pd.read_csv(path)["grid_size"]) for path in (tmp_path / "figures").glob("time-*.csv")}
    assert drawn == {"time-cpu-float32-1-thread.csv": {5}, "time-cpu-float32-1-thread-2.csv": {20}}


def test_cases_on_no_line_are_announced(run: Any, speed_case: Callable[..., Case], times: Times, tmp_path: Path) -> None:
    run.add(speed_case(axes=()), speed=times())
    render(run.write(tmp_path))
    assert "1 cases lie on none" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_page_says_what_absolute_times_and_whiskers_mean_and_how_it_was_run(rendered: Path) -> None:
    page = (rendered / "README.md").read_text(encoding="utf-8")
    assert "`efficient_kan` itself took" in page
    assert "Above: time, with quartiles" in page
    assert "RSS before (MiB)" in (rendered / "tables" / "memory.md").read_text(encoding="utf-8")
    assert "\npython -m benchmarks run --preset smoke --out FOLDER\n" in page


def test_what_weakens_the_numbers_is_said(run: Any, speed_case: Callable[..., Case], times: Times, tmp_path: Path) -> None:
    run.add(speed_case(axes=()), speed=times())
    run.add(speed_case("pykan[speed]", axes=()), speed=times(3.0), commit="4567def+dirty", preset="default")
    render(run.write(tmp_path))
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "too small to cite" in page
    assert "2 different commits or versions" in page
    assert "uncommitted changes" in page


@pytest.mark.end_to_end
def test_stale_files_go_and_foreign_ones_stay(run: Any, speed_case: Callable[..., Case], times: Times, tmp_path: Path) -> None:
    run.add(speed_case(), status="error", reason="ValueError: x")
    render(run.write(tmp_path))
    (tmp_path / "figures" / "mine.png").write_bytes(b"mine")
    assert (tmp_path / "tables" / "failed_cases.csv").exists()
    run.rows.clear()
    run.add(speed_case(), speed=times())
    (tmp_path / "raw" / "rows.jsonl").write_text(f"{run.rows[0].model_dump_json()}\n", encoding="utf-8")
    render(tmp_path)
    assert not (tmp_path / "tables" / "failed_cases.csv").exists()
    assert (tmp_path / "figures" / "mine.png").read_bytes() == b"mine"
    assert set(json.loads((tmp_path / "rendered.json").read_text())) == contents(tmp_path).keys() - {
        "rendered.json",
        "figures/mine.png",
    }


@pytest.mark.end_to_end
def test_a_failure_leaves_the_former_report(
    run: Any, speed_case: Callable[..., Case], times: Times, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.add(speed_case(), speed=times())
    render(run.write(tmp_path))
    before = contents(tmp_path)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(figures, "draw_all", fail)
    with pytest.raises(OSError, match="disk full"):
        render(tmp_path)
    assert contents(tmp_path) == before


def test_a_folder_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"out: expected a folder with rows below raw/, or one of several machines, got"):
        render(tmp_path)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "rows.jsonl").touch()
    with pytest.raises(ValueError, match="out: expected at least one finished case"):
        render(tmp_path)


def test_report_imports_no_torch() -> None:
    code = "import sys, benchmarks.report; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
