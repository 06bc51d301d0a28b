"""Parts handed to a queue: what travels, what a node refuses, what becomes of lost jobs, and real queues on this machine."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.analysis import results
from benchmarks.cli import app
from benchmarks.parallel import dispatch, node, options, slurm
from benchmarks.parallel.order import CLAIM, ENDED, Ended, Order, orders
from benchmarks.run import limits, merge, parts, runner, usage
from benchmarks.run.child import Server
from benchmarks.run.selection import Selection
from benchmarks.schema.rows import Outcome

ROOT = Path(__file__).resolve().parents[3]
PRESET = Path(__file__).parents[1].joinpath("lines.toml").read_text(encoding="utf-8")
PLUGIN = "from benchmarks.schema.cases import Case\n"


@pytest.fixture
def selection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Selection:
    """A plan with a plugin, which is not run here: a process runs one file of a name, and all nodes of a test are this one."""
    monkeypatch.setattr("benchmarks.run.selection.load_plugin", lambda path: None)
    (tmp_path / "lines.toml").write_text(PRESET)
    (tmp_path / "further.py").write_text(PLUGIN)
    return Selection(preset=str(tmp_path / "lines.toml"), device="cpu", plugin=tmp_path / "further.py", threads=1)


def ordered(selection: Selection, out: Path, count: int = 3, **fields: Any) -> list[Order]:
    shared: dict[str, Any] = {"command": "", "retry": False, "memory_bytes": None}
    return orders(selection, selection.resolve(), out, count, "job", **shared | fields)


class Here:
    """A queue that runs a job in this process when it is submitted, up to the case at which it is `lost`, by part."""

    name = "job"

    def __init__(self, lost: dict[str, int] | None = None, status: dict[str, int] | None = None) -> None:
        self.lost, self.status, self.submitted = lost or {}, status or {}, list[str]()

    def submit(self, texts: Sequence[str]) -> list[str]:
        for text in texts:
            order = Order.model_validate_json(text)
            self.submitted.append(order.part)
            order.folder.mkdir(parents=True)
            if order.part in self.lost:
                if self.lost[order.part]:
                    self._measure(order, self.lost[order.part])
            else:
                status = self.status.get(order.part)
                status = self._measure(order) if status is None else status
                (order.folder / ENDED).write_text(Ended(status=status, said="what it said").model_dump_json())
        return [f"7_{index}" for index in range(len(texts))]

    def _measure(self, order: Order, count: int | None = None) -> int:
        selected = order.selection().resolve()
        order.refuse(selected)
        known = merge.statuses(Path(order.out))
        counts = runner.run(
            "lines", selected.cases[:count], order.folder, known=known, retry=order.retry, plugin=selected.plugin
        )
        return int(any(status not in runner.FINAL for status in counts))

    def gone(self) -> dict[str, str]:
        return {f"7_{index}": "NODE_FAIL" for index, part in enumerate(self.submitted) if part in self.lost}

    def cancel(self) -> None:
        raise AssertionError

    def close(self) -> None:
        self.submitted.append("closed")


@pytest.fixture
def handed_out(monkeypatch: pytest.MonkeyPatch, selection: Selection, tmp_path: Path) -> Callable[..., dispatch.Dispatched]:
    monkeypatch.setattr(dispatch, "_GRACE_S", 0.0)
    monkeypatch.setattr(dispatch, "_POLL_S", 0.01)

    def run(queue: Here, **fields: Any) -> dispatch.Dispatched:
        monkeypatch.setattr(dispatch, "opened", lambda *_: queue)
        told: list[str] = []
        done = dispatch.run(
            selection, selection.resolve(), tmp_path / "out", options.Dask(parts=3), on_end=told.append, **fields
        )
        assert len(told) == len(queue.submitted) - 1
        assert queue.submitted[-1] == "closed"
        return done

    return run


def test_what_travels_is_text_and_gives_the_same_part(selection: Selection, tmp_path: Path) -> None:
    selected = selection.resolve()
    found = ordered(selection, tmp_path / "out")
    assert len(found) == 3
    cases = []
    for order in found:
        text = order.model_dump_json()
        assert "timeout_s" not in text.replace(json.dumps(PRESET)[1:-1], ""), "no case travels"
        again = Order.model_validate_json(text)
        again.folder.mkdir(parents=True)
        there = again.selection().resolve()
        again.refuse(there)
        assert there.preset.name == "lines"
        cases += there.cases
    assert sorted(case.label for case in cases) == sorted(case.label for case in selected.cases)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"source": "0" * 12},
            r"^source: expected that of commit \w+ \(hash 000000000000\), got commit \w+ \(hash \w+\): bring",
        ),
        ({"plan": "other"}, r"^part: expected the cases that were handed out as 1/3, got others: name --device"),
        ({"plugin_text": PLUGIN + "x = 1\n"}, "^source: expected that of commit"),
        ({"preset_text": PRESET.replace("width = [2, 3, 4]", "width = [2, 3, 5]")}, "^part: expected the cases"),
    ],
)
def test_a_node_refuses_another_source_and_another_plan(
    selection: Selection, tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    order = ordered(selection, tmp_path / "out")[0].model_copy(update=changed)
    order.folder.mkdir(parents=True)
    with pytest.raises(ValueError, match=said):
        order.refuse(order.selection().resolve())


def test_all_parts_measured_and_merged_are_the_whole_plan(
    handed_out: Callable[..., dispatch.Dispatched], selection: Selection, tmp_path: Path, measured: list[str]
) -> None:
    queue = Here()
    done = handed_out(queue)
    selected = selection.resolve()
    assert (done.counts, done.failures) == ({"ok": 6}, [])
    assert sorted(queue.submitted) == ["1/3", "2/3", "3/3", "closed"]
    keys = [row.case_key for row in results.load_rows(tmp_path / "out")]
    assert sorted(keys) == sorted(runner.key_of(case, selected.plugin) for case in selected.cases)
    assert len(measured) == len(set(measured)) == 6
    again = Here()
    assert handed_out(again).counts == {"ok": 6}
    assert again.submitted == ["closed"], "nothing is left to hand out"


def test_nodes_may_have_other_packages_than_this_machine(
    handed_out: Callable[..., dispatch.Dispatched], measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = runner.versions
    monkeypatch.setattr(runner, "versions", lambda case: {**here(case), "python": "3.12.99"})
    assert handed_out(Here()).counts == {"ok": 6}
    again = Here()
    assert handed_out(again).counts == {"ok": 6} and again.submitted == ["closed"]


def test_cases_that_a_lost_job_did_not_come_to_are_rows_and_are_measured_by_the_same_command(
    handed_out: Callable[..., dispatch.Dispatched], selection: Selection, tmp_path: Path, measured: list[str]
) -> None:
    done = handed_out(Here(lost={"1/3": 0, "2/3": 1}))
    assert done.counts == {"ok": 3, "killed": 3}
    assert done.failures == []
    lost = [row for row in results.load_rows(tmp_path / "out") if row.status == "killed"]
    assert {row.reason for row in lost} == {
        f"job 7_{index} (part {index + 1}/3) left the queue (NODE_FAIL) before this case had a row" for index in (0, 1)
    }
    selected = selection.resolve()
    assert {row.case_key for row in lost} <= {runner.key_of(case, selected.plugin) for case in selected.cases}
    assert len(runner.pending(selected.cases, merge.statuses(tmp_path / "out"), retry=False, plugin=selected.plugin)) == 3
    measured.clear()
    queue = Here()
    assert handed_out(queue).counts == {"ok": 6}
    assert sorted(queue.submitted) == ["1/3", "2/3", "closed"]
    assert len(measured) == 3, "what was measured is not measured again"


@pytest.mark.parametrize(("status", "killed"), [(2, 0), (3, 0), (143, 2), (-9, 2)])
def test_a_job_that_refuses_has_no_rows_and_one_that_was_ended_has(
    handed_out: Callable[..., dispatch.Dispatched], measured: list[str], status: int, killed: int
) -> None:
    done = handed_out(Here(status={"2/3": status}))
    assert done.counts == {"ok": 4} | ({"killed": killed} if killed else {})
    assert done.failures == ([] if killed else ["job 7_1 (part 2/3): what it said"])


def test_retry_hands_out_what_failed(
    handed_out: Callable[..., dispatch.Dispatched], measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Server, "run", lambda self, job: (Outcome(status="error", reason="planted"), 1.0))
        assert handed_out(Here()).counts == {"error": 6}
    assert handed_out(queue := Here()).counts == {"error": 6}
    assert queue.submitted == ["closed"]
    assert handed_out(Here(), retry=True).counts == {"ok": 6}


def test_an_interrupt_ends_the_jobs(
    handed_out: Callable[..., dispatch.Dispatched], measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled: list[bool] = []

    class Interrupted(Here):
        def gone(self) -> dict[str, str]:
            raise KeyboardInterrupt

        def cancel(self) -> None:
            cancelled.append(True)

    with pytest.raises(KeyboardInterrupt):
        handed_out(Interrupted())
    assert cancelled == [True]


def test_a_job_is_measured_once_and_says_why_it_refused(selection: Selection, tmp_path: Path) -> None:
    order = ordered(selection, tmp_path / "out")[0].model_copy(update={"source": "0" * 12})
    node.measure(order.model_dump_json())
    ended = Ended.model_validate_json((order.folder / ENDED).read_bytes())
    assert ended.status == 2
    assert ended.said.startswith("error: source: expected that of commit")
    assert (order.folder / CLAIM).exists()
    (order.folder / ENDED).unlink()
    node.measure(order.model_dump_json())
    assert not (order.folder / ENDED).exists(), "a queue that runs it again finds it claimed"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[slurm", "parallel: expected a file in TOML, got queue.toml"),
        ("", "expected one table in queue.toml, [slurm] or [dask], got none"),
        (
            "[slurm]\nparts=1\nminutes=1\n[dask]\nparts=1",
            "expected one table in queue.toml, [slurm] or [dask], got slurm, dask",
        ),
        ("[ray]\nparts = 1", "[slurm] or [dask], got ray"),
        ("dask = 1", "[dask]: record: expected a table, got 1"),
        ("[dask]\nparts = 0", "[dask]: parts: expected at least 1, got 0"),
        ("[dask]\nparts = 1\nnodes = 2", "nodes: expected no such field, got 2"),
        ("[slurm]\nparts = 4", "[slurm]: minutes: expected a value, got none"),
        ("[slurm]\nparts = 4\nminutes = 5\nmemory_gb = -1", "memory_gb: expected more than 0"),
    ],
)
def test_a_bad_file_is_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    (tmp_path / "queue.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        usage.run(app, ["run", "--out", "out", "--parallel", "queue.toml"])
    assert end.value.code == 2
    got = capsys.readouterr().err
    assert said in got
    assert got.count("\n") == 1


@pytest.mark.parametrize(("kind", "package"), [("slurm", "submitit"), ("dask", "distributed")])
def test_what_to_install_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    chosen = options.Slurm(parts=1, minutes=1) if kind == "slurm" else options.Dask(parts=1)
    with pytest.raises(ValueError, match=rf"{package} to be installed, got no module {package}; run `python -m pip install"):
        dispatch.opened(chosen, tmp_path)


def test_part_and_missing_files_are_refused_with_parallel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["--parallel", str(tmp_path / "none.toml")], "parallel: expected a file that can be read"),
        (["--parallel", "x.toml", "--part", "1/2"], "part: expected none with --parallel"),
        (["--part", "1/2"], "out: expected a folder with --part"),
    ):
        with pytest.raises(SystemExit) as end:
            usage.run(app, ["run", *words])
        assert end.value.code == 2
        assert said in capsys.readouterr().err


def test_options_of_slurm_are_those_of_submitit() -> None:
    from submitit.slurm.slurm import _make_sbatch_string

    chosen = options.Slurm.model_validate(
        {"parts": 2, "minutes": 5, "cpus": 3, "memory_gb": 1.5, "gpus": 1, "at_once": 2, "partition": "p", "account": "a"}
        | {"qos": "q", "constraint": "c", "options": {"reservation": "r"}, "setup": ("module load x",)}
    )
    found = slurm.parameters(chosen)
    assert found.keys() <= set(inspect.signature(_make_sbatch_string).parameters)
    text = _make_sbatch_string("command", "folder", **found)
    wanted = ("time=5", "cpus-per-task=3", "mem=1536M", "gpus-per-node=1", "partition=p", "account=a", "qos=q", "constraint=c")
    for line in (*wanted, "exclusive", "no-requeue", "reservation=r", "nodes=1", "ntasks-per-node=1"):
        assert f"#SBATCH --{line}\n" in text
    assert "module load x\n" in text
    assert "srun" not in text
    assert "exclusive" not in slurm.parameters(options.Slurm(parts=1, minutes=1, exclusive=False))


SQUEUE = """#!/bin/sh
cat "$(dirname "$0")/answer"
cat "$(dirname "$0")/complaint" >&2
exit $(cat "$(dirname "$0")/status")
"""


@pytest.mark.parametrize(
    ("answer", "complaint", "status", "gone"),
    [
        ("7_0 RUNNING\n7_1 PENDING\n", "", 0, {}),
        ("7_0 NODE_FAIL\n7_1 COMPLETING\n", "", 0, {"7_0": "NODE_FAIL"}),
        ("7_1 SUSPENDED\n", "", 0, {"7_0": "no longer known"}),
        ("7_0 COMPLETED\n7_1 OUT_OF_MEMORY\n", "", 0, {"7_0": "COMPLETED", "7_1": "OUT_OF_MEMORY"}),
        ("", "slurm_load_jobs error: Invalid job id specified", 1, {"7_0": "no longer known", "7_1": "no longer known"}),
        ("", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)", 1, {}),
    ],
)
def test_what_squeue_says_of_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, complaint: str, status: int, gone: dict[str, str]
) -> None:
    for name, text in (("answer", answer), ("complaint", complaint), ("status", str(status))):
        (tmp_path / name).write_text(text)
    for name, text in (("squeue", SQUEUE), ("sbatch", "#!/bin/sh\n"), ("srun", "#!/bin/sh\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    queue = slurm.SlurmQueue(options.Slurm(parts=2, minutes=1), tmp_path / "queue")
    queue._jobs = [type("Job", (), {"job_id": f"7_{index}"}) for index in (0, 1)]
    assert queue.gone() == gone


def test_without_slurm_the_sentence_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="parallel: expected SLURM's sbatch on this machine, got none"):
        slurm.SlurmQueue(options.Slurm(parts=2, minutes=1), tmp_path / "queue")


@pytest.mark.parametrize(
    ("table", "timeout", "status", "code"),
    [
        ("[dask]\nparts = 2\nworkers = 2\n", 60, "4 ok", 0),
        # Shorter than any case: what a queue measures may fail too.
        ("[slurm]\nparts = 2\nminutes = 10\nlocal = true\n", 0.001, "2 skipped_by_frontier, 2 timeout", 1),
    ],
    ids=["dask", "submitit"],
)
@pytest.mark.end_to_end
def test_a_real_queue_on_this_machine_measures_the_plan(
    selection: Selection, tmp_path: Path, table: str, timeout: float, status: str, code: int
) -> None:
    file, out = tmp_path / "queue.toml", tmp_path / "out"
    file.write_text(table)
    Path(selection.preset).write_text(PRESET.replace("timeout_s = 60", f"timeout_s = {timeout}"))
    command = [sys.executable, "-m", "benchmarks", "run", "--preset", selection.preset, "--device", "cpu", "--threads", "1"]
    words = ["--plugin", str(selection.plugin), "--width", "2,3", "--out", str(out)]
    done = subprocess.run(
        [*command, *words, "--parallel", str(file)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert (done.returncode, done.stdout) == (code, f"{status}\n"), done.stderr
    selected = replace(selection, width=[2, 3]).resolve()
    keys = sorted(row.case_key for row in results.load_rows(out))
    assert keys == sorted(runner.key_of(case, selected.plugin) for case in selected.cases)
    assert len(merge.jobs(out)) == 2
    assert [len(part) for part in parts.split(selected.cases, 2)] == [2, 2]


@pytest.mark.slow
def test_a_worker_of_dask_that_is_lost_leaves_rows_that_name_its_task(tmp_path: Path) -> None:
    (tmp_path / "lines.toml").write_text(PRESET.replace('["mlp[width]"]', '["mlp[width]", "hang"]'))
    (tmp_path / "queue.toml").write_text("[dask]\nparts = 1\n")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "benchmarks", "run", "--preset", str(tmp_path / "lines.toml"), "--device", "cpu"]
    planted = Path(__file__).parents[1].joinpath("planted_arms.py")
    words = ["--width", "2", "--plugin", str(planted), "--out", str(out), "--parallel", str(tmp_path / "queue.toml")]
    run = subprocess.Popen([*command, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 300
    while not any(path.read_bytes().count(b"\n") for path in out.glob("parts/*/raw/rows.jsonl")):
        assert time.monotonic() < deadline
        assert run.poll() is None, run.communicate()[0]
        time.sleep(0.2)
    below = psutil.Process(run.pid).children(recursive=True)
    (measures,) = (one for one in below if "benchmarks.parallel.node" in one.cmdline())
    worker = measures.parent()
    assert worker is not None
    worker.kill()
    said, _ = run.communicate(timeout=120)
    assert run.returncode == 1, said
    assert not measures.is_running()
    rows = {(row.case.arm, row.case.point.batch): row for row in results.load_rows(out)}
    assert {name: row.status for name, row in rows.items()} == {
        ("mlp[width]", 8): "ok",
        **dict.fromkeys([("hang", 8), ("mlp[width]", 16), ("hang", 16)], "killed"),
    }
    assert re.fullmatch(
        r"Dask task 1-of-1-\w+ \(part 1/1\) left the queue \(error: KilledWorker\) before this case had a row",
        rows["hang", 16].reason,
    )


def test_a_case_with_more_threads_than_a_job_has_cores_is_refused(
    handed_out: Callable[..., dispatch.Dispatched], selection: Selection, tmp_path: Path
) -> None:
    many = replace(selection, threads=2).resolve()
    with pytest.raises(ValueError, match="cpus: expected at least the 2 threads of a case, got 1"):
        dispatch.run(selection, many, tmp_path / "out", options.Dask(parts=3))


def test_what_a_queue_sets_for_its_workers_does_not_reach_what_measures(
    selection: Selection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, str]] = []

    class Process:
        returncode = 0

        def __init__(self, command: Sequence[str], *, env: dict[str, str], **_: object) -> None:
            seen.append(env)

        def wait(self) -> None:
            return

    found = [ordered(selection, tmp_path / name, memory_bytes=7)[0] for name in ("one", "two")]
    monkeypatch.setattr(node.subprocess, "Popen", Process)
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
    for order, without in zip(found, ((), ("MALLOC_TRIM_THRESHOLD_",)), strict=True):
        node.measure(order.model_dump_json(), without)
    assert [env.get("MALLOC_TRIM_THRESHOLD_") for env in seen] == ["65536", None]
    assert {env[limits.MEMORY] for env in seen} == {"7"}
