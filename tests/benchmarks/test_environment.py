"""What an environment record says about the checkout."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.schema import environment
from benchmarks.schema.environment import git_commit


def test_reports_do_not_make_a_checkout_dirty_and_everything_else_does(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        identity = ("-c", "user.name=tester", "-c", "user.email=tester@example.org")
        return subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    git("init", "-q")
    (tmp_path / "code.py").write_text("x = 1\n")
    git("add", ".")
    git("commit", "-qm", "first")
    assert git_commit(tmp_path) == (git("rev-parse", "HEAD").strip(), False)

    (tmp_path / "reports" / "raw").mkdir(parents=True)
    (tmp_path / "reports" / "raw" / "rows.jsonl").write_text("{}\n")
    assert git_commit(tmp_path)[1] is False

    (tmp_path / "new.py").touch()
    assert git_commit(tmp_path)[1] is True
    (tmp_path / "new.py").unlink()
    (tmp_path / "code.py").write_text("x = 2\n")
    assert git_commit(tmp_path)[1] is True


def test_outside_git_nothing_is_claimed(tmp_path: Path) -> None:
    assert git_commit(tmp_path) == ("unknown", None)


@pytest.mark.parametrize(("given", "found"), [("0123abc", ("0123abc", False)), ("0123abc+dirty", ("0123abc", True))])
def test_where_there_is_no_git_a_variable_names_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, found: tuple[str, bool]
) -> None:
    monkeypatch.setenv(environment.COMMIT, given)
    assert git_commit(tmp_path) == found
    monkeypatch.setattr(environment.shutil, "which", lambda name: None)
    assert git_commit(tmp_path) == found


@pytest.mark.parametrize("given", ["main", "0123ab", "0123abc dirty", "0123abc+dirty\n"])
def test_a_variable_that_is_no_commit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv(environment.COMMIT, given)
    with pytest.raises(ValueError, match="EFFICIENT_KAN_COMMIT: expected the hash of a commit"):
        git_commit(tmp_path)


@pytest.fixture
def forgotten() -> Iterator[None]:
    """What the system said of the processor is not remembered, before and after."""
    environment._cpuinfo.cache_clear()
    yield
    environment._cpuinfo.cache_clear()


def test_processors_of_one_name_are_told_apart(monkeypatch: pytest.MonkeyPatch, forgotten: None) -> None:
    lines = "processor\t: 0", "model name\t: AMD EPYC", "cpu family\t: {0}", "model\t\t: {1}", "flags\t\t: fpu sse2 avx avx2{2}"
    told = "\n".join(lines) + "\n\nprocessor\t: 1\nmodel\t\t: 99\n"
    monkeypatch.setattr(environment.sys, "platform", "linux")
    kinds = []
    for text in (told.format(25, 1, ""), told.format(26, 2, " avx512f avx512vl")):
        monkeypatch.setattr(environment, "_read", lambda _, text=text: text)
        environment._cpuinfo.cache_clear()
        assert environment._cpu_name() == "AMD EPYC"
        kinds.append(environment._cpu_kind())
    assert kinds == ["family 25, model 1, AVX2", "family 26, model 2, AVX-512"]


def test_where_the_system_does_not_tell_the_processor_has_a_name_and_no_kind(
    monkeypatch: pytest.MonkeyPatch, forgotten: None
) -> None:
    monkeypatch.setattr(environment, "_read", lambda _: None)
    assert environment._cpu_name() and environment._cpu_kind() is None
