"""Rows of several jobs in one report: each case once, no row lost, whatever is repeated, killed or damaged on the way."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.analysis import data, results
from benchmarks.cli import app
from benchmarks.run import archive, merge, usage
from benchmarks.run.store import Locked, Store
from benchmarks.schema.cases import Case, Point
from benchmarks.schema.rows import Environment, Row


def case(batch: int, process: int = 0) -> Case:
    point = Point(batch=batch, layers=(2, 2), grid_size=2)
    return Case(kind="speed", arm="efficient_kan", baseline="efficient_kan", point=point, modes=("step",), process=process)


def row(key: str, run: str, status: str = "ok", minute: int = 0, **fields: Any) -> Row:
    """A row of the case number `key`, which finished at `minute`."""
    values = {
        "run_id": run,
        "case_key": key,
        "preset": "smoke",
        "case": case(int(key.lstrip("k"))),
        "status": status,
        "reason": "" if status == "ok" else f"planted by {run}",
        "finished_at": f"2026-01-02T03:{minute:02}:00+00:00",
        "wall_s": 1.0,
        "env_id": "env0",
        "machine": "Example CPU",
        "commit": "0123abc",
        "versions": {"torch": "2.13.0"},
    }
    return Row.model_validate(values | fields)


def environment(run: str, **fields: Any) -> Environment:
    values = {
        "env_id": "env0",
        "run_id": run,
        "started_at": "2026-01-02T03:00:00+00:00",
        "command": "",
        "commit": "0123abc",
        "dirty": False,
        "machine": "Example CPU",
        "versions": {},
        "gpu": None,
        "details": {"host": "aaaa"},
    }
    return Environment.model_validate(values | fields)


def job(out: Path, name: str, rows: list[Row], *, ended: bool = True, **fields: Any) -> None:
    """Store `rows` as the job `name` leaves them: closed, or as they lie where it was killed."""
    folder = out / merge.PARTS / name
    with Store(folder) as store:
        for run in dict.fromkeys(one.run_id for one in rows):
            store.add(environment(run, **fields))
        for one in rows:
            store.add(one)
        if not ended:
            left = {path: path.read_bytes() for path in (store.rows, store.environments)}
    if not ended:
        for path in archive.closed(folder / "raw"):
            path.unlink()
        for path, content in left.items():
            path.write_bytes(content)
        with (folder / "raw" / archive.ROWS).open("ab") as file:
            file.write(b'{"schema_version": 3, "run_id": "to')


def counted(out: Path) -> dict[str, str]:
    """Status and run of the row that counts, by key."""
    return {one.case_key: f"{one.status} {one.run_id}" for one in results.load_rows(out)}


def stored(out: Path) -> list[str]:
    return [f"{record['case_key']} {record['run_id']}" for _, record in archive.rows(out / "raw")]


def test_the_rows_of_all_jobs_are_there_once_and_again_changes_nothing(tmp_path: Path) -> None:
    job(tmp_path, "1-of-2-a", [row("k1", "r1"), row("k2", "r1", "oom")])
    job(tmp_path, "2-of-2-b", [row("k3", "r2")], ended=False)
    done = merge.merge(tmp_path)
    assert (done.jobs, done.added, done.known, done.left) == (2, 3, 0, 0)
    assert counted(tmp_path) == {"k1": "ok r1", "k2": "oom r1", "k3": "ok r2"}
    assert set(results.load_environments(tmp_path)) == {"r1", "r2"}
    before = {path.name: path.read_bytes() for path in (tmp_path / "raw").glob("*.xz")}
    again = merge.merge(tmp_path)
    assert (again.added, again.known, again.left) == (0, 3, 0)
    assert {path.name: path.read_bytes() for path in (tmp_path / "raw").glob("*.xz")} == before


def test_a_job_that_goes_on_is_merged_again(tmp_path: Path) -> None:
    job(tmp_path, "1-of-1-a", [row("k1", "r1")], ended=False)
    merge.merge(tmp_path)
    with Store(tmp_path / merge.PARTS / "1-of-1-a") as store:  # which repairs the line that was not finished
        store.add(row("k2", "r1"))
    assert merge.merge(tmp_path).added == 1
    assert counted(tmp_path) == {"k1": "ok r1", "k2": "ok r1"}
    assert len(archive.closed(tmp_path / "raw")) == 1


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_of_one_case_from_several_jobs_the_result_counts_and_no_row_is_lost(tmp_path: Path, order: tuple[int, ...]) -> None:
    rows = [row("k1", "r1", "killed", 5), row("k1", "r2", "ok", 1), row("k1", "r3", "timeout", 9)]
    for name, which in zip("abc", order, strict=True):
        job(tmp_path, name, [rows[which]])
    done = merge.merge(tmp_path)
    assert (done.added, done.left) == (1, 2)
    assert stored(tmp_path) == ["k1 r2"]
    assert sum(1 for folder in merge.jobs(tmp_path) for _ in archive.rows(folder / "raw")) == 3


def test_a_later_result_replaces_a_failure_and_nothing_replaces_a_result(tmp_path: Path) -> None:
    job(tmp_path, "a", [row("k1", "r1", "killed", 5), row("k2", "r1", "ok", 5), row("k3", "r1", "oom", 5)])
    merge.merge(tmp_path)
    job(tmp_path, "b", [row("k1", "r2", "ok", 1), row("k2", "r2", "killed", 9), row("k3", "r2", "oom", 9)])
    done = merge.merge(tmp_path)
    assert (done.added, done.known, done.left) == (2, 3, 1)
    assert counted(tmp_path) == {"k1": "ok r2", "k2": "ok r1", "k3": "oom r2"}
    job(tmp_path, "c", [row("k1", "r3", "ok", 20), row("k2", "r3", "ok", 20)])
    assert merge.merge(tmp_path).added == 0
    assert counted(tmp_path) == {"k1": "ok r2", "k2": "ok r1", "k3": "oom r2"}


@pytest.mark.parametrize("survive", [0, 1, 2])
def test_a_merge_that_was_killed_is_ended_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survive: int) -> None:
    for out in (tmp_path / "whole", tmp_path / "killed"):
        for number in (1, 2, 3):
            job(out, f"{number}-of-3", [row(f"k{number}", f"r{number}"), row(f"k{number + 10}", f"r{number}", "oom")])
    merge.merge(tmp_path / "whole")
    written, write = itertools.count(), archive.write

    def dies(path: Path, lines: Any) -> None:
        if next(written) == survive:
            path.with_name(f".{path.name}.part").write_bytes(b"half")
            raise KeyboardInterrupt
        write(path, lines)

    monkeypatch.setattr(archive, "write", dies)
    with pytest.raises(KeyboardInterrupt):
        merge.merge(tmp_path / "killed")
    monkeypatch.undo()
    merge.merge(tmp_path / "killed")
    whole, killed = (
        {path.name: path.read_bytes() for path in archive.closed(tmp_path / name / "raw")} for name in ("whole", "killed")
    )
    assert whole == killed


def test_what_is_missing_damaged_or_in_use_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="out: expected a folder with the rows of jobs below parts/, got "):
        merge.merge(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    job(tmp_path, "a", [row("k1", "r1")])
    job(tmp_path, "b", [row("k2", "r2")])
    with Store(tmp_path), pytest.raises(Locked):
        merge.merge(tmp_path)
    (path,) = archive.closed(tmp_path / merge.PARTS / "b" / "raw")
    for line, said in (
        ({"schema_version": 2, "case_key": "k"}, "schema_version 3, got 2"),
        ({"schema_version": 3, "case_key": "k"}, "expected a row of schema 3 in .*parts/b"),
    ):
        archive.write(path, [json.dumps(line)])
        with pytest.raises(ValueError, match=said):
            merge.merge(tmp_path)
    path.write_bytes(b"damaged")
    with pytest.raises(SystemExit) as end:
        usage.run(app, ["merge", str(tmp_path)])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert stored(tmp_path) == []


def test_rows_without_their_environment_are_merged_too(tmp_path: Path) -> None:
    raw = tmp_path / merge.PARTS / "a" / "raw"
    raw.mkdir(parents=True)
    (raw / archive.ROWS).write_text(row("k1", "r1").model_dump_json() + "\n")
    assert merge.merge(tmp_path).added == 1
    assert counted(tmp_path) == {"k1": "ok r1"}


def test_machines_of_one_name_are_told_and_the_processes_of_a_cell_never_pooled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [row(f"k{number}", run, case=case(1, number), minute=number) for number, run in enumerate(["r1", "r2", "r2"], 1)]
    job(tmp_path, "a", cells[:1])
    job(tmp_path, "b", cells[1:], details={"host": "bbbb"})
    job(tmp_path, "c", [row("k9", "r3", machine="Other CPU")], machine="Other CPU")
    with pytest.raises(SystemExit):
        usage.run(app, ["merge", str(tmp_path)])
    printed, said = capsys.readouterr()
    assert "4 rows added from 3 jobs" in printed
    assert "2 machines are called 'Example CPU'" in " ".join(said.split())
    assert "different machines, whose times and memory are never compared: Example CPU; Other CPU" in " ".join(said.split())
    assert len(merge.statuses(tmp_path)) == 4
    loaded = data.load(tmp_path)
    assert sorted(one.case_key for one in loaded.rows) == ["k2", "k3", "k9"]
    assert loaded.superseded == 1


def test_a_machine_knows_that_rows_are_of_another_one_of_its_name(tmp_path: Path) -> None:
    job(tmp_path, "a", [row("k1", "r1")])
    merge.merge(tmp_path)
    assert merge.namesakes(tmp_path, "Example CPU", "bbbb") == 1
    assert merge.namesakes(tmp_path, "Example CPU", "aaaa") == 0
    assert merge.namesakes(tmp_path, "Other CPU", "bbbb") == 0
    assert merge.namesakes(tmp_path / "nowhere", "Example CPU", "bbbb") == 0


def test_machines_of_one_name_are_counted_where_the_report_names_them(tmp_path: Path) -> None:
    job(tmp_path, "a", [row("k1", "r1")])
    job(tmp_path, "b", [row("k2", "r2")], details={"host": "bbbb"})
    merge.merge(tmp_path)
    assert data.machines(data.load(tmp_path)) == ["Example CPU (2 machines of this name)"]


def test_a_report_of_parts_that_are_not_merged_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job(tmp_path, "a", [row("k1", "r1")])
    with pytest.raises(SystemExit) as end:
        usage.run(app, ["report", "--out", str(tmp_path)])
    assert end.value.code == 2
    assert "whose parts are not merged: `python -m benchmarks merge" in " ".join(capsys.readouterr().err.split())
