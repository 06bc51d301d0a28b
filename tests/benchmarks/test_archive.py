"""Closed runs: nothing is lost on the way, whenever the process dies, and what is damaged is named."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest

from benchmarks import archive
from benchmarks.store import Store


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
    assert {path.name for path in tmp_path.iterdir()} == {f"20260102T030000Z-{run}.jsonl.xz" for run in ("r1", "r2")}
    after = [list(archive.rows(tmp_path)), list(archive.environments(tmp_path))]
    for one, other in zip(before, after, strict=True):
        assert sorted(str(record) for _, record in one) == sorted(str(record) for _, record in other)


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
