"""The tests that need a GPU, in parallel. A dry run takes some of those of the interpreter instead."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.gpu_run import files
from benchmarks.gpu_run.stages import Job
from benchmarks.schema.meaning import ROOT

_FEW = {"TORCHINDUCTOR_COMPILE_THREADS": "1", "OMP_NUM_THREADS": "1"}  # there are workers enough
_TESTS = ("tests/efficient_kan/test_gpu.py", "-m", "gpu")
_OUTCOME = re.compile(r"\[gw\d+\] .*?(PASSED|FAILED|ERROR|SKIPPED)")  # of one test, as xdist prints it
_INTERPRETED = ("tests/efficient_kan/interpreted_cuda.py", "-k", "low_precision_errs and 3-uniform")


def test(job: Job) -> None:
    """Run the tests and write junit.xml, from which the last line of the stage counts them.

    pytest writes that file at the end: of tests that are cut the log has the lines, and the stage's last line their number.

    Raises RuntimeError if one failed or none passed. A warning is no failure here: the machine's versions are its own.
    """
    if job.dry_run and (reason := _not_interpreted()) is not None:
        job.say(f"none: {reason}")
        return
    chosen = _INTERPRETED if job.dry_run else _TESTS
    at_once = 1 if job.dry_run else job.workers
    where = " (interpreted, on a CPU)" if job.dry_run else ""
    path = job.raw / files.TESTS
    options = ("-v", "-n", str(at_once), "-W", "default", "-p", "no:cacheprovider", "--tb=short", f"--junit-xml={path}")
    command = [sys.executable, "-m", "pytest", *chosen, *options]
    seen: Counter[str] = Counter()
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | _FEW, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            sys.stdout.write(line)
            if found := _OUTCOME.match(line):
                seen[found[1].lower()] += 1
                job.say(f"{_said(seen)} so far{where}", log=False)
    if not path.exists():
        raise RuntimeError(f"pytest ended with {process.returncode} and no result")
    counts = counted(path)
    job.say(_said(counts) + where)
    if process.returncode or not counts["passed"]:
        raise RuntimeError(f"pytest ended with {process.returncode}")


def _not_interpreted() -> str | None:
    """Why no kernel can be interpreted here, or None."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    from efficient_kan.kernels.cuda import interpreter  # imports torch, which only a dry run needs here

    return interpreter.fault()


def _said(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {ending}" for ending, number in sorted(counts.items())) or "no test"


def counted(path: Path) -> Counter[str]:
    """How many tests of a junit file passed, failed, ended in an error or were skipped."""
    found: Counter[str] = Counter()
    for case in ElementTree.parse(path).iter("testcase"):
        endings = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        found[{"failure": "failed", "error": "error", "skipped": "skipped"}[endings[0]] if endings else "passed"] += 1
    return found
