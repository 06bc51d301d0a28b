"""The pytest-benchmark files run, and a session that measures nothing is a failure."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def micro(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "benchmarks/dev/micro", "-q", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_every_micro_benchmark_runs_and_passes_its_gate() -> None:
    done = micro("--benchmark-disable")
    assert done.returncode == 0, done.stdout
    assert re.search(r"^\d+ passed in", done.stdout, flags=re.MULTILINE), done.stdout  # and none skipped


@pytest.mark.slow
def test_a_benchmark_records_what_it_was(tmp_path: Path) -> None:
    file = tmp_path / "micro.json"
    done = micro("-k", "inference and B64", "--threads", "1", f"--benchmark-json={file}")
    assert done.returncode == 0, done.stdout
    benchmarks = json.loads(file.read_text())["benchmarks"]
    assert {one["group"] for one in benchmarks} == {"inference B64-I8-O8-G5-k3"}
    assert {one["params"]["arm"] for one in benchmarks} == {"efficient_kan", "cox_de_boor", "pykan[speed]", "gemm_bound"}
    for one in benchmarks:
        info = one["extra_info"]
        assert {name: info[name] for name in "BIOGk"} == {"B": 64, "I": 8, "O": 8, "G": 5, "k": 3}
        assert info["input_bytes"] == info["output_bytes"] == 64 * 8 * 4
        assert info["parameter_bytes"] == 8 * 8 * (5 + 3 + 2) * 4
        assert (info["threads"], info["device"], info["versions"]["torch"]) == (1, "cpu", version("torch"))
        assert info["commit"]
        assert one["options"]["warmup"] == 10
        assert one["stats"]["min"] > 0


@pytest.mark.slow
def test_a_selection_of_nothing_and_a_missing_device_fail() -> None:
    assert micro("-k", "no_such_benchmark").returncode == pytest.ExitCode.NO_TESTS_COLLECTED
    missing = micro("--device", "cuda:99")
    assert missing.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--device: expected cpu, or cuda or cuda:N that this torch finds" in missing.stderr
