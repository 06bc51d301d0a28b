"""Stages in processes of their own: what overruns, fails or crashes is told, and stops nothing after it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.gpu_run import files
from benchmarks.gpu_run.stages import Ended, Job, Run, Stage


def planted(name: str, budget_s: float = 60.0) -> Stage:
    return Stage(name, f"planted: {name}", budget_s, f"tests.benchmarks.gpu_run.planted:{name}")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    for name in ("raw", "scratch"):
        (tmp_path / name).mkdir()
    return Run(Job(tmp_path / "raw", tmp_path / "scratch", "cpu", True, 1, ()), {"gpu": "none"})


@pytest.mark.end_to_end
def test_what_goes_wrong_is_told_and_the_next_stage_runs(run: Run) -> None:
    names = ["fails", "crashes", "leaves_with", "gives_up", "no_such_function", "works"]
    run.stages([planted(name) for name in names], time.time(), 300.0)
    found = {ended.name: (ended.ending, ended.reason) for ended in run.ended}
    assert found["fails"][0] == "failed" and found["fails"][1].startswith("RuntimeError: planted failure (planted.py:")
    assert found["crashes"] == ("failed", "its process died of SIGSEGV")
    assert found["leaves_with"] == ("failed", "exit status 7")
    assert found["gives_up"] == ("cut", "6 cases were not begun")
    assert found["no_such_function"][0] == "failed" and "AttributeError" in found["no_such_function"][1]
    assert found["works"] == ("done", "")
    assert {ended.name: ended.said for ended in run.ended}["gives_up"] == "3 of 9"
    log = (run.job.raw / files.LOG).read_text(encoding="utf-8")
    assert "== works: planted: works\n1 of 1\n" in log and "RuntimeError: planted" in log


@pytest.mark.end_to_end
def test_a_stage_that_overruns_is_cut_with_all_it_started_and_its_results_stay(run: Run) -> None:
    begin = time.time()
    run.stages([planted("overruns", 8.0), planted("works")], begin, 100.0)
    cut, works = run.ended
    assert (cut.ending, cut.said, cut.reason) == ("cut", "1 of 9", "its time was over; what it had written stays")
    assert works.ending == "done" and time.time() - begin < 60
    pid = int((run.job.raw / files.FIRST_USE).read_text(encoding="utf-8"))
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.end_to_end
def test_every_summary_is_on_the_disk_before_the_next_stage(run: Run) -> None:
    seen: list[list[str]] = []

    def on_end(ended: Ended) -> None:
        content = json.loads((run.job.raw / files.SUMMARY).read_text(encoding="utf-8"))
        assert content["gpu"] == "none"
        seen.append([stage["name"] for stage in content["stages"]])

    run.on_end = on_end
    run.stages([planted("gives_up"), planted("works")], time.time(), 100.0)
    assert seen == [["gives_up"], ["gives_up", "works"]]


def test_a_stage_for_which_no_time_is_left_is_not_begun(run: Run) -> None:
    run.stages([planted("works")], time.time() - 99.0, 100.0)
    assert [(ended.ending, ended.reason) for ended in run.ended] == [("not begun", "no time was left")]
    assert not (run.job.raw / files.KERNELS).exists()


def test_time_left_over_goes_to_the_next_stage(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[float] = []
    begin = time.time()
    monkeypatch.setattr("benchmarks.gpu_run.stages._process", lambda stage, job: ends.append(job.ends_at - begin) or 0)
    run.stages([planted("works", 10.0), planted("works", 20.0), planted("works", 500.0)], begin, 100.0)
    assert ends == pytest.approx([10.0, 30.0, 100.0], abs=1.0)
