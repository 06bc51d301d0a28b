"""One worker process, seen from the parent.

It starts and imports first, says that it is ready, and measures when told to. So several can import side by side and then wait,
idle, while one measures alone: a process of its own for every case costs little even where `import torch` takes seconds.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pydantic import ValidationError

from benchmarks.cases import Case
from benchmarks.rows import Outcome
from benchmarks.sources import ROOT
from benchmarks.worker import GO, READY, Job


class Child:
    """A fresh process for `job`. Call `prepare`, then `measure`, and `kill` in any case.

    `seconds` is the time spent in `prepare` since the start and in `measure`, not the wait between them.
    """

    def __init__(self, job: Job) -> None:
        self.seconds = 0.0
        self._case = job.case
        self._start = time.perf_counter()
        self._folder = tempfile.TemporaryDirectory(prefix="case-")
        self._result, self._errors = Path(self._folder.name) / "outcome.json", Path(self._folder.name) / "stderr"
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.worker", str(self._result)],
                cwd=ROOT,
                env=_environment(job.case, self._folder.name),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        self._tell(job.model_dump_json().encode())

    def prepare(self) -> Outcome | None:
        """Wait until the process has imported what it needs. Return an outcome only if it failed or took too long."""
        assert self._process.stdout is not None
        left = self._start + self._case.timeout_s - time.perf_counter()
        readable, _, _ = select.select([self._process.stdout], [], [], max(0.0, left))
        self.seconds = time.perf_counter() - self._start
        if not readable:
            return Outcome(status="timeout", reason=f"imports took more than {self._case.timeout_s:g} s")
        if self._process.stdout.readline().strip() != READY:
            self._process.wait()
            return self._read()
        return None

    def measure(self) -> Outcome:
        """Let it measure, wait for the end and return what came of it."""
        begin = time.perf_counter()
        self._tell(GO)
        try:
            self._process.wait(self._case.timeout_s)
        except subprocess.TimeoutExpired:
            return Outcome(status="timeout", reason=f"no result after {self._case.timeout_s:g} s")
        finally:
            self.seconds += time.perf_counter() - begin
        return self._read()

    def kill(self) -> None:
        """End the process and whatever it started (it leads a process group), and remove its files. May be called twice."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._folder.cleanup()

    def _tell(self, line: bytes) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died: its exit status says how
            self._process.stdin.write(line + b"\n")
            self._process.stdin.flush()

    def _read(self) -> Outcome:
        code = self._process.returncode
        if code < 0:
            name = signal.Signals(-code).name
            hint = "; out of memory is the usual cause" if -code == signal.SIGKILL else ""
            return Outcome(status="killed", reason=f"the process died of {name}{hint}")
        if code == 0 and self._result.exists():
            try:
                return Outcome.model_validate_json(self._result.read_bytes())
            except ValidationError as error:
                return Outcome(status="error", reason=f"the worker wrote no valid outcome: {error}"[:1000])
        lines = self._errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return Outcome(status="error", reason=f"exit status {code}: {lines[-1] if lines else 'no message'}"[:1000])


def _environment(case: Case, folder: str) -> dict[str, str]:
    threads = str(case.point.threads)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    chosen = dict.fromkeys(names, threads) | {"PYTHONHASHSEED": "0", "MPLBACKEND": "Agg", "TMPDIR": folder}
    if case.kind == "memory":
        # Large blocks go back to the system when freed, so that the resident set follows what is live (glibc only).
        chosen["MALLOC_MMAP_THRESHOLD_"] = "65536"
    return os.environ | chosen
