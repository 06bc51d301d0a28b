"""What an environment record says about the checkout."""

from __future__ import annotations

import subprocess
from pathlib import Path

from benchmarks.environment import git_commit


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
