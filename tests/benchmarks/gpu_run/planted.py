"""Stages that go wrong, each in a way of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from benchmarks.gpu_run import files
from benchmarks.gpu_run.stages import Cut, Job


def works(job: Job) -> None:
    files.append(job.raw / files.KERNELS, "worked\n")
    job.say("1 of 1")


def overruns(job: Job) -> None:
    """Starts a process in a session of its own, says so, and never ends."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    files.append(job.raw / files.FIRST_USE, f"{child.pid}\n")
    job.say("1 of 9")
    time.sleep(600)


def gives_up(job: Job) -> None:
    job.say("3 of 9")
    raise Cut("6 cases were not begun")


def fails(job: Job) -> None:
    raise RuntimeError("planted\nfailure")


def crashes(job: Job) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def leaves_with(job: Job) -> None:
    os._exit(7)
