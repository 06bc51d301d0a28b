"""What an environment record says about the checkout."""

from __future__ import annotations

import subprocess
from pathlib import Path

import archspec.cpu
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


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("zen2", "zen2, AVX2"),
        ("icelake", "icelake, AVX-512"),
        ("x86_64_v3", "x86_64_v3, AVX2"),
        ("x86_64_v4", "x86_64_v4, AVX-512"),
        ("x86_64", None),
    ],
)
def test_processors_of_one_name_are_told_apart(monkeypatch: pytest.MonkeyPatch, target: str, kind: str | None) -> None:
    monkeypatch.setattr(environment.archspec, "brand_string", lambda: "AMD EPYC")
    monkeypatch.setattr(environment.archspec, "host", lambda: archspec.cpu.TARGETS[target])
    environment.machine.cache_clear()
    assert environment._cpu_kind() == kind
    assert environment.machine().startswith(f"AMD EPYC ({kind}), " if kind else "AMD EPYC, ")
    assert {"avx2", "sse2"} <= set(environment._cpu_features()) or kind is None
    environment.machine.cache_clear()


def test_without_archspec_the_processor_has_a_name_and_no_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "archspec", None)
    assert environment._cpu_name() and environment._cpu_kind() is None and environment._cpu_features() == []
