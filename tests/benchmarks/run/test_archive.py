"""Closed runs: nothing is lost on the way, whenever the process dies, and what is damaged is named."""

from __future__ import annotations

import json
import lzma
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.run import archive
from benchmarks.run.store import Store
from benchmarks.schema.rows import SCHEMA_VERSION


def row(key: str, run: str = "r1") -> str:
    return json.dumps({"case_key": key, "run_id": run, "finished_at": "2026-01-02T03:04:05+00:00", "case": {}})


def environment(run: str = "r1") -> str:
    return json.dumps({"run_id": run, "started_at": "2026-01-02T03:00:00+00:00"})


def opened(raw: Path, rows: list[str], environments: list[str]) -> None:
    raw.mkdir(parents=True, exist_ok=True)
    for name, lines in ((archive.ROWS, rows), (archive.ENVIRONMENTS, environments)):
        (raw / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def keys(raw: Path) -> list[str]:
    return [record["case_key"] for _, record in archive.rows(raw)]


def test_a_closed_run_reads_as_it_did_when_open(tmp_path: Path) -> None:
    opened(tmp_path, [row("a"), row("b", "r2"), row("c")], [environment(), environment("r2")])
    before = [list(archive.rows(tmp_path)), list(archive.environments(tmp_path))]
    archive.close(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"20260102T030000Z-r1.jsonl.xz", "20260102T030001Z-r2.jsonl.xz"}
    after = [list(archive.rows(tmp_path)), list(archive.environments(tmp_path))]
    for one, other in zip(before, after, strict=True):
        assert sorted(str(record) for _, record in one) == sorted(str(record) for _, record in other)


def test_reasons_may_hold_any_character(tmp_path: Path) -> None:
    """Among them those that Python's `splitlines` ends lines at."""
    reason = "a\u2028b\u2029c\x85d\x0be"
    line = json.dumps(json.loads(row("a")) | {"reason": reason}, ensure_ascii=False)
    opened(tmp_path, [line, row("b")], [environment()])
    for _ in range(2):
        assert [record.get("reason") for _, record in archive.rows(tmp_path)] == [reason, None]
        archive.close(tmp_path)


def test_a_run_that_goes_on_stands_after_the_closed_ones(tmp_path: Path) -> None:
    opened(tmp_path, [row("a")], [environment()])
    archive.close(tmp_path)
    opened(tmp_path, [row("b", "r2")], [environment("r2")])
    assert keys(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("removed", [(), (archive.ROWS,)], ids=["before both are removed", "between the two"])
def test_closing_again_ends_what_a_dead_process_began(tmp_path: Path, removed: tuple[str, ...]) -> None:
    lines = [row("a"), row("b")], [environment()]
    opened(tmp_path, *lines)
    archive.close(tmp_path)
    (closed,) = tmp_path.iterdir()
    before = closed.read_bytes()
    opened(tmp_path, *lines)
    for name in removed:
        (tmp_path / name).unlink()
    archive.close(tmp_path)
    assert list(tmp_path.iterdir()) == [closed]
    assert closed.read_bytes() == before


def test_a_damaged_line_changes_nothing(tmp_path: Path) -> None:
    opened(tmp_path, [row("a"), "{", row("b")], [environment()])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=r"rows\.jsonl line 2: expected a JSON object"):
        archive.close(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_unfinished_last_line_is_not_read(tmp_path: Path) -> None:
    opened(tmp_path, [row("a")], [environment()])
    with (tmp_path / archive.ROWS).open("a") as file:
        file.write('{"case_key": "to')
    assert keys(tmp_path) == ["a"]


@pytest.mark.parametrize("content", [b"no xz", lzma.compress(b"{}\n" * 1000)[:-20], lzma.compress(b"\xff\xfe\n")])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "20260102T030000Z-r1.jsonl.xz").write_bytes(content)
    with pytest.raises(ValueError, match=r"20260102T030000Z-r1\.jsonl\.xz: expected"):
        keys(tmp_path)


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        opened(tmp_path / name, [row("a")], [environment()])
        archive.close(tmp_path / name)
    one, two = ([path.read_bytes() for path in (tmp_path / name).iterdir()] for name in ("one", "two"))
    assert one == two


def test_a_store_closes_its_run_even_if_interrupted_and_not_if_it_failed(tmp_path: Path) -> None:
    def left_by(error: BaseException) -> set[str]:
        opened(tmp_path / "raw", [row("a")], [environment()])
        with pytest.raises(type(error)), Store(tmp_path):
            raise error
        return {path.name for path in (tmp_path / "raw").glob("*.jsonl*")}

    assert left_by(RuntimeError()) == {archive.ROWS, archive.ENVIRONMENTS}
    assert left_by(KeyboardInterrupt()) == {"20260102T030000Z-r1.jsonl.xz"}


def test_runs_keep_their_order_where_the_clock_was_turned_back(tmp_path: Path) -> None:
    starts = {
        "r1": "2026-01-02T03:00:00",
        "r2": "2026-01-01T00:00:00",
        "r3": "2026-01-02T02:59:59",
        "r4": "2026-01-03T00:00:00",
    }
    for run, start in starts.items():
        moment = {"run_id": run, "started_at": f"{start}+00:00"}
        opened(tmp_path, [row(run, run)], [json.dumps(moment)])
        archive.close(tmp_path)
    assert keys(tmp_path) == list(starts)
    assert [record["started_at"][:19] for _, record in archive.environments(tmp_path)] == list(starts.values())


@pytest.mark.parametrize(
    ("stored", "counts"),
    [
        (["error", "ok"], "ok"),
        (["ok", "killed"], "ok"),
        (["oom", "timeout"], "timeout"),
        (["ok", "unsupported"], "unsupported"),
    ],
)
def test_no_failure_counts_instead_of_a_result(tmp_path: Path, stored: list[str], counts: str) -> None:
    rows = [{"schema_version": SCHEMA_VERSION, "case_key": "a", "run_id": "r1", "status": status} for status in stored]
    opened(tmp_path / "raw", [json.dumps(one) for one in rows], [environment()])
    with Store(tmp_path) as store:
        assert store.statuses() == {"a": counts}


@contextmanager
def unreadable(folder: Path) -> Iterator[None]:
    """Take from this process the right to read `folder`; root, who may read everything, becomes nobody meanwhile."""
    folder.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o700)


def test_a_folder_that_cannot_be_read_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    opened(tmp_path / "raw", [row("a")], [environment()])
    archive.close(tmp_path / "raw")
    assert archive.holds_rows(tmp_path)
    with unreadable(tmp_path / "raw"):
        for asked in (archive.holds_rows, lambda out: keys(out / "raw"), lambda out: Store(out).__enter__()):
            with pytest.raises(
                ValueError, match=r"out: expected a folder .*raw.*: Permission denied|out: expected a folder to write to"
            ):
                asked(tmp_path)
    assert not archive.holds_rows(tmp_path / "nowhere")
