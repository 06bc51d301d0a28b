"""What tests of parts and of queues share beside the plan in lines.toml: a run that computes nothing."""

from __future__ import annotations

import pytest

from benchmarks.run import runner
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
