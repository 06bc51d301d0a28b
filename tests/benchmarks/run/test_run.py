"""The runner with real worker processes: every failure becomes a row, a killed run resumes, two runs refuse each other."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import presets
from benchmarks.analysis import results
from benchmarks.cli import app
from benchmarks.kinds import dominates, sources
from benchmarks.run import archive, merge, runner, usage
from benchmarks.run.child import Server, variables
from benchmarks.run.plugins import load_plugin
from benchmarks.run.store import Locked, Store
from benchmarks.schema.cases import Case, Point
from benchmarks.schema.rows import Outcome, Status
from reference import arm as arms

ROOT = Path(__file__).resolve().parents[3]
PLANTED = Path(__file__).parents[1].joinpath("planted_arms.py")
PRESET = """
about = "for tests"
jobs = 2

[centre]
batch = 8
width = 2
depth = 1
grid = 2
dtype = "float64"

[memory]
arms = ["gemm_bound", "mlp[width]"]
modes = ["inference"]
timeout_s = 60
"""


def case(arm: str, batch: int = 8, timeout_s: float = 60.0) -> Case:
    point = Point(batch=batch, layers=(2, 2), grid_size=2, dtype="float64")
    return Case(kind="memory", arm=arm, point=point, modes=("inference",), timeout_s=timeout_s)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(arms, "ARMS", dict(arms.ARMS))
    load_plugin(PLANTED, again=True)
    return PLANTED


@pytest.mark.end_to_end
def test_failures_become_rows_and_larger_points_are_skipped(tmp_path: Path, planted: Path) -> None:
    cases = [
        case("gemm_bound"),
        case("die"),
        case("fail"),
        case("segfault"),
        case("crash_on_import"),
        case("hang", timeout_s=4.0),
        case("slow_to_import", timeout_s=5.0),
    ]
    counts = runner.run("test", cases, tmp_path, jobs=2, plugin=planted, command="pytest")
    rows = {(row.case.arm, row.case.point.batch): row for row in results.load_rows(tmp_path)}
    statuses = {key: row.status for key, row in rows.items()}
    assert statuses[("gemm_bound", 8)] == "ok"
    assert statuses[("die", 8)] == "killed"
    assert "SIGKILL" in rows[("die", 8)].reason
    assert statuses[("fail", 8)] == "error"
    assert "planted" in rows[("fail", 8)].reason
    assert statuses[("segfault", 8)] == "killed"
    assert "SIGSEGV" in rows[("segfault", 8)].reason
    assert statuses[("crash_on_import", 8)] == "error"
    assert "exit status 3" in rows[("crash_on_import", 8)].reason
    assert statuses[("hang", 8)] == "timeout"
    assert statuses[("slow_to_import", 8)] == "ok"  # imports and compiling are not the case's time
    assert sum(counts.values()) == 7
    assert not (tmp_path / "raw" / ".work").exists()
    assert results.load_environments(tmp_path)[rows[("die", 8)].run_id].command == "pytest"
    frame = results.memory_frame(list(rows.values()))
    assert len(frame) == 7
    assert frame["peak_bytes"].notna().sum() == 2


@pytest.mark.end_to_end
def test_a_failure_rules_out_what_is_larger(tmp_path: Path, planted: Path) -> None:
    cases = [case("die"), case("die", batch=16), case("mlp[width]", batch=16)]
    counts = runner.run("test", cases, tmp_path, plugin=planted)
    assert counts == {"killed": 1, "skipped_by_frontier": 1, "ok": 1}
    (skipped,) = (row for row in results.load_rows(tmp_path) if row.status == "skipped_by_frontier")
    assert "ended in killed" in skipped.reason


def test_a_memory_case_that_may_need_more_than_its_share_runs_alone_with_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: dict[int, int] = {}

    def measured(self: runner.Run, one: Case, share: int) -> tuple[Outcome, float]:
        shares[one.point.batch] = share
        return Outcome(status="ok"), 0.0

    monkeypatch.setattr(runner.Run, "_measure", measured)
    monkeypatch.setattr(runner, "_available_bytes", lambda: 16 * 2**30)
    monkeypatch.setattr(runner.History, "peak_bytes", lambda _, one: one.point.batch * 2**30)
    cases = [case("mlp[width]", batch=gib) for gib in (2, 64, 4, 5)]
    runner.run("test", cases, tmp_path / "two", jobs=2)
    assert shares == {2: 2, 4: 2, 5: 1, 64: 1}
    assert list(shares)[-2:] == [64, 5]  # after those that share, in the order given
    runner.run("test", cases, tmp_path / "one", jobs=1)
    assert set(shares.values()) == {1}


@pytest.mark.end_to_end
def test_a_time_limit_rules_out_only_what_may_take_no_longer(tmp_path: Path, planted: Path) -> None:
    cases = [case("hang", timeout_s=2.0), case("hang", batch=16, timeout_s=2.0), case("hang", batch=32, timeout_s=2.5)]
    counts = runner.run("test", cases, tmp_path, plugin=planted)
    assert counts == {"timeout": 2, "skipped_by_frontier": 1}
    (skipped,) = (row for row in results.load_rows(tmp_path) if row.status == "skipped_by_frontier")
    assert skipped.case.point.batch == 16


@pytest.mark.end_to_end
def test_a_time_limit_of_an_earlier_run_rules_out_nothing_that_may_take_longer(tmp_path: Path, planted: Path) -> None:
    runner.run("test", [case("hang", timeout_s=2.0)], tmp_path / "same", plugin=planted)
    cases = [case("hang", timeout_s=3.0), case("hang", batch=16, timeout_s=3.0), case("hang", batch=32, timeout_s=2.0)]
    assert runner.run("test", cases, tmp_path / "same", plugin=planted) == {"timeout": 2, "skipped_by_frontier": 1}
    # And of another folder, as the jobs of a queue have it.
    known: dict[str, Any] = {"known": merge.statuses(tmp_path / "same"), "known_limits": merge.limits(tmp_path / "same")}
    larger = [case("hang", timeout_s=2.0), case("hang", batch=64, timeout_s=2.0), case("hang", batch=128, timeout_s=3.5)]
    found = runner.run("test", larger, tmp_path / "other", plugin=planted, **known)
    assert found == {"timeout": 2, "skipped_by_frontier": 1}


@pytest.mark.end_to_end
def test_a_failure_of_an_earlier_run_rules_out_what_is_larger_too(tmp_path: Path, planted: Path) -> None:
    runner.run("test", [case("die")], tmp_path, plugin=planted)
    counts = runner.run("test", [case("die"), case("die", batch=16)], tmp_path, plugin=planted)
    assert counts == {"killed": 1, "skipped_by_frontier": 1}


@pytest.mark.end_to_end
def test_the_memory_limit_makes_an_oom_of_a_greedy_arm(tmp_path: Path) -> None:
    job = runner.Job(case=case("greedy"), plugin=str(PLANTED), memory_limit_bytes=2**30)
    server = Server(tmp_path, variables(job.case), ("numpy", "torch"), sys.executable)
    try:
        outcome, seconds = server.run(job)
        assert outcome.status == "oom"
        assert "can't allocate memory" in outcome.reason
        assert 0 < seconds < job.case.timeout_s
        again, _ = server.run(job.model_copy(update={"case": case("gemm_bound"), "memory_limit_bytes": None}))
        assert again.status == "ok", "the limit of one process must not reach the next"
    finally:
        server.close()


@pytest.mark.end_to_end
def test_a_lost_server_is_a_row_and_is_started_again(tmp_path: Path) -> None:
    server = Server(tmp_path, variables(case("gemm_bound")), (), sys.executable)
    try:
        assert server.run(runner.Job(case=case("gemm_bound")))[0].status == "ok"
        assert server._process is not None
        server._process.kill()
        server._process.wait()
        assert server.run(runner.Job(case=case("gemm_bound")))[0].status == "ok"
    finally:
        server.close()
    broken = Server(tmp_path, {}, (), "/bin/false")
    assert broken.run(runner.Job(case=case("gemm_bound")))[0].status == "error"


def test_a_slow_baseline_rules_out_the_arms_compared_with_it() -> None:
    own = Case(kind="speed", arm="efficient_kan", baseline="efficient_kan", point=case("x").point, modes=("step",))
    other = own.model_copy(update={"arm": "mlp[width]"})
    larger = other.model_copy(update={"point": case("x", batch=64).point})
    assert dominates(larger, own)
    assert not dominates(own, other)
    assert not dominates(larger.model_copy(update={"modes": ("forward",)}), own)


def _command(preset: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "benchmarks", "run", "--preset", str(preset), "--out", str(out)]


def contents(raw: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in raw.glob("*.jsonl*")}


@pytest.mark.end_to_end
def test_a_killed_run_resumes_with_what_is_missing(tmp_path: Path) -> None:
    preset, out = tmp_path / "tiny.toml", tmp_path / "out"
    preset.write_text(PRESET.replace("jobs = 2", "jobs = 1"))
    rows = out / "raw" / "rows.jsonl"
    first = subprocess.Popen(_command(preset, out), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (rows.exists() and rows.read_bytes().count(b"\n") >= 1) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    kept = rows.read_bytes()
    assert kept.count(b"\n") == 1
    with rows.open("ab") as file:
        file.write(b'{"schema_version": 1, "run_id": "to')
    second = subprocess.run(_command(preset, out), cwd=ROOT, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    assert "1 cases are in" in second.stderr
    stored = [json.dumps(record, separators=(",", ":")) for _, record in archive.rows(out / "raw")]
    assert kept.decode().strip() in stored
    assert not rows.exists()
    assert (out / "raw" / "rows.torn").read_bytes().startswith(b'{"schema_version": 1, "run_id": "to')
    assert [row.status for row in results.load_rows(out)] == ["ok", "ok"]
    before = contents(out / "raw")
    third = subprocess.run(_command(preset, out), cwd=ROOT, capture_output=True, text=True, check=False)
    assert (third.returncode, third.stdout) == (0, "2 ok\n")
    assert contents(out / "raw") == before
    recorded = {environment.command for environment in results.load_environments(out).values()}
    assert recorded == {"python -m benchmarks run --preset presets/tiny.toml"}


@pytest.mark.parametrize("kind", ["memory", pytest.param("speed", marks=pytest.mark.slow)])
@pytest.mark.end_to_end
def test_an_interrupted_run_ends_at_once_and_makes_no_row_of_what_it_was_at(tmp_path: Path, kind: str) -> None:
    preset, out = tmp_path / "tiny.toml", tmp_path / "out"
    hanging = {"memory": "", "speed": 'blocks = 1\nbaseline = "mlp[width]"\n'}[kind]
    head, _, section = PRESET.partition("[memory]\n")
    section = section.replace('"gemm_bound", "mlp[width]"', '"mlp[width]", "hang"') + hanging
    preset.write_text(f"{head}[lines]\nbatch = [8, 16, 32, 64]\n[{kind}]\n{section}")
    rows = out / "raw" / "rows.jsonl"
    command = [*_command(preset, out), "--plugin", str(PLANTED)]
    # Where this runs in the background of a shell, the interrupt is ignored, which a child would inherit.
    heeding = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heeding)
    deadline = time.monotonic() + 60
    while not (rows.exists() and rows.read_bytes().count(b"\n") >= 1) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(1.0)  # it is at the arm that hangs by now
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=20)
    assert run.returncode == 130, errors
    assert "interrupted: the same command goes on" in errors
    assert {row.case.arm for row in results.load_rows(out)} == {"mlp[width]"}
    assert not (out / "raw" / ".work").exists()


def test_a_locked_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preset = tmp_path / "tiny.toml"
    preset.write_text(PRESET)
    with Store(tmp_path / "out"):
        with pytest.raises(Locked, match="another run"), Store(tmp_path / "out"):
            pass
        with pytest.raises(SystemExit) as end:
            usage.run(app, _command(preset, tmp_path / "out")[3:])
    assert end.value.code == 2
    assert "another run" in capsys.readouterr().err
    with Store(tmp_path / "out") as store:
        assert store.statuses() == {}


def test_rows_of_another_schema_are_refused(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "rows.jsonl").write_text('{"schema_version": 0, "case_key": "a", "status": "ok"}\n')
    with pytest.raises(ValueError, match="schema_version 3, got 0"), Store(tmp_path) as store:
        store.statuses()
    with pytest.raises(ValueError, match="never mixed"):
        results.load_rows(tmp_path)


@pytest.mark.parametrize("line", ['{"schema_ver', '{"schema_version": 1}', "[]"], ids=["torn", "empty", "list"])
def test_a_damaged_row_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "rows.jsonl").write_text(f"{line}\n")
    with (
        pytest.raises(ValueError, match=r"rows\.jsonl line 1"),
        Store(tmp_path) as store,
    ):
        store.statuses()


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(ValueError, match="out: expected a folder to write to"), Store(tmp_path / "out"):
        pass


def test_a_plugin_that_fails_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken_arms.py"
    path.write_text("import no_such_module\n")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"plugin: expected a file that runs, got broken_arms\.py: ModuleNotFoundError"):
            load_plugin(path)


def plan(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What `plan` prints."""
    with pytest.raises(SystemExit) as end:
        usage.run(app, ["plan", *words])
    assert not end.value.code
    return capsys.readouterr().out


def test_lists_are_separated_by_commas_or_spaces(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--only", "speed", "--arms", "pykan[speed]", "--batch", "8,16", "--grid"]
    plans = [plan(capsys, *words, *grid) for grid in (["5", "7"], ["5,7"])]
    assert plans[0] == plans[1]
    assert {word for word in plans[0].split() if word.startswith(("B=", "G="))} == {"B=8", "B=16", "G=5", "G=7"}


def test_retry_takes_cases_without_a_value_again_and_nothing_else(planted: Path) -> None:
    cases = [case("gemm_bound"), case("fail"), case("mlp[width]"), case("die")]
    statuses: tuple[Status, ...] = ("ok", "error", "unsupported")
    known = {runner.key_of(one, planted): status for one, status in zip(cases, statuses, strict=False)}
    assert runner.pending(cases, known, retry=False, plugin=planted) == [cases[3]]
    assert runner.pending(cases, known, retry=True, plugin=planted) == cases[1:]


def test_plan_prints_cases_and_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    printed = plan(capsys, "--preset", "smoke")
    cases = presets.expand(presets.load("smoke"))
    sources.forget()
    assert printed.count(" B=") == len(cases)
    assert all(runner.key_of(case) in printed for case in cases)
    assert f"{len(cases)} cases ({len(cases)} ok); largest predicted peak here" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--preset", "nope"],
            "preset: expected one of confirm, default, gpu, gpu-precisions, gpu-study, kernels, paper, pilot, "
            "reproduction, smoke, or a .toml file, got 'nope'",
        ),
        (["--arms", "pykan"], "arm: expected one of efficient_kan, efficient_kan[native], pykan[default], pykan[nosave]"),
        (["--arms", "pykan[speed]", "inkan[compiled]"], "arms: expected what preset smoke measures"),
        (["--only", "speed", "sparsity", "--arms", "cox_de_boor"], "only: expected what preset smoke measures"),
        (["--threads", "0"], "threads: expected at least 1, got 0"),
        (["--device", "gpu"], "device: expected auto, cpu, cuda or cuda:N, got 'gpu'"),
        (["--width", "8.5"], "expected whole numbers, got 8.5"),
        (["--arms", "mlp[width]", "--only", "sparsity"], "at least one case"),
        (["--batch", "0"], "batch: expected positive whole numbers"),
        (["--tasks", "exp_sin", "nothing"], "tasks: expected what preset smoke measures"),
    ],
    ids=["preset", "arm", "arm without cases", "kind without cases", "threads", "device", "width", "empty", "batch", "task"],
)
def test_a_bad_selection_is_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        app(["plan", *arguments])
    assert stopped.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("kind", ["speed", "penalty_cost"])
def test_what_is_timed_does_not_depend_on_what_was_freed_before(kind: str) -> None:
    """Left to itself, glibc moves both thresholds when a large block is freed, as the gate does in some processes only."""
    chosen = variables(case("gemm_bound").model_copy(update={"kind": kind}))
    assert (chosen["MALLOC_MMAP_THRESHOLD_"], chosen["MALLOC_TRIM_THRESHOLD_"]) == (str(2**25), str(2**26))
