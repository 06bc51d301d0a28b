"""Rows outlive what changes no result, and those that a newer one replaces leave the tree, not git."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.analysis import results
from benchmarks.dev.migrate import compact, migrate
from benchmarks.kinds import sources
from benchmarks.run import archive, runner
from benchmarks.schema.cases import Case, Point
from benchmarks.schema.meaning import PACKAGES, ROOT
from benchmarks.schema.rows import Environment, Row

CASE = Case(
    kind="memory", arm="mlp[width]", point=Point(batch=8, layers=(2, 2), grid_size=2), modes=("step",), timeout_s=1, seed=1
)
ARM = Path("reference", "mlp.py")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with this one's packages, in place of this one."""
    root = tmp_path / "repository"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(sources, "ROOT", root)
    monkeypatch.setattr("benchmarks.schema.environment.ROOT", root)
    monkeypatch.setattr("benchmarks.dev.migrate.ROOT", root)
    monkeypatch.setattr("benchmarks.schema.environment.git_commit.__defaults__", (root,))
    git(root, "init", "-q")
    commit(root)
    return root


def git(root: Path, *words: str) -> str:
    identity = ("-c", "user.name=tester", "-c", "user.email=tester@example.org")
    return subprocess.run(["git", *identity, *words], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def commit(root: Path) -> str:
    sources.forget()
    git(root, "add", "-A")
    git(root, "commit", "-q", "--allow-empty", "-m", "state")
    return git(root, "rev-parse", "HEAD")


def stored(out: Path, run: str, at: str, key: str = "old key", case: Case = CASE, minute: int = 0, command: str = "") -> None:
    """Write a closed run of one row that was measured at the commit `at`."""
    moment = f"2026-01-02T03:{minute:02}:00+00:00"
    versions = sources.versions(case)
    row = Row(
        status="error",
        reason="planted",
        run_id=run,
        case_key=key,
        preset="test",
        case=case,
        finished_at=moment,
        wall_s=1.0,
        env_id="e",
        machine="here",
        commit=at,
        versions=versions,
    )
    environment = Environment(
        env_id="e",
        run_id=run,
        started_at=moment,
        command=command,
        commit=at,
        dirty=False,
        machine="here",
        versions=versions,
        gpu=None,
        details={},
    )
    (out / "raw").mkdir(parents=True, exist_ok=True)
    (out / "raw" / archive.ROWS).write_text(row.model_dump_json() + "\n")
    (out / "raw" / archive.ENVIRONMENTS).write_text(environment.model_dump_json() + "\n")
    archive.close(out / "raw")


def test_a_row_is_kept_after_tidying_and_superseded_after_a_change(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.schema.environment.machine", lambda: "here")
    out, plugged = tmp_path / "out", tmp_path / "plugged"
    stored(out, "run", commit(repository))
    stored(plugged, "run", commit(repository), command="python -m benchmarks run --plugin=mine.py")
    assert migrate(plugged).unknown == 1
    assert results.load_rows(plugged)[0].case_key == "old key", "a plugin enters the key, and is not here"
    file = repository / ARM
    text = file.read_text(encoding="utf-8")
    file.write_text(text + "\n# a remark\n", encoding="utf-8")
    commit(repository)
    assert migrate(out).kept == 1
    (row,) = results.load_rows(out)
    assert row.case_key == runner.key_of(CASE) != "old key"
    assert (row.reason, row.finished_at) == ("planted", "2026-01-02T03:00:00+00:00")

    file.write_text(text.replace("silu", "relu").replace("SiLU", "ReLU"), encoding="utf-8")
    commit(repository)
    again = migrate(out)
    assert (again.kept, again.superseded, again.unknown) == (0, 1, 0)
    assert results.load_rows(out)[0].case_key == row.case_key != runner.key_of(CASE)


@pytest.mark.parametrize("at", ["unknown", "0123456789abcdef0123456789abcdef01234567", "HEAD+dirty"])
def test_a_row_of_source_that_cannot_be_read_keeps_its_key(repository: Path, tmp_path: Path, at: str) -> None:
    stored(tmp_path / "out", "run", at.replace("HEAD", commit(repository)))
    assert migrate(tmp_path / "out").unknown == 1
    assert results.load_rows(tmp_path / "out")[0].case_key == "old key"


def test_superseded_rows_leave_the_tree_once_git_has_them(repository: Path, tmp_path: Path) -> None:
    out = repository / "reports" / "here"
    stored(out, "first", "a", key="first key")
    stored(out, "second", "b", key="second key", minute=1)
    other = CASE.model_copy(update={"arm": "gemm_bound"})
    stored(out, "third", "a", key="third key", case=other)
    with pytest.raises(ValueError, match="out: expected rows that are committed"):
        compact(out)
    before = commit(repository)
    assert compact(out) == 1
    assert {row.case_key for row in results.load_rows(out)} == {"second key", "third key"}
    assert set(results.load_environments(out)) == {"second", "third"}
    assert json.loads((out / "raw" / "superseded.json").read_text()) == [{"rows": 1, "commit": before}]
    commit(repository)
    assert compact(out) == 0
