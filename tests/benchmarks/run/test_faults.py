"""A full disk, a folder that cannot be read, a scheduler that ends the job, a machine that is suspended: nothing is lost."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.analysis import results
from benchmarks.cli import app
from benchmarks.report import machines as machines  # imported before nobody, who cannot read all of Python, asks for it
from benchmarks.run import archive, child, interrupt, limits, runner, usage
from benchmarks.run.child import Server
from benchmarks.run.store import Store, Unwritable
from benchmarks.schema.cases import Case, Point
from benchmarks.schema.rows import Outcome
from tests.benchmarks.run.test_archive import unreadable

ROOT = Path(__file__).resolve().parents[3]
PLANTED = Path(__file__).parents[1].joinpath("planted_arms.py")
PRESET = """
about = "for tests"

[centre]
batch = 8
width = 2
depth = 1
grid = 2

[lines]
batch = [8, 16, 32]

[memory]
arms = ["mlp[width]"]
modes = ["inference"]
timeout_s = 60
"""


def cases(*batches: int, kind: str = "memory") -> list[Case]:
    points = [Point(batch=batch, layers=(2, 2), grid_size=2) for batch in batches]
    return [
        Case(kind=kind, arm="mlp[width]", point=point, modes=("inference",))
        for point in points  # type: ignore[arg-type]
    ]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Nothing is computed: the batches of the cases that were asked for."""
    found: list[int] = []

    def run(self: Server, job: runner.Job) -> tuple[Outcome, float]:
        found.append(job.case.point.batch)
        return Outcome(status="ok"), 1.0

    monkeypatch.setattr(Server, "run", run)
    return found


class Full:
    """A disk on which `room` bytes are left."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room, self._write = room, os.write
        monkeypatch.setattr(os, "write", self.write)

    def write(self, descriptor: int, data: bytes) -> int:
        if self.room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self._write(descriptor, bytes(data)[: self.room])
        self.room -= written
        return written


def test_a_row_that_has_no_room_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(tmp_path) as store:
        store._append(store.rows, b"{}\n")
        with monkeypatch.context() as patch:
            Full(patch, 5)
            with pytest.raises(Unwritable, match=f"out: expected room for rows in {tmp_path}, got: No space left on device"):
                store._append(store.rows, b'{"a": "long line"}\n')
        assert store.rows.read_bytes() == b"{}\n"
        store._append(store.rows, b"[]\n")
        assert store.rows.read_bytes() == b"{}\n[]\n"
        store.rows.unlink()


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_a_run_on_a_full_disk_ends_in_one_sentence_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], measured: list[int], rows: int
) -> None:
    preset, out = tmp_path / "tiny.toml", tmp_path / "out"
    preset.write_text(PRESET)
    words = ["run", "--preset", str(preset), "--device", "cpu", "--out", str(out)]
    with Store(tmp_path / "measure") as store:
        runner.Run(store, "test", runner.environment.capture("r", "")).cases(cases(8))
        line = len(store.rows.read_bytes())
        start = len(runner.environment.capture("r", "").model_dump_json()) + 150
    measured.clear()
    with monkeypatch.context() as patch:
        Full(patch, start + rows * (line + 20) + line // 2 if rows else 10)
        with pytest.raises(SystemExit) as end:
            usage.run(app, words)
    said = capsys.readouterr().err
    assert end.value.code == (1 if rows else 2)
    assert f"error: out: expected room for rows in {out}, got: No space left on device" in said
    assert "Traceback" not in said
    assert len(results.load_rows(out)) == rows if rows else not archive.holds_rows(out) or not results.load_rows(out)
    measured.clear()
    with pytest.raises(SystemExit) as end:
        usage.run(app, words)
    assert not end.value.code
    assert [row.case.point.batch for row in results.load_rows(out)] == [8, 16, 32]
    assert len(measured) == 3 - rows


def test_what_failed_for_want_of_room_makes_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Server, job: runner.Job) -> tuple[Outcome, float]:
        return Outcome(status="error", reason="exit status 1: no message"), 1.0

    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr(Server, "run", fails)
    assert runner.run("test", cases(8), tmp_path / "room") == {"error": 1}
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(Unwritable, match="No space left"):
            runner.run("test", cases(8), tmp_path / "none")
    assert not results.load_rows(tmp_path / "none")


def test_a_run_that_cannot_be_closed_for_want_of_room_keeps_its_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(archive.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            archive.write(tmp_path / "a.jsonl.xz", ["{}"])
    assert list(tmp_path.iterdir()) == []
    with monkeypatch.context() as patch:
        store = Store(tmp_path).__enter__()
        store._append(store.environments, b'{"run_id": "r", "started_at": "2026-01-01T00:00:00"}\n')
        patch.setattr(archive, "write", full)
        with pytest.raises(Unwritable, match="No space left"):
            store.__exit__(None, None, None)
    with Store(tmp_path):
        pass
    assert [record["run_id"] for _, record in archive.environments(tmp_path / "raw")] == ["r"]


def test_a_folder_that_cannot_be_read_is_refused_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preset, out = tmp_path / "tiny.toml", tmp_path / "out"
    preset.write_text(PRESET)
    (out / "raw").mkdir(parents=True)
    for folder, words in (
        (out / "raw", ["report", "--out", str(out)]),
        (out / "raw", ["merge", str(out)]),
        (out, ["rows", "--out", str(out)]),
    ):
        with unreadable(folder), pytest.raises(SystemExit) as end:
            usage.run(app, words)
        assert end.value.code == 2
        said = capsys.readouterr().err
        assert (said[:7], said.count("\n")) == ("error: ", 1)
        assert f"{out}" in said
        assert "Permission denied" in said


@pytest.mark.end_to_end
def test_sigterm_ends_a_run_and_what_was_measured_makes_no_row(tmp_path: Path) -> None:
    preset, out = tmp_path / "tiny.toml", tmp_path / "out"
    preset.write_text(PRESET.replace('"mlp[width]"', '"mlp[width]", "hang"') + "\n")
    command = [sys.executable, "-m", "benchmarks", "run", "--preset", str(preset), "--device", "cpu", "--out", str(out)]
    command += ["--plugin", str(PLANTED)]
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    rows, deadline = out / "raw" / "rows.jsonl", time.monotonic() + 120
    while not (rows.exists() and rows.read_bytes().count(b"\n") >= 1) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)  # it is at the arm that hangs by now
    for process in child_processes(run.pid):
        os.kill(process, signal.SIGTERM)  # as a scheduler does, to every process of a job
    os.kill(run.pid, signal.SIGTERM)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 143, errors
    assert "terminated: the same command goes on where this one stopped" in errors
    assert {(row.case.arm, row.status) for row in results.load_rows(out)} == {("mlp[width]", "ok")}
    assert not (out / "raw" / ".work").exists()
    assert not rows.exists()


def child_processes(pid: int) -> list[int]:
    import psutil

    return [process.pid for process in psutil.Process(pid).children(recursive=True)]


def test_sigterm_is_heeded_once_and_as_before_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def ended_twice() -> None:
        with interrupt.heeding_sigterm():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(5)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)  # the second: ignored while the run ends

    with pytest.raises(interrupt.Terminated):
        ended_twice()
    assert signal.getsignal(signal.SIGTERM) == before


def test_processes_that_measure_do_not_hear_a_schedulers_signals() -> None:
    with interrupt.held_back():
        process = subprocess.Popen(["sleep", "0.5"])
    for number in interrupt.OF_A_SCHEDULER:
        process.send_signal(number)
    assert process.wait() == 0
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & interrupt.OF_A_SCHEDULER


@pytest.mark.parametrize("pause", [0.0, 3600.0])
def test_a_pause_of_the_machine_is_no_time_of_a_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pause: float) -> None:
    """A server that answers within the limit of a case, but for a suspension between question and answer."""
    script, suspended = tmp_path / "server", tmp_path / "suspended"
    lines = ["echo ready", "read line", "echo started 999999999", "echo measuring", "sleep 0.2", f"touch {suspended}"]
    script.write_text("\n".join(["#!/bin/sh", *lines, "sleep 0.2", "echo ended 0", "read end", ""]))
    script.chmod(0o700)
    monkeypatch.setattr(child, "_now", lambda: time.monotonic() + (pause if suspended.exists() else 0.0))
    server = Server(tmp_path / "work", {}, (), str(script))
    outcome, seconds = server.run(runner.Job(case=cases(8)[0].model_copy(update={"timeout_s": 60.0})))
    server.close()
    assert outcome.status == "error"
    assert outcome.reason.startswith("exit status 0"), "not a timeout: it answered in time"
    assert server.paused == pytest.approx(pause, abs=30)
    assert seconds < 60


@pytest.mark.parametrize(("kind", "runs"), [("speed", 3), ("memory", 1)])
def test_what_was_timed_while_the_machine_was_suspended_is_timed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, runs: int
) -> None:
    pauses = iter([3600.0, 7.0, 0.0, 0.0])

    def run(self: Server, job: runner.Job) -> tuple[Outcome, float]:
        self.paused = next(pauses)
        return Outcome(status="ok"), self.paused

    monkeypatch.setattr(Server, "run", run)
    (one,) = cases(8, kind=kind)
    runner.run("test", [one.model_copy(update={"baseline": "mlp[width]" if kind == "speed" else None})], tmp_path)
    (row,) = results.load_rows(tmp_path)
    assert row.wall_s == [3600.0, 7.0, 0.0][runs - 1]


def test_memory_is_what_the_jobs_limits_leave(tmp_path: Path) -> None:
    ours, root = tmp_path / "cgroup", tmp_path / "fs"
    ours.write_text("4:memory:/slurm/job_7\n2:cpu:/elsewhere\n0::/user/job_7\n")
    for folder, names, values in (
        ("memory/slurm", ("memory.limit_in_bytes", "memory.usage_in_bytes"), (900, 100)),
        ("memory/slurm/job_7", ("memory.limit_in_bytes", "memory.usage_in_bytes"), (500, 200)),
        ("user", ("memory.max", "memory.current"), (700, 300)),
        ("user/job_7", ("memory.max", "memory.current"), ("max", 300)),
    ):
        (root / folder).mkdir(parents=True)
        for name, value in zip(names, values, strict=True):
            (root / folder / name).write_text(f"{value}\n")
    (root / "memory/slurm/job_7/memory.stat").write_text("cache 90\ntotal_inactive_file 40\ntotal_active_file 2\n")
    (root / "user/memory.stat").write_text("anon 1\ninactive_file 5\nactive_file 6\n")
    assert sorted(limits.cgroup_bytes(ours, root)) == [342, 411, 800]
    assert list(limits.cgroup_bytes(tmp_path / "none", root)) == []


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"SLURM_MEM_PER_NODE": "300"}, 300 * 2**20),
        ({"SLURM_MEM_PER_NODE": "0"}, None),
        ({"SLURM_MEM_PER_CPU": "100", "SLURM_CPUS_ON_NODE": "2"}, 200 * 2**20),
        ({"SLURM_MEM_PER_CPU": "100"}, None),
        ({"SLURM_MEM_PER_NODE": "300", limits.MEMORY: "1000"}, 1000),
    ],
)
def test_memory_that_a_scheduler_grants(variables: dict[str, str], expected: int | None) -> None:
    assert limits.scheduled_bytes(variables) == expected


def test_more_threads_than_cores_are_refused_in_a_part() -> None:
    (one,) = cases(8)
    limits.require_cores([one])
    limits.require_cores([])
    many = one.model_copy(update={"point": one.point.model_copy(update={"threads": 10**4})})
    with pytest.raises(ValueError, match=r"threads: expected at most the \d+ cores that this job may use, got 10000"):
        limits.require_cores([one, many])
