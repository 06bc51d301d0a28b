"""The same plan on one machine and over a SLURM of two nodes, without and with what can happen to its jobs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.analysis import results
from benchmarks.run import archive, limits, merge
from benchmarks.schema.rows import Row
from tests.cluster.service import Cluster, missing, slurm

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(bool(missing()), reason=missing())]

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = Path(__file__).with_name("troubled_arm.py")
MEMORY_GB = 4.0
PRESET = """
about = "four lines of two points, for tests"
design = "product"

[centre]
batch = 8
width = 5
depth = 1
grid = 2
dtype = "float64"

[lines]
batch = [8, 16]
width = [2, 3, 4, 5]

[memory]
arms = ["mlp[width]", "troubled"]
modes = ["inference"]
timeout_s = 300
"""
SLURM = f"""
[slurm]
parts = 4
minutes = 20
memory_gb = {MEMORY_GB}
"""
_WAIT_S = 600.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with slurm(tmp_path / "slurm", 6000) as found:
        yield found


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts `run` on the plan of this module; the arm is held up while the file `hold` is there."""
    preset = tmp_path / "lines.toml"
    preset.write_text(PRESET)

    def run(out: Path, *words: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "benchmarks", "run", "--preset", str(preset), "--device", "cpu", "--out", str(out)]
        variables = (environment or dict(os.environ)) | {"TESTS_HOLD": str(tmp_path / "hold")}
        return subprocess.Popen(
            [*command, "--plugin", str(PLUGIN), *words],
            cwd=ROOT,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return run


def rows(out: Path) -> dict[tuple[int, int, str], Row]:
    """The rows of `out` by width, batch and arm; each case is there once."""
    found = results.load_rows(out)
    assert len({row.case_key for row in found}) == len(found)
    named = {(row.case.point.width, row.case.point.batch, row.case.arm): row for row in found}
    assert len(named) == len(found)
    return named


def statuses(out: Path) -> dict[tuple[int, int, str], tuple[str, str]]:
    """Key and status of every case."""
    return {name: (row.case_key, row.status) for name, row in rows(out).items()}


def ended(run: subprocess.Popen[str]) -> str:
    said, _ = run.communicate(timeout=_WAIT_S)
    assert "Traceback" not in said, said
    return said


def test_slurm_measures_what_one_machine_does_and_faults_cost_no_more_than_their_cases(
    tmp_path: Path, cluster: Cluster, start: Callable[..., subprocess.Popen[str]]
) -> None:
    file, hold, out = tmp_path / "slurm.toml", tmp_path / "hold", tmp_path / "faults"
    file.write_text(SLURM)
    alone = os.environ | {limits.MEMORY: str(int(MEMORY_GB * 2**30))}
    said = ended(start(tmp_path / "alone", environment=alone))
    expected = statuses(tmp_path / "alone")
    assert len(expected) == 16, said
    assert {name for name, (_, status) in expected.items() if status != "ok"} == {(5, 8, "troubled"), (5, 16, "troubled")}
    assert expected[5, 8, "troubled"][1] == "oom"
    assert expected[5, 16, "troubled"][1] == "skipped_by_frontier"

    run = start(tmp_path / "spread", "--parallel", str(file), environment=cluster.environment)
    said = ended(run)
    assert run.returncode == 1, said  # as on one machine: not every case has a value
    assert statuses(tmp_path / "spread") == expected, said
    assert len(merge.jobs(tmp_path / "spread")) == 4

    hold.touch()
    run = start(out, "--parallel", str(file), environment=cluster.environment)
    held = _held(cluster, out, run)
    (killed, _), (lost, node) = sorted(held.items())
    cluster.tell("scancel", "--full", "--signal=KILL", killed)
    _wait_for(lambda: cluster.jobs().get(killed, ("gone", ""))[0] != "RUNNING")
    cluster.take_away(node)
    said = ended(run)
    assert run.returncode == 1, said
    assert f"SLURM job {killed} (part " in said
    found = rows(out)
    assert {name: row.case_key for name, row in found.items()} == {name: key for name, (key, _) in expected.items()}
    affected = {name for name, row in found.items() if row.status == "killed"}
    assert affected == {(width, *of) for width in (2, 3) for of in ((8, "troubled"), (16, "mlp[width]"), (16, "troubled"))}
    reasons = {found[name].reason for name in affected}
    assert len(reasons) == 2
    for job, state in ((killed, r"\w+"), (lost, "NODE_FAIL")):
        pattern = rf"SLURM job {job} \(part \d/4\) left the queue \({state}\) before this case had a row"
        assert any(re.fullmatch(pattern, reason) for reason in reasons), reasons
    rest = {name: (row.case_key, row.status) for name, row in found.items() if name not in affected}
    assert rest == {name: value for name, value in expected.items() if name not in affected}

    hold.unlink()
    before = sum(1 for _ in archive.rows(out / "raw"))
    said = ended(start(out, environment=alone))
    assert statuses(out) == expected, said
    assert sum(1 for _ in archive.rows(out / "raw")) == before + len(affected), "only what was lost is measured again"


def _held(cluster: Cluster, out: Path, run: subprocess.Popen[str]) -> dict[str, str]:
    """The two jobs that are held up, each with its node, once each of them has stored one row and all others are done."""

    def ready() -> bool:
        assert run.poll() is None, run.communicate()[0]
        open_stores = [path for path in out.glob("parts/*/raw/rows.jsonl") if path.read_bytes().count(b"\n") == 1]
        running = [state for state, _ in cluster.jobs().values()]
        return running == ["RUNNING", "RUNNING"] and len(open_stores) == 2

    _wait_for(ready)
    time.sleep(2.0)  # the case that comes next is being measured
    return {job: node for job, (_, node) in cluster.jobs().items()}


def _wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + _WAIT_S
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.5)


def test_a_refusal_of_slurm_is_one_sentence(
    tmp_path: Path, cluster: Cluster, start: Callable[..., subprocess.Popen[str]]
) -> None:
    file = tmp_path / "slurm.toml"
    file.write_text(SLURM + 'partition = "nowhere"\n')
    run = start(tmp_path / "out", "--parallel", str(file), environment=cluster.environment)
    said = ended(run)
    assert run.returncode == 2
    assert "error: parallel: expected options that SLURM takes, got" in said
    assert "nowhere" in said or "partition" in said
    shutil.rmtree(tmp_path / "out")
