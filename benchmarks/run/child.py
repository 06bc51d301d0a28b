"""The processes that measure, seen from the parent."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from pydantic import ValidationError

from benchmarks.kinds import get_kind
from benchmarks.run.forkserver import ENDED, ERRORS, MEASURING, OUTCOME, READY, SAYING, STARTED, Request
from benchmarks.run.interrupt import held_back
from benchmarks.run.worker import Job
from benchmarks.schema.cases import Case
from benchmarks.schema.meaning import ROOT
from benchmarks.schema.rows import Outcome

_START_S = 300.0
_SLICE_S, _PAUSE_S = 5.0, 2.0  # a wait of the first that ends later than by the second was no wait: nothing ran
# Packages of arms that may be imported before a fork. They start no thread and initialise no device, as a test makes sure; an
# import that crashes must be a row of the case that asks for it.
HARMLESS = ("kan", "inkan", "torchcurves")


class Server:
    """A fork server for cases with one interpreter and one set of environment variables; see `benchmarks.run.forkserver`.

    `work` is a folder for the files of its cases. Start-up is lazy and repeated if the process was lost. One case at a time.
    `on_say` is told what the package says while a case is prepared, such as that it compiles.
    """

    def __init__(
        self,
        work: Path,
        environment: dict[str, str],
        modules: Sequence[str],
        interpreter: str,
        on_say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.on_say = on_say
        self._work, self._environment = work, environment
        self._command = [interpreter, "-m", "benchmarks.run.forkserver", *modules]
        self._process: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self._buffer = b""
        self._count = 0
        self.paused = 0.0

    def run(self, job: Job) -> tuple[Outcome, float]:
        """Measure in a fresh process. Return what came of it and the seconds from the fork to the end.

        Time for which the machine was suspended, or this process was stopped, is no time of the case; `paused` says how long.
        """
        self.paused = 0.0
        if failed := self._ready():
            return failed, 0.0
        folder = self._work / f"{os.getpid()}-{id(self)}-{self._count}"
        self._count += 1
        folder.mkdir(parents=True)
        try:
            return self._measure(job, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """End the server and the case it is at. May be called twice, and from another thread."""
        self._kill_case()
        if self._process is not None:
            self._end(self._process)

    def _measure(self, job: Job, folder: Path) -> tuple[Outcome, float]:
        begin = _now()
        self._tell(Request(job=job, folder=str(folder)).model_dump_json())
        first = self._answer(_START_S)
        if not first.startswith(STARTED):
            return self._lost(), _now() - begin
        self._pid = int(first.split()[1])
        last, limit = self._answer(_START_S), _START_S
        while last.startswith(SAYING):
            self.on_say(last.removeprefix(SAYING).strip())
            last = self._answer(_START_S)
        if last == MEASURING:
            last, limit = self._answer(job.case.timeout_s), job.case.timeout_s
        timed_out = last == "" and self._process is not None and self._process.poll() is None
        if timed_out:
            self._kill_case()
            last = self._answer(_START_S)
        self._pid = None
        seconds = _now() - begin - self.paused
        if not last.startswith(ENDED):
            return self._lost(), seconds
        if timed_out:
            return Outcome(status="timeout", reason=f"no result after {limit:g} s"), seconds
        return _read(int(last.split()[1]), folder), seconds

    def _ready(self) -> Outcome | None:
        """Start the process if there is none. Return an outcome only if that failed."""
        if self._process is not None:
            if self._process.poll() is None:
                return None
            self._end(self._process)
        self._work.mkdir(parents=True, exist_ok=True)
        self._buffer = b""
        errors = self._work / f"{os.getpid()}-{id(self)}.stderr"
        with errors.open("wb") as stderr, held_back():
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=os.environ | self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
            )
        if self._answer(_START_S) == READY:
            return None
        code = self._end(self._process)
        return Outcome(status="error", reason=f"no process to measure in: exit status {code}: {_last_line(errors)}"[:1000])

    def _lost(self) -> Outcome:
        assert self._process is not None
        code = self._end(self._process)
        return Outcome(status="killed", reason=f"the process that forks was lost: exit status {code}")

    def _kill_case(self) -> None:
        """Kill the forked process and whatever it started: it leads a process group."""
        pid = self._pid
        if pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)  # it may not lead its group yet

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> int:
        process.kill()
        code = process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        return code

    def _tell(self, line: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died: the missing answer shows it
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

    def _answer(self, seconds: float) -> str:
        """Return the next line; empty after `seconds` or at the end of the process."""
        assert self._process is not None
        assert self._process.stdout is not None
        descriptor, end = self._process.stdout.fileno(), _now() + seconds
        while b"\n" not in self._buffer:
            begin = _now()
            wait = min(_SLICE_S, max(0.0, end - begin))
            readable, _, _ = select.select([descriptor], [], [], wait)
            if (late := _now() - begin - wait) > _PAUSE_S:
                self.paused += late
                end += late
            elif not readable and _now() >= end:
                return ""
            if not readable:
                continue
            read = os.read(descriptor, 4096)
            if not read:
                self._process.wait()
                return ""
            self._buffer += read
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()


def _now() -> float:
    """Seconds that no change of the clock moves; on Linux those during a suspension count."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.monotonic()


def _read(code: int, folder: Path) -> Outcome:
    if code < 0:
        name = signal.Signals(-code).name
        hint = "; out of memory is the usual cause" if -code == signal.SIGKILL else ""
        return Outcome(status="killed", reason=f"the process died of {name}{hint}")
    result = folder / OUTCOME
    if code == 0 and result.exists():
        try:
            return Outcome.model_validate_json(result.read_bytes())
        except ValidationError as error:
            return Outcome(status="error", reason=f"the worker wrote no valid outcome: {error}"[:1000])
    return Outcome(status="error", reason=f"exit status {code}: {_last_line(folder / ERRORS)}"[:1000])


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines() if path.exists() else []
    return lines[-1] if lines else "no message"


def variables(case: Case) -> dict[str, str]:
    """Return the environment variables of the process that measures `case`: they are read when libraries are loaded."""
    threads = str(case.point.threads)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    # NVML answers whether there is a GPU without initialising CUDA, which no forked process could do again.
    chosen = dict.fromkeys(names, threads) | {"PYTHONHASHSEED": "0", "MPLBACKEND": "Agg", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
    return chosen | get_kind(case.kind).variables


def modules(case: Case, requires: Collection[str]) -> tuple[str, ...]:
    """Return what a server may import before it forks for cases like `case`, of which some need the packages `requires`."""
    # torch._dynamo imports triton, whose driver is not asked for before the first launch.
    names = ["numpy", "torch", "torch._dynamo", "torch.profiler", "torch._subclasses.fake_tensor"]
    if case.point.device == "cpu":
        names.append("numba")
    return (*names, *(name for name in HARMLESS if name in requires))
