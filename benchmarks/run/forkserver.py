"""Fork a fresh process for every case from one that has imported the libraries and done nothing else.

`python -m benchmarks.run.forkserver MODULE...` imports the modules, writes the line `ready`, and then answers each request, one
line of JSON on standard input (see `Request`), with the lines `started PID`; `saying TEXT` for what the package logs
meanwhile; `measuring`, once that process has all it needs, compiled code included; and, when it is gone, `ended CODE`
(negative: the signal). Importing torch and pykan takes seconds and forking milliseconds, so a process of its own for every case
costs little. A forked process shares nothing that a measurement could change: no thread runs here, no device is initialised,
and this project's own modules are imported after the fork.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import NoReturn, TextIO

from benchmarks.run.worker import Job, die_with_parent, work
from benchmarks.schema.cases import Record

READY, STARTED, SAYING, MEASURING, ENDED = "ready", "started", "saying", "measuring", "ended"
OUTCOME, ERRORS = "outcome.json", "stderr"
_LOGGER = "efficient_kan"


class Request(Record):
    """A job, and the folder for its outcome, what it prints on standard error, and its temporary files."""

    job: Job
    folder: str


def main() -> None:
    """Serve requests until standard input ends."""
    die_with_parent()
    with os.fdopen(_redirect(1, os.devnull), "w", buffering=1) as answers:
        for name in sys.argv[1:]:
            with contextlib.suppress(Exception):  # the process that needs it imports it again and says what is wrong
                importlib.import_module(name)
            if _initialises_cuda():
                sys.exit(f"{name} initialises CUDA when it is imported, after which no forked process could use it")
        if "numba" in sys.modules:
            sys.modules["numba"].njit(lambda: None).compile(())  # it imports much of itself only when it first compiles
        gc.collect()
        gc.freeze()  # the collector need not walk all of torch between the samples
        print(READY, file=answers)
        while line := _line(0):
            request = Request.model_validate_json(line)
            pid = os.fork()
            if pid == 0:
                _run(request, answers)
            print(STARTED, pid, file=answers)
            _, status = os.waitpid(pid, 0)
            print(ENDED, os.waitstatus_to_exitcode(status), file=answers)


def _initialises_cuda() -> bool:
    """Whether what is imported so far has made a CUDA context."""
    return "torch.cuda" in sys.modules and bool(sys.modules["torch.cuda"].is_initialized())


def _run(request: Request, answers: TextIO) -> NoReturn:
    """Do the job in this forked process and end it; never return into the server's loop."""
    code = 1
    try:
        os.setsid()  # the parent kills the whole group
        die_with_parent()
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("500")  # if memory runs out, Linux is to end this process first
        os.close(_redirect(0, os.devnull))
        os.close(_redirect(2, f"{request.folder}/{ERRORS}", os.O_WRONLY | os.O_CREAT | os.O_APPEND))
        os.environ["TMPDIR"] = tempfile.tempdir = request.folder
        said = _Said(answers)
        logging.getLogger(_LOGGER).addHandler(said)
        work(request.job, Path(request.folder) / OUTCOME, said.measuring)
        code = 0
    except BaseException:  # noqa: BLE001  # the parent reads it from the file and from the exit status
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


class _Said(logging.Handler):
    """Passes on what the package says while a case is prepared, such as that it compiles; of what is measured, nothing."""

    def __init__(self, answers: TextIO) -> None:
        super().__init__()
        self._answers = answers

    def emit(self, record: logging.LogRecord) -> None:
        """Write the message as one line, unless what is measured has begun."""
        if not self._answers.closed:
            print(SAYING, " ".join(record.getMessage().split()), file=self._answers)

    def measuring(self) -> None:
        """End what is said: from here on the time is the case's."""
        logging.getLogger(_LOGGER).removeHandler(self)
        self.acquire()  # a message of another thread may be on its way
        print(MEASURING, file=self._answers)
        self._answers.close()
        self.release()


def _redirect(descriptor: int, path: str, flags: int = os.O_RDWR) -> int:
    """Point `descriptor` to `path` and return a new descriptor of what it pointed to before."""
    former = os.dup(descriptor)
    opened = os.open(path, flags)
    os.dup2(opened, descriptor)
    os.close(opened)
    return former


def _line(descriptor: int) -> bytes:
    """Return the next line byte by byte; empty at the end."""
    line = bytearray()
    while (byte := os.read(descriptor, 1)) and byte != b"\n":
        line += byte
    return bytes(line)


if __name__ == "__main__":
    main()
