"""What tests of several rooms share beside the plan in lines.toml: commands that end well, and a run that computes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.cli import app
from benchmarks.run import runner, usage
from benchmarks.run.child import Server
from benchmarks.schema.rows import Outcome


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Nothing is computed: the labels of the cases that were asked for."""
    found: list[str] = []

    def run(self: Server, job: runner.Job) -> tuple[Outcome, float]:
        found.append(job.case.label)
        return Outcome(status="ok"), 1.0

    monkeypatch.setattr(Server, "run", run)
    return found


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What a command prints, which ends well."""

    def run(*words: object) -> str:
        with pytest.raises(SystemExit) as end:
            usage.run(app, [*map(str, words)])
        printed = capsys.readouterr()
        assert not end.value.code, printed.err
        return printed.out

    return run
